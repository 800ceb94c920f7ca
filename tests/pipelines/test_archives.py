from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from pipelines.archives import open_archive
from pipelines.datasets.slice_stacks import find_scans, read_stack
from pipelines.datasets.source_tables import read_text_table
from services.shared.errors import UnreadableFile


def write(path: Path, name: str = "table.csv", method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, "a,b\n1,2\n" * 50)
    return bytearray(path.read_bytes())


def encrypted(content: bytearray) -> bytes:
    """Say in both headers that the member is encrypted."""
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(mark) + offset
        content[at : at + 2] = struct.pack("<H", struct.unpack("<H", content[at : at + 2])[0] | 1)
    return bytes(content)


def of_a_later_version(content: bytearray) -> bytes:
    at = content.index(b"PK\x01\x02") + 6
    content[at : at + 2] = struct.pack("<H", 200)
    return bytes(content)


def test_a_whole_archive_is_read(tmp_path: Path) -> None:
    write(tmp_path / "x.zip")
    with open_archive(tmp_path / "x.zip") as archive:
        assert archive.read("table.csv").startswith(b"a,b")


@pytest.mark.parametrize("damage", [encrypted, of_a_later_version, lambda content: bytes(content[:-40])])
def test_what_cannot_be_read_is_one_kind_of_error(tmp_path: Path, damage) -> None:
    path = tmp_path / "x.csv.zip"
    path.write_bytes(damage(write(path)))
    with pytest.raises(zipfile.BadZipFile), open_archive(path) as archive:
        archive.read("table.csv")


def test_other_packing_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "x.zip", method=zipfile.ZIP_LZMA)
    with pytest.raises(zipfile.BadZipFile, match=r"table\.csv is packed"), open_archive(tmp_path / "x.zip"):
        pass


def test_a_fault_of_ours_stays_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "x.zip")
    with pytest.raises(RuntimeError, match="ours"), open_archive(tmp_path / "x.zip"):
        raise RuntimeError("ours")


def test_readers_name_an_encrypted_file(tmp_path: Path) -> None:
    table = tmp_path / "table.csv.zip"
    table.write_bytes(encrypted(write(table)))
    with pytest.raises(UnreadableFile, match="encrypted"):
        read_text_table(table, step="read")
    scan = tmp_path / "TCGA_CS_4941_19960909.zip"
    scan.write_bytes(encrypted(write(scan, "TCGA_CS_4941_19960909_1.tif")))
    with pytest.raises(UnreadableFile, match="encrypted"):
        read_stack(find_scans(scan)[0])
