"""Comparing survival between groups: log-rank and G-rho tests, stratified and pairwise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from services.shared.errors import InvalidValue, OneClass
from services.survival_analytics.inputs import FloatArray, Follow, IntArray, read_follow_up, read_groups
from services.survival_analytics.multiplicity import Adjustment, adjust_p_values
from services.survival_analytics.risk_sets import merge_near_ties


@dataclass(frozen=True, eq=False)
class GroupComparison:
    """A (weighted, stratified) log-rank test.

    Attributes
    ----------
    groups
        Labels, sorted.
    n, observed, expected
        Shape (g,): patients, weighted observed and weighted expected events.
    variance
        Shape (g, g): covariance of observed minus expected.
    """

    groups: tuple[str, ...]
    rho: float
    n: IntArray
    observed: FloatArray
    expected: FloatArray
    variance: FloatArray
    chi_square: float
    degrees_of_freedom: int
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per group."""
        return pd.DataFrame(
            {"group": self.groups, "n": self.n, "observed": self.observed, "expected": self.expected}
        ).assign(chi_square=self.chi_square, degrees_of_freedom=self.degrees_of_freedom, p_value=self.p_value)


@dataclass(frozen=True, eq=False)
class PairwiseComparison:
    """Log-rank tests of all pairs of groups, with p-values adjusted for their number."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    p_value: FloatArray
    adjusted: FloatArray
    adjustment: Adjustment

    def to_frame(self) -> pd.DataFrame:
        """Return one row per pair."""
        return pd.DataFrame(
            {"first": self.first, "second": self.second, "p_value": self.p_value, "adjusted": self.adjusted}
        )


def compare_survival(
    time: ArrayLike, event: ArrayLike, *, group: ArrayLike, rho: float = 0.0, strata: ArrayLike | None = None
) -> GroupComparison:
    """Test whether groups have the same survival.

    Parameters
    ----------
    time, event
        Shape (n,).
    group
        Shape (n,), two or more labels.
    rho
        Weight S(t-)^rho: 0 is the log-rank test, 1 Peto and Peto's (early differences weigh more).
    strata
        Shape (n,): compare within strata and add up.

    Raises
    ------
    OneClass
        A single group.

    Notes
    -----
    Harrington and Fleming (1982); R ``survival::survdiff``.
    """
    step = "compare_survival"
    follow = read_follow_up(time, event, step=step)
    codes, labels = read_groups(group, field="group", step=step)
    if codes.size != len(follow):
        raise InvalidValue("Column 'group' has another length than 'time'.", step=step, field="group", got=codes.size)
    if len(labels) < 2:
        raise OneClass("There is one group only.", step=step, field="group", expected="two or more", got=labels[0])
    if strata is None:
        layers: list[IntArray] = [np.arange(len(follow))]
    else:
        layer_codes, names = read_groups(strata, field="strata", step=step)
        layers = [np.flatnonzero(layer_codes == code) for code in range(len(names))]
    times = merge_near_ties(follow.time)
    g = len(labels)
    observed, expected, variance = np.zeros(g), np.zeros(g), np.zeros((g, g))
    for rows in layers:
        part = _weighted_counts(Follow(times[rows], follow.event[rows]), codes[rows], g, rho)
        observed += part[0]
        expected += part[1]
        variance += part[2]
    chi_square = _chi_square(observed, expected, variance)
    degrees = g - 1
    return GroupComparison(
        labels,
        rho,
        np.bincount(codes, minlength=g),
        observed,
        expected,
        variance,
        chi_square,
        degrees,
        float(chdtrc(degrees, chi_square)),
    )


def _weighted_counts(follow: Follow, codes: IntArray, g: int, rho: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return observed, expected and covariance of one stratum."""
    distinct, index = np.unique(follow.time, return_inverse=True)
    k = distinct.size
    members = np.bincount(index * g + codes, minlength=k * g).reshape(k, g)
    at_risk = members[::-1].cumsum(axis=0)[::-1].astype(np.float64)
    deaths = np.bincount(index * g + codes, weights=follow.event, minlength=k * g).reshape(k, g)
    total, d = at_risk.sum(axis=1), deaths.sum(axis=1)
    weight = np.concatenate(([1.0], np.cumprod(1 - d / total)[:-1])) ** rho
    hit = d > 0
    share = at_risk[hit] / total[hit, None]
    w, d, total = weight[hit], d[hit], total[hit]
    observed = (w[:, None] * deaths[hit]).sum(axis=0)
    expected = ((w * d)[:, None] * share).sum(axis=0)
    spread = w**2 * d * np.where(total > 1, (total - d) / np.maximum(total - 1, 1), 0.0)
    variance = np.diag((spread[:, None] * share).sum(axis=0)) - share.T @ (spread[:, None] * share)
    return observed, expected, variance


def _chi_square(observed: FloatArray, expected: FloatArray, variance: FloatArray) -> float:
    live = np.flatnonzero(expected > 0)
    if live.size < 2:
        return 0.0
    kept = live[1:]
    difference = (observed - expected)[kept]
    covariance = variance[np.ix_(kept, kept)]
    return float(difference @ np.linalg.solve(covariance, difference))


def compare_pairs(
    time: ArrayLike, event: ArrayLike, *, group: ArrayLike, rho: float = 0.0, adjustment: Adjustment = "BH"
) -> PairwiseComparison:
    """Compare every pair of groups by the log-rank test (R: ``survminer::pairwise_survdiff``)."""
    follow = read_follow_up(time, event, step="compare_pairs")
    codes, labels = read_groups(group, field="group", step="compare_pairs")
    if codes.size != len(follow):
        raise InvalidValue("Column 'group' has another length than 'time'.", step="compare_pairs", field="group")
    pairs = list(combinations(range(len(labels)), 2))
    p_values = np.empty(len(pairs))
    for position, (a, b) in enumerate(pairs):
        rows = (codes == a) | (codes == b)
        p_values[position] = compare_survival(follow.time[rows], follow.event[rows], group=codes[rows], rho=rho).p_value
    return PairwiseComparison(
        tuple(labels[a] for a, _ in pairs),
        tuple(labels[b] for _, b in pairs),
        p_values,
        adjust_p_values(p_values, method=adjustment),
        adjustment,
    )
