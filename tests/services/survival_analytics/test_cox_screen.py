"""Univariable screening."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.survival_analytics.cox import fit_cox
from services.survival_analytics.cox_screen import screen_columns, screen_covariates

OUTCOME = {"time": "months", "event": "died"}


def test_screen_keeps_what_cannot_be_fitted(patients: pd.DataFrame) -> None:
    frame = patients.assign(flat=1.0)
    screen = screen_covariates(frame, **OUTCOME, covariates=["age", "flat"])
    assert screen.coefficients[0] == pytest.approx(fit_cox(frame, **OUTCOME, covariates=["age"]).coefficients[0])
    assert np.isnan(screen.coefficients[1])
    assert screen.notices[0].name == "not_fitted"


def test_columns_side_by_side_equal_one_model_each(patients: pd.DataFrame) -> None:
    rng = np.random.default_rng(5)
    names = ["age", *(f"noise_{i}" for i in range(5)), "skewed", "binary"]
    columns = {name: rng.normal(50, 9, len(patients)) for name in names} | {
        "age": patients["age"],
        "skewed": rng.exponential(size=len(patients)) ** 3,
        "binary": (patients["age"] > 60).astype(float),
    }
    frame = pd.DataFrame(columns).assign(months=np.ceil(patients["months"]), died=patients["died"])
    each = screen_covariates(frame, **OUTCOME, covariates=names)
    together = screen_columns(frame[names], frame["months"], event=frame["died"])
    assert together.coefficients == pytest.approx(each.coefficients, rel=1e-8)
    assert together.p_values == pytest.approx(each.p_values, rel=1e-6)


def test_a_column_without_a_maximum_has_no_p_value() -> None:
    months = np.arange(1.0, 21.0)
    x = np.column_stack([-months, np.ones(20), np.random.default_rng(0).normal(size=20)])
    screen = screen_columns(x, months, event=np.ones(20))
    assert np.isnan(screen.p_values).tolist() == [True, True, False]
