"""Do predicted probabilities mean what they say? Binary outcomes: recalibration, groups, smooth curve, Brier, tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr

from services.shared.errors import GliaflowError, InvalidValue, OneClass, TooFewCases
from services.survival_analytics.inputs import (
    BoolArray,
    FloatArray,
    IntArray,
    Notice,
    read_classes,
    read_probability,
)
from services.survival_analytics.logistic import maximise_logistic
from services.survival_analytics.lowess import smooth_lowess
from services.survival_analytics.quantile_groups import QuantileGroups, cut_at_quantiles
from services.survival_analytics.roc import roc
from services.survival_analytics.spline import interpolate_sorted

__all__ = [
    "BinaryCalibration",
    "CalibrationCurve",
    "CalibrationGroups",
    "HosmerLemeshow",
    "OptimismCorrection",
    "calibrate",
    "calibration_curve",
    "calibration_groups",
    "correct_optimism",
    "hosmer_lemeshow",
]


@dataclass(frozen=True)
class BinaryCalibration:
    """Calibration and overall accuracy of predicted probabilities (R: ``rms::val.prob``).

    Attributes
    ----------
    intercept, slope
        Logistic recalibration of the outcome on logit(p): 0 and 1 are ideal.
    calibration_in_the_large
        Intercept with the slope fixed at one.
    brier, d_xy, c
        Brier score, Somers' Dxy, and C.
    r_squared
        Nagelkerke's R² of the predictions as they are.
    discrimination, discrimination_chi_square
        Index D and the likelihood ratio behind it.
    unreliability, unreliability_chi_square, unreliability_p
        Index U and the test of intercept 0 and slope 1.
    quality
        D - U.
    largest_error, error_90, mean_error
        Emax, E90 and Eavg: distance between predictions and a lowess curve without robustness steps.
    spiegelhalter_z, spiegelhalter_p
        Spiegelhalter's test.
    """

    n: int
    n_events: int
    intercept: float
    slope: float
    calibration_in_the_large: float
    brier: float
    d_xy: float
    c: float
    r_squared: float
    discrimination: float
    discrimination_chi_square: float
    unreliability: float
    unreliability_chi_square: float
    unreliability_p: float
    quality: float
    largest_error: float
    error_90: float
    mean_error: float
    spiegelhalter_z: float
    spiegelhalter_p: float
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([{k: v for k, v in vars(self).items() if k != "notices"}])


@dataclass(frozen=True, eq=False)
class CalibrationGroups:
    """Patients grouped by predicted probability.

    Attributes
    ----------
    labels
        Intervals as R's ``cut`` writes them.
    n, predicted, observed
        Shape (g,): patients, mean prediction and share of events.
    """

    labels: tuple[str, ...]
    n: IntArray
    predicted: FloatArray
    observed: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per group."""
        return pd.DataFrame({"group": self.labels, "n": self.n, "predicted": self.predicted, "observed": self.observed})


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """A smooth calibration curve at each distinct prediction."""

    predicted: FloatArray
    observed: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per prediction."""
        return pd.DataFrame({"predicted": self.predicted, "observed": self.observed})


@dataclass(frozen=True, eq=False)
class HosmerLemeshow:
    """Hosmer and Lemeshow's test.

    Attributes
    ----------
    observed, expected
        Shape (g, 2): patients without and with the event.
    """

    chi_square: float
    degrees_of_freedom: int
    p_value: float
    labels: tuple[str, ...]
    observed: FloatArray
    expected: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per group."""
        return pd.DataFrame(
            {
                "group": self.labels,
                "observed_0": self.observed[:, 0],
                "observed_1": self.observed[:, 1],
                "expected_0": self.expected[:, 0],
                "expected_1": self.expected[:, 1],
            }
        )


@dataclass(frozen=True)
class OptimismCorrection:
    """Apparent performance, its optimism over bootstrap samples, and the difference of the two."""

    metric: str
    apparent: float
    optimism: float
    corrected: float
    replicates: int
    failed: int

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


def _logits(p: FloatArray) -> tuple[FloatArray, BoolArray]:
    inside = (p > 0) & (p < 1)
    logit = np.zeros(p.size)
    logit[inside] = np.log(p[inside] / (1 - p[inside]))
    return logit, inside


def calibrate(outcome: ArrayLike, probability: ArrayLike, *, probability_bins: int | None = None) -> BinaryCalibration:
    """Measure the calibration of predicted probabilities.

    Parameters
    ----------
    outcome
        Shape (n,): 1 = event, 0 = none.
    probability
        Shape (n,), in [0, 1]. Predictions of exactly 0 or 1 are left out of what needs their logit, with a notice.
    probability_bins
        Count predictions in the same one of that many intervals as tied in C and Dxy; R's ``val.prob`` has 5,000.
        Exact if not given.

    Raises
    ------
    OneClass, InvalidValue
        A single class; values outside [0, 1].
    TooFewCases
        Predictions without any spread.
    """
    step = "calibrate"
    y = read_classes(outcome, field="outcome", step=step)
    p = read_probability(probability, y, field="probability", step=step)
    logit, inside = _logits(p)
    if np.ptp(logit[inside]) == 0 if inside.any() else True:
        raise TooFewCases("All predictions are equal: there is no slope to estimate.", step=step, field="probability")
    notices: tuple[Notice, ...] = ()
    if not inside.all():
        notices = (
            Notice(
                "certain_predictions", f"{int(np.sum(~inside))} predictions of 0 or 1 are left out of the logit scale."
            ),
        )
    z, t = logit[inside], y[inside]
    n = t.size
    if t.min() == t.max():
        raise OneClass("Only certain predictions remain for one class.", step=step, field="probability")
    refit = maximise_logistic(np.column_stack((np.ones(n), z)), t)
    large = maximise_logistic(np.ones((n, 1)), t, offset=z)
    share = t.mean()
    null = float(-2 * n * (share * np.log(share) + (1 - share) * np.log(1 - share)))
    as_given = float(-2 * np.sum(t * z - np.logaddexp(0, z)))
    ratio = null - as_given
    d = (ratio - 1) / n
    u_chi = max(as_given - refit.deviance, 0.0)
    u = (u_chi - 2) / n
    area = roc(y, p if probability_bins is None else np.floor(p * probability_bins)).area
    curve = calibration_curve(y, p)
    error = np.abs(p - np.interp(p, curve.predicted, curve.observed))
    denominator = float(np.sqrt(np.sum((1 - 2 * p) ** 2 * p * (1 - p))))
    spiegelhalter = float(np.sum((y - p) * (1 - 2 * p))) / denominator if denominator > 0 else 0.0
    if refit.separated:
        notices = (*notices, Notice("separation", "The predictions separate the classes: the slope is infinite."))
    return BinaryCalibration(
        y.size,
        int(y.sum()),
        float(refit.coefficients[0]),
        float(refit.coefficients[1]),
        float(large.coefficients[0]),
        float(np.mean((p - y) ** 2)),
        2 * (area - 0.5),
        area,
        float((1 - np.exp(-ratio / n)) / (1 - np.exp(-null / n))),
        d,
        ratio,
        u,
        u_chi,
        float(chdtrc(2, u_chi)),
        d - u,
        float(error.max()),
        float(np.quantile(error, 0.9)),
        float(error.mean()),
        spiegelhalter,
        2 * float(ndtr(-abs(spiegelhalter))),
        notices,
    )


def calibration_curve(outcome: ArrayLike, probability: ArrayLike) -> CalibrationCurve:
    """Smooth the outcome over the predictions by lowess without robustness steps (R: ``lowess(p, y, iter = 0)``)."""
    y = read_classes(outcome, field="outcome", step="calibration_curve")
    p = read_probability(probability, y, field="probability", step="calibration_curve")
    order = np.argsort(p, kind="stable")
    smooth = smooth_lowess(p[order], y[order].astype(np.float64))
    at = np.unique(p)
    return CalibrationCurve(at, interpolate_sorted(p[order], smooth, at))


def calibration_groups(outcome: ArrayLike, probability: ArrayLike, *, groups: int = 10) -> CalibrationGroups:
    """Group patients at quantiles of the prediction and compare prediction with outcome."""
    y = read_classes(outcome, field="outcome", step="calibration_groups")
    p = read_probability(probability, y, field="probability", step="calibration_groups")
    cut = cut_at_quantiles(p, groups, step="calibration_groups")
    n = np.bincount(cut.codes, minlength=len(cut.labels))
    predicted, observed = (np.bincount(cut.codes, weights=v, minlength=n.size) / np.maximum(n, 1) for v in (p, y))
    return CalibrationGroups(cut.labels, n, predicted, observed)


def hosmer_lemeshow(outcome: ArrayLike, probability: ArrayLike, *, groups: int = 10) -> HosmerLemeshow:
    """Test calibration in groups (R: ``ResourceSelection::hoslem.test``; g - 2 degrees of freedom).

    The test has little power in small and too much in large cohorts; report it beside a curve.
    """
    step = "hosmer_lemeshow"
    y = read_classes(outcome, field="outcome", step=step)
    p = read_probability(probability, y, field="probability", step=step)
    if groups < 3:
        raise InvalidValue("The test needs three groups or more.", step=step, field="groups", got=groups)
    cut: QuantileGroups = cut_at_quantiles(p, groups, step=step)
    g = len(cut.labels)
    observed = np.column_stack([np.bincount(cut.codes, weights=v, minlength=g) for v in (1 - y, y)]).astype(np.float64)
    expected = np.column_stack([np.bincount(cut.codes, weights=v, minlength=g) for v in (1 - p, p)]).astype(np.float64)
    if (expected <= 0).any():
        raise TooFewCases(
            "A group expects no patient with or without the event.", step=step, field="groups", got=groups
        )
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return HosmerLemeshow(statistic, groups - 2, float(chdtrc(groups - 2, statistic)), cut.labels, observed, expected)


def correct_optimism(
    frame: pd.DataFrame,
    fit: Callable[[pd.DataFrame], Callable[[pd.DataFrame], FloatArray]],
    *,
    measure: Callable[[pd.DataFrame, FloatArray], float],
    metric: str,
    replicates: int = 200,
    seed: int = 0,
) -> OptimismCorrection:
    """Correct a model's apparent performance for optimism by the bootstrap.

    Parameters
    ----------
    frame
        Patients.
    fit
        Fits the whole procedure, selection included, to a table and returns a function that predicts for a table.
    measure
        Performance of predictions for a table.
    metric
        Name of the measure.
    replicates, seed
        Bootstrap samples of patients.

    Notes
    -----
    Efron and Gong (1983), Harrell: mean over samples of (performance in the sample - performance of that fit in all
    patients), taken off the apparent performance (R: ``rms::validate``).
    """
    if replicates < 2:
        raise InvalidValue("At least two replicates are needed.", step="correct_optimism", got=replicates)
    apparent = measure(frame, fit(frame)(frame))
    rng = np.random.default_rng(seed)
    gaps: list[float] = []
    failed = 0
    for _ in range(replicates):
        sample = frame.iloc[rng.integers(0, len(frame), len(frame))].reset_index(drop=True)
        try:
            predict = fit(sample)
            gaps.append(measure(sample, predict(sample)) - measure(frame, predict(frame)))
        except GliaflowError:
            failed += 1
    if len(gaps) < max(2, replicates // 2):
        raise TooFewCases(
            "Most bootstrap samples cannot be fitted.", step="correct_optimism", got=f"{len(gaps)} of {replicates}"
        )
    optimism = float(np.mean(gaps))
    return OptimismCorrection(metric, float(apparent), optimism, float(apparent) - optimism, len(gaps), failed)
