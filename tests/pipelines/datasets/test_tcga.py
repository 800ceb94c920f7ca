from __future__ import annotations

import gzip

import pandas as pd
import pytest

from pipelines.datasets.tcga import is_tcga_folder, read_release
from services.shared.errors import DuplicateId, InvalidTable, NotFound

TABLE_S1 = (
    "patient,Study,Histology,Grade,Age..years.at.diagnosis.,Gender,Survival..months.,Vital.status..1.dead.,"
    "IDH.status,X1p.19q.codeletion,IDH.codel.subtype,MGMT.promoter.status,ATRX.status\n"
    "TCGA-01-0001,LGG,astrocytoma,G2,31.0,female,4.7,0.0,Mutant,non-codel,IDHmut-non-codel,Unmethylated,Mutant\n"
    "TCGA-01-0002,LGG,oligodendroglioma,G3,67.0,male,7.7,1.0,Mutant,codel,IDHmut-codel,Methylated,WT\n"
    "TCGA-01-0003,GBM,glioblastoma,G4,50,male,-0.03,1,WT,non-codel,IDHwt,,\n"
    "TCGA-01-0004,GBM,,,,,,,,,,,\n"
)
CDR = (
    "sample,OS,OS.time,PFI,PFI.time\nTCGA-01-0001-01,1.0,365.25,1,3\nTCGA-01-0001-02,1.0,365.25,0,9\n"
    "TCGA-01-0002-01,0,,0,1\nTCGA-01-0005-01,0,0,0,0\n"
)
MUTATIONS = (
    "\ufeffGrade,Project,Case_ID,IDH1,ATRX,IDH2\nLGG,TCGA-LGG,TCGA-01-0001,MUTATED,NOT_MUTATED,NOT_MUTATED\n"
    "LGG,TCGA-LGG,TCGA-01-0002,NOT_MUTATED,NOT_MUTATED,MUTATED\nLGG,TCGA-LGG,TCGA-09-0009,MUTATED,MUTATED,MUTATED\n"
)
WHO = (
    "slide_id,case_id,WHO_CNS5_diagnosis,WHO_CNS5_grade,ATRX status\n"
    's1,TCGA-01-0001,"Astrocytoma. Grade 4.",Grade 4,WT\n'
    's2,TCGA-01-0001,"Astrocytoma. Grade 4.",Grade 4,WT\ns3,TCGA-01-0002,Oligodendroglioma,Grade NA,unknown\n'
)
XENA = "Sample,Cancer,Age,Code,Gender,Grade\nTCGA-01-0004-02,GBM,59,TR,MALE,\nTCGA-01-0004-01,GBM,44,TP,FEMALE,\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "table_s1.csv.gz").write_bytes(gzip.compress(TABLE_S1.encode()))
    (tmp_path / "cdr.csv").write_text(CDR)
    (tmp_path / "uci.csv").write_text(MUTATIONS)
    (tmp_path / "who.csv").write_text(WHO)
    (tmp_path / "fine.csv").write_text(XENA)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    return tmp_path


def test_follow_up_comes_whole_from_one_source(folder):
    found = read_release(folder).participants.set_index("source_id")
    assert found.loc["TCGA-01-0001", ["os_months", "event", "follow_up_source"]].tolist() == [12.0, 1, "TCGA-CDR"]
    assert found.loc["TCGA-01-0002", ["os_months", "event", "follow_up_source"]].tolist() == [7.7, 1, "Table S1"]
    assert found.loc["TCGA-01-0003", ["os_months", "event", "follow_up_source"]].isna().all()
    assert found.loc["TCGA-01-0005", ["os_months", "event"]].tolist() == [0.0, 0]


def test_codings_further_tables_and_counts(folder):
    release = read_release(folder)
    found = release.participants.set_index("source_id")
    first = found.loc["TCGA-01-0001"]
    assert first[["participant_id", "age_years", "sex", "grade"]].tolist() == ["sub-TCGA010001", 31.0, "F", 2]
    assert first[["idh", "codeletion_1p19q", "mgmt", "atrx"]].tolist() == [
        "Mutant", "non-codel", "Unmethylated", "Mutant",
    ]  # fmt: skip
    assert first[["atrx_mutation", "who_2021_grade", "who_2021_atrx"]].tolist() == ["WT", 4, "WT"]
    assert found.loc["TCGA-01-0002", "idh_mutation"] == "Mutant"
    assert found.loc["TCGA-01-0004", ["age_years", "sex"]].tolist() == [44.0, "F"]
    assert release.dropped == {"TCGA-09-0009": "in the table of mutations alone"}
    assert release.counted["patients whose atrx_mutation contradicts atrx of Table S1"] == 1
    assert release.counted["patients whose who_2021_atrx contradicts atrx of Table S1"] == 1
    assert release.counted["samples of TCGA-CDR beyond the first of a patient"] == 1
    assert release.counted["patients of TCGA-CDR who are not in Table S1"] == 1
    assert release.counted["patients without follow-up, negative"] == 1
    assert sorted(release.sources) == ["cdr.csv", "fine.csv", "table_s1.csv.gz", "uci.csv", "who.csv"]


def test_the_publishers_own_headers_and_all_cancers(tmp_path):
    (tmp_path / "s1.txt").write_text(
        TABLE_S1.replace(",", "\t").replace("patient\t", "Case\t").replace("Survival..months.", "Survival (months)")
        .replace("Vital.status..1.dead.", "Vital status (1=dead)").replace("X1p.19q.codeletion", "1p/19q codeletion")
    )  # fmt: skip
    (tmp_path / "cdr.csv").write_text(
        ",bcr_patient_barcode,type,Redaction,OS,OS.time\n1,TCGA-01-0001,LGG,#N/A,1,30.4375\n"
        "2,TCGA-01-0002,LGG,Redacted,1,1\n3,TCGA-AA-0001,COAD,#N/A,1,#N/A\n"
    )
    release = read_release(tmp_path)
    found = release.participants
    assert found["os_months"].iloc[1] == 7.7
    assert release.counted["patients whom TCGA-CDR marks as redacted, its follow-up not taken"] == 1
    assert found["source_id"].tolist() == [f"TCGA-01-000{i}" for i in range(1, 5)]
    assert found["os_months"].iloc[0] == 1.0
    assert read_release(tmp_path / "s1.txt").participants["os_months"].iloc[0] == 4.7


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "words"),
    [
        ("s1.csv", "Mutant,non-codel", "maybe,non-codel", InvalidTable, "case TCGA-01-0001.*idh.*maybe"),
        ("s1.csv", ",G3,", ",G7,", InvalidTable, "case TCGA-01-0002.*grade.*G7"),
        ("s1.csv", "TCGA-01-0002,", "TCGA-01-0001,", DuplicateId, "case TCGA-01-0001"),
        ("s1.csv", "TCGA-01-0002,", "P2,", InvalidTable, "barcode.*P2"),
        ("s1.csv", "4.7,", "soon,", InvalidTable, "soon"),
        ("s1.csv", "31.0", "310", InvalidTable, "age_years.*310"),
        ("s1.csv", "ATRX.status", "ATRX", InvalidTable, "atrxstatus"),
        ("cdr.csv", "0002-01,0,", "0002-01,9,", InvalidTable, "OS.*9"),
        ("cdr.csv", "02,1.0,365.25", "02,1.0,366", DuplicateId, "case TCGA-01-0001"),
        ("who.csv", "s2,TCGA-01-0001,\"Astrocytoma.", "s2,TCGA-01-0001,\"Glioma.", DuplicateId, "case TCGA-01-0001"),
    ],
)  # fmt: skip
def test_tables_that_are_malformed(tmp_path, file, old, new, error, words):
    for name, text in (("s1.csv", TABLE_S1), ("cdr.csv", CDR), ("who.csv", WHO)):
        (tmp_path / name).write_text(text.replace(old, new, 1) if name == file else text)
    with pytest.raises(error, match=words):
        read_release(tmp_path)


def test_an_optional_table_that_is_none_is_counted_or_refused(folder):
    assert read_release(folder).counted["tables not recognised: other.csv"] == 1
    (folder / "cdr.csv").write_text(CDR.replace(",", "|"))
    with pytest.raises(InvalidTable, match=r"cdr\.csv.*sample\|OS"):
        read_release(folder)
    (folder / "cdr.csv").write_text(CDR.replace("PFI.time", "OS.time"))
    with pytest.raises(InvalidTable, match=r"twice.*cdr\.csv.*OS\.time"):
        read_release(folder)


def test_folders_that_are_not_this_release(tmp_path, folder):
    assert is_tcga_folder(folder)
    (folder / "again.csv").write_text(CDR)
    with pytest.raises(InvalidTable, match=r"again\.csv, cdr\.csv"):
        read_release(folder)
    (folder / "table_s1.csv.gz").unlink()
    (folder / "again.csv").unlink()
    assert not is_tcga_folder(folder)
    with pytest.raises(NotFound, match="Table S1"):
        read_release(folder)
    with pytest.raises(NotFound):
        read_release(tmp_path / "absent")


@pytest.mark.real
def test_published_release(real_data):
    release = read_release(real_data / "tcga_glioma_clinical")
    found = release.participants
    assert len(found) == 1122
    assert found["follow_up_source"].value_counts().to_dict() == {"TCGA-CDR": 668, "Table S1": 436}
    assert release.counted["patients without follow-up"] == 18
    assert release.counted["patients whose atrx_mutation contradicts atrx of Table S1"] == 23
    assert found["idh"].value_counts().to_dict() == {"WT": 538, "Mutant": 457}
    dead = found.dropna(subset=["grade"]).groupby("grade")["event"].mean()
    assert dead.is_monotonic_increasing
    assert pd.Series(list(release.dropped)).empty
