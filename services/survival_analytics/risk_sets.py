"""Risk sets: times in order, tied times merged, counts at each time, and the step functions built from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.survival_analytics.inputs import BoolArray, FloatArray, Follow, IntArray

TIE_TOLERANCE = float(np.sqrt(np.finfo(np.float64).eps))


@dataclass(frozen=True, eq=False)
class TimeTable:
    """Counts at each distinct time.

    Attributes
    ----------
    time
        Shape (k,), ascending distinct times.
    at_risk, events, censored
        Shape (k,): patients with a time at or after, events at, and censorings at each time.
    index
        Shape (n,): for each patient, the position of its time in ``time``.
    """

    time: FloatArray
    at_risk: FloatArray
    events: FloatArray
    censored: FloatArray
    index: IntArray


def merge_near_ties(time: FloatArray) -> FloatArray:
    """Return times in which values that differ only by rounding are equal.

    Two neighbouring distinct times are one when they differ by at most the square root of the machine
    precision, absolutely or relative to the mean time (R: ``survival::aeqSurv``).
    """
    distinct = np.unique(time)
    if distinct.size < 2:
        return time
    gap = np.diff(distinct)
    mean = float(np.mean(np.abs(distinct)))
    tied = (gap <= TIE_TOLERANCE) | (gap <= TIE_TOLERANCE * mean)
    if not tied.any():
        return time
    cuts = distinct[np.concatenate(([True], ~tied))]
    return cuts[np.searchsorted(cuts, time, side="right") - 1]


def tabulate(follow: Follow, *, merge_ties: bool = True) -> TimeTable:
    """Count patients at risk, events and censorings at each distinct time."""
    time = merge_near_ties(follow.time) if merge_ties else follow.time
    distinct, index = np.unique(time, return_inverse=True)
    k = distinct.size
    total = np.bincount(index, minlength=k).astype(np.float64)
    events = np.bincount(index, weights=follow.event, minlength=k).astype(np.float64)
    at_risk = total[::-1].cumsum()[::-1]
    return TimeTable(distinct, at_risk, events, total - events, index.astype(np.int64))


def survival_steps(table: TimeTable) -> FloatArray:
    """Return the Kaplan–Meier estimate at each distinct time."""
    return np.asarray(np.cumprod((table.at_risk - table.events) / table.at_risk), dtype=np.float64)


def censoring_steps(table: TimeTable, *, events_first: bool) -> FloatArray:
    """Return the Kaplan–Meier estimate of staying uncensored at each distinct time.

    Parameters
    ----------
    table
        Counts at each time.
    events_first
        True: events at a tied time leave the risk set before the censorings (R: ``prodlim(reverse=TRUE)``).
        False: they stay in it (R: ``survfit(Surv(time, 1 - status) ~ 1)``).
    """
    at_risk = table.at_risk - table.events if events_first else table.at_risk
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(table.censored > 0, 1.0 - table.censored / at_risk, 1.0)
    return np.asarray(np.cumprod(factor), dtype=np.float64)


def evaluate_steps(
    times: FloatArray, values: FloatArray, at: FloatArray, *, before: bool = False, initial: float = 1.0
) -> FloatArray:
    """Evaluate a right-continuous step function, or its left limit where ``before`` is set."""
    position = np.searchsorted(times, at, side="left" if before else "right")
    return np.concatenate(([initial], values))[position]


def survival_at(follow: Follow, at: float, *, subset: BoolArray | None = None) -> float:
    """Return the Kaplan–Meier estimate at one time; beyond the last time the last value is kept."""
    chosen = follow if subset is None else Follow(follow.time[subset], follow.event[subset])
    table = tabulate(chosen)
    return float(evaluate_steps(table.time, survival_steps(table), np.array([at]))[0])


@dataclass(frozen=True, eq=False)
class CensoringWeights:
    """Inverse-probability-of-censoring ingredients.

    Attributes
    ----------
    before_own_time
        Shape (n,): G(T_i-), the chance to be uncensored just before the own time.
    at_points
        Shape (m,): G(t) at the evaluation times.
    """

    before_own_time: FloatArray
    at_points: FloatArray


def censoring_weights(follow: Follow, points: FloatArray) -> CensoringWeights:
    """Return marginal censoring probabilities with events leaving the risk set first at tied times."""
    table = tabulate(follow, merge_ties=False)
    steps = censoring_steps(table, events_first=True)
    return CensoringWeights(
        evaluate_steps(table.time, steps, follow.time, before=True), evaluate_steps(table.time, steps, points)
    )
