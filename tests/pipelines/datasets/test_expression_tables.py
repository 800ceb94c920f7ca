from __future__ import annotations

import zipfile

import numpy as np
import pytest

from pipelines.datasets.expression_tables import read_gliovis, read_porpoise
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound, UnreadableFile


@pytest.fixture
def gliovis(tmp_path):
    expression, clinical = tmp_path / "x_expr.csv", tmp_path / "x_pdata.csv"
    expression.write_text('"Sample","CD44","RRM2","CD44"\n"b",5,7,6\n"a",1.5,2,3.5\n"c",1,2,3\n"d",1,2,3\n"e",4,4,4\n')
    clinical.write_text(
        '"Sample","Histology","Grade","survival","status","Age","Gender"\n'
        '"a","GBM","IV",6.2,1,49,"M"\n"b","Astrocytoma","III",71.8,0,31,"Female"\n'
        '"c","GBM","IV",NA,1,50,"F"\n"d","GBM",NA,0,1,50,NA\n"f","GBM","II",3,1,50,"F"\n'
    )
    return expression, clinical


def test_gliovis_is_joined_coded_and_counted(gliovis):
    found = read_gliovis(*gliovis)
    assert found.expression.index.tolist() == ["a", "b"]
    assert found.expression["CD44"].tolist() == [2.5, 5.5]
    assert found.merged == {"CD44": 2}
    assert found.clinical.loc["b"].to_dict() == {
        "os_months": 71.8, "event": 0, "age_years": 31.0, "sex": "F", "grade": 3, "histology": "Astrocytoma",
    }  # fmt: skip
    assert found.dropped == {
        "c": "no follow-up",
        "d": "follow-up of 0 months or less",
        "e": "no clinical row",
        "f": "no expression",
    }


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ('"M"', '"x"', InvalidTable, "sex"),
        ('"III"', '"V"', InvalidTable, "grade"),
        ("6.2,1", "6.2,2", InvalidTable, "0 or 1"),
        ("6.2,1", "long,1", InvalidTable, "no number"),
        ('"survival"', '"days"', InvalidTable, "survival"),
        ('"b","Astro', '"a","Astro', DuplicateId, "twice"),
    ],
)
def test_gliovis_codings_that_nobody_knows_are_refused(gliovis, old, new, error, words):
    clinical = gliovis[1]
    clinical.write_text(clinical.read_text().replace(old, new))
    with pytest.raises(error, match=words):
        read_gliovis(*gliovis)


def test_gliovis_files_that_do_not_belong_together(gliovis, tmp_path):
    with pytest.raises(NotFound):
        read_gliovis(tmp_path / "absent.csv", gliovis[1])
    gliovis[0].write_text('"Sample","CD44"\n"z",5\n')
    with pytest.raises(IdMismatch):
        read_gliovis(*gliovis)
    broken = tmp_path / "x_expr.csv.gz"
    broken.write_bytes(b"\x1f\x8b\x08broken")
    with pytest.raises(UnreadableFile):
        read_gliovis(broken, gliovis[1])


PORPOISE = (
    ",case_id,slide_id,age,survival_months,censorship,is_female,oncotree_code,CD44_rnaseq,TP53_mut\n"
    "0,T2,s1,63,47.5,0,1,GBM,-0.5,1\n1,T2,s2,63,47.5,0,1,GBM,-0.5,1\n2,T1,s3,40,12,1,0,ODG,0.7,0\n"
)


@pytest.mark.parametrize("zipped", [True, False])
def test_porpoise_has_one_row_a_patient_and_events_the_right_way_round(tmp_path, zipped):
    path = tmp_path / ("t.csv.zip" if zipped else "t.csv")
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("./t.csv.zip", PORPOISE)
    else:
        path.write_text(PORPOISE)
    found = read_porpoise(path)
    assert found.expression.to_dict() == {"CD44": {"T1": 0.7, "T2": -0.5}}
    assert found.clinical["event"].to_dict() == {"T1": 0, "T2": 1}
    assert found.clinical["sex"].to_dict() == {"T1": "M", "T2": "F"}
    assert found.dropped == {}


def test_porpoise_slides_of_a_patient_must_agree(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(PORPOISE.replace("1,T2,s2,63", "1,T2,s2,64"))
    with pytest.raises(InvalidTable, match="T2"):
        read_porpoise(path)
    path.write_text(PORPOISE.replace("_rnaseq", ""))
    with pytest.raises(InvalidTable, match="expression"):
        read_porpoise(path)


@pytest.mark.parametrize(
    ("name", "samples", "genes", "dropped"), [("freije", 85, 12713, 0), ("ducray", 48, 19944, 8), ("joo", 55, 15938, 3)]
)
def test_published_gliovis_cohorts(real_data, name, samples, genes, dropped):
    folder = real_data / "glioma_expression_cohorts"
    if not folder.is_dir():
        pytest.skip(f"no GlioVis exports at {folder}")
    found = read_gliovis(folder / f"{name}_expr.csv.gz", folder / f"{name}_pdata.csv")
    assert found.expression.shape == (samples, genes)
    assert len(found.dropped) == dropped


def test_published_tcga_table(real_data):
    path = real_data / "tcga_glioma_expression" / "porpoise_tcga_gbmlgg_all_clean.csv.zip"
    if not path.is_file():
        pytest.skip(f"no PORPOISE table at {path}")
    found = read_porpoise(path)
    assert len(found.expression) + len(found.dropped) == 569
    assert found.expression.shape[1] == 1544
    gbm = found.clinical["histology"] == "GBM"
    assert found.clinical.loc[gbm, "event"].mean() > found.clinical.loc[~gbm, "event"].mean() + 0.2
    assert np.isfinite(found.expression.to_numpy()).all()
