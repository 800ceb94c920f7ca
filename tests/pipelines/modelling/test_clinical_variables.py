from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.clinical_variables import clinical_numbers, clinical_variables
from services.shared.errors import IdMismatch, InvalidTable

IDS = [f"P{i}" for i in range(10)]


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(IDS, name="case_id"))


def test_variables_are_numbers_in_the_order_of_the_patients():
    given = table(
        age_years=range(30, 40),
        sex=["M", "f", "male", "F", None, "M", "F", "M", "F", "M"],
        grade=["2", "III", 4, "G2", None, 2, 3, 4, 2, 3],
        VASARI_score=np.linspace(60, 80, 10),
        histology="Astrocytoma",
    )
    found = clinical_variables(given, IDS[::-1], max_missing=0.5)
    assert found.columns == ("age_years", "sex_male", "grade", "vasari_score")
    assert found.values[::-1, 0].tolist() == list(range(30, 40))
    np.testing.assert_array_equal(found.values[::-1, 1][:5], [1, 0, 1, 0, np.nan])
    np.testing.assert_array_equal(found.values[::-1, 2][:5], [2, 3, 4, 2, np.nan])
    assert found.left_out == {}


def test_what_is_missing_or_constant_is_left_out_with_its_reason():
    given = table(age_years=[50.0] * 4 + [None] * 6, grade=[3] * 10)
    found = clinical_variables(given, IDS, max_missing=0.5)
    assert found.columns == ()
    assert found.values.shape == (10, 0)
    assert found.left_out == {
        "sex_male": "not in the clinical table",
        "age_years": "missing in 60% of the patients",
        "grade": "the same value in 100% of the patients",
    }


def test_patients_without_a_row_have_no_values():
    found = clinical_numbers(table(age_years=range(30, 40)), ["P3", "P99"])
    np.testing.assert_array_equal(found["age_years"], [33, np.nan])


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"age_years": ["old"] * 10}, "age_years"),
        ({"sex": ["M", "divers"] * 5}, "sex"),
        ({"sex": [1, 2] * 5}, "sex"),
        ({"grade": ["V"] * 10}, "grade"),
        ({"age_years": [np.inf] * 10}, "age_years"),
    ],
)
def test_an_unknown_entry_is_an_error(columns, field):
    with pytest.raises(InvalidTable, match=field):
        clinical_numbers(table(**columns), IDS)


def test_a_table_of_other_patients_is_an_error():
    with pytest.raises(IdMismatch, match="none of the patients"):
        clinical_numbers(table(age_years=range(10)), ["Q1"])
    twice = pd.concat([table(age_years=range(10))] * 2)
    with pytest.raises(IdMismatch, match="a patient twice"):
        clinical_numbers(twice, IDS)
