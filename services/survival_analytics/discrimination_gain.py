"""Gain in discrimination of a Cox model over a smaller one by a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from services.shared.errors import TooFewCases
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.inputs import (
    FloatArray,
    read_follow_up,
)
from services.survival_analytics.risk_sets import (
    evaluate_steps,
    tabulate,
)


@dataclass(frozen=True)
class SurvivalDiscriminationGain:
    """Gain of a Cox model over a smaller one by a time (R: ``survIDINRI``).

    Attributes
    ----------
    idi
        Integrated discrimination improvement.
    half_nri
        Half of Pencina's continuous NRI, as the package reports it.
    median_improvement
        Difference of the median gains of those with and without the event.
    """

    at: float
    idi: float
    half_nri: float
    median_improvement: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


def survival_discrimination_gain(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    old: Sequence[str],
    new: Sequence[str],
    at: float,
) -> SurvivalDiscriminationGain:
    """Fit two Cox models and compare their risks by a time (R: ``survIDINRI::IDI.INF`` point estimates).

    Parameters
    ----------
    frame, time, event
        As in :func:`services.survival_analytics.cox.fit_cox`.
    old, new
        Covariates of the two models.
    at
        Time of the prediction. The baseline hazard is interpolated linearly between follow-up times.

    Notes
    -----
    Uno et al. (2013). Cases are T < t, controls T ≥ t; cases carry inverse probabilities of being uncensored from the
    Nelson–Aalen estimate. The IDI is the area between the two distributions of gains on a grid of 2,001 points.
    """
    step = "survival_discrimination_gain"
    risks = [_interpolated_risk(frame, time, event, covariates, at) for covariates in (old, new)]
    follow = read_follow_up(frame[time].to_numpy(), frame[event].to_numpy(), step=step)
    table = tabulate(follow, merge_ties=False)
    uncensored = evaluate_steps(table.time, np.exp(-np.cumsum(table.censored / table.at_risk)), follow.time)
    cases = (follow.time < at) & (follow.event == 1)
    controls = follow.time >= at
    if not cases.any() or not controls.any():
        raise TooFewCases("There is no case or no control at the time.", step=step, field="at", got=at)
    gain = risks[1] - risks[0]
    grid = np.unique(np.concatenate(([-1.0, 0.0, 1.0], np.linspace(-1, 1, 2000))))
    with_event = _exceedance(gain[cases], 1 / uncensored[cases], grid)
    without = _exceedance(gain[controls], np.ones(int(controls.sum())), grid)

    def area(curve: FloatArray) -> float:
        return float(np.diff(grid) @ (curve[1:] + curve[:-1]) / 2 - 1)

    zero = int(np.flatnonzero(grid == 0)[0])
    return SurvivalDiscriminationGain(
        float(at),
        area(with_event) - area(without),
        float(with_event[zero] - without[zero]),
        _median_of(with_event, grid) - _median_of(without, grid),
    )


def _interpolated_risk(frame: pd.DataFrame, time: str, event: str, covariates: Sequence[str], at: float) -> FloatArray:
    model = fit_cox(frame, time, event=event, covariates=covariates)
    baseline = model.baseline_hazard()
    times = np.unique(frame[time].to_numpy(dtype=np.float64))
    hazard = evaluate_steps(baseline.time, baseline.cumulative_hazard, times, initial=0.0)
    at_time = float(np.interp(at, times, hazard)) if times[0] <= at <= times[-1] else float(hazard[-1])
    return np.asarray(-np.expm1(-at_time * np.exp(model.predict_risk(frame, centred=False))))


def _exceedance(gain: FloatArray, weight: FloatArray, grid: FloatArray) -> FloatArray:
    order = np.argsort(gain)
    upto = np.concatenate(([0.0], np.cumsum(weight[order])))
    return np.asarray(1 - upto[np.searchsorted(gain[order], grid, side="right")] / upto[-1])


def _median_of(curve: FloatArray, grid: FloatArray) -> float:
    above = np.flatnonzero(curve == curve[curve >= 0.5].min()).max()
    below = np.flatnonzero(curve == curve[curve <= 0.5].max()).min()
    return float((grid[above] + grid[below]) / 2)
