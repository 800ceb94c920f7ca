"""Univariable screening."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.survival_analytics.cox import fit_cox
from services.survival_analytics.cox_screen import screen_covariates

OUTCOME = {"time": "months", "event": "died"}


def test_screen_keeps_what_cannot_be_fitted(patients: pd.DataFrame) -> None:
    frame = patients.assign(flat=1.0)
    screen = screen_covariates(frame, **OUTCOME, covariates=["age", "flat"])
    assert screen.coefficients[0] == pytest.approx(fit_cox(frame, **OUTCOME, covariates=["age"]).coefficients[0])
    assert np.isnan(screen.coefficients[1])
    assert screen.notices[0].name == "not_fitted"
