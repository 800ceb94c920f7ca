from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.checks import check_clinical, check_release
from pipelines.datasets.release import Release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, TooFewCases


def clinical(**columns):
    return pd.DataFrame({"participant_id": ["sub-B", "sub-A"], "source_id": ["B", "A"], **columns})


def test_a_table_is_sorted_and_typed():
    found = check_clinical(
        clinical(age_years=["40", None], grade=[4.0, 2], event=[1, np.nan], os_months=[3, 4.5], sex=["F", np.nan]),
        step="s",
    )
    assert found["participant_id"].tolist() == ["sub-A", "sub-B"]
    assert found["grade"].tolist() == [2, 4]
    assert found["event"].isna().tolist() == [True, False]
    assert found["age_years"].iloc[1] == 40.0
    assert found["sex"].tolist() == [None, "F"]


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"age_years": [40, 130]}, InvalidTable, "case A, .*age_years.*0 to 120.*130"),
        ({"age_years": [40, -1]}, InvalidTable, "age_years"),
        ({"age_years": ["40", "old"]}, InvalidTable, "case A, .*age_years.*numbers.*old"),
        ({"os_months": [-0.1, 1]}, InvalidTable, "case B, .*os_months"),
        ({"os_months": [np.inf, 1]}, InvalidTable, "os_months"),
        ({"grade": [5, 2]}, InvalidTable, "case B, .*grade.*2, 3, 4.*5"),
        ({"grade": ["III", 2]}, InvalidTable, "case B, .*grade.*III"),
        ({"grade": [2.5, 2]}, InvalidTable, "case B, .*grade.*2.5"),
        ({"event": [2, 0]}, InvalidTable, "event.*0, 1.*2"),
        ({"sex": ["F", "female"]}, InvalidTable, "case A, .*sex.*female"),
        ({"idh": ["wt", None]}, InvalidTable, "idh.*WT, Mutant"),
        ({"atrx": ["WT", 1]}, InvalidTable, "atrx"),
        ({"histology": [4, None]}, InvalidTable, "histology.*text"),
        ({"source_id": ["A", "A"]}, DuplicateId, "source_id"),
        ({"source_id": ["A", None]}, InvalidTable, "source_id"),
        ({"participant_id": ["sub-A", "sub-A"]}, DuplicateId, "participant_id"),
        ({"participant_id": ["sub-A", "sub-A_1"]}, InvalidTable, "letters and digits"),
        ({"Age": [1, 2]}, InvalidTable, "snake_case.*Age"),
    ],
)
def test_a_broken_rule_names_patient_and_column(columns, error, words):
    with pytest.raises(error, match=words) as caught:
        check_clinical(pd.DataFrame({**clinical(), **columns}), step="import x")
    assert caught.value.step == "import x"


def test_a_table_without_identifiers():
    with pytest.raises(InvalidTable, match="participant_id"):
        check_clinical(pd.DataFrame({"age_years": [3]}), step="s")


def release(matrix=None, **columns):
    matrices = {} if matrix is None else {"expression": matrix}
    return Release(name="x", participants=clinical(**columns), meanings={"batch": "Batch"}, matrices=matrices)


def test_a_release_is_sorted_whole():
    matrix = pd.DataFrame({"CD44": [1.0, np.nan]}, index=["B", "A"])
    found = check_release(release(matrix, batch=["1", "2"]))
    assert found.participants["batch"].tolist() == ["2", "1"]
    assert found.matrices["expression"].index.tolist() == ["A", "B"]
    assert found.matrices["expression"].index.name == "case_id"


def test_a_release_without_patients():
    empty = Release(name="x", participants=pd.DataFrame(columns=["participant_id"]), dropped={"a": "no expression"})
    with pytest.raises(TooFewCases, match="1 left out"):
        check_release(empty)


@pytest.mark.parametrize(
    ("broken", "error", "words"),
    [
        (release(site=["a", "b"]), InvalidTable, "meaning.*site"),
        (release(pd.DataFrame({"g": [1.0]}, index=["C"])), IdMismatch, "case C"),
        (release(pd.DataFrame({"g": [1.0, 2]}, index=["A", "A"])), DuplicateId, "expression.*A"),
        (release(pd.DataFrame([[1.0, 2]], index=["A"], columns=["g", "g"])), DuplicateId, "expression.*g"),
        (release(pd.DataFrame({"g": ["x"]}, index=["A"])), InvalidTable, "text"),
        (release(pd.DataFrame({"g": [np.inf]}, index=["A"])), InvalidTable, "case A, .*infinite"),
    ],
)
def test_a_release_that_is_no_cohort(broken, error, words):
    with pytest.raises(error, match=words):
        check_release(broken)
