from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from services.shared.errors import InvalidTable, InvalidValue, OneClass, TooFewCases
from services.survival_analytics.calibration import (
    calibrate,
    calibration_curve,
    calibration_groups,
    correct_optimism,
    hosmer_lemeshow,
)
from services.survival_analytics.logistic import fit_logistic
from services.survival_analytics.lowess import smooth_lowess
from services.survival_analytics.roc import auc


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    p = expit(rng.normal(size=800))
    return (rng.random(800) < p).astype(int), p


def test_true_probabilities_are_calibrated(predictions: tuple) -> None:
    y, p = predictions
    result = calibrate(y, p)
    assert result.slope == pytest.approx(1, abs=0.25)
    assert result.calibration_in_the_large == pytest.approx(0, abs=0.25)
    assert result.unreliability_p > 0.01
    assert result.brier == pytest.approx(np.mean((y - p) ** 2))


def test_distorted_probabilities_are_found_out(predictions: tuple) -> None:
    y, p = predictions
    result = calibrate(y, expit(2 * logit(p) + 0.5))
    honest = calibrate(y, p)
    assert result.slope == pytest.approx(honest.slope / 2, rel=1e-9)
    assert result.unreliability_p < 1e-6
    assert result.c == pytest.approx(honest.c)
    assert result.mean_error > honest.mean_error


def test_groups_add_up(predictions: tuple) -> None:
    y, p = predictions
    groups = calibration_groups(y, p, groups=7)
    assert groups.n.sum() == 800
    assert groups.observed @ groups.n == pytest.approx(y.sum())
    assert groups.labels[0].startswith("[")


def test_hosmer_lemeshow(predictions: tuple) -> None:
    y, p = predictions
    good, bad = hosmer_lemeshow(y, p), hosmer_lemeshow(y, np.clip(p * 1.4, 0, 0.99))
    assert good.degrees_of_freedom == 8
    assert bad.p_value < 1e-6 < good.p_value
    assert good.observed.sum() == 800


def test_lowess_is_a_local_line() -> None:
    rng = np.random.default_rng(7)
    # Points further apart than a hundredth of the range: every one has a line of its own.
    x = np.arange(60) + rng.uniform(0, 0.2, 60)
    y = np.sin(x / 10) + rng.normal(0, 0.2, 60)
    smooth = smooth_lowess(x, y)
    for i in (0, 17, 40, 59):
        near = np.argsort(np.abs(x - x[i]))[:40]
        reach = np.abs(x[near] - x[i]).max()
        weight = np.clip(1 - (np.abs(x[near] - x[i]) / reach) ** 3, 0, None) ** 3
        _, level = np.polyfit(x[near] - x[i], y[near], 1, w=np.sqrt(weight))
        assert smooth[i] == pytest.approx(level, abs=1e-8)


def test_curve_of_certain_predictions() -> None:
    curve = calibration_curve([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.9])
    assert curve.predicted.tolist() == [0.1, 0.9]


def test_predictions_of_zero_and_one_are_announced(predictions: tuple) -> None:
    y, p = predictions
    result = calibrate(np.append(y, [0, 1]), np.append(p, [0.0, 1.0]))
    assert result.notices[0].name == "certain_predictions"


@pytest.mark.parametrize(
    ("y", "p", "error"),
    [
        ([0, 1], [0.5, 0.5], TooFewCases),
        ([1, 1], [0.2, 0.5], OneClass),
        ([0, 1], [0.2, 1.5], InvalidValue),
        ([0, 1], [0.2, float("nan")], InvalidValue),
    ],
)
def test_bad_input(y: list, p: list, error: type) -> None:
    with pytest.raises(error):
        calibrate(y, p)


def test_optimism_of_noise_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    columns = [f"x{j}" for j in range(8)]
    frame = pd.DataFrame(rng.normal(size=(80, 8)), columns=columns).assign(y=rng.integers(0, 2, 80))

    def fit(table: pd.DataFrame):
        model = fit_logistic(table, "y", covariates=columns)
        return model.predict_risk

    result = correct_optimism(
        frame, fit, measure=lambda t, p: auc(t["y"], p).estimate, metric="C", replicates=40, seed=1
    )
    assert result.apparent > 0.6
    assert result.corrected == pytest.approx(0.5, abs=0.12)
    assert result.corrected == pytest.approx(result.apparent - result.optimism)


def test_optimism_needs_samples_that_can_be_fitted() -> None:
    frame = pd.DataFrame({"y": [0, 1] * 10})

    def fit(table: pd.DataFrame):
        if len(table) and table.index[0] == 0 and table["y"].tolist() != [0, 1] * 10:
            raise InvalidTable("no")
        return lambda t: np.full(len(t), 0.5)

    with pytest.raises(TooFewCases):
        correct_optimism(frame, fit, measure=lambda t, p: 0.5, metric="C", replicates=10)
