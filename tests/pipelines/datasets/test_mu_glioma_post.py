from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.mu_glioma_post import read_release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound

HEADER = (
    "Patient_ID,Sex at Birth,Age at diagnosis,Primary Diagnosis,Grade of Primary Brain Tumor,Overall Survival (Death),"
    "Number of days from Diagnosis to death (Days),IDH1 mutation,IDH2 mutation,1p/19q,ATRX mutation,MGMT methylation,"
    "Number of Days from Diagnosis to 1st MRI (Timepoint_1) ,Number of Days from Diagnosis to 2nd MRI (Timepoint_2) "
)
ROWS = {
    "dead": "PatientID_0001,Female,57,GBM,4,1,487,0,0,10,0,1,20,90",
    "alive": "PatientID_0002,Male,40,Astrocytoma,3 vs 4,0,,1,2,0,1,0,-3,974",
    "contradictory": "PatientID_0003,Male,60,GBM,4,1,50,0,2,7,2,2,20,90",
    "unseen": "PatientID_0004,Male,60,Oligodendro-glioma,2,0,,0,1,1,3,4,-5,0",
}
FEATURES = (
    "subject_id,timepoint,Time to First Progression (Days),delta_days,days_from_dx,core__t1__original_shape_Flatness\n"
    "PatientID_0001,Timepoint_2,30,1,90,2.5\n"
    "PatientID_0001,Timepoint_1,30,1,20,1.5\n"
    "PatientID_0002,Timepoint_2,,,,inf\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clinical.csv").write_text("\n".join((HEADER, *ROWS.values())) + "\n")
    (tmp_path / "radiomics_512.csv").write_text(FEATURES)
    return tmp_path


def test_codes_become_markers_and_what_they_leave_open_stays_missing(folder):
    release = read_release(folder)
    frame = release.participants.set_index("source_id")
    assert frame["idh"].tolist() == ["WT", "Mutant", None, "Mutant"]
    assert frame["atrx"].tolist() == ["WT", "Mutant", None, None]
    assert frame["codeletion_1p19q"].tolist() == [None, "non-codel", None, "codel"]
    assert frame["mgmt"].tolist() == ["Methylated", "Unmethylated", None, None]
    assert frame["grade"].tolist() == [4, pd.NA, 4, 2]
    assert frame.at["PatientID_0002", "grade_published"] == "3 vs 4"
    assert release.counted["ATRX mosaic"] == 2
    assert release.counted["IDH1 wild type with IDH2 unknown"] == 1


def test_follow_up_ends_at_death_or_the_last_mri(folder):
    release = read_release(folder)
    frame = release.participants.set_index("source_id")
    np.testing.assert_allclose(frame["os_months"], [16, 32, np.nan, np.nan])
    assert frame["event"].tolist() == [1, 0, pd.NA, pd.NA]
    assert release.counted["deaths dated before a later MRI"] == 1
    assert release.counted["patients without follow-up"] == 2
    assert frame.at["PatientID_0003", "death_day"] == 50


def test_spaces_around_identifiers_do_not_matter_and_a_row_without_one_is_refused(folder):
    before = read_release(folder)
    path = folder / "radiomics_512.csv"
    path.write_text(FEATURES.replace("PatientID_0001,Timepoint_2", " PatientID_0001 , Timepoint_2 "))
    after = read_release(folder)
    assert after.participants.equals(before.participants)
    assert after.dropped == before.dropped
    path.write_text(FEATURES + ",Timepoint_1,,,,2\n")
    with pytest.raises(InvalidTable, match=r"no identifier.*radiomics_512\.csv.*row 4"):
        read_release(folder)


def test_tables_without_follow_up_are_refused_and_capitals_are_not(folder):
    before = read_release(folder)
    path = folder / "clinical.csv"
    text = path.read_text()
    path.write_text(text.replace(HEADER, HEADER.upper()))
    assert read_release(folder).participants.equals(before.participants)
    path.write_text(text.replace("MRI (Timepoint_", "scan ("))
    with pytest.raises(InvalidTable, match="day of an MRI"):
        read_release(folder)
    path.write_text(text.replace("IDH2 mutation", "IDH1 mutation"))
    with pytest.raises(InvalidTable, match=r"twice.*IDH1 mutation"):
        read_release(folder)


def test_one_time_point_a_patient_and_no_column_that_tells_the_outcome(folder):
    release = read_release(folder)
    features = release.matrices["features"]
    assert features.columns.tolist() == ["core__t1__original_shape_Flatness"]
    assert features.index.tolist() == ["PatientID0001", "PatientID0002"]
    assert features.iloc[0, 0] == 1.5
    assert np.isnan(features.iloc[1, 0])
    frame = release.participants.set_index("source_id")
    assert frame["time_point"].tolist() == [1, 2, pd.NA, pd.NA]
    np.testing.assert_allclose(frame["scan_day"], [20, 974, np.nan, np.nan])
    assert release.dropped == {"PatientID_0001 Timepoint_2": "later time point"}


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "message"),
    [
        ("clinical.csv", "Astrocytoma,3 vs 4,0,", "Astrocytoma,3 vs 4,5,", InvalidTable, "PatientID_0002"),
        ("clinical.csv", "GBM,4,1,487,0,", "GBM,4,1,487,9,", InvalidTable, "IDH1 mutation"),
        ("clinical.csv", "PatientID_0002", "PatientID_0001", DuplicateId, "PatientID_0001"),
        ("clinical.csv", "Patient_ID", "Number", InvalidTable, "Patient_ID"),
        ("radiomics_512.csv", "Timepoint_2,30", "Timepoint_1,30", InvalidTable, "time point stands twice"),
        ("radiomics_512.csv", "Timepoint_1", "first", InvalidTable, "Timepoint_1"),
        ("radiomics_512.csv", "2.5", "flat", InvalidTable, "flat"),
        ("radiomics_512.csv", "PatientID_000", "PatientID_900", IdMismatch, "PatientID_0001"),
    ],
)
def test_bad_tables_are_refused(folder, file, old, new, error, message):
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        read_release(folder)


def test_a_missing_table_is_named(folder):
    (folder / "radiomics_512.csv").unlink()
    with pytest.raises(NotFound, match="radiomics"):
        read_release(folder)


@pytest.mark.real
def test_published_release(real_data):
    folder = real_data / "mu_glioma_post"
    if not folder.is_dir():
        pytest.skip("no folder mu_glioma_post")
    release = read_release(folder)
    frame = release.participants
    assert release.matrices["features"].shape == (173, 512)
    assert frame["atrx"].value_counts().to_dict() == {"WT": 102, "Mutant": 19}
    assert frame["idh"].value_counts().to_dict() == {"WT": 138, "Mutant": 23}
    assert frame["event"].value_counts().to_dict() == {0: 81, 1: 71}
    assert release.counted["deaths dated before a later MRI"] == 14
    assert len(release.dropped) == 324
