from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from services.shared.errors import InvalidValue, OneClass, TooFewCases
from services.survival_analytics.hypothesis import (
    analysis_of_variance,
    chi_square,
    correlate,
    cross_tabulate,
    fisher_exact,
    kruskal_wallis,
    levene,
    mann_whitney,
    mcnemar,
    shapiro_wilk,
    t_test,
)

RNG = np.random.default_rng(12)
A, B, C = RNG.normal(size=25), RNG.normal(0.5, 2.0, 30), RNG.exponential(size=20)
VALUES, GROUP = np.concatenate((A, B, C)), np.repeat(["a", "b", "c"], [25, 30, 20])


@pytest.mark.parametrize("centre", ["median", "mean"])
def test_levene(centre: str) -> None:
    peer = stats.levene(A, B, C, center=centre)
    found = levene(VALUES, GROUP, centre=centre)
    assert (found.statistic, found.p_value) == pytest.approx((peer.statistic, peer.pvalue), rel=1e-9)


@pytest.mark.parametrize("equal", [True, False])
def test_t(equal: bool) -> None:
    peer = stats.ttest_ind(A, B, equal_var=equal)
    found = t_test(A, B, equal_variances=equal)
    assert (found.statistic, found.p_value) == pytest.approx((peer.statistic, peer.pvalue), rel=1e-9)
    limits = peer.confidence_interval()
    assert (found.lower, found.upper) == pytest.approx((limits.low, limits.high), rel=1e-9)


@pytest.mark.parametrize("continuity", [True, False])
def test_mann_whitney(continuity: bool) -> None:
    a, b = np.round(A), np.round(B)
    peer = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=continuity)
    found = mann_whitney(a, b, continuity=continuity)
    assert (found.statistic, found.p_value) == pytest.approx((peer.statistic, peer.pvalue), rel=1e-9)


def test_variance_and_ranks() -> None:
    peer = stats.f_oneway(A, B, C)
    assert analysis_of_variance(VALUES, GROUP).p_value == pytest.approx(peer.pvalue, rel=1e-9)
    peer = stats.kruskal(A, B, C)
    assert kruskal_wallis(VALUES, GROUP).p_value == pytest.approx(peer.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 11, 12, 60])
def test_shapiro(n: int) -> None:
    x = np.random.default_rng(n).exponential(size=n)
    peer = stats.shapiro(x)
    found = shapiro_wilk(x)
    assert found.statistic == pytest.approx(peer.statistic, rel=1e-6)
    assert found.p_value == pytest.approx(peer.pvalue, rel=1e-4)


def test_correlation() -> None:
    x, y = np.round(B, 1), np.round(B + RNG.normal(size=30), 1)
    pearson = stats.pearsonr(x, y)
    found = correlate(x, y)
    assert (found.estimate, found.p_value) == pytest.approx((pearson.statistic, pearson.pvalue), rel=1e-9)
    limits = pearson.confidence_interval()
    assert (found.lower, found.upper) == pytest.approx((limits.low, limits.high), rel=1e-9)
    spearman = stats.spearmanr(x, y)
    assert correlate(x, y, method="spearman").p_value == pytest.approx(spearman.pvalue, rel=1e-9)
    kendall = stats.kendalltau(x, y, method="asymptotic")
    assert correlate(x, y, method="kendall").p_value == pytest.approx(kendall.pvalue, rel=1e-9)


def test_tables() -> None:
    table = [[12, 5], [7, 14]]
    peer = stats.chi2_contingency(table)
    assert chi_square(table).p_value == pytest.approx(peer.pvalue, rel=1e-9)
    plain = stats.chi2_contingency(table, correction=False)
    assert chi_square(table, continuity=False).p_value == pytest.approx(plain.pvalue, rel=1e-9)
    exact = fisher_exact(table)
    assert exact.p_value == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-9)
    odds = stats.contingency.odds_ratio(table)
    assert exact.odds_ratio == pytest.approx(odds.statistic, rel=1e-6)
    limits = odds.confidence_interval()
    assert (exact.lower, exact.upper) == pytest.approx((limits.low, limits.high), rel=1e-5)


def test_fisher_with_an_empty_cell() -> None:
    found = fisher_exact([[5, 0], [2, 6]])
    assert found.odds_ratio == np.inf
    assert found.upper == np.inf
    assert found.lower > 0


def test_mcnemar_by_hand() -> None:
    assert mcnemar([[10, 5], [1, 10]]).statistic == pytest.approx((4 - 1) ** 2 / 6)


def test_cross_table() -> None:
    assert cross_tabulate(["b", "a", "b"], [1, 1, 0]).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: t_test([1, 1], [1, 1]), TooFewCases),
        (lambda: t_test([1], [1, 2]), TooFewCases),
        (lambda: mann_whitney([1, 1], [1, 1]), TooFewCases),
        (lambda: levene([1, 2, 3], ["a", "a", "a"]), OneClass),
        (lambda: levene([1, 2], ["a", "b"], centre="mode"), InvalidValue),
        (lambda: kruskal_wallis([2, 2, 2], ["a", "b", "b"]), TooFewCases),
        (lambda: shapiro_wilk([1, 1, 1]), TooFewCases),
        (lambda: correlate([1, 2, 3, 4], [1, 1, 1, 1]), TooFewCases),
        (lambda: correlate([1, 2, 3, 4], [1, 2, 3, 5], method="luck"), InvalidValue),
        (lambda: chi_square([[1, 0], [2, 0]]), OneClass),
        (lambda: chi_square([[1, -1], [2, 3]]), InvalidValue),
        (lambda: fisher_exact([[1, 2, 3], [4, 5, 6]]), InvalidValue),
        (lambda: mcnemar([[1, 0], [0, 1]]), TooFewCases),
        (lambda: t_test([1, float("nan")], [1, 2]), InvalidValue),
    ],
)
def test_bad_input(call, error: type) -> None:
    with pytest.raises(error):
        call()
