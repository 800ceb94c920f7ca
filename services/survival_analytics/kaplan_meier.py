"""Kaplan–Meier curves with their confidence limits, quantiles and restricted means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri

from services.shared.errors import InvalidValue
from services.survival_analytics.inputs import FloatArray, Follow, Notice, read_follow_up, read_time_points
from services.survival_analytics.log_rank import (
    GroupComparison,
    PairwiseComparison,
    compare_pairs,
    compare_survival,
)
from services.survival_analytics.risk_sets import TIE_TOLERANCE, TimeTable, survival_steps, tabulate

__all__ = [
    "GroupComparison",
    "PairwiseComparison",
    "RestrictedMean",
    "SurvivalCurve",
    "SurvivalQuantiles",
    "SurvivalTable",
    "compare_pairs",
    "compare_survival",
    "estimate_survival",
    "restricted_mean",
    "reverse_survival_median",
]

Confidence = Literal["log-log", "log", "plain"]
CONFIDENCES: tuple[Confidence, ...] = ("log-log", "log", "plain")


@dataclass(frozen=True, eq=False)
class SurvivalQuantiles:
    """Times by which given shares of patients have had the event; NaN where the curve does not reach them."""

    probability: FloatArray
    time: FloatArray
    lower: FloatArray
    upper: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per probability."""
        return pd.DataFrame(
            {"probability": self.probability, "time": self.time, "lower": self.lower, "upper": self.upper}
        )


@dataclass(frozen=True, eq=False)
class SurvivalTable:
    """The curve at chosen times: patients still at risk, survival, standard error (survival scale) and limits."""

    time: FloatArray
    at_risk: FloatArray
    survival: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per time."""
        return pd.DataFrame(
            {
                "time": self.time,
                "at_risk": self.at_risk,
                "survival": self.survival,
                "standard_error": self.standard_error,
                "lower": self.lower,
                "upper": self.upper,
            }
        )


@dataclass(frozen=True)
class RestrictedMean:
    """Mean survival time up to a horizon, with its standard error, in the unit of time."""

    horizon: float
    mean: float
    standard_error: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([{"horizon": self.horizon, "mean": self.mean, "standard_error": self.standard_error}])


@dataclass(frozen=True, eq=False)
class SurvivalCurve:
    """A Kaplan–Meier curve.

    Attributes
    ----------
    time, at_risk, events, censored, survival
        Shape (k,), one entry per distinct follow-up time.
    standard_error_log
        Greenwood's standard error of log S(t) (R: ``survfit$std.err``); infinite once S(t) = 0.
    lower, upper
        Limits at ``level``; NaN where they do not exist (see ``notices``).
    """

    n: int
    n_events: int
    confidence: Confidence
    level: float
    time: FloatArray
    at_risk: FloatArray
    events: FloatArray
    censored: FloatArray
    survival: FloatArray
    standard_error_log: FloatArray
    lower: FloatArray
    upper: FloatArray
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per distinct time."""
        return pd.DataFrame(
            {
                "time": self.time,
                "at_risk": self.at_risk,
                "events": self.events,
                "censored": self.censored,
                "survival": self.survival,
                "standard_error_log": self.standard_error_log,
                "lower": self.lower,
                "upper": self.upper,
            }
        )

    def at(self, times: ArrayLike) -> SurvivalTable:
        """Return the curve at given times; past the last follow-up the last value is kept (R: ``extend=TRUE``)."""
        points = read_time_points(times, step="estimate_survival")
        position = np.searchsorted(self.time, points + TIE_TOLERANCE * np.maximum(points, 1.0), side="right")
        survival = np.concatenate(([1.0], self.survival))[position]
        spread = np.concatenate(([0.0], self.standard_error_log))[position]
        later = np.searchsorted(self.time, points - TIE_TOLERANCE * np.maximum(points, 1.0), side="left")
        with np.errstate(invalid="ignore"):
            standard_error = survival * spread
        return SurvivalTable(
            points,
            np.concatenate((self.at_risk, [0.0]))[later],
            survival,
            standard_error,
            np.concatenate(([1.0], self.lower))[position],
            np.concatenate(([1.0], self.upper))[position],
        )

    def quantiles(self, probabilities: ArrayLike = (0.25, 0.5, 0.75)) -> SurvivalQuantiles:
        """Return event-time quantiles; a flat stretch at a quantile gives its midpoint (R: ``quantile.survfit``)."""
        p = np.atleast_1d(np.asarray(probabilities, dtype=np.float64))
        if ((p < 0) | (p > 1)).any():
            raise InvalidValue("Probabilities must lie in [0, 1].", step="estimate_survival", field="probabilities")
        return SurvivalQuantiles(
            p,
            _crossing_times(self.time, self.survival, p),
            _crossing_times(self.time, self.lower, p),
            _crossing_times(self.time, self.upper, p),
        )

    @property
    def median(self) -> float:
        """Median survival time, NaN where the curve stays above one half."""
        return float(self.quantiles([0.5]).time[0])


def estimate_survival(
    time: ArrayLike, event: ArrayLike, *, confidence: Confidence = "log-log", level: float = 0.95
) -> SurvivalCurve:
    """Estimate a survival curve.

    Parameters
    ----------
    time, event
        Shape (n,): follow-up in any unit, and 1 = event, 0 = censored.
    confidence
        Scale on which the limits are symmetric.
    level
        Confidence level.

    Returns
    -------
    SurvivalCurve
        With ``at`` (table at times) and ``quantiles`` (median and limits).

    Raises
    ------
    InvalidValue, TooFewCases
        See :func:`services.survival_analytics.inputs.read_follow_up`; data without events give a flat curve.

    Notes
    -----
    Kaplan and Meier (1958); variance of Greenwood (1926); R ``survival::survfit``.

    Examples
    --------
    >>> curve = estimate_survival([6, 6, 7, 10], [1, 0, 1, 0])
    >>> curve.survival.tolist()
    [0.75, 0.375, 0.375]
    """
    follow = read_follow_up(time, event, step="estimate_survival", need_events=False)
    return curve_of(tabulate(follow), confidence=confidence, level=level)


def curve_of(table: TimeTable, *, confidence: Confidence, level: float) -> SurvivalCurve:
    """Turn counts at each time into a curve with limits."""
    if confidence not in CONFIDENCES:
        raise InvalidValue(
            "Unknown kind of confidence limits.",
            step="estimate_survival",
            field="confidence",
            expected=", ".join(CONFIDENCES),
            got=confidence,
        )
    if not 0 < level < 1:
        raise InvalidValue("The confidence level must lie between 0 and 1.", step="estimate_survival", got=level)
    survival = survival_steps(table)
    with np.errstate(divide="ignore"):
        growth = table.events / (table.at_risk * (table.at_risk - table.events))
    growth = np.where(table.events == 0, 0.0, growth)
    spread = np.sqrt(np.cumsum(growth))
    lower, upper = confidence_limits(survival, spread, confidence=confidence, level=level)
    notices = []
    if np.isnan(lower).any():
        notices.append(
            Notice("limits_undefined", "The curve reaches zero; confidence limits do not exist from that time on.")
        )
    if not table.events.any():
        notices.append(Notice("no_events", "No event was observed: the curve stays at one."))
    return SurvivalCurve(
        int(table.index.size),
        int(table.events.sum()),
        confidence,
        level,
        table.time,
        table.at_risk,
        table.events,
        table.censored,
        survival,
        spread,
        lower,
        upper,
        tuple(notices),
    )


def confidence_limits(
    survival: FloatArray, spread: FloatArray, *, confidence: Confidence, level: float
) -> tuple[FloatArray, FloatArray]:
    """Return limits of survival probabilities from the standard error of their logarithm."""
    z = float(ndtri(1 - (1 - level) / 2))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if confidence == "plain":
            half = spread * survival * z
            return np.fmax(survival - half, 0.0) + 0 * half, np.fmin(survival + half, 1.0) + 0 * half
        if confidence == "log":
            positive = np.where(survival == 0, np.nan, survival)
            lower = np.exp(np.log(positive) - z * spread)
            upper = np.minimum(np.exp(np.log(positive) + z * spread), 1.0)
        else:
            inner = np.where((survival == 0) | (survival == 1), np.nan, survival)
            half = z * spread / np.log(inner)
            lower = np.exp(-np.exp(np.log(-np.log(inner)) - half))
            upper = np.exp(-np.exp(np.log(-np.log(inner)) + half))
    exact = spread == 0
    return np.where(exact, survival, lower), np.where(exact, survival, upper)


def _crossing_times(time: FloatArray, curve: FloatArray, p: FloatArray) -> FloatArray:
    """Return where 1 - curve reaches each p, with the midpoint of a flat stretch that lies exactly at p."""
    x = np.concatenate(([0.0], time))
    y = np.concatenate(([0.0], 1.0 - curve))
    result = np.full(p.size, np.nan)
    if np.isnan(y).all() or np.nanmax(y) < p.min():
        return result
    last = x[-1]
    _, first = np.unique(y, return_index=True, equal_nan=True)
    keep = np.sort(first)
    x, y = x[keep], y[keep]
    known = np.flatnonzero(~np.isnan(y))
    order = known[np.argsort(y[known], kind="stable")]
    levels = y[order]

    def index_of(shift: float) -> FloatArray:
        position = np.searchsorted(levels + shift, p, side="left")
        found = np.append(order, -1)[position]
        outside = p < levels[0] + shift
        return np.where((found < 0) | outside, np.nan, found)

    low, high = index_of(TIE_TOLERANCE), index_of(-TIE_TOLERANCE)
    both = ~np.isnan(low) & ~np.isnan(high)
    result[both] = (x[low[both].astype(int)] + x[high[both].astype(int)]) / 2
    result[p == 0] = x[0]
    if not np.isnan(y[-1]):
        at_end = (np.abs(p - y[-1]) < TIE_TOLERANCE) & ~np.isnan(low)
        result[at_end] = (x[low[at_end].astype(int)] + last) / 2
    return result


def restricted_mean(time: ArrayLike, event: ArrayLike, *, horizon: float) -> RestrictedMean:
    """Return the mean survival time up to a horizon.

    The area under the Kaplan–Meier curve; past the last follow-up the last value is kept.
    R: ``summary(survfit(...), rmean = horizon)``.
    """
    follow = read_follow_up(time, event, step="restricted_mean", need_events=False)
    if not horizon > 0:
        raise InvalidValue("The horizon must be positive.", step="restricted_mean", field="horizon", got=horizon)
    table = tabulate(follow)
    survival = survival_steps(table)
    inside = table.time <= horizon
    knots = np.concatenate(([0.0], table.time[inside], [horizon]))
    level = np.concatenate(([1.0], survival[inside]))
    area = np.diff(knots) * level
    remaining = area[::-1].cumsum()[::-1][1:]
    left = table.at_risk - table.events
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(left == 0, 0.0, table.events / (table.at_risk * left))
    variance = float(np.sum(remaining**2 * growth[inside]))
    return RestrictedMean(float(horizon), float(area.sum()), float(np.sqrt(variance)))


def reverse_survival_median(time: ArrayLike, event: ArrayLike) -> float:
    """Return the median follow-up by the reversed Kaplan–Meier method; NaN where it is not reached.

    Schemper and Smith (1996): censoring is the event and the event censors.
    """
    follow = read_follow_up(time, event, step="reverse_survival_median", need_events=False)
    reverse = Follow(follow.time, 1 - follow.event)
    return curve_of(tabulate(reverse), confidence="log", level=0.95).median
