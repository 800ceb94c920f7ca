from __future__ import annotations

import gzip

import numpy as np
import pytest

from pipelines.datasets.gliovis import read_release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound, UnreadableFile

EXPRESSION = (
    '"Sample","CD44","RRM2","CD44","HLA.A"\n"b",5,7,6,1\n"a",1.5,2,3.5,1\n"c",1,2,3,2\n"d",1,2,3,4\n"e",4,4,4,4\n'
)
SAMPLES = (
    '"Sample","Histology","Grade","Recurrence","Subtype.svm","survival","status","Age","Gender"\n'
    '"a","GBM","IV",NA,"Neural",6.2,1,49,"M"\n"b","Astrocytoma","III",NA,NA,71.8,0,31,"Female"\n'
    '"c","GBM","IV",NA,NA,NA,1,50,"F"\n"d","GBM",NA,NA,NA,0,1,50,NA\n"f","GBM","II",NA,NA,3,1,50,"F"\n'
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x_expr.csv.gz").write_bytes(gzip.compress(EXPRESSION.encode()))
    (tmp_path / "x_pdata.csv").write_text(SAMPLES)
    return tmp_path


def test_an_export_is_joined_coded_and_counted(folder):
    found = read_release(folder)
    expression, table = found.matrices["expression"], found.participants.set_index("source_id")
    assert expression.index.tolist() == ["a", "b", "c", "d"]
    assert expression["CD44"].tolist() == [2.5, 5.5, 2.0, 2.0]
    assert expression.columns.tolist() == ["CD44", "HLA-A", "RRM2"]
    assert table.loc["b", ["os_months", "event", "age_years", "sex", "grade", "histology"]].tolist() == [
        71.8, 0, 31.0, "F", 3, "Astrocytoma",
    ]  # fmt: skip
    assert table.loc["a", "subtype_svm"] == "Neural"
    assert table.loc["c", ["os_months", "event"]].isna().all()
    assert found.dropped == {"e": "no clinical row", "f": "no expression"}
    assert found.counted == {
        "columns of the clinical table that are empty": 1,
        "gene names whose hyphen R had turned into a dot": 1,
        "gene columns merged with another of the same symbol": 1,
        "patients without follow-up": 1,
        "patients without follow-up, months or vital status alone": 1,
        "patients with a follow-up of 0 months": 1,
    }


@pytest.mark.parametrize("source", ["x", "x_expr.csv.gz", "x_pdata.csv", ""])
def test_a_folder_a_prefix_and_either_file_mean_the_same(folder, source):
    assert len(read_release(folder / source).participants) == 4


def test_several_exports_are_listed(folder):
    (folder / "y_expr.csv").write_text(EXPRESSION)
    (folder / "y_pdata.csv").write_text(SAMPLES)
    with pytest.raises(NotFound, match="x, y"):
        read_release(folder)
    assert len(read_release(folder / "y").participants) == 4
    (folder / "y_pdata.csv").unlink()
    with pytest.raises(NotFound, match=r"y_expr\.csv"):
        read_release(folder / "y")
    for absent in (folder / "z", folder / "none" / "z"):
        with pytest.raises(NotFound):
            read_release(absent)


def test_one_sample_a_patient_normal_brain_and_pilocytic_tumours(folder):
    (folder / "x_pdata.csv").write_text(
        "Sample,Histology,Grade,Recurrence,Patient_ID,IDH1_status,survival,status\n"
        "a,GBM,IV,Recurrent,1,R132H,6.2,1\nb,GBM,IV,Primary,1,p.R132C,6.2,1\nc,Non-tumor,NA,NA,NA,NA,4,1\n"
        "d,Pilocytic astrocytoma,I,Primary,3,Wild-type,9,0\ne,GBM,IV,NA,4,Wild-type,NA,NA\n"
    )
    found = read_release(folder)
    table = found.participants.set_index("source_id")
    assert table.index.tolist() == ["b", "c", "e"]
    assert table["idh"].tolist() == ["Mutant", None, "WT"]
    assert table["tissue"].tolist() == ["tumour", "normal", "tumour"]
    assert table["os_months"].isna().tolist() == [False, True, True]
    assert found.matrices["expression"].index.tolist() == ["b", "c", "e"]
    assert found.dropped == {"a": "a further sample of a patient who stays", "d": "grade 1, no diffuse glioma"}


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ('"M"', '"x"', InvalidTable, "case a.*sex"),
        ('"III"', '"V"', InvalidTable, "case b.*grade"),
        ("6.2,1", "6.2,2", InvalidTable, "case a.*status"),
        ("6.2,1", "long,1", InvalidTable, "case a.*no number"),
        ('"survival"', '"days"', InvalidTable, "survival"),
        ('"Sample"', '"ID"', InvalidTable, "Sample"),
        ('"b","Astro', '"a","Astro', DuplicateId, "case a"),
    ],
)
def test_codings_that_nobody_knows_are_refused(folder, old, new, error, words):
    clinical = folder / "x_pdata.csv"
    clinical.write_text(clinical.read_text().replace(old, new))
    with pytest.raises(error, match=words):
        read_release(folder)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('"Sample","CD44"\n"z",5\n', IdMismatch, "share no patient"),
        ('"Sample","CD44"\n"a",5\n"a",6\n', DuplicateId, "case a"),
        ('"Sample","7157","2879"\n"a",5,3\n', InvalidTable, "entrez"),
        ('"Sample","CD44"\n"a",5000\n', InvalidTable, "too large"),
        ('"Sample","CD44"\n"a",high\n', InvalidTable, "text"),
    ],
)
def test_expression_that_does_not_fit(folder, text, error, words):
    (folder / "x_expr.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(error, match=words):
        read_release(folder)


def test_clinical_columns_in_the_matrix_are_no_genes(folder):
    text = "Sample,Histology,CD44\na,GBM,5\nb,GBM,6\n"
    (folder / "x_expr.csv.gz").write_bytes(gzip.compress(text.encode()))
    found = read_release(folder)
    assert found.matrices["expression"].columns.tolist() == ["CD44"]
    assert found.counted["columns of the matrix that are clinical"] == 1


def test_a_truncated_file(folder):
    whole = (folder / "x_expr.csv.gz").read_bytes()
    (folder / "x_expr.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile, match=r"x_expr\.csv\.gz"):
        read_release(folder)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "samples", "genes", "dropped", "undated"),
    [("freije", 85, 12713, 0, 0), ("ducray", 48, 19944, 8, 0), ("joo", 46, 15938, 12, 2)],
)
def test_published_exports(real_data, name, samples, genes, dropped, undated):
    found = read_release(real_data / "glioma_expression_cohorts" / name)
    assert found.matrices["expression"].shape == (samples, genes)
    assert "HLA-A" in found.matrices["expression"]
    assert len(found.dropped) == dropped
    assert found.participants["os_months"].isna().sum() == undated
    assert np.isfinite(found.matrices["expression"].to_numpy()).all()
