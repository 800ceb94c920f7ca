from __future__ import annotations

import io

import pandas as pd
import pytest

from pipelines.datasets.clinical import read_clinical
from pipelines.fetch.gdc_clinical import clinical_table, participants_table
from pipelines.fetch.run import fetch_release
from services.shared.errors import DuplicateId

CLINICAL = "tcga-glioma-clinical"


@pytest.fixture
def cases(stand_in):
    stand_in.gdc_cases += [
        {
            "id": "2",
            "submitter_id": "TCGA-DU-5849",
            "disease_type": "Gliomas",
            "project": {"project_id": "TCGA-LGG"},
            "demographic": {"vital_status": "Alive", "gender": "male", "days_to_death": None, "age_at_index": 46},
            "diagnoses": [{"submitter_id": "d1", "age_at_diagnosis": 17000, "treatments": [{"x": 1}]}],
            "follow_ups": [{"days_to_follow_up": 100}, {"days_to_follow_up": 450}, {"days_to_follow_up": None}],
        },
        {
            "id": "1",
            "submitter_id": "TCGA-CS-4941",
            "demographic": {"vital_status": "Dead", "days_to_death": 234, "note": "two\tlines\nhere"},
            "diagnoses": [
                {"submitter_id": "a", "tumor_grade": "G2", "diagnosis_is_primary_disease": "false"},
                {
                    "submitter_id": "b",
                    "tumor_grade": "G3",
                    "primary_diagnosis": "Astrocytoma, anaplastic",
                    "diagnosis_is_primary_disease": "true",
                    "days_to_last_follow_up": 900,
                },
            ],
        },
        {"id": "3", "submitter_id": "TCGA-CS-4942", "diagnoses": None},
    ]
    return stand_in


def test_clinical_cases_become_one_row_a_patient(cases, quick, tmp_path):
    cases.page = 2
    result = fetch_release(CLINICAL, tmp_path, patience=quick)
    table = pd.read_csv(tmp_path / "clinical.tsv", sep="\t", index_col=0, dtype=str)
    assert table.index.tolist() == ["TCGA-CS-4941", "TCGA-CS-4942", "TCGA-DU-5849"]
    assert table["diagnoses.tumor_grade"].tolist()[0] == "G3"
    assert table["diagnoses.count"].tolist() == ["2", "0", "1"]
    assert table.loc["TCGA-DU-5849", "follow_ups.days_to_follow_up"] == "450"
    assert table.loc["TCGA-CS-4941", "demographic.note"] == "two lines here"
    assert table.loc["TCGA-CS-4941", "demographic.days_to_death"] == "234"
    assert result.counted == {"patients": 3, "patients_listed": 3}
    asked = len(cases.requests)
    again = fetch_release(CLINICAL, tmp_path, patience=quick)
    assert (again.skipped, again.bytes) == (1, 0)
    assert len(cases.requests) - asked == 2
    some = fetch_release(CLINICAL, tmp_path, only=["TCGA-DU-5849"], patience=quick)
    assert some.skipped == 0
    assert (tmp_path / "clinical.tsv").read_text().count("\n") == 2


def test_a_clinical_table_does_not_depend_on_the_order_of_the_answer(cases):
    assert clinical_table(cases.gdc_cases) == clinical_table(cases.gdc_cases[::-1])
    assert pd.read_csv(io.StringIO(clinical_table(cases.gdc_cases)), sep="\t").shape[0] == 3


def test_participants_follow_from_the_clinical_table(cases, quick, tmp_path):
    result = fetch_release(CLINICAL, tmp_path, patience=quick)
    assert [file.path for file in result.files] == ["clinical.tsv", "participants.tsv"]
    people = read_clinical(tmp_path / "participants.tsv", step="test").participants.set_index("participant_id")
    dead, unknown, alive = (people.loc[f"sub-TCGA{name}"] for name in ("CS4941", "CS4942", "DU5849"))
    assert pd.read_csv(tmp_path / "participants.tsv", sep="\t")["source_id"].is_monotonic_increasing
    assert (dead["os_months"], dead["event"], dead["grade"]) == (234 / 30.4375, 1, 3)
    assert dead["histology"] == "Astrocytoma, anaplastic"
    assert (alive["os_months"], alive["event"], alive["sex"]) == (450 / 30.4375, 0, "M")
    assert alive["age_years"] == 17000 / 365.25
    assert unknown[["os_months", "event", "sex", "grade", "age_years"]].isna().all()


def described(**columns):
    row = {"submitter_id": "TCGA-CS-4941", "demographic.vital_status": "Alive"}
    table = participants_table(
        pd.DataFrame([row | {name.replace("__", "."): value for name, value in columns.items()}])
    )
    return table.iloc[0]


def test_follow_up_needs_status_and_day():
    assert (
        described(diagnoses__days_to_last_follow_up="10", follow_ups__days_to_follow_up="7")["os_months"]
        == 10 / 30.4375
    )
    for columns in (
        {},
        {"diagnoses__days_to_last_follow_up": "-3"},
        {"demographic__days_to_death": "50"},
        {"demographic__vital_status": "Dead", "diagnoses__days_to_last_follow_up": "50"},
        {"demographic__vital_status": "Not Reported", "demographic__days_to_death": "50"},
    ):
        assert described(**columns)[["os_months", "event"]].isna().all()


def test_a_patient_stands_once(cases):
    table = pd.read_csv(io.StringIO(clinical_table([cases.gdc_cases[0]] * 2)), sep="\t", dtype=str)
    with pytest.raises(DuplicateId, match="TCGA-DU-5849"):
        participants_table(table)
