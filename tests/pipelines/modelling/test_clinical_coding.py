"""Clinical columns as covariates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.clinical_coding import fit_coding
from services.shared.errors import InvalidTable, TooFewCases

CLINICAL = pd.DataFrame(
    {
        "age_years": ["55", "61.5", "40", None, "33", "70"],
        "grade": [2.0, 3.0, 4.0, 4.0, 2.0, np.nan],
        "idh": ["WT", "Mutant", " WT", "WT", "", "Mutant"],
        "site": ["x"] * 6,
        "kps": [np.nan] * 6,
    },
    index=list("abcdef"),
)


def test_numbers_stay_and_categories_become_indicators_of_all_levels_but_the_first():
    coding = fit_coding(CLINICAL, ["age_years", "grade", "idh"], categorical=["grade"])
    assert coding.levels == {"grade": ("2", "3", "4"), "idh": ("Mutant", "WT")}
    assert coding.covariates == ("age_years", "grade=3", "grade=4", "idh=WT")
    table, dropped = coding.encode(CLINICAL)
    assert table.loc["a"].tolist() == [55, 0, 0, 1]
    assert table.loc["c"].tolist() == [40, 0, 1, 1]
    assert table.index[table.isna().any(axis=1)].tolist() == ["d", "e", "f"]
    assert dropped == {"no age_years": 1, "no grade": 1, "no idh": 1}


def test_columns_without_information_are_left_out_with_the_reason():
    coding = fit_coding(CLINICAL, ["grade", "site", "kps"])
    assert coding.columns == ("grade",)
    assert coding.left_out == {"kps": "no patient has it", "site": "the same in every patient"}
    assert coding.covariates == ("grade",)


def test_a_level_that_training_does_not_know_is_counted():
    coding = fit_coding(CLINICAL, ["idh", "age_years"])
    others = pd.DataFrame({"idh": ["WT", "R132H", "Mutant"], "age_years": [50, 51, 52]}, index=list("xyz"))
    table, dropped = coding.encode(others)
    assert dropped == {"idh unknown to the training patients": 1}
    assert table["idh=WT"].tolist()[::2] == [1, 0]
    assert table.loc["y"].isna().all()


def test_bad_columns_are_errors_that_name_them():
    with pytest.raises(InvalidTable, match="lacks a column") as error:
        fit_coding(CLINICAL, ["age_years", "resection"])
    assert error.value.field == "resection"
    with pytest.raises(InvalidTable, match="no clinical column varies"):
        fit_coding(CLINICAL, ["site", "kps"])
    coding = fit_coding(CLINICAL, ["age_years"])
    with pytest.raises(InvalidTable, match="something else"):
        coding.encode(pd.DataFrame({"age_years": ["50", "old"]}))
    with pytest.raises(TooFewCases, match="no patient has all"):
        coding.encode(pd.DataFrame({"age_years": [None, None]}))
    with pytest.raises(InvalidTable, match="lacks a column"):
        coding.encode(pd.DataFrame({"sex": ["F"]}))
