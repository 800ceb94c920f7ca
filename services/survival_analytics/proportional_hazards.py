"""Is a hazard ratio constant in time? Score tests along a transform of time, and scaled Schoenfeld residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import chdtrc
from scipy.stats import rankdata

from services.shared.errors import InvalidValue
from services.survival_analytics.cox_baseline import sorted_eta
from services.survival_analytics.cox_likelihood import Design, exposure, risk_set_moments
from services.survival_analytics.inputs import FloatArray, Follow
from services.survival_analytics.risk_sets import evaluate_steps, merge_near_ties, survival_steps, tabulate

TimeTransform = Literal["km", "identity", "log", "rank"]


@dataclass(frozen=True, eq=False)
class ProportionalHazardsTest:
    """Tests of constant hazard ratios.

    Attributes
    ----------
    rows
        Covariates, then ``GLOBAL``.
    chi_square, degrees_of_freedom, p_values
        One entry per row.
    time, transformed_time
        Shape (d,): event times, in order, and g(t).
    residuals
        Shape (d, p): scaled Schoenfeld residuals plus the coefficient, an estimate of β(t) at each event.
    """

    transform: TimeTransform
    rows: tuple[str, ...]
    chi_square: FloatArray
    degrees_of_freedom: FloatArray
    p_values: FloatArray
    time: FloatArray
    transformed_time: FloatArray
    residuals: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate and a global one."""
        return pd.DataFrame(
            {
                "row": self.rows,
                "chi_square": self.chi_square,
                "degrees_of_freedom": self.degrees_of_freedom,
                "p_value": self.p_values,
            }
        )


def transform_times(follow: Follow, transform: TimeTransform) -> FloatArray:
    """Return g(t) for every patient's time (R: the transforms of ``cox.zph``)."""
    time = merge_near_ties(follow.time)
    if transform == "identity":
        return time
    if transform == "rank":
        return np.asarray(rankdata(time), dtype=np.float64)
    if transform == "log":
        if (time <= 0).any():
            raise InvalidValue(
                "The log transform needs positive times.",
                step="check_proportional_hazards",
                field="time",
                expected="times above zero",
                got=float(time.min()),
                remedy="Use the km, rank or identity transform.",
            )
        return np.asarray(np.log(time))
    if transform == "km":
        table = tabulate(Follow(time, follow.event), merge_ties=False)
        return 1.0 - evaluate_steps(table.time, survival_steps(table), time, before=True)
    raise InvalidValue(
        "Unknown time transform.", step="check_proportional_hazards", expected=get_args(TimeTransform), got=transform
    )


def score_time_dependence(
    follow: Follow, design: Design, coefficients: FloatArray, names: tuple[str, ...], *, transform: TimeTransform
) -> ProportionalHazardsTest:
    """Test fitted coefficients for a change along g(t)."""
    g_all = transform_times(follow, transform)
    centre = float(g_all[follow.event == 1].mean())
    p = coefficients.size
    score = np.zeros(p)
    blocks = np.zeros((3, p, p))
    rows, times, transformed = [], [], []
    for stratum in design.strata:
        if stratum.deaths.size == 0:
            continue
        g = g_all[stratum.rows][stratum.deaths] - centre
        moments = risk_set_moments(stratum, sorted_eta(stratum, design, coefficients))
        difference = stratum.covariates[stratum.deaths] - moments.mean
        score += g @ difference
        for power in range(3):
            weight = moments.risk * exposure(stratum, g**power / moments.denominator)
            mean = moments.mean * (g**power)[:, None]
            blocks[power] += stratum.covariates.T @ (weight[:, None] * stratum.covariates) - moments.mean.T @ mean
        mean_tied = np.add.reduceat(moments.mean, stratum.death_start, axis=0)
        count = np.diff(np.append(stratum.death_start, stratum.deaths.size))
        rows.append(stratum.covariates[stratum.deaths] - (mean_tied / count[:, None])[stratum.block])
        times.append(stratum.time[stratum.block])
        transformed.append(g + centre)
    # Only the part of the information about the change that the coefficients do not explain counts.
    schur = blocks[2] - blocks[1] @ np.linalg.solve(blocks[0], blocks[1])
    statistics = np.empty(p + 1)
    for j in range(p):
        gain = blocks[2][j, j] - blocks[1][j] @ np.linalg.solve(blocks[0], blocks[1][:, j])
        statistics[j] = score[j] ** 2 / gain
    statistics[p] = float(score @ np.linalg.solve(schur, score))
    degrees = np.append(np.ones(p), float(p))
    covariance = np.linalg.inv(blocks[0])
    raw = np.vstack(rows)
    scaled = (raw @ covariance * raw.shape[0]) / design.scale + coefficients
    return ProportionalHazardsTest(
        transform,
        (*names, "GLOBAL"),
        statistics,
        degrees,
        chdtrc(degrees, statistics),
        np.concatenate(times),
        np.concatenate(transformed),
        scaled,
    )
