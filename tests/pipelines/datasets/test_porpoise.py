from __future__ import annotations

import zipfile

import pytest

from pipelines.datasets.porpoise import read_release
from services.shared.errors import InvalidTable, NotFound

TABLE = (
    ",case_id,slide_id,age,survival_months,censorship,is_female,oncotree_code,CD44_rnaseq,TP53_mut,EGFR_cnv\n"
    "0,TCGA-01-0002,s1,63,47.5,0,1,GBM,-0.5,1,2\n1,TCGA-01-0002,s2,63,47.5,0,1,GBM,-0.5,1,2\n"
    "2,TCGA-01-0001,s3,40,12,1,0,ODG,0.7,0,0\n"
)


@pytest.mark.parametrize("zipped", [True, False])
def test_one_row_a_patient_and_events_the_right_way_round(tmp_path, zipped):
    path = tmp_path / ("t.csv.zip" if zipped else "t.csv")
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("./t.csv.zip", TABLE)
    else:
        path.write_text(TABLE)
    (tmp_path / "other.csv").write_text("case_id,x\n1,2\n")
    for source in (path, tmp_path):
        found = read_release(source)
        table = found.participants.set_index("source_id")
        assert found.matrices["expression"].to_dict() == {"CD44": {"TCGA010001": 0.7, "TCGA010002": -0.5}}
        assert table["event"].to_dict() == {"TCGA-01-0001": 0, "TCGA-01-0002": 1}
        assert table["sex"].to_dict() == {"TCGA-01-0001": "M", "TCGA-01-0002": "F"}
        assert table["tp53_mut"].to_dict() == {"TCGA-01-0001": "WT", "TCGA-01-0002": "Mutant"}
        assert table["egfr_cnv"].to_dict() == {"TCGA-01-0001": 0, "TCGA-01-0002": 2}
        assert "z-score" in found.scale["expression"]
        assert found.dropped == {}
        assert found.counted == {"slides beyond the first of a patient": 1}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("s2,63", "s2,64", "case TCGA-01-0002.*differ"),
        ("_rnaseq", "", "no expression"),
        ("survival_months", "days", "survival_months"),
        ("s3,40,12,1", "s3,40,12,3", "censorship.*3"),
        ("s3,40", "s3,400", "case TCGA010001.*age_years.*400"),
        ("CD44_rnaseq", "7157_rnaseq", "entrez"),
        ("0.7,0", "high,0", "text"),
    ],
)
def test_tables_that_are_malformed(tmp_path, old, new, words):
    path = tmp_path / "t.csv"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(InvalidTable, match=words):
        read_release(path)


def test_a_folder_without_the_table(tmp_path):
    with pytest.raises(NotFound, match="all_clean"):
        read_release(tmp_path)


@pytest.mark.real
def test_published_table(real_data):
    found = read_release(real_data / "tcga_glioma_expression", participants=real_data / "tcga_glioma_clinical")
    assert found.matrices["expression"].shape == (569, 1544)
    assert not found.dropped
    table = found.participants
    assert table["grade"].value_counts().to_dict() == {2: 229, 3: 250, 4: 90}
    gbm = table["histology"] == "GBM"
    assert table.loc[gbm, "event"].mean() > table.loc[~gbm, "event"].mean() + 0.2
    assert {"idh", "codeletion_1p19q", "mgmt", "atrx", "atrx_mut"} <= set(table)
