from __future__ import annotations

import gzip
import re
import zipfile

import pytest

from pipelines.datasets.source_tables import (
    as_published,
    counting_blank_rows,
    identifiers,
    index_by,
    plain_name,
    read_header,
    read_text_table,
    read_value_table,
    require_columns,
    unrecognised,
    with_plain_names,
)
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


@pytest.mark.parametrize("read", [read_text_table, read_value_table])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sample,A,B\na,1,2\nb,3\n", "fewer fields.*row 2 of 2.*3 fields.*2; 1 such"),
        ('Sample,A,B\n"a",1,2\n"b",3', "fewer fields.*row 2 of 2"),
        ("Sample,A,B\na,1\nb,3,4\n", "fewer fields.*row 1 of 2"),
        ("Sample,A,B\na,1,2\nb,3,4,5\n", "too many fields.*row 2 of 2"),
        ("Sample;OS (0;1);A\na;1;2\nb;3;4\n", "differ in length.*';'.*quotes"),
        ("Sample|A\na|1\n", "parted by"),
        ("Sample,A\n", "no row"),
        ("Sample,A\n,\n,\n", "no row"),
    ],
)
def test_rows_that_are_not_as_long_as_the_header_are_refused(tmp_path, read, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UnreadableFile, match=words):
        read(tmp_path / "t.csv", step="s")


@pytest.mark.parametrize("blank", [",,\n,,\n", ' , ,\n"","",""\n', ",,\r\n\r\n,,"])
def test_blank_rows_are_left_out_and_counted(tmp_path, blank):
    (tmp_path / "t.csv").write_bytes((TEXT + blank).encode())
    with counting_blank_rows() as counts:
        text, values = read_text_table(tmp_path / "t.csv", step="s"), read_value_table(tmp_path / "t.csv", step="s")
    assert text["Sample"].tolist() == ["a", "b"]
    assert values["CD44"].tolist() == [1.5, 2.0]
    assert counts == {"blank rows of t.csv": 2}


def test_fields_of_several_lines_columns_without_anything_and_names_of_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('Sample,Note\na,"two\n lines"\nb,"one, and more"\n')
    assert read_text_table(path, step="s")["Note"].tolist() == ["two\n lines", "one, and more"]
    path.write_text("Sample,A,,\na,1,,\nb,2,,\n")
    assert read_text_table(path, step="s").to_dict("list") == {"Sample": ["a", "b"], "A": ["1", "2"]}
    path.write_text("Sample,A\na,1,\nb,2,\n")
    assert read_value_table(path, step="s").to_dict("list") == {"Sample": ["a", "b"], "A": [1, 2]}
    path.write_text("A\tB\nrow\t1\t2\n")
    assert read_text_table(path, step="s").columns.tolist() == ["", "A", "B"]


def test_the_mark_is_the_one_that_parts_rows_and_header_alike(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Sample\tOS (alive=0; dead=1; lost=2)\na\t1\nb\t0\n")
    assert read_header(path, step="s") == ["Sample", "OS (alive=0; dead=1; lost=2)"]
    path.write_text("Sample;A\na;1,5\nb;2,5\n")
    assert read_text_table(path, step="s")["A"].tolist() == ["1,5", "2,5"]
    wide = ";".join(f"gene{n}" for n in range(30000))
    path.write_text(f'"Sample";{wide}\na{";1" * 30000}\n')
    assert read_value_table(path, step="s").shape == (1, 30001)


def test_a_column_that_stands_twice_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("Sample,Age,Age\na,1,2\n")
    with pytest.raises(InvalidTable, match=r"twice.*t\.csv.*Age"):
        read_text_table(tmp_path / "t.csv", step="s")
    frame = read_value_table(tmp_path / "t.csv", step="s")
    with pytest.raises(InvalidTable, match=r"could be one.*Age"):
        with_plain_names(frame, file="t", step="s")


def test_columns_are_found_whatever_their_case_and_spaces(tmp_path):
    (tmp_path / "t.csv").write_text("SAMPLE,survival status,Survival_Status,x\na,1,2,3\n")
    frame = read_text_table(tmp_path / "t.csv", step="s", columns=("Sample", "Survival_Status", "X"))
    assert frame.columns.tolist() == ["Sample", "survival status", "Survival_Status", "X"]
    with pytest.raises(InvalidTable, match=r"could be one.*survival status, Survival_Status"):
        as_published(frame, ("SurvivalStatus",), file="t", step="s")
    with pytest.raises(InvalidTable, match=r"no identifier.*row 2"):
        identifiers(frame.iloc[[0, 0]].assign(Sample=["a", " "]), "Sample", file="t", step="s")


def test_a_table_that_no_reader_takes_is_counted_or_refused_by_its_name(tmp_path):
    for name in ("other.csv", "survival.csv"):
        (tmp_path / name).write_text("id|days\na|1\n")
    telling = re.compile("survival")
    assert unrecognised([tmp_path / "other.csv"], telling=telling, step="s") == {"tables not recognised: other.csv": 1}
    with pytest.raises(InvalidTable, match=r"survival\.csv.*id\|days"):
        unrecognised(tmp_path.iterdir(), telling=telling, step="s")


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
