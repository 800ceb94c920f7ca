"""Differential expression of read counts by negative binomial models (DESeq2 1.38; Love et al. 2014).

Computed here rather than through PyDESeq2 0.5, which parts from DESeq2 in three places: its dispersions converge
loosely (standard errors differ by up to 28 % in single genes), designs of several factors take other starting means
(dispersions by up to 60 %), and a failing parametric trend gives way to the mean instead of a local regression.

What parts from DESeq2 here:

- with three or fewer residual degrees of freedom DESeq2 finds the prior's width by simulation, this by quadrature;
- a gene whose dispersion is all but zero ends there or nearby by chance of rounding, in DESeq2 too; under a local
  trend, which is not robust, one such gene shifts the standard errors of others by up to a few percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.interpolate import CubicSpline

from pipelines.genomics.dispersion import DispersionTrend, Trend, fit_trend, gene_wise, shrink
from pipelines.genomics.expression import FloatArray, check_counts
from pipelines.genomics.lowess import fit_lowess
from pipelines.genomics.negative_binomial import Regression, fit_coefficients, log_likelihood
from services.shared.errors import IdMismatch, InvalidTable, TooFewCases
from services.survival_analytics.multiplicity import adjust_p_values

_REPLICATES_TO_REPLACE = 7
_REPLICATES_TO_JUDGE = 3
_LEAST_ROBUST_DISPERSION = 0.04
_FILTER_STEPS = 50


@dataclass(frozen=True)
class CountComparison:
    """Wald tests of one coefficient, by gene.

    Parameters
    ----------
    genes
        Names, in the table's order; every array has one value a gene.
    base_mean
        Mean of normalised counts.
    log_fold_change, standard_error, statistic, p
        Log2 fold change, its error, Wald statistic and two-sided p; NaN where all counts are zero, and p also where a
        count is an outlier by Cook's distance.
    likelihood_ratio, likelihood_ratio_p
        Twice the log likelihood that the coefficient adds, and its chi-square p.
    fdr
        Benjamini-Hochberg of ``p`` after independent filtering by base mean; NaN where filtered out.
    dispersion
        Final dispersion.
    size_factors
        By sample, median of ratios.
    trend
        Kind of dispersion trend that was fitted.
    replaced
        Genes of which an outlying count was replaced.
    coefficient
        Column of the design that was tested.
    """

    genes: tuple[str, ...]
    base_mean: FloatArray
    log_fold_change: FloatArray
    standard_error: FloatArray
    statistic: FloatArray
    p: FloatArray
    likelihood_ratio: FloatArray
    likelihood_ratio_p: FloatArray
    fdr: FloatArray
    dispersion: FloatArray
    size_factors: pd.Series
    trend: Trend
    replaced: tuple[str, ...]
    coefficient: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row a gene, in the table's order."""
        names = (
            "base_mean", "log_fold_change", "standard_error", "statistic", "p", "likelihood_ratio",
            "likelihood_ratio_p", "fdr", "dispersion",
        )  # fmt: skip
        return pd.DataFrame({name: getattr(self, name) for name in names}, index=pd.Index(self.genes, name="gene"))

    def select(self, *, fdr: float = 0.25, log_fold_change: float = 0.1) -> tuple[str, ...]:
        """Return genes with an FDR below and an absolute log fold change above the thresholds."""
        kept = (np.nan_to_num(self.fdr, nan=1.0) < fdr) & (np.abs(self.log_fold_change) > log_fold_change)
        return tuple(gene for gene, keep in zip(self.genes, kept, strict=True) if keep)


@dataclass(frozen=True)
class _Fit:
    own: FloatArray
    dispersion: FloatArray
    regression: Regression
    trend: DispersionTrend


def size_factors(counts: pd.DataFrame) -> pd.Series:
    """Return the median ratio to the genes' geometric means, by sample (Anders & Huber 2010)."""
    reads = check_counts(counts).astype(np.float64)
    everywhere = (reads > 0).all(axis=0)
    if not everywhere.any():
        raise TooFewCases(
            "No gene has reads in every sample, so size factors have no basis.",
            step="size_factors",
            remedy="leave out samples with hardly any reads",
        )
    logs = np.log(reads[:, everywhere])
    # Dispersions of single genes hang on the last digit: average with more of them.
    centre = logs.astype(np.longdouble).mean(axis=0).astype(np.float64)
    ratios = np.exp(np.median(logs - centre, axis=1))
    return pd.Series(ratios, index=counts.index, name="size_factor")


def compare_counts(
    counts: pd.DataFrame, design: pd.DataFrame, *, coefficient: str, alpha: float = 0.1, filters: bool = True
) -> CountComparison:
    """Test one coefficient by DESeq2's Wald test.

    Parameters
    ----------
    counts
        Samples x genes, whole numbers (floats that are whole count as such).
    design
        Samples x coefficients with an intercept (`differential.design_matrix`).
    coefficient
        Column to test.
    alpha
        False discovery rate for which independent filtering is optimised.
    filters
        Whether Cook's distances and independent filtering set p-values and FDR aside.

    Raises
    ------
    InvalidTable, IdMismatch, TooFewCases
        Where counts are no counts, samples differ, the design is confounded, or no residual degree of freedom is left.
    """
    x = _design(counts, design, coefficient)
    reads = check_counts(counts).astype(np.float64).T
    factors = size_factors(counts)
    size = factors.to_numpy()
    samples, terms = x.shape
    present = reads.sum(axis=1) > 0
    y = reads[present]
    fit = _fit(y, x, size, None)
    distance = _cooks_distance(y, x, size, fit.regression)
    limit = float(stats.f.ppf(0.99, terms, samples - terms))
    worst = _worst(distance, _replicated(x, _REPLICATES_TO_JUDGE))
    replaceable = _replicated(x, _REPLICATES_TO_REPLACE)
    replaced = np.zeros(len(y), bool)
    final = y
    coefficients, variances = fit.regression.coefficients, fit.regression.covariance
    dispersion = fit.dispersion
    if replaceable.any():
        final, replaced = _replace_outliers(y, size, distance > limit, replaceable)
        again = replaced & (final.sum(axis=1) > 0)
        if again.any():
            sub = _fit(final[again], x, size, fit.trend)
            coefficients, variances, dispersion = coefficients.copy(), variances.copy(), dispersion.copy()
            coefficients[again], variances[again] = sub.regression.coefficients, sub.regression.covariance
            dispersion[again] = sub.dispersion
            worst = _worst(np.where(replaceable, 0.0, distance), _replicated(x, _REPLICATES_TO_JUDGE))
            if replaceable.all():
                worst = np.full(len(y), np.nan)
    tested = list(design.columns).index(coefficient)
    effect = coefficients[:, tested] / math.log(2)
    error = np.sqrt(variances[:, tested, tested]) / math.log(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = effect / error
    emptied = final.sum(axis=1) == 0
    effect, error, statistic = (np.where(emptied, np.nan, values) for values in (effect, error, statistic))
    p = 2 * stats.norm.sf(np.abs(statistic))
    full_mu = size * np.exp(coefficients @ x.T)
    ratio = _likelihood_ratio(final, full_mu, np.delete(x, tested, axis=1), size, dispersion)
    ratio_p = np.where(np.isnan(statistic), np.nan, stats.chi2.sf(ratio, 1))
    base_mean = np.zeros(len(reads))
    base_mean[present] = (final / size).mean(axis=1)
    if filters:
        outlier = worst > limit
        if terms == 2 and len(np.unique(x, axis=0)) == 2:
            outlier &= ~_exceeded(y, distance)
        p, ratio_p = np.where(outlier, np.nan, p), np.where(outlier, np.nan, ratio_p)
    p_all = _among(p, present)
    return CountComparison(
        genes=tuple(counts.columns.astype(str)),
        base_mean=base_mean,
        log_fold_change=_among(effect, present),
        standard_error=_among(error, present),
        statistic=_among(statistic, present),
        p=p_all,
        likelihood_ratio=_among(ratio, present),
        likelihood_ratio_p=_among(ratio_p, present),
        fdr=_filtered_fdr(p_all, base_mean, alpha) if filters else _fdr(p_all),
        dispersion=_among(dispersion, present),
        size_factors=factors,
        trend=fit.trend.kind,
        replaced=tuple(counts.columns.astype(str)[present][replaced]),
        coefficient=coefficient,
    )


def variance_stabilised(counts: pd.DataFrame) -> pd.DataFrame:
    """Return counts on a log2-like scale on which the variance hardly depends on the mean, blind to any group.

    R: ``varianceStabilizingTransformation(blind = TRUE)``; for large counts the values near log2 of normalised counts.
    """
    reads = check_counts(counts).astype(np.float64).T
    size = size_factors(counts).to_numpy()
    y = reads[reads.sum(axis=1) > 0]
    own, _ = gene_wise(y, np.ones((len(size), 1)), size)
    trend = fit_trend((y / size).mean(axis=1), own, df=len(size) - 1)
    normalised = reads / size
    if trend.parametric is not None:
        asymptote, extra = trend.parametric
        q = normalised
        root = np.sqrt(asymptote * q * (1 + extra + asymptote * q))
        values = np.log2((1 + extra + 2 * asymptote * q + 2 * root) / (4 * asymptote))
    else:
        values = _integrated(normalised, trend, size)
    return pd.DataFrame(values.T, index=counts.index, columns=counts.columns)


def _integrated(normalised: FloatArray, trend: DispersionTrend, size: FloatArray) -> FloatArray:
    """Integrate 1 / sd over the mean, and scale such that high means agree with log2."""
    grid = np.sinh(np.linspace(0, np.arcsinh(normalised.max()), 1000))[1:]
    slope = 1 / np.sqrt(trend.curve(grid) * grid**2 + np.mean(1 / size) * grid)
    area = np.cumsum(np.diff(grid) * (slope[1:] + slope[:-1]) / 2)
    rising = CubicSpline(np.arcsinh((grid[1:] + grid[:-1]) / 2), area)
    low, high = np.quantile(normalised.mean(axis=1), [0.95, 0.999])
    eta = (np.log2(high) - np.log2(low)) / (rising(np.arcsinh(high)) - rising(np.arcsinh(low)))
    return np.asarray(eta * (rising(np.arcsinh(normalised)) - rising(np.arcsinh(low))) + np.log2(low))


def _likelihood_ratio(
    y: FloatArray, full_mu: FloatArray, reduced: FloatArray, size: FloatArray, dispersion: FloatArray
) -> FloatArray:
    if reduced.shape[1] == 1 and np.ptp(reduced) == 0:
        mu = (y / size).mean(axis=1)[:, None] * size  # as DESeq2: the mean, not the fit
    else:
        mu = size * np.exp(fit_coefficients(y, reduced, size, dispersion).coefficients @ reduced.T)
    alpha = dispersion[:, None]
    return 2 * (log_likelihood(y, full_mu, alpha) - log_likelihood(y, np.maximum(mu, 1e-300), alpha))


def _design(counts: pd.DataFrame, design: pd.DataFrame, coefficient: str) -> FloatArray:
    step = "compare_counts"
    if not design.index.is_unique or set(design.index) != set(counts.index):
        raise IdMismatch("Design and counts have different samples.", step=step, expected=len(counts), got=len(design))
    if coefficient not in design.columns:
        raise InvalidTable("The coefficient is not in the design.", step=step, field=coefficient)
    x = design.loc[counts.index].to_numpy(dtype=np.float64)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise InvalidTable("The design is confounded: its columns are not independent.", step=step)
    if len(x) <= x.shape[1]:
        raise TooFewCases(
            "No residual degree of freedom is left.", step=step, expected=f"over {x.shape[1]} samples", got=len(x)
        )
    return x


def _fit(y: FloatArray, x: FloatArray, size: FloatArray, trend: DispersionTrend | None) -> _Fit:
    own, mu = gene_wise(y, x, size)
    means = (y / size).mean(axis=1)
    trend = trend or fit_trend(means, own, df=x.shape[0] - x.shape[1])
    dispersion = shrink(y, x, mu, own, means, trend)
    return _Fit(own, dispersion, fit_coefficients(y, x, size, dispersion), trend)


def _cooks_distance(y: FloatArray, x: FloatArray, size: FloatArray, fit: Regression) -> FloatArray:
    """Return Cook's distances, shape (genes, samples), with a dispersion that an outlier does not inflate."""
    normalised = y / size
    cells = _cells(x)
    counts = np.bincount(cells)
    if (counts >= _REPLICATES_TO_JUDGE).any():
        variance = np.max(
            [_trimmed_variance(normalised[:, cells == c]) for c in np.flatnonzero(counts >= _REPLICATES_TO_JUDGE)],
            axis=0,
        )
    else:
        centre = stats.trim_mean(normalised, 1 / 8, axis=1)[:, None]
        variance = 1.51 * stats.trim_mean((normalised - centre) ** 2, 1 / 8, axis=1)
    mean = normalised.mean(axis=1)
    alpha = np.maximum((variance - mean) / mean**2, _LEAST_ROBUST_DISPERSION)[:, None]
    residual = (y - fit.mu) ** 2 / (fit.mu + alpha * fit.mu**2)
    return np.asarray(residual / x.shape[1] * fit.leverage / (1 - fit.leverage) ** 2)


def _trimmed_variance(values: FloatArray) -> FloatArray:
    n = values.shape[1]
    trim, scale = (1 / 3, 2.04) if n <= 3 else (1 / 4, 1.86) if n <= 23 else (1 / 8, 1.51)
    centre = stats.trim_mean(values, trim, axis=1)[:, None]
    return np.asarray(scale * stats.trim_mean((values - centre) ** 2, trim, axis=1))


def _cells(x: FloatArray) -> np.ndarray:
    return np.asarray(np.unique(x, axis=0, return_inverse=True)[1]).ravel()


def _replicated(x: FloatArray, least: int) -> np.ndarray:
    cells = _cells(x)
    return np.asarray(np.bincount(cells)[cells] >= least)


def _worst(distance: FloatArray, judged: np.ndarray) -> FloatArray:
    return distance[:, judged].max(axis=1) if judged.any() else np.full(len(distance), np.nan)


def _replace_outliers(
    y: FloatArray, size: FloatArray, outlying: np.ndarray, replaceable: np.ndarray
) -> tuple[FloatArray, np.ndarray]:
    typical = stats.trim_mean(y / size, 0.2, axis=1)[:, None] * size
    return np.where(outlying & replaceable, np.floor(typical), y), np.asarray(outlying.any(axis=1))


def _exceeded(y: FloatArray, distance: FloatArray) -> np.ndarray:
    """Return whether three or more counts exceed the one with the largest distance, which then is no outlier."""
    most = np.take_along_axis(y, distance.argmax(axis=1)[:, None], axis=1)
    return np.asarray((y > most).sum(axis=1) >= 3)


def _among(values: FloatArray, present: np.ndarray) -> FloatArray:
    full = np.full(len(present), np.nan)
    full[present] = values
    return full


def _fdr(p: FloatArray) -> FloatArray:
    known = np.isfinite(p)
    return _among(adjust_p_values(p[known]), known)


def _filtered_fdr(p: FloatArray, base_mean: FloatArray, alpha: float) -> FloatArray:
    """Return the FDR without the genes whose low mean only costs power (Bourgon et al. 2010).

    The share left out is the lowest of 50 whose number of rejections reaches a smooth curve's maximum but for noise.
    """
    low = float(np.mean(base_mean == 0))
    shares = np.linspace(low, 0.95 if low < 0.95 else 1.0, _FILTER_STEPS)
    adjusted = [_fdr(np.where(base_mean >= cut, p, np.nan)) for cut in np.quantile(base_mean, shares)]
    rejected = np.array([np.sum(fdr < alpha) for fdr in adjusted], dtype=np.float64)
    if rejected.max() <= 10:
        return adjusted[0]
    smooth = fit_lowess(shares, rejected, span=1 / 5)(shares)
    some = rejected > 0
    threshold = smooth.max() - math.sqrt(np.mean((rejected[some] - smooth[some]) ** 2))
    above = np.flatnonzero(rejected > threshold)
    return adjusted[above[0] if above.size else 0]
