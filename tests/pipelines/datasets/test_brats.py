from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.brats import read_release
from services.shared.errors import DuplicateId, InvalidTable, NotFound

MAPPING = """Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID
HGG,Brats17_CBICA_A_1,Brats18_CBICA_A_1,NA,BraTS19_CBICA_A_1
HGG,Brats17_TCIA_2_1,Brats18_TCIA_2_1,TCGA-02-0006,BraTS19_TCIA01_2_1
LGG,NA,NA,TCGA-CS-4941,BraTS19_TCIA10_3_1
HGG,NA,NA,NA,BraTS19_CBICA_B_1
"""
SURVIVAL_2019 = """BraTS19ID,Age,Survival,ResectionStatus
BraTS19_CBICA_A_1,60.4630137,487,GTR
BraTS19_TCIA01_2_1,61.62191781,ALIVE (361 days later),STR
BraTS19_CBICA_B_1,50,NA,NA
"""
SURVIVAL_2020 = """Brats20ID,Age,Survival_days,Extent_of_Resection
BraTS20_Training_001,60.463,487,GTR
BraTS20_Training_002,61.622,361,STR
BraTS20_Training_003,60.463,99,GTR
BraTS20_Training_004,57,1076,NA
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "name_mapping.csv").write_text(MAPPING)
    (tmp_path / "survival_data.csv").write_text(SURVIVAL_2019)
    (tmp_path / "survival_info.csv").write_text(SURVIVAL_2020)
    return tmp_path


def test_years_are_brought_together_by_name_and_by_age_and_survival(folder):
    release = read_release(folder)
    frame = release.participants.set_index("source_id")
    assert sorted(frame.index) == [
        "BraTS19_CBICA_B_1",
        "BraTS19_TCIA10_3_1",
        "BraTS20_Training_001",
        "BraTS20_Training_002",
        "BraTS20_Training_003",
        "BraTS20_Training_004",
    ]
    first = frame.loc["BraTS20_Training_001"]
    assert first["brats_2017_id"] == "Brats17_CBICA_A_1"
    assert (first["grade_group"], first["os_months"], first["event"]) == ("HGG", 16, 1)
    assert release.counted["2020 cases found by age and survival"] == 2
    assert release.counted["cases of a survival table alone"] == 2
    assert release.counted["2020 cases with the age of another case and other survival, kept apart"] == 1


def test_a_patient_alive_in_one_year_is_no_death_in_another(folder):
    frame = read_release(folder).participants.set_index("source_id")
    alive = frame.loc["BraTS20_Training_002"]
    assert alive["event"] == 0
    np.testing.assert_allclose(alive["os_months"], 361 / 30.4375)
    assert pd.isna(frame.loc["BraTS19_CBICA_B_1", "event"])


def test_a_pair_that_two_cases_share_links_nobody(folder):
    (folder / "survival_info.csv").write_text(SURVIVAL_2020 + "BraTS20_Training_005,60.463,487,GTR\n")
    release = read_release(folder)
    assert release.counted["2020 cases found by age and survival"] == 1
    assert len(release.participants) == 8


def test_one_table_is_enough(folder):
    alone = read_release(folder / "survival_info.csv").participants
    assert alone["participant_id"].tolist() == [f"sub-BraTS20Training00{n}" for n in (1, 2, 3, 4)]
    named = read_release(folder / "name_mapping.csv").participants
    assert len(named) == 4
    assert "os_months" in named


def test_mappings_of_two_releases_are_one_patient_a_row(folder):
    (folder / "later.csv").write_text(
        "Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
        "HGG,BraTS19_CBICA_B_1,BraTS20_Training_004\nHGG,NA,BraTS20_Training_009\n"
    )
    frame = read_release(folder).participants.set_index("source_id")
    assert frame.loc["BraTS20_Training_004", "brats_2019_id"] == "BraTS19_CBICA_B_1"
    assert frame.loc["BraTS20_Training_004", "age_years"] == 57
    assert len(frame) == 6


def test_survival_of_tcga_fills_in_where_the_challenge_has_none(folder, tmp_path):
    table = tmp_path / "tcga" / "clinic.csv"
    table.parent.mkdir()
    table.write_text("case_id,grade,os_months,event\nTCGA-CS-4941,3,7.5,1\nTCGA-02-0006,4,99,1\n")
    frame = read_release(folder, participants=table).participants.set_index("source_id")
    assert frame.loc["BraTS19_TCIA10_3_1", ["grade", "os_months", "event"]].tolist() == [3, 7.5, 1]
    assert frame.loc["BraTS20_Training_002", "event"] == 0
    assert frame.loc["BraTS20_Training_002", "grade"] == 4
    assert frame.loc["BraTS20_Training_002", "participant_id"] == "sub-BraTS20Training002"


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "message"),
    [
        ("survival_data.csv", "ALIVE (361 days later)", "lives", InvalidTable, "lives"),
        ("survival_data.csv", "STR", "partial", InvalidTable, "partial"),
        ("survival_data.csv", "BraTS19_TCIA01_2_1", "BraTS19_CBICA_A_1", DuplicateId, "BraTS19_CBICA_A_1"),
        ("name_mapping.csv", "HGG,Brats17_TCIA", "GBM,Brats17_TCIA", InvalidTable, "GBM"),
        ("name_mapping.csv", "BraTS19_CBICA_B_1", "BraTS19_CBICA_A_1", DuplicateId, "BraTS19_CBICA_A_1"),
    ],
)
def test_bad_tables_are_refused(folder, file, old, new, error, message):
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        read_release(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [(",", "|"), ("Age", "Years"), ("BraTS19ID", "Case")],
)
def test_a_survival_table_that_is_none_is_refused_and_not_left_aside(folder, old, new):
    path = folder / "survival_data.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InvalidTable, match=r"survival_data\.csv"):
        read_release(folder)


def test_headers_in_capitals_and_tables_of_other_things(folder):
    before = read_release(folder)
    (folder / "volumes.csv").write_text("case,volume\na,1\n")
    for path in folder.glob("s*.csv"):
        header, _, rows = path.read_text().partition("\n")
        path.write_text(f"{header.upper()}\n{rows}")
    after = read_release(folder)
    assert after.participants.equals(before.participants)
    assert after.counted == {**before.counted, "tables not recognised: volumes.csv": 1}


def test_a_repeated_column_and_a_patient_without_a_name_are_refused(folder):
    (folder / "name_mapping.csv").write_text(MAPPING + "HGG,NA,NA,NA,NA\n")
    with pytest.raises(InvalidTable, match="no identifier"):
        read_release(folder)
    (folder / "name_mapping.csv").write_text(MAPPING.replace("TCGA_TCIA_subject_ID", "Grade"))
    with pytest.raises(InvalidTable, match=r"twice.*name_mapping\.csv.*Grade"):
        read_release(folder)


def test_other_tables_are_refused(tmp_path):
    (tmp_path / "grades.csv").write_text("case,grade\na,4\n")
    with pytest.raises(NotFound, match=r"grades\.csv"):
        read_release(tmp_path)


@pytest.mark.real
def test_published_tables(real_data):
    folder = real_data / "brats_tables"
    if not folder.is_dir():
        pytest.skip("no folder brats_tables")
    release = read_release(folder)
    frame = release.participants
    assert len(frame) == 360
    assert frame["event"].value_counts().to_dict() == {1: 235, 0: 2}
    assert frame["grade_group"].value_counts().to_dict() == {"HGG": 259, "LGG": 76}
    assert frame["brats_2020_id"].notna().sum() == 236
    assert frame["tcga_id"].notna().sum() == 167
    assert release.counted["2020 cases found by age and survival"] == 211
