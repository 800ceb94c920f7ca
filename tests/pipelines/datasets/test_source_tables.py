from __future__ import annotations

import gzip
import zipfile

import pytest

from pipelines.datasets.source_tables import index_by, plain_name, read_text_table, read_value_table, require_columns
from services.shared.errors import DuplicateId, InvalidTable, NotFound, UnreadableFile

TEXT = "Sample,Age ,CD44\na,40,1.5\nb,NA,2\n"


def write(folder, kind, text=TEXT):
    content = text.encode()
    path = folder / {"gz": "t.csv.gz", "zip": "t.csv", "plain": "t.csv.zip"}[kind]
    if kind == "gz":
        path.write_bytes(gzip.compress(content))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/t.csv", content)
            archive.writestr("__MACOSX/._t.csv", b"x")
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["gz", "zip", "plain"])
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r"),
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        TEXT.replace(",", "\t"),
        TEXT.replace(",", ";"),
        'Age ,CD44\n"a",40,1.5\n"b",NA,2\n',
    ],
)
def test_the_content_decides_how_a_table_is_read(tmp_path, kind, text):
    found = read_text_table(write(tmp_path, kind, text), step="s")
    assert found.columns.tolist()[1:] == ["Age", "CD44"]
    assert found.to_numpy().tolist() == [["a", "40", "1.5"], ["b", "NA", "2"]]


def test_values_are_numbers_and_a_repeated_name_stays_as_it_is(tmp_path):
    found = read_value_table(write(tmp_path, "gz", TEXT.replace("Age ", "CD44")), step="s")
    assert found.columns.tolist() == ["Sample", "CD44", "CD44"]
    assert found.iloc[:, 1].isna().tolist() == [False, True]
    assert found.iloc[:, 2].tolist() == [1.5, 2.0]


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08broken", b"a,b\n\xff\xfe,1\n", b"", b"a,b\n1,2\n3,4,5,6\n"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=r"t\.csv"):
        read_text_table(path, step="s")


def test_no_file_and_an_archive_of_several(tmp_path):
    with pytest.raises(NotFound, match="absent"):
        read_text_table(tmp_path / "absent.csv", step="s")
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", TEXT)
        archive.writestr("b.csv", TEXT)
    with pytest.raises(UnreadableFile, match="2 files"):
        read_text_table(path, step="s")


def test_identifiers_and_columns(tmp_path):
    frame = read_text_table(write(tmp_path, "plain"), step="s")
    assert index_by(frame, "Sample", file="t", step="s").index.tolist() == ["a", "b"]
    with pytest.raises(DuplicateId, match="case a"):
        index_by(frame.assign(Sample=["a", " a "]), "Sample", file="t", step="s")
    with pytest.raises(InvalidTable, match="no identifier"):
        index_by(frame.assign(Sample=["a", ""]), "Sample", file="t", step="s")
    with pytest.raises(InvalidTable, match="OS"):
        require_columns(frame, ("OS", "Age"), file="t", step="s")
    with pytest.raises(InvalidTable, match="twice"):
        require_columns(frame.set_axis(["Sample", "Age", "Age"], axis=1), ("Age",), file="t", step="s")


def test_spellings_of_one_column_are_one_name():
    assert plain_name("Survival..months.") == plain_name("Survival (months)") == "survivalmonths"
    assert plain_name("X1p.19q.codeletion") == plain_name("1p/19q codeletion") == "1p19qcodeletion"
