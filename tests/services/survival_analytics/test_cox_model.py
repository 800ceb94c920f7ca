"""Predictions of a fitted Cox model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidValue
from services.survival_analytics.cox import fit_cox

OUTCOME = {"time": "months", "event": "died"}


def test_predicted_survival_of_a_stratum_uses_its_baseline(patients: pd.DataFrame) -> None:
    model = fit_cox(patients, **OUTCOME, covariates=["age"], strata="idh_mutant")
    same_age = pd.DataFrame({"age": [50.0, 50.0], "idh_mutant": [0, 1]})
    curves = model.predict_survival(same_age, [0.0, 24.0, 60.0])
    assert curves.survival[0].tolist() == [1.0, 1.0]
    assert (curves.survival[1:, 0] < curves.survival[1:, 1]).all()
    assert ((curves.lower <= curves.survival) & (curves.survival <= curves.upper)).all()
    with pytest.raises(InvalidValue, match="not seen"):
        model.predict_survival(same_age.assign(idh_mutant=7), [12.0])


def test_baseline_with_covariates_at_zero(patients: pd.DataFrame) -> None:
    model = fit_cox(patients, **OUTCOME, covariates=["age", "signature"])
    zero = pd.DataFrame({"age": [0.0], "signature": [0.0]})
    hazard = model.baseline_hazard()
    survival = model.predict_survival(zero, hazard.time).survival[:, 0]
    assert -np.log(survival) == pytest.approx(hazard.cumulative_hazard, rel=1e-9)
