from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.survival_analytics.cox import fit_cox
from services.survival_analytics.logistic import fit_logistic
from services.survival_analytics.model_strength import (
    gini_mean_difference,
    measure_cox_strength,
    measure_logistic_strength,
)


def test_gini_mean_difference_by_hand() -> None:
    x = np.random.default_rng(0).normal(size=30)
    pairs = [abs(a - b) for i, a in enumerate(x) for b in x[i + 1 :]]
    assert gini_mean_difference(x) == pytest.approx(np.mean(pairs))


def test_cox(patients: pd.DataFrame) -> None:
    model = fit_cox(patients, "months", event="died", covariates=["age", "signature"])
    strength = measure_cox_strength(model, patients)
    assert strength.effective_n == patients["died"].sum()
    assert strength.r_squared_n_adjusted < strength.r_squared_n < strength.r_squared
    assert strength.g_ratio == pytest.approx(np.exp(strength.g))


def test_logistic(patients: pd.DataFrame) -> None:
    model = fit_logistic(patients, "died", covariates=["age", "signature"])
    strength = measure_logistic_strength(model, patients, "died")
    assert strength.d_xy == pytest.approx(2 * strength.c - 1)
    assert strength.gamma == pytest.approx(strength.d_xy)
    binned = measure_logistic_strength(model, patients, "died", probability_bins=20)
    assert abs(binned.gamma) > abs(binned.d_xy)
