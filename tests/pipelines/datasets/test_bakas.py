from __future__ import annotations

import numpy as np
import pytest

from pipelines.datasets.bakas import read_bakas, read_release
from pipelines.datasets.release import read_matrix, write_release
from pipelines.studies import grading
from services.shared.cohort import read_cohort
from services.shared.errors import DuplicateId, NotFound, UnreadableFile


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "TCGA_GBM_radiomicFeatures.csv").write_text("ID,Date,V1,V2\nTCGA-02,1996.08.23, 1 ,#DIV/0!\n")
    (tmp_path / "TCGA_LGG_radiomicFeatures.csv").write_text("ID,Date,V1,V3\n TCGA-01 ,1996.08.23,NaN,Inf\n")
    return tmp_path


def test_both_tables_become_one(folder):
    found = read_bakas(folder)
    assert found.features.index.tolist() == ["TCGA-01", "TCGA-02"]
    assert found.features.columns.tolist() == ["V1", "V2", "V3"]
    assert found.features["V1"].isna().tolist() == [True, False]
    assert found.features[["V2", "V3"]].isna().all().all()
    assert found.labels.tolist() == ["LGG", "HGG"]
    assert found.left_out == {"Date": "bookkeeping"}
    assert found.in_one_file == ("V2", "V3")
    assert found.infinite == 1


def test_a_missing_table_and_a_patient_in_both_are_errors(folder):
    (folder / "TCGA_LGG_radiomicFeatures.csv").write_text("ID,V1\nTCGA-02,1\n")
    with pytest.raises(DuplicateId, match="TCGA-02"):
        read_bakas(folder)
    (folder / "TCGA_LGG_radiomicFeatures.csv").unlink()
    with pytest.raises(NotFound, match="TCGA_LGG_"):
        read_bakas(folder)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_marks_spellings_and_blank_rows_give_the_same_tables(folder, mark):
    before = read_bakas(folder)
    for path in folder.iterdir():
        path.write_text((path.read_text() + ",,,\n").replace(",", mark))
    path = folder / "TCGA_LGG_radiomicFeatures.csv"
    path.write_text(path.read_text().replace("V1", "v1").replace("Date", "DATE"))
    after = read_bakas(folder)
    assert after.features.equals(before.features)
    assert after.in_one_file == before.in_one_file


def test_a_table_without_a_patient_is_refused(folder):
    (folder / "TCGA_GBM_radiomicFeatures.csv").write_text("ID,Date,V1,V2\n")
    with pytest.raises(UnreadableFile, match=r"no row.*TCGA_GBM_radiomicFeatures\.csv"):
        read_bakas(folder)
    with pytest.raises(NotFound, match="absent"):
        read_release(folder / "absent")


@pytest.mark.real
def test_published_radiomics_tell_grades_apart(real_data):
    folder = real_data / "tcia_bakas_radiomics"
    if not folder.is_dir():
        pytest.skip("no tables in tcia_bakas_radiomics")
    tables = read_bakas(folder)
    assert tables.features.shape == (167, 724)
    assert not np.isinf(tables.features.to_numpy()).any()
    result = grading.run(tables.features, tables.labels, parameters=grading.Parameters(permutations=0), seed=1)
    assert result.metrics["auc"] > 0.85
    assert result.metrics["auc_low"] > 0.8


def test_release_has_grade_4_for_glioblastomas_and_a_group_for_everybody(folder):
    release = read_release(folder)
    frame = release.participants.set_index("source_id")
    assert frame["participant_id"].tolist() == ["sub-TCGA01", "sub-TCGA02"]
    assert frame["grade_group"].tolist() == ["LGG", "HGG"]
    assert frame["grade"].isna().tolist() == [True, False]
    assert frame.at["TCGA-02", "grade"] == 4
    assert release.matrices["features"].index.tolist() == ["TCGA01", "TCGA02"]
    assert release.counted["infinite entries taken as missing"] == 1
    assert release.counted["features in one file only"] == 2


def test_joined_grades_stay_and_a_grade_against_the_file_is_counted(folder, tmp_path):
    table = tmp_path / "clinic.csv"
    table.write_text("case_id,grade,os_months,event\nTCGA-01,4,12.5,1\nTCGA-02,,3,0\n")
    release = read_release(folder, participants=table)
    frame = release.participants.set_index("source_id")
    assert frame["grade"].tolist() == [4, 4]
    assert frame["event"].tolist() == [1, 0]
    assert release.counted["glioblastomas given grade 4"] == 1
    assert release.counted["patients whose grade and group differ"] == 1


def test_identifiers_that_differ_in_punctuation_alone_are_refused(folder):
    (folder / "TCGA_LGG_radiomicFeatures.csv").write_text("ID,V1\nTCGA_02,1\n")
    with pytest.raises(DuplicateId, match="TCGA"):
        read_release(folder)


@pytest.mark.real
def test_published_patients_get_grade_markers_and_survival_from_tcga(real_data):
    folder, clinical = real_data / "tcia_bakas_radiomics", real_data / "tcga_glioma_clinical"
    if not folder.is_dir() or not clinical.is_dir():
        pytest.skip("no tables in tcia_bakas_radiomics or tcga_glioma_clinical")
    plain, joined = read_release(folder), read_release(folder, participants=clinical)
    assert plain.participants["grade_group"].value_counts().to_dict() == {"HGG": 102, "LGG": 65}
    assert plain.participants["grade"].value_counts().to_dict() == {4: 102}
    frame = joined.participants
    assert frame["grade"].value_counts().to_dict() == {4: 102, 3: 37, 2: 28}
    assert frame[["idh", "atrx", "os_months"]].notna().sum().tolist() == [148, 113, 166]
    assert frame["event"].sum() == 96
    assert joined.counted["patients whose grade and group differ"] == 0


@pytest.mark.real
@pytest.mark.parametrize("joined", [False, True])
def test_a_cohort_of_the_release_has_the_labels_of_its_files(storage, real_data, joined):
    folder, clinical = real_data / "tcia_bakas_radiomics", real_data / "tcga_glioma_clinical"
    if not folder.is_dir() or not clinical.is_dir():
        pytest.skip("no tables in tcia_bakas_radiomics or tcga_glioma_clinical")
    tables = read_bakas(folder)
    write_release(storage, "bakas", read_release(folder, participants=clinical if joined else None))
    features = read_matrix(storage, "bakas", "features")
    labels = grading.read_labels(read_cohort(storage, "bakas").participants, features.index)
    assert labels.tolist() == tables.labels.tolist()
    np.testing.assert_array_equal(features.to_numpy(), tables.features.to_numpy())
