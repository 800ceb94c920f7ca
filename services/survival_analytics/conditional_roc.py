"""ROC curves at one time from conditional survival, after Heagerty, Lumley and Pepe (2000)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    read_follow_up,
    read_score,
)
from services.survival_analytics.risk_sets import survival_at
from services.survival_analytics.time_dependent_roc import TimeDependentRoc

RocMethod = Literal["km", "nearest-neighbour"]


def conditional_roc(
    time: ArrayLike,
    event: ArrayLike,
    *,
    score: ArrayLike,
    at: float,
    method: RocMethod = "nearest-neighbour",
    span: float | None = None,
) -> TimeDependentRoc:
    """Trace the ROC curve at one time from conditional survival estimates (R: ``survivalROC``).

    Parameters
    ----------
    time, event, score
        Shape (n,).
    at
        Evaluation time.
    method
        ``km``: Kaplan–Meier among patients above each cut (the curve may not be monotone).
        ``nearest-neighbour``: Akritas' estimator, survival smoothed over neighbouring scores.
    span
        Share of patients on each side of a score; 0.25 n^-0.2 if not given.

    Notes
    -----
    Heagerty et al. (2000). Positive means strictly above the cut; the curve starts at cut -∞.
    """
    step = "conditional_roc"
    follow = read_follow_up(time, event, step=step)
    marker = read_score(score, follow, step=step)
    n = len(follow)
    cuts = np.unique(marker)
    pooled = survival_at(Follow(follow.time, follow.event), at)
    if method == "km":
        if not 0 < pooled < 1:
            raise TooFewCases("Survival at the time is zero or one.", step=step, field="at", got=pooled)
        hits, alarms = _km_curve(follow, marker, cuts, at, pooled)
    elif method == "nearest-neighbour":
        width = 0.25 * n**-0.2 if span is None else span
        smooth = _akritas(follow, marker, cuts, at, int(n * width + 0.5))
        own = smooth[np.searchsorted(cuts, marker)]
        marginal = float(own.mean())
        if not 0 < marginal < 1:
            raise TooFewCases("Survival at the time is zero or one.", step=step, field="at", got=marginal)
        _, index = np.unique(marker, return_inverse=True)
        above = n - np.cumsum(np.bincount(index))
        alive = np.bincount(index, weights=own)
        alive_above = alive.sum() - np.cumsum(alive)
        hits = (above / n - alive_above / n) / (1 - marginal)
        alarms = alive_above / n / marginal
        hits[-1], alarms[-1] = 0.0, 0.0
    else:
        raise InvalidValue("Unknown method.", step=step, expected=get_args(RocMethod), got=method)
    x, y = np.concatenate(([1.0], alarms)), np.concatenate(([1.0], hits))
    area = float(np.sum((x[:-1] - x[1:]) * (y[:-1] + y[1:]) / 2))
    return TimeDependentRoc(float(at), np.concatenate(([-np.inf], cuts)), y, x, area, pooled)


def _km_curve(
    follow: Follow, marker: FloatArray, cuts: FloatArray, at: float, pooled: float
) -> tuple[FloatArray, FloatArray]:
    """Kaplan–Meier above each cut: patients leave one score at a time, counts at event times are updated."""
    n = len(follow)
    event_times = np.unique(follow.time[(follow.event == 1) & (follow.time <= at)])
    order = np.argsort(marker, kind="stable")
    last_risk = np.searchsorted(event_times, follow.time, side="right")
    at_risk = np.zeros(event_times.size)
    for i in range(n):
        at_risk[: last_risk[i]] += 1
    own = np.searchsorted(event_times, follow.time)
    dies = (follow.event == 1) & (follow.time <= at)
    deaths = np.bincount(own[dies], minlength=event_times.size).astype(np.float64)
    hits, alarms = np.zeros(cuts.size), np.zeros(cuts.size)
    position = 0
    for c in range(cuts.size - 1):
        while position < n and marker[order[position]] <= cuts[c]:
            i = order[position]
            at_risk[: last_risk[i]] -= 1
            if dies[i]:
                deaths[own[i]] -= 1
            position += 1
        live = at_risk > 0
        alive = float(np.prod(1 - deaths[live] / at_risk[live]))
        share = (n - position) / n
        hits[c] = (1 - alive) * share / (1 - pooled)
        alarms[c] = alive * share / pooled
    return hits, alarms


def _akritas(follow: Follow, marker: FloatArray, cuts: FloatArray, at: float, reach: int) -> FloatArray:
    """Return survival at a time for each distinct score, from its ``reach`` neighbours on each side."""
    n = len(follow)
    order = np.argsort(marker, kind="stable")
    x, time, event = marker[order], follow.time[order], follow.event[order]
    event_times = np.unique(follow.time[(follow.event == 1) & (follow.time <= at)])
    result = np.empty(cuts.size)
    for j, cut in enumerate(cuts):
        start = int(np.searchsorted(x, cut, side="left"))
        upper = x[min(start + reach, n - 1)] - cut
        # The distance to the neighbour above is used on both sides, as the package does.
        gap = x - cut
        near = ((gap <= upper) & (gap >= 0)) | ((gap >= -abs(upper)) & (gap <= 0))
        t, e = np.sort(time[near]), time[near & (event == 1)]
        deaths = np.bincount(np.searchsorted(event_times, e[e <= at]), minlength=event_times.size)
        at_risk = t.size - np.searchsorted(t, event_times, side="left")
        live = at_risk > 0
        result[j] = np.prod(1 - deaths[live] / at_risk[live])
    return result
