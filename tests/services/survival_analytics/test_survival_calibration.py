from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidValue
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.kaplan_meier import estimate_survival
from services.survival_analytics.survival_calibration import (
    brier_scores,
    calibrate_survival,
    survival_calibration_curve,
)

AT = 36.0


@pytest.fixture(scope="module")
def risk(patients: pd.DataFrame) -> np.ndarray:
    model = fit_cox(patients, "months", event="died", covariates=["age", "grade", "idh_mutant", "signature"])
    return 1 - model.predict_survival(patients, [AT]).survival[0]


def test_groups_are_kaplan_meier_estimates(patients: pd.DataFrame, risk: np.ndarray) -> None:
    result = calibrate_survival(patients["months"], patients["died"], risk=risk, at=AT, groups=3)
    low = risk <= np.quantile(risk, 1 / 3)
    curve = estimate_survival(patients["months"][low], patients["died"][low])
    assert result.observed[0] == pytest.approx(1 - curve.at([AT]).survival[0])
    assert result.n.sum() == len(patients)
    assert (result.lower <= result.observed).all()
    assert (result.observed <= result.upper).all()


def test_even_groups_are_of_about_equal_size(patients: pd.DataFrame, risk: np.ndarray) -> None:
    result = calibrate_survival(patients["months"], patients["died"], risk=risk, at=AT, even_groups=True)
    assert np.ptp(result.n) <= 3
    assert (np.diff(result.predicted) < 0).all()


def test_group_without_follow_up_is_announced(patients: pd.DataFrame) -> None:
    frame = patients.assign(
        months=patients["months"].clip(upper=20), died=patients["died"].where(patients.index > 60, 0)
    )
    risk = np.linspace(0.1, 0.9, len(frame))
    result = calibrate_survival(frame["months"], frame["died"], risk=risk, at=AT, even_groups=True)
    assert np.isnan(result.observed).all()
    assert {notice.name for notice in result.notices} == {"short_follow_up"}


def test_smooth_curve_of_a_calibrated_model(patients: pd.DataFrame, risk: np.ndarray) -> None:
    curve = survival_calibration_curve(patients["months"], patients["died"], risk=risk, at=AT)
    assert curve.slope == pytest.approx(1, abs=0.02)
    assert curve.observed_to_expected == pytest.approx(1, abs=0.05)
    assert curve.mean_error < 0.06
    worse = survival_calibration_curve(patients["months"], patients["died"], risk=risk**2, at=AT)
    assert worse.mean_error > curve.mean_error


def test_brier_without_censoring_is_the_mean_square(patients: pd.DataFrame, risk: np.ndarray) -> None:
    event = np.ones(len(patients))
    dead = patients["months"] <= AT
    result = brier_scores(patients["months"], event, risks={"m": risk}, at=AT)
    assert result.brier[1] == pytest.approx(np.mean((dead - risk) ** 2), rel=1e-12)
    assert result.brier[0] == pytest.approx(dead.mean() * (1 - dead.mean()), rel=1e-9)
    assert result.index_of_prediction_accuracy[0] == 0


def test_model_beats_the_null_model(patients: pd.DataFrame, risk: np.ndarray) -> None:
    result = brier_scores(patients["months"], patients["died"], risks={"a": risk, "b": np.full(risk.size, 0.5)}, at=AT)
    assert result.index_of_prediction_accuracy[1] > 0.1
    row = result.contrasts.query("model == 'a' and reference == 'null'").iloc[0]
    assert row["difference"] == pytest.approx(result.brier[1] - result.brier[0])
    assert row["p_value"] < 0.001


@pytest.mark.parametrize("at", [0.0, -1.0, float("nan")])
def test_bad_time(patients: pd.DataFrame, risk: np.ndarray, at: float) -> None:
    with pytest.raises(InvalidValue):
        calibrate_survival(patients["months"], patients["died"], risk=risk, at=at)
