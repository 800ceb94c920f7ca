import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.datasets.slice_stacks import Scan, find_scans, read_stack
from services.shared.errors import (
    DuplicateId,
    GliaflowError,
    IdMismatch,
    InvalidMask,
    NotFound,
    SpaceMismatch,
    UnreadableFile,
)

NAME = "TCGA_CS_4941_19960909"
SCAN = Scan("TCGA_CS_4941", "1996-09-09", Path())


def encoded(values: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def slice_files(*numbers: int, extension: str = "tif", size: int = 8) -> dict[str, bytes]:
    """Files of a scan: RGB noise with a tumour of ``number`` pixels."""
    kind = {"tif": "TIFF", "webp": "WEBP", "png": "PNG"}
    files = {}
    for number in numbers:
        noise = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), np.uint8)
        mask.flat[:number] = 255
        files[f"{NAME}_{number}.{extension}"] = encoded(noise, kind[extension])
        files[f"{NAME}_{number}_mask.{extension if extension == 'tif' else 'png'}"] = encoded(
            mask, "TIFF" if extension == "tif" else "PNG"
        )
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def read(place: Path):
    return read_stack(Scan(SCAN.patient, SCAN.date, place))


def test_folder_and_zip_give_the_same_slices_in_the_order_of_their_numbers(tmp_path):
    folder = read(write_folder(tmp_path / NAME, slice_files(10, 2, 9)))
    zipped = read(write_zip(tmp_path / f"{NAME}.zip", slice_files(10, 2, 9, extension="webp")))
    assert folder.numbers == zipped.numbers == (2, 9, 10)
    np.testing.assert_array_equal(folder.channels, zipped.channels)
    assert folder.mask is not None
    assert folder.mask.sum(axis=(1, 2)).tolist() == [2, 9, 10]
    np.testing.assert_array_equal(folder.mask, zipped.mask)
    expected = np.random.default_rng(9).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(folder.channels[1], expected)


def test_a_channel_that_repeats_flair_is_seen(tmp_path):
    files = slice_files(1, 2)
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        noise[..., 2] = noise[..., 1]
        files[f"{NAME}_{number}.tif"] = encoded(noise, "TIFF")
    stack = read(write_folder(tmp_path / NAME, files))
    assert not stack.copies_flair(0)
    assert stack.copies_flair(2)


def test_slices_without_any_mask_are_read(tmp_path):
    files = {name: content for name, content in slice_files(1, 2).items() if "mask" not in name}
    assert read(write_folder(tmp_path / NAME, files)).mask is None


def spoilt(files: dict[str, bytes], name: str, content: bytes | None) -> dict[str, bytes]:
    return {key: value for key, value in files.items() if key != name} | ({} if content is None else {name: content})


GREY, RGB = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (f"{NAME}_1_mask.tif", encoded(np.zeros((9, 8), np.uint8), "TIFF"), SpaceMismatch),
        (f"{NAME}_1.tif", encoded(np.zeros((9, 8, 3), np.uint8), "TIFF"), SpaceMismatch),
        (f"{NAME}_1_mask.tif", encoded(np.arange(64, dtype=np.uint8).reshape(8, 8), "TIFF"), InvalidMask),
        (f"{NAME}_1_mask.tif", None, NotFound),
        (f"{NAME}_1.tif", None, NotFound),
        (f"{NAME}_1.tif", b"II*\0 not an image", UnreadableFile),
        (f"{NAME}_1.tif", encoded(RGB, "TIFF")[:60], UnreadableFile),
        (f"{NAME}_1.tif", encoded(GREY, "TIFF"), UnreadableFile),
        (f"{NAME}_1_mask.tif", encoded(RGB, "TIFF"), UnreadableFile),
        (f"{NAME}_01.tif", encoded(RGB, "TIFF"), DuplicateId),
        ("TCGA_DU_0001_19960909_1.tif", encoded(RGB, "TIFF"), IdMismatch),
    ],
)
def test_bad_slices_are_refused(tmp_path, name: str, content: bytes | None, error: type[GliaflowError]):
    with pytest.raises(error):
        read(write_folder(tmp_path / NAME, spoilt(slice_files(1, 2), name, content)))


def test_damaged_archives_are_refused(tmp_path):
    path = write_zip(tmp_path / f"{NAME}.zip", slice_files(1, 2))
    content = bytearray(path.read_bytes())
    content[120] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match="damaged"):
        read(path)
    path.write_bytes(content[:200])
    with pytest.raises(UnreadableFile, match="damaged"):
        read(path)


def test_the_fuller_copy_of_a_scan_counts(tmp_path):
    for folder, numbers in (("tumour_slices", (2,)), ("full_volumes", (1, 2, 3))):
        (tmp_path / folder).mkdir()
        write_zip(tmp_path / folder / f"{NAME}.zip", slice_files(*numbers))
    (scan,) = find_scans(tmp_path)
    assert (scan.patient, scan.date, scan.place.parent.name) == ("TCGA_CS_4941", "1996-09-09", "full_volumes")
    assert find_scans(tmp_path / "tumour_slices")[0].place.parent.name == "tumour_slices"
    assert find_scans(scan.place) == [scan]


def test_two_days_of_a_patient_and_no_scan_are_refused(tmp_path):
    with pytest.raises(NotFound, match="no scan"):
        find_scans(tmp_path)
    write_folder(tmp_path / NAME, slice_files(1))
    write_folder(tmp_path / "TCGA_CS_4941_19970101", {})
    with pytest.raises(DuplicateId, match="1997-01-01"):
        find_scans(tmp_path)
    with pytest.raises(NotFound, match="no such folder"):
        find_scans(tmp_path / "nothing")
