"""What follows a Cox fit: baseline hazard, predicted survival with limits, and residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from services.survival_analytics.cox_likelihood import Design, Stratum, exposure, risk_set_moments
from services.survival_analytics.inputs import FloatArray, Follow
from services.survival_analytics.kaplan_meier import confidence_limits
from services.survival_analytics.risk_sets import TIE_TOLERANCE


@dataclass(frozen=True, eq=False)
class Baseline:
    """Hazard increments of one stratum at the covariate means.

    Attributes
    ----------
    time
        Shape (k,): event times.
    hazard, hazard_variance
        Shape (k,): increments of the cumulative hazard and of its variance (Efron or Breslow).
    drift
        Shape (k, p): increments of ∫ mean covariate dH, for the variance of predictions.
    """

    stratum: str
    time: FloatArray
    hazard: FloatArray
    hazard_variance: FloatArray
    drift: FloatArray


@dataclass(frozen=True, eq=False)
class BaselineHazard:
    """Cumulative baseline hazard with all covariates at zero, by stratum and event time."""

    stratum: tuple[str, ...]
    time: FloatArray
    cumulative_hazard: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per stratum and event time."""
        return pd.DataFrame({"stratum": self.stratum, "time": self.time, "cumulative_hazard": self.cumulative_hazard})


@dataclass(frozen=True, eq=False)
class PredictedSurvival:
    """Survival of each patient at each time.

    Attributes
    ----------
    times
        Shape (t,).
    survival, standard_error, lower, upper
        Shape (t, n): limits are symmetric on the log scale (R: ``survfit.coxph``).
    """

    times: FloatArray
    survival: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per patient and time."""
        n = self.survival.shape[1]
        return pd.DataFrame(
            {
                "patient": np.tile(np.arange(n), self.times.size),
                "time": np.repeat(self.times, n),
                "survival": self.survival.ravel(),
                "standard_error": self.standard_error.ravel(),
                "lower": self.lower.ravel(),
                "upper": self.upper.ravel(),
            }
        )


@dataclass(frozen=True, eq=False)
class Residuals:
    """Residuals in the order of the table; Schoenfeld's have one row per event in order of time."""

    martingale: FloatArray
    deviance: FloatArray
    schoenfeld_time: FloatArray
    schoenfeld: FloatArray


def sorted_eta(stratum: Stratum, design: Design, coefficients: FloatArray) -> FloatArray:
    """Return centred linear predictors in the stratum's order."""
    return stratum.covariates @ (coefficients * design.scale)


def estimate_baseline(design: Design, coefficients: FloatArray, labels: tuple[str, ...]) -> tuple[Baseline, ...]:
    """Return the baseline of each stratum at the covariate means."""
    parts = []
    for label, stratum in zip(labels, design.strata, strict=True):
        if stratum.deaths.size == 0:
            empty = np.zeros(0)
            parts.append(Baseline(label, empty, empty, empty, np.zeros((0, design.shift.size))))
            continue
        moments = risk_set_moments(stratum, sorted_eta(stratum, design, coefficients))
        step = 1.0 / moments.denominator
        drift = step[:, None] * moments.mean * design.scale
        parts.append(
            Baseline(
                label,
                stratum.time,
                np.add.reduceat(step, stratum.death_start),
                np.add.reduceat(step**2, stratum.death_start),
                np.add.reduceat(drift, stratum.death_start, axis=0),
            )
        )
    return tuple(parts)


def predict_curves(
    baseline: Baseline, centred: FloatArray, coefficients: FloatArray, covariance: FloatArray, times: FloatArray
) -> PredictedSurvival:
    """Predict survival at times for centred covariates of shape (n, p)."""
    position = np.searchsorted(baseline.time, times + TIE_TOLERANCE * np.maximum(times, 1.0), side="right")
    hazard = np.concatenate(([0.0], np.cumsum(baseline.hazard)))[position]
    variance = np.concatenate(([0.0], np.cumsum(baseline.hazard_variance)))[position]
    zero = np.zeros((1, coefficients.size))
    drift = np.vstack((zero, np.cumsum(baseline.drift, axis=0)))[position]
    risk = np.exp(centred @ coefficients)
    survival = np.exp(-np.outer(hazard, risk))
    spread = np.empty_like(survival)
    for row in range(times.size):
        gap = drift[row] - hazard[row] * centred
        quadratic = np.einsum("ij,jk,ik->i", gap, covariance, gap)
        spread[row] = risk * np.sqrt(variance[row] + quadratic)
    lower, upper = confidence_limits(survival.ravel(), spread.ravel(), confidence="log", level=0.95)
    return PredictedSurvival(
        times, survival, survival * spread, lower.reshape(survival.shape), upper.reshape(survival.shape)
    )


def compute_residuals(follow: Follow, design: Design, coefficients: FloatArray) -> Residuals:
    """Return martingale, deviance and Schoenfeld residuals (R: ``residuals.coxph``)."""
    n, p = len(follow), design.shift.size
    expected = np.zeros(n)
    times, rows = [], []
    for stratum in design.strata:
        if stratum.deaths.size == 0:
            continue
        moments = risk_set_moments(stratum, sorted_eta(stratum, design, coefficients))
        expected[stratum.rows] = moments.risk * exposure(stratum, 1.0 / moments.denominator)
        mean = np.add.reduceat(moments.mean, stratum.death_start, axis=0)
        count = np.diff(np.append(stratum.death_start, stratum.deaths.size))
        residual = stratum.covariates[stratum.deaths] - (mean / count[:, None])[stratum.block]
        rows.append(residual * design.scale)
        times.append(stratum.time[stratum.block])
    martingale = follow.event - expected
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(follow.event == 1, np.log(np.where(expected > 0, expected, 1.0)), 0.0)
    deviance = np.sign(martingale) * np.sqrt(np.maximum(-2 * (martingale + logarithm), 0.0))
    return Residuals(
        martingale,
        deviance,
        np.concatenate(times) if times else np.zeros(0),
        np.vstack(rows) if rows else np.zeros((0, p)),
    )
