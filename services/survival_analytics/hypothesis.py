"""Tests between groups and of association, with the conventions of R's ``stats`` and ``car``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import chdtrc, fdtrc, gammaln, logsumexp, ndtr, ndtri, stdtr, stdtrit
from scipy.stats import rankdata

from services.shared.errors import InvalidValue, OneClass, TooFewCases
from services.survival_analytics.inputs import (
    FloatArray,
    IntArray,
    read_groups,
    read_vector,
    require_same_length,
)

Centre = Literal["median", "mean"]
CorrelationMethod = Literal["pearson", "spearman", "kendall"]


@dataclass(frozen=True)
class TestResult:
    """A test statistic, its degrees of freedom (NaN where it has none) and its two-sided p-value."""

    __test__ = False

    name: str
    statistic: float
    degrees_of_freedom: float
    degrees_of_freedom_2: float
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


@dataclass(frozen=True)
class MeanDifference:
    """A t test: mean of the first group minus that of the second, with limits."""

    name: str
    difference: float
    lower: float
    upper: float
    statistic: float
    degrees_of_freedom: float
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


@dataclass(frozen=True)
class Correlation:
    """A correlation with its test; limits exist for Pearson's only (Fisher's z), else NaN."""

    method: CorrelationMethod
    n: int
    estimate: float
    lower: float
    upper: float
    statistic: float
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


@dataclass(frozen=True)
class FisherTest:
    """Fisher's exact test of a 2×2 table: conditional odds ratio (maximum likelihood), exact limits and p-value."""

    odds_ratio: float
    lower: float
    upper: float
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


def _grouped(values: ArrayLike, group: ArrayLike, *, step: str) -> list[FloatArray]:
    x = read_vector(values, field="values", step=step)
    codes, labels = read_groups(group, field="group", step=step)
    require_same_length(x, codes, field="group", step=step)
    if len(labels) < 2:
        raise OneClass("There is one group only.", step=step, field="group", got=labels[0])
    return [x[codes == code] for code in range(len(labels))]


def levene(values: ArrayLike, group: ArrayLike, *, centre: Centre = "median") -> TestResult:
    """Test whether groups have the same spread (Levene 1960; Brown and Forsythe 1974 for the median).

    R: ``car::leveneTest(center = …)``.
    """
    if centre not in ("median", "mean"):
        raise InvalidValue("Unknown centre.", step="levene", expected="median or mean", got=centre)
    parts = _grouped(values, group, step="levene")
    middle = np.median if centre == "median" else np.mean
    spread = [np.abs(part - middle(part)) for part in parts]
    return _analysis_of_variance(spread, f"Levene ({centre})", step="levene")


def analysis_of_variance(values: ArrayLike, group: ArrayLike) -> TestResult:
    """Test whether groups have the same mean (one-way F test)."""
    return _analysis_of_variance(_grouped(values, group, step="analysis_of_variance"), "F", step="analysis_of_variance")


def _analysis_of_variance(parts: list[FloatArray], name: str, *, step: str) -> TestResult:
    n, k = sum(part.size for part in parts), len(parts)
    if n <= k:
        raise TooFewCases("Every group has a single patient.", step=step, expected=f"more than {k} patients", got=n)
    grand = np.concatenate(parts).mean()
    between = sum(part.size * (part.mean() - grand) ** 2 for part in parts)
    within = sum(float(np.sum((part - part.mean()) ** 2)) for part in parts)
    if within == 0:
        raise TooFewCases("The values do not vary within groups.", step=step, field="values", got="no spread")
    f = float(between / (k - 1) / (within / (n - k)))
    return TestResult(name, f, float(k - 1), float(n - k), float(fdtrc(k - 1, n - k, f)))


def t_test(
    first: ArrayLike, second: ArrayLike, *, equal_variances: bool = False, level: float = 0.95
) -> MeanDifference:
    """Compare two means by Welch's or Student's t test (R: ``t.test``)."""
    a = read_vector(first, field="first", step="t_test")
    b = read_vector(second, field="second", step="t_test")
    if a.size < 2 or b.size < 2:
        raise TooFewCases("A t test needs two patients in each group.", step="t_test", got=f"{a.size} and {b.size}")
    va, vb = float(a.var(ddof=1)), float(b.var(ddof=1))
    if equal_variances:
        degrees = float(a.size + b.size - 2)
        pooled = ((a.size - 1) * va + (b.size - 1) * vb) / degrees
        error = float(np.sqrt(pooled * (1 / a.size + 1 / b.size)))
    else:
        ea, eb = va / a.size, vb / b.size
        error = float(np.sqrt(ea + eb))
        spread = ea**2 / (a.size - 1) + eb**2 / (b.size - 1)
        degrees = float((ea + eb) ** 2 / spread) if spread > 0 else float("nan")
    if error <= 10 * np.finfo(float).eps * max(abs(a.mean()), abs(b.mean())):
        raise TooFewCases("The values do not vary: a t test is not defined.", step="t_test", got="no spread")
    difference = float(a.mean() - b.mean())
    t = difference / error
    half = float(stdtrit(degrees, 1 - (1 - level) / 2)) * error
    return MeanDifference(
        "Student t" if equal_variances else "Welch t",
        difference,
        difference - half,
        difference + half,
        t,
        degrees,
        2 * float(stdtr(degrees, -abs(t))),
    )


def mann_whitney(first: ArrayLike, second: ArrayLike, *, continuity: bool = True) -> TestResult:
    """Compare two distributions by the Mann–Whitney test (normal approximation with ties; R: ``wilcox.test``)."""
    a = read_vector(first, field="first", step="mann_whitney")
    b = read_vector(second, field="second", step="mann_whitney")
    ranks = rankdata(np.concatenate((a, b)))
    w = float(ranks[: a.size].sum() - a.size * (a.size + 1) / 2)
    _, ties = np.unique(ranks, return_counts=True)
    n = a.size + b.size
    z = w - a.size * b.size / 2
    variance = a.size * b.size / 12 * (n + 1 - np.sum(ties.astype(float) ** 3 - ties) / (n * (n - 1)))
    if not variance > 0:
        raise TooFewCases("All values are equal: the test is not defined.", step="mann_whitney", got="no spread")
    if continuity:
        z -= np.sign(z) * 0.5
    return TestResult("Mann-Whitney", w, float("nan"), float("nan"), 2 * float(ndtr(-abs(z / np.sqrt(variance)))))


def kruskal_wallis(values: ArrayLike, group: ArrayLike) -> TestResult:
    """Compare several distributions by ranks (R: ``kruskal.test``)."""
    parts = _grouped(values, group, step="kruskal_wallis")
    ranks = rankdata(np.concatenate(parts))
    n = ranks.size
    bounds = np.cumsum([part.size for part in parts])[:-1]
    sums = sum(float(part.sum()) ** 2 / part.size for part in np.split(ranks, bounds))
    _, ties = np.unique(ranks, return_counts=True)
    correction = 1 - np.sum(ties.astype(float) ** 3 - ties) / (n**3 - n)
    if not correction > 0:
        raise TooFewCases("All values are equal: the test is not defined.", step="kruskal_wallis", got="no spread")
    h = (12 * sums / (n * (n + 1)) - 3 * (n + 1)) / correction
    return TestResult("Kruskal-Wallis", float(h), float(len(parts) - 1), float("nan"), float(chdtrc(len(parts) - 1, h)))


def shapiro_wilk(values: ArrayLike) -> TestResult:
    """Test whether values are normally distributed (R: ``shapiro.test``; 3 to 5,000 values)."""
    x = read_vector(values, field="values", step="shapiro_wilk")
    if not 3 <= x.size <= 5000 or np.ptp(x) == 0:
        raise TooFewCases(
            "The test needs 3 to 5,000 values that differ.", step="shapiro_wilk", field="values", got=x.size
        )
    w, p_value = _royston(np.sort(x))
    return TestResult("Shapiro-Wilk", w, float("nan"), float("nan"), p_value)


def _royston(x: FloatArray) -> tuple[float, float]:
    """Return W and its p-value for sorted values (Royston 1995, algorithm AS R94)."""
    n = x.size
    half = n // 2
    if n == 3:
        weights = np.array([np.sqrt(0.5)])
    else:
        m = ndtri((np.arange(1, half + 1) - 0.375) / (n + 0.25))
        total = 2 * float(np.sum(m**2))
        u = 1 / np.sqrt(n)
        first = _polynomial(u, (0.0, 0.221157, -0.147981, -2.07119, 4.434685, -2.706056)) - m[0] / np.sqrt(total)
        if n > 5:
            second = -m[1] / np.sqrt(total) + _polynomial(u, (0.0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633))
            scale = np.sqrt((total - 2 * m[0] ** 2 - 2 * m[1] ** 2) / (1 - 2 * first**2 - 2 * second**2))
            weights = np.concatenate(([first, second], -m[2:] / scale))
        else:
            scale = np.sqrt((total - 2 * m[0] ** 2) / (1 - 2 * first**2))
            weights = np.concatenate(([first], -m[1:] / scale))
    full = np.concatenate((-weights, np.zeros(n % 2), weights[::-1]))
    spread = x - x.mean()
    w = float((full @ x) ** 2 / (np.sum(full**2) * np.sum(spread**2)))
    w = min(w, 1.0)
    if n == 3:
        return w, max(0.0, 6 / np.pi * (float(np.arcsin(np.sqrt(w))) - float(np.arcsin(np.sqrt(0.75)))))
    y = float(np.log(1 - w))
    if n <= 11:
        gamma = _polynomial(n, (-2.273, 0.459))
        if y >= gamma:
            return w, 1e-99
        y = -float(np.log(gamma - y))
        mean = _polynomial(n, (0.544, -0.39978, 0.025054, -6.714e-4))
        deviation = np.exp(_polynomial(n, (1.3822, -0.77857, 0.062767, -0.0020322)))
    else:
        mean = _polynomial(np.log(n), (-1.5861, -0.31082, -0.083751, 0.0038915))
        deviation = np.exp(_polynomial(np.log(n), (-0.4803, -0.082676, 0.0030302)))
    return w, float(ndtr(-(y - mean) / deviation))


def _polynomial(x: float, coefficients: tuple[float, ...]) -> float:
    return float(np.polynomial.polynomial.polyval(x, coefficients))


def correlate(
    first: ArrayLike, second: ArrayLike, *, method: CorrelationMethod = "pearson", level: float = 0.95
) -> Correlation:
    """Correlate two columns (R: ``cor.test``, with the large-sample tests of Spearman's and Kendall's).

    Raises
    ------
    TooFewCases
        Fewer than four rows, or a constant column.
    """
    step = "correlate"
    x = read_vector(first, field="first", step=step)
    y = read_vector(second, field="second", step=step)
    require_same_length(x, y, field="second", step=step)
    n = x.size
    if n < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise TooFewCases("A correlation needs four rows and columns that vary.", step=step, got=n)
    nan = float("nan")
    if method == "kendall":
        return _kendall(x, y)
    if method == "spearman":
        x, y = rankdata(x), rankdata(y)
    elif method != "pearson":
        raise InvalidValue("Unknown method.", step=step, expected="pearson, spearman or kendall", got=method)
    r = 1.0 if np.array_equal(x, y) else float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if method == "spearman":
        # R forms the statistic Σd² and undoes it, which for tied ranks is the same as this.
        t = np.inf * r if abs(r) == 1 else r / np.sqrt((1 - r**2) / (n - 2))
        return Correlation("spearman", n, r, nan, nan, float(t), 2 * float(stdtr(n - 2, -abs(t))))
    with np.errstate(divide="ignore"):
        t = float(np.sqrt(n - 2) * r / np.sqrt(1 - r**2)) if abs(r) < 1 else float(np.inf * np.sign(r))
        z = float(np.arctanh(r))
    half = float(ndtri(1 - (1 - level) / 2)) / np.sqrt(n - 3)
    return Correlation(
        "pearson", n, r, float(np.tanh(z - half)), float(np.tanh(z + half)), t, 2 * float(stdtr(n - 2, -abs(t)))
    )


def _kendall(x: FloatArray, y: FloatArray) -> Correlation:
    n = x.size
    _, xr = np.unique(x, return_inverse=True)
    _, yr = np.unique(y, return_inverse=True)
    score = 0
    for i in range(1, n):
        score += int(np.sum(np.sign(xr[:i] - xr[i]) * np.sign(yr[:i] - yr[i])))
    tx, ty = (np.bincount(r).astype(float) for r in (xr, yr))
    pairs = n * (n - 1) / 2
    untied_x, untied_y = pairs - np.sum(tx * (tx - 1)) / 2, pairs - np.sum(ty * (ty - 1)) / 2
    tau = float(score / np.sqrt(untied_x * untied_y))
    v0 = n * (n - 1) * (2 * n + 5)
    vt, vu = np.sum(tx * (tx - 1) * (2 * tx + 5)), np.sum(ty * (ty - 1) * (2 * ty + 5))
    v1 = np.sum(tx * (tx - 1)) * np.sum(ty * (ty - 1)) / (2 * n * (n - 1))
    v2 = np.sum(tx * (tx - 1) * (tx - 2)) * np.sum(ty * (ty - 1) * (ty - 2)) / (9 * n * (n - 1) * (n - 2))
    z = float(score / np.sqrt((v0 - vt - vu) / 18 + v1 + v2))
    return Correlation("kendall", n, tau, float("nan"), float("nan"), z, 2 * float(ndtr(-abs(z))))


def _read_table(table: ArrayLike, *, step: str) -> FloatArray:
    counts = np.asarray(table, dtype=np.float64)
    if counts.ndim != 2 or min(counts.shape) < 2:
        raise InvalidValue("A contingency table has two rows and columns or more.", step=step, got=counts.shape)
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts != np.round(counts)).any():
        raise InvalidValue("A contingency table holds counts.", step=step, got="negative or broken numbers")
    if (counts.sum(axis=0) == 0).any() or (counts.sum(axis=1) == 0).any():
        raise OneClass("A row or column of the table is empty.", step=step, remedy="Remove the empty level.")
    return counts


def chi_square(table: ArrayLike, *, continuity: bool = True) -> TestResult:
    """Test a contingency table for independence; Yates' correction applies to 2×2 tables (R: ``chisq.test``)."""
    counts = _read_table(table, step="chi_square")
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    gap = np.abs(counts - expected)
    if continuity and counts.shape == (2, 2):
        gap = gap - min(0.5, float(gap.min()))
    statistic = float(np.sum(gap**2 / expected))
    degrees = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return TestResult("chi-square", statistic, float(degrees), float("nan"), float(chdtrc(degrees, statistic)))


def mcnemar(table: ArrayLike) -> TestResult:
    """Test paired proportions with the continuity correction (R: ``mcnemar.test``)."""
    counts = np.asarray(table, dtype=np.float64)
    if counts.shape != (2, 2):
        raise InvalidValue("McNemar's test needs a 2×2 table.", step="mcnemar", got=counts.shape)
    b, c = counts[0, 1], counts[1, 0]
    if b + c == 0:
        raise TooFewCases("No pair is discordant.", step="mcnemar", got="0 discordant pairs")
    statistic = float((abs(b - c) - (1 if b != c else 0)) ** 2 / (b + c))
    return TestResult("McNemar", statistic, 1.0, float("nan"), float(chdtrc(1, statistic)))


def fisher_exact(table: ArrayLike, *, level: float = 0.95) -> FisherTest:
    """Test a 2×2 table exactly (R: ``fisher.test``).

    The odds ratio is the conditional maximum-likelihood estimate; its limits invert the noncentral hypergeometric
    distribution. Both are solved to machine precision.
    """
    counts = _read_table(table, step="fisher_exact")
    if counts.shape != (2, 2):
        raise InvalidValue("The exact test is offered for 2×2 tables.", step="fisher_exact", got=counts.shape)
    m, n, k = counts[:, 0].sum(), counts[:, 1].sum(), counts[0].sum()
    x = counts[0, 0]
    low, high = max(0.0, k - n), min(k, m)
    support = np.arange(low, high + 1)
    log_mass = -(
        gammaln(support + 1) + gammaln(m - support + 1) + gammaln(k - support + 1) + gammaln(n - k + support + 1)
    )

    def mass(log_odds: float) -> FloatArray:
        weighted = log_mass + log_odds * support
        return np.asarray(np.exp(weighted - logsumexp(weighted)))

    null = mass(0.0)
    observed = null[support == x][0]
    p_value = float(min(1.0, null[null <= observed * (1 + 1e-7)].sum()))
    alpha = (1 - level) / 2

    def solve(excess: Callable[[float], float]) -> float:
        return float(np.exp(brentq(excess, -60, 60, xtol=1e-14, rtol=8.9e-16)))

    odds = 0.0 if x == low else np.inf if x == high else solve(lambda t: float(mass(t) @ support) - x)
    lower = 0.0 if x == low else solve(lambda t: float(mass(t)[support >= x].sum()) - alpha)
    upper = np.inf if x == high else solve(lambda t: alpha - float(mass(t)[support <= x].sum()))
    return FisherTest(odds, lower, upper, p_value)


def cross_tabulate(rows: ArrayLike, columns: ArrayLike) -> IntArray:
    """Count pairs of levels, both sorted."""
    r, row_labels = read_groups(rows, field="rows", step="cross_tabulate")
    c, column_labels = read_groups(columns, field="columns", step="cross_tabulate")
    require_same_length(r, c, field="columns", step="cross_tabulate")
    shape = (len(row_labels), len(column_labels))
    return np.bincount(r * shape[1] + c, minlength=shape[0] * shape[1]).reshape(shape)
