"""Cut-points of a score for survival: maximally selected ranks, minimum p, two cuts, and the median."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.hothorn_lausen import permutation_p_value
from services.survival_analytics.inputs import FloatArray, Follow, IntArray, Notice, read_follow_up, read_score

MAX_EXACT_ROWS = 150


@dataclass(frozen=True, eq=False)
class MaximallySelectedRank:
    """The cut with the largest standardised log-rank statistic. High = score above the cut.

    Attributes
    ----------
    cut, statistic
        Best cut and its statistic.
    cuts, statistics
        Shape (k,): every cut that was allowed.
    p_lausen_1992
        Lausen and Schumacher (1992): asymptotic.
    p_lausen_1994_bound
        Lausen, Sauerbrei and Schumacher (1994): improved Bonferroni bound as R reports it, which may exceed one.
    p_hothorn_lausen
        Hothorn and Lausen (2003): permutation bound, for fewer than 150 patients; NaN otherwise.
    p_value
        The p-value to report: the smallest of the valid corrected ones, at most one.
    """

    cut: float
    statistic: float
    n_high: int
    n_low: int
    cuts: FloatArray
    statistics: FloatArray
    p_lausen_1992: float
    p_lausen_1994_bound: float
    p_hothorn_lausen: float
    p_value: float
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cut."""
        return pd.DataFrame({"cut": self.cuts, "statistic": self.statistics, "best": self.cuts == self.cut})


@dataclass(frozen=True, eq=False)
class MinimumP:
    """The cut with the largest log-rank chi-square, as X-tile finds it. High = score above the cut.

    Attributes
    ----------
    cut, chi_square
        Best cut and its statistic.
    p_uncorrected
        As if the cut had been fixed in advance: too small.
    p_corrected
        Miller and Siegmund (1982), the formula of Altman et al. (1994).
    p_permutation
        Share of permutations of the score whose best cut is at least as good; NaN if none were asked for.
    """

    cut: float
    chi_square: float
    p_uncorrected: float
    p_corrected: float
    p_permutation: float
    cuts: FloatArray
    chi_squares: FloatArray
    p_values: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cut."""
        return pd.DataFrame({"cut": self.cuts, "chi_square": self.chi_squares, "p_value": self.p_values})


@dataclass(frozen=True, eq=False)
class TwoCuts:
    """Two cuts that split patients into low, middle and high with the largest three-group chi-square.

    Attributes
    ----------
    lower, upper
        Groups are score ≤ lower, lower < score ≤ upper, score > upper.
    candidates
        Cuts that were tried.
    first, second, chi_squares
        Shape (pairs,): every pair that leaves groups of the smallest allowed size.
    p_permutation
        Corrected for the search by permutation; NaN if none were asked for.
    """

    lower: float
    upper: float
    chi_square: float
    p_uncorrected: float
    p_permutation: float
    candidates: FloatArray
    first: FloatArray
    second: FloatArray
    chi_squares: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per pair of cuts."""
        return pd.DataFrame({"lower": self.first, "upper": self.second, "chi_square": self.chi_squares})


def maximally_selected_rank(
    time: ArrayLike, event: ArrayLike, *, score: ArrayLike, min_proportion: float = 0.1
) -> MaximallySelectedRank:
    """Find the cut by maximally selected log-rank statistics.

    Parameters
    ----------
    time, event, score
        Shape (n,).
    min_proportion
        Smallest share of patients in a group.

    Raises
    ------
    TooFewCases
        No cut leaves groups of that size.

    Notes
    -----
    Hothorn and Lausen (2003); R ``survminer::surv_cutpoint`` and ``maxstat::maxstat.test(smethod = "LogRank")``.
    """
    step = "maximally_selected_rank"
    follow = read_follow_up(time, event, step=step)
    marker = read_score(score, follow, step=step)
    _require_proportion(min_proportion, step=step)
    scores = log_rank_scores(follow)
    n = len(follow)
    order = np.argsort(marker, kind="stable")
    x, a = marker[order], scores[order]
    fresh = np.flatnonzero(np.concatenate(([True], x[1:] != x[:-1])))
    low, high = max(1, int(np.floor(n * min_proportion))), int(np.floor(n * (1 - min_proportion)))
    m = fresh[(fresh >= low) & (fresh <= high)]
    if m.size == 0:
        raise TooFewCases(
            "No cut leaves groups of the smallest allowed size.",
            step=step,
            field="score",
            expected=f"a cut with {low} to {high} patients at or below it",
            got=f"{fresh.size} distinct scores",
            remedy="Lower min_proportion or use a score with more values.",
        )
    statistics = _standardise(a, m)
    best = int(np.argmax(statistics))
    cut = float(x[m[best] - 1])
    value = float(statistics[best])
    exact = float("nan")
    notices: tuple[Notice, ...] = ()
    if n < MAX_EXACT_ROWS:
        exact = permutation_p_value(a, m)
    else:
        notices = (Notice("no_exact_p", f"Permutation bounds are computed below {MAX_EXACT_ROWS} patients only."),)
    p92 = _lausen_1992(value, min_proportion)
    p94 = _lausen_1994(value, n, m)
    reported = float(np.nanmin([p92, p94, exact, 1.0]))
    return MaximallySelectedRank(
        cut,
        value,
        int(np.sum(marker > cut)),
        int(np.sum(marker <= cut)),
        x[m - 1],
        statistics,
        p92,
        p94,
        exact,
        reported,
        notices,
    )


def _require_proportion(value: float, *, step: str) -> None:
    if not 0 < value < 0.5:
        raise InvalidValue(
            "The smallest group must be a share between 0 and one half.", step=step, field="min_proportion", got=value
        )


def log_rank_scores(follow: Follow) -> FloatArray:
    """Return log-rank scores, with only the last patient of a tied time at risk (R: ``exactRankTests::cscores``)."""
    n = len(follow)
    order = np.argsort(follow.time, kind="stable")
    time, event = follow.time[order], follow.event[order]
    rank = np.searchsorted(time, time, side="right")
    hazard = np.cumsum(event / (n - rank + 1.0))
    scores = np.empty(n)
    scores[order] = event - hazard[rank - 1]
    return scores


def _standardise(a: FloatArray, m: IntArray) -> FloatArray:
    n, total = a.size, a.sum()
    expected = m / n * total
    variance = m * (n - m) / (n**2 * (n - 1.0)) * (n * np.sum(a**2) - total**2)
    if not variance.max() > 0:
        raise TooFewCases("Every patient has the same follow-up: no cut can be better.", step="maximally_selected_rank")
    return np.asarray(np.abs((np.cumsum(a)[m - 1] - expected) / np.sqrt(variance)))


def _lausen_1992(b: float, share: float) -> float:
    if b < 1:
        return 1.0
    density = float(np.exp(-(b**2) / 2) / np.sqrt(2 * np.pi))
    top = 1 - share
    spread = np.log((top * (1 - share)) / ((1 - top) * share))
    return max(0.0, float(4 * density / b + density * (b - 1 / b) * spread))


def _lausen_1994(b: float, n: int, m: IntArray) -> float:
    first, second = m[:-1], m[1:]
    t = np.sqrt(1 - first * (n - second) / ((n - first) * second))
    added = float(np.sum(np.exp(-(b**2) / 2) / np.pi * (t - (b**2 / 4 - 1) * t**3 / 6)))
    return 2 * float(ndtr(-b)) + added


@dataclass(frozen=True, eq=False)
class _CutStatistics:
    """Log-rank sums of the groups at or below each cut.

    Attributes
    ----------
    difference
        Shape (c,): observed minus expected events.
    covariance
        Shape (c, c).
    """

    difference: FloatArray
    covariance: FloatArray


def _cut_statistics(follow: Follow, marker: FloatArray, cuts: FloatArray) -> _CutStatistics:
    event_times = np.unique(follow.time[follow.event == 1])
    k, c = event_times.size, cuts.size
    group = np.searchsorted(cuts, marker, side="left")
    leaves = np.searchsorted(event_times, follow.time, side="right") - 1
    alive = np.zeros((k + 1, c + 1))
    np.add.at(alive, (leaves + 1, group), 1.0)
    # A patient is at risk at every event time up to the last one that it reaches.
    at_risk = alive[::-1].cumsum(axis=0)[::-1][1:]
    deaths = np.zeros((k, c + 1))
    rows = follow.event == 1
    np.add.at(deaths, (np.searchsorted(event_times, follow.time[rows]), group[rows]), 1.0)
    total, d = at_risk.sum(axis=1), deaths.sum(axis=1)
    share = at_risk.cumsum(axis=1)[:, :c] / total[:, None]
    difference = deaths.cumsum(axis=1)[:, :c].sum(axis=0) - d @ share
    weight = d * np.where(total > 1, (total - d) / np.maximum(total - 1, 1), 0.0)
    weighted = weight[:, None] * share
    inner = weighted.T @ share
    # Nested groups: the covariance of a ≤ b is the share of a times what lies above b.
    lower = weighted.sum(axis=0)
    covariance = np.minimum.outer(np.arange(c), np.arange(c))
    return _CutStatistics(difference, lower[covariance] - inner)


def minimum_p(
    time: ArrayLike,
    event: ArrayLike,
    *,
    score: ArrayLike,
    min_proportion: float = 0.1,
    permutations: int = 0,
    seed: int = 0,
) -> MinimumP:
    """Find the cut with the smallest log-rank p-value and correct that p-value for the search.

    Parameters
    ----------
    time, event, score
        Shape (n,).
    min_proportion
        Smallest share of patients in a group.
    permutations, seed
        Number of random permutations of the score behind ``p_permutation``.
    """
    step = "minimum_p"
    follow = read_follow_up(time, event, step=step)
    marker = read_score(score, follow, step=step)
    _require_proportion(min_proportion, step=step)
    levels = np.unique(marker)[:-1]
    share = np.searchsorted(np.sort(marker), levels, side="right") / marker.size
    cuts = levels[(share >= min_proportion) & (share <= 1 - min_proportion)]
    if cuts.size == 0:
        raise TooFewCases("No cut leaves groups of the smallest allowed size.", step=step, field="score")
    chi_squares = _one_cut(follow, marker, cuts)
    best = int(np.argmax(chi_squares))
    top = float(chi_squares[best])
    permuted = float("nan")
    if permutations:
        rng = np.random.default_rng(seed)
        hits = sum(_one_cut(follow, rng.permutation(marker), cuts).max() >= top for _ in range(permutations))
        permuted = (1 + hits) / (1 + permutations)
    return MinimumP(
        float(cuts[best]),
        top,
        float(chdtrc(1, top)),
        min(1.0, _lausen_1992(float(np.sqrt(top)), min_proportion)),
        permuted,
        cuts,
        chi_squares,
        chdtrc(1, chi_squares),
    )


def _one_cut(follow: Follow, marker: FloatArray, cuts: FloatArray) -> FloatArray:
    parts = _cut_statistics(follow, marker, cuts)
    variance = np.diag(parts.covariance)
    return np.where(variance > 0, parts.difference**2 / np.where(variance > 0, variance, 1.0), 0.0)


def two_cuts(
    time: ArrayLike,
    event: ArrayLike,
    *,
    score: ArrayLike,
    candidates: ArrayLike | None = None,
    min_proportion: float = 0.1,
    permutations: int = 0,
    seed: int = 0,
) -> TwoCuts:
    """Find the two cuts whose three groups differ most by the log-rank test (X-tile).

    Parameters
    ----------
    time, event, score
        Shape (n,).
    candidates
        Cuts to try; all observed values, or 41 quantiles where there are more than 60 of them.
    min_proportion
        Smallest share of patients in each of the three groups.
    permutations, seed
        Number of random permutations of the score behind ``p_permutation``.
    """
    step = "two_cuts"
    follow = read_follow_up(time, event, step=step)
    marker = read_score(score, follow, step=step)
    if candidates is None:
        tried = np.unique(marker)[:-1]
        if tried.size > 60:
            tried = np.unique(_lower_quantiles(marker, np.linspace(0.1, 0.9, 41)))
    else:
        tried = np.unique(np.asarray(candidates, dtype=np.float64))
    n = marker.size
    below = np.searchsorted(np.sort(marker), tried, side="right")
    first, second = np.triu_indices(tried.size, 1)
    sizes = np.column_stack((below[first], below[second] - below[first], n - below[second]))
    keep = sizes.min(axis=1) >= min_proportion * n
    first, second = first[keep], second[keep]
    if first.size == 0:
        raise TooFewCases("No pair of cuts leaves three groups of the smallest allowed size.", step=step, field="score")
    chi_squares = _three_groups(_cut_statistics(follow, marker, tried), first, second)
    best = int(np.argmax(chi_squares))
    top = float(chi_squares[best])
    permuted = float("nan")
    if permutations:
        rng = np.random.default_rng(seed)
        hits = 0
        for _ in range(permutations):
            parts = _cut_statistics(follow, rng.permutation(marker), tried)
            hits += bool(_three_groups(parts, first, second).max() >= top)
        permuted = (1 + hits) / (1 + permutations)
    return TwoCuts(
        float(tried[first[best]]),
        float(tried[second[best]]),
        top,
        float(chdtrc(2, top)),
        permuted,
        tried,
        tried[first],
        tried[second],
        chi_squares,
    )


def _lower_quantiles(values: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Return quantiles that are observed values (R: ``quantile(type = 1)``)."""
    ordered = np.sort(values)
    rank = values.size * probabilities
    below = np.floor(rank + 4 * np.finfo(float).eps)
    position = below + (rank > below)
    return ordered[np.clip(position.astype(np.int64) - 1, 0, values.size - 1)]


def _three_groups(parts: _CutStatistics, first: IntArray, second: IntArray) -> FloatArray:
    u, v = parts.difference[first], parts.difference[second]
    a, d = parts.covariance[first, first], parts.covariance[second, second]
    b = parts.covariance[first, second]
    determinant = a * d - b**2
    safe = determinant > 1e-12 * np.maximum(a * d, 1e-300)
    value = (d * u**2 - 2 * b * u * v + a * v**2) / np.where(safe, determinant, 1.0)
    return np.where(safe, value, 0.0)


def median_cutpoint(score: ArrayLike) -> float:
    """Return the median; patients above it are the high group."""
    values = np.asarray(score, dtype=np.float64)
    marker = read_score(score, Follow(values, np.zeros(values.shape, dtype=np.int64)), step="median_cutpoint")
    return float(np.median(marker))
