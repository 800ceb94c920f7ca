"""Calibration and accuracy of predicted survival at a time: groups, smooth curve, and the weighted Brier score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.cox_baseline import estimate_baseline, predict_curves
from services.survival_analytics.cox_likelihood import build_design, maximise
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    IntArray,
    Notice,
    read_follow_up,
    read_probability,
)
from services.survival_analytics.kaplan_meier import curve_of
from services.survival_analytics.quantile_groups import cut_at_quantiles, group_evenly
from services.survival_analytics.risk_sets import TIE_TOLERANCE, censoring_weights, survival_at, tabulate
from services.survival_analytics.time_dependent_roc import censoring_influence


@dataclass(frozen=True, eq=False)
class SurvivalCalibration:
    """Predicted and observed risk at a time, in groups of predicted risk.

    Attributes
    ----------
    labels, n, events
        Interval, patients and events (at any time) of each group.
    predicted
        Mean predicted risk.
    observed, lower, upper
        1 - Kaplan–Meier with log-log limits; NaN where no limit exists.
    standard_error_log
        Greenwood's standard error of log survival.
    """

    at: float
    labels: tuple[str, ...]
    n: IntArray
    events: IntArray
    predicted: FloatArray
    observed: FloatArray
    lower: FloatArray
    upper: FloatArray
    standard_error_log: FloatArray
    notices: tuple[Notice, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per group."""
        return pd.DataFrame(
            {
                "group": self.labels,
                "n": self.n,
                "events": self.events,
                "predicted": self.predicted,
                "observed": self.observed,
                "lower": self.lower,
                "upper": self.upper,
                "standard_error_log": self.standard_error_log,
            }
        )


@dataclass(frozen=True, eq=False)
class SurvivalCalibrationCurve:
    """A smooth calibration curve at a time, with the mean, median and 90th percentile of its error (ICI, E50, E90)."""

    at: float
    predicted: FloatArray
    observed: FloatArray
    mean_error: float
    median_error: float
    error_90: float
    slope: float
    observed_to_expected: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per patient, by predicted risk."""
        return pd.DataFrame({"predicted": self.predicted, "observed": self.observed})


@dataclass(frozen=True, eq=False)
class BrierScores:
    """Weighted Brier scores at a time; the first model is the marginal Kaplan–Meier risk.

    Attributes
    ----------
    models
        ``null`` and the names given.
    brier, standard_error, lower, upper
        Shape (m,).
    index_of_prediction_accuracy
        Shape (m,): 1 - Brier / Brier of the null model.
    contrasts
        One row per pair of models: difference (first minus reference), limits and p-value.
    """

    at: float
    models: tuple[str, ...]
    brier: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    index_of_prediction_accuracy: FloatArray
    contrasts: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Return one row per model."""
        return pd.DataFrame(
            {
                "model": self.models,
                "brier": self.brier,
                "standard_error": self.standard_error,
                "lower": self.lower,
                "upper": self.upper,
                "index_of_prediction_accuracy": self.index_of_prediction_accuracy,
            }
        )


def calibrate_survival(
    time: ArrayLike,
    event: ArrayLike,
    *,
    risk: ArrayLike,
    at: float,
    groups: int = 5,
    even_groups: bool = False,
) -> SurvivalCalibration:
    """Compare predicted risk by a time with what happened, in groups.

    Parameters
    ----------
    time, event
        Shape (n,).
    risk
        Shape (n,): predicted probability of the event by ``at``.
    at
        Time of the prediction.
    groups
        Number of groups.
    even_groups
        Group survival probabilities into intervals of about equal size and order groups by falling risk, leaving a
        group out of observation where its follow-up ends before ``at`` (R: ``rms::groupkm``). Otherwise cut risks at
        their quantiles and extend the last Kaplan–Meier value.
    """
    step = "calibrate_survival"
    follow = read_follow_up(time, event, step=step)
    p = read_probability(risk, follow.time, field="risk", step=step)
    _require_time(at, step=step)
    if even_groups:
        survival = 1 - p
        survival[np.abs(survival) < 1e-10] = 0.0
        cut = group_evenly(survival, groups, step=step)
    else:
        cut = cut_at_quantiles(p, groups, step=step)
    g = len(cut.labels)
    n, events = np.zeros(g, dtype=np.int64), np.zeros(g, dtype=np.int64)
    values = np.full((5, g), np.nan)
    notices = []
    for k in range(g):
        rows = cut.codes == k
        if not rows.any():
            raise TooFewCases("A group of predictions is empty.", step=step, field="groups", got=f"{p.size} patients")
        part = Follow(follow.time[rows], follow.event[rows])
        n[k], events[k] = len(part), int(part.event.sum())
        # The mean survival is averaged as such: one minus a mean of risks rounds differently.
        values[0, k] = 1 - float(np.mean(1 - p[rows])) if even_groups else float(p[rows].mean())
        curve = curve_of(tabulate(part), confidence="log-log", level=0.95)
        short = at > curve.time[-1] + 1e-6 and curve.survival[-1] > 0
        if short:
            notices.append(Notice("short_follow_up", f"Follow-up in group {cut.labels[k]} ends before {at:g}."))
            if even_groups:
                continue
        table = curve.at([at])
        position = np.searchsorted(curve.time, at + TIE_TOLERANCE * max(at, 1.0), side="right")
        spread = float(np.concatenate(([0.0], curve.standard_error_log))[position])
        values[1:, k] = [1 - table.survival[0], 1 - table.upper[0], 1 - table.lower[0], spread]
    return SurvivalCalibration(
        float(at), cut.labels, n, events, values[0], values[1], values[2], values[3], values[4], tuple(notices)
    )


def _require_time(at: float, *, step: str) -> None:
    if not (np.isfinite(at) and at > 0):
        raise InvalidValue("The time of the prediction must be positive.", step=step, field="at", got=at)


def survival_calibration_curve(
    time: ArrayLike, event: ArrayLike, *, risk: ArrayLike, at: float
) -> SurvivalCalibrationCurve:
    """Smooth the observed risk over the predicted one by a Cox model of its complementary log-log.

    A restricted cubic spline with four knots (at the 5th, 35th, 65th and 95th percentile) of log(-log(1 - risk)) is
    fitted; Austin, Harrell and van Klaveren (2020). The slope is the Cox coefficient of the same transform.
    """
    step = "survival_calibration_curve"
    follow = read_follow_up(time, event, step=step)
    p = read_probability(risk, follow.time, field="risk", step=step)
    _require_time(at, step=step)
    clipped = np.clip(p, 1e-9, 1 - 1e-9)
    x = np.log(-np.log1p(-clipped))
    if np.ptp(x) == 0:
        raise TooFewCases("All predictions are equal: there is no curve.", step=step, field="risk")
    slope = maximise(build_design(follow, x[:, None], None, ties="efron"))
    knots = np.unique(np.quantile(x, [0.05, 0.35, 0.65, 0.95]))
    basis = _restricted_spline(x, knots)
    design = build_design(follow, basis, None, ties="efron")
    fit = maximise(design)
    baseline = estimate_baseline(design, fit.coefficients, ("",))[0]
    curves = predict_curves(baseline, basis - design.shift, fit.coefficients, fit.covariance, np.array([at]))
    observed = 1 - curves.survival[0]
    error = np.abs(observed - p)
    order = np.argsort(p, kind="stable")
    incidence = 1 - survival_at(follow, at)
    return SurvivalCalibrationCurve(
        float(at),
        p[order],
        observed[order],
        float(error.mean()),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(slope.coefficients[0]),
        float(incidence / p.mean()) if p.mean() > 0 else float("inf"),
    )


def _restricted_spline(x: FloatArray, knots: FloatArray) -> FloatArray:
    """Return Harrell's restricted cubic spline basis; linear beyond the outer knots."""
    if knots.size < 3:
        return x[:, None]
    last, before = knots[-1], knots[-2]
    scale = (last - knots[0]) ** 2
    columns = [x]
    for knot in knots[:-2]:
        cubic = np.maximum(x - knot, 0) ** 3
        cubic -= np.maximum(x - before, 0) ** 3 * (last - knot) / (last - before)
        cubic += np.maximum(x - last, 0) ** 3 * (before - knot) / (last - before)
        columns.append(cubic / scale)
    return np.column_stack(columns)


def brier_scores(
    time: ArrayLike,
    event: ArrayLike,
    *,
    risks: Mapping[str, ArrayLike],
    at: float,
    level: float = 0.95,
) -> BrierScores:
    """Score predicted risks by a time, weighting for censoring.

    Parameters
    ----------
    time, event
        Shape (n,).
    risks
        Predicted probabilities of the event by ``at``, by model, each of shape (n,).
    at
        Time of the prediction.
    level
        Confidence level; limits of scores are clipped to [0, 1].

    Notes
    -----
    Graf et al. (1999), Gerds and Schumacher (2006); standard errors take the estimated censoring distribution into
    account (R: ``riskRegression::Score(metrics = "brier", cens.model = "km")``).
    """
    step = "brier_scores"
    follow = read_follow_up(time, event, step=step)
    _require_time(at, step=step)
    n = len(follow)
    names = ("null", *risks)
    columns = [np.full(n, 1 - survival_at(follow, at))]
    columns += [read_probability(values, follow.time, field=name, step=step) for name, values in risks.items()]
    weights = censoring_weights(follow, np.array([float(at)]))
    done = (follow.time <= at) & (follow.event == 1)
    later = follow.time > at
    if not later.any() and weights.at_points[0] == 0:
        raise TooFewCases("Nobody is followed up to the time.", step=step, field="at", got=at)
    influence = np.empty((n, len(names)))
    score = np.empty(len(names))
    for j, p in enumerate(columns):
        residual = np.where(done, (1 - p) ** 2 / np.where(done, weights.before_own_time, 1.0), 0.0)
        if later.any():
            residual = np.where(later, p**2 / weights.at_points[0], residual)
        score[j] = residual.mean()
        past = censoring_influence(follow, float(at), np.where(done, residual, 0.0)[:, None])
        influence[:, j] = residual - score[j] + past.sums[:, 0] / n + past.at_time * float(residual[later].sum()) / n
    z = float(ndtri(1 - (1 - level) / 2))
    error = influence.std(axis=0, ddof=1) / np.sqrt(n)
    rows = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            gap = float(score[j] - score[i])
            spread = float((influence[:, i] - influence[:, j]).std(ddof=1) / np.sqrt(n))
            rows.append(
                {
                    "model": names[j],
                    "reference": names[i],
                    "difference": gap,
                    "standard_error": spread,
                    "lower": gap - z * spread,
                    "upper": gap + z * spread,
                    "p_value": 2 * float(ndtr(-abs(gap) / spread)) if spread > 0 else 1.0,
                }
            )
    accuracy = 1 - score / score[0] if score[0] > 0 else np.zeros(len(names))
    return BrierScores(
        float(at),
        names,
        score,
        error,
        np.maximum(score - z * error, 0.0),
        np.minimum(score + z * error, 1.0),
        accuracy,
        pd.DataFrame(rows),
    )
