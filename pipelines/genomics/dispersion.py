"""Dispersions of counts shared between genes: gene-wise estimates, their trend over the mean, and shrinkage to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

from pipelines.genomics.expression import FloatArray
from pipelines.genomics.negative_binomial import LEAST_DISPERSION, LEAST_MEAN, fit_coefficients, fit_dispersions
from services.shared.errors import TooFewCases

Trend = Literal["parametric", "local"]
_LEAST_PRIOR_VARIANCE = 0.25
_OUTLIER_SD = 2.0
_FEW_DF = 3  # residual degrees of freedom up to which log chi-square is too skew for its variance to be subtracted


@dataclass(frozen=True)
class DispersionTrend:
    """Trend of the dispersion over the mean of normalised counts, and the prior around it.

    Parameters
    ----------
    kind
        ``parametric``: asymptote + extra / mean; ``local``: local regression on the log scale.
    curve
        Dispersion at given means.
    parametric
        Asymptote and extra of a parametric trend.
    spread
        Variance of the log gene-wise estimates around the curve (robust).
    prior_variance
        Variance of the log dispersion around the curve beyond sampling.
    """

    kind: Trend
    curve: Callable[[FloatArray], FloatArray]
    parametric: tuple[float, float] | None
    spread: float
    prior_variance: float


def gene_wise(counts: FloatArray, x: FloatArray, size: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return gene-wise dispersions, shape (genes,), and fitted means, shape (genes, samples).

    Parameters
    ----------
    counts
        Genes x samples, no gene all zero.
    x, size
        Design and size factors.
    """
    normalised = counts / size
    samples, terms = x.shape
    q, _ = np.linalg.qr(x)
    linear = normalised @ q @ q.T
    bounded = np.maximum(linear, 1.0)
    rough = np.maximum(np.sum(((normalised - bounded) ** 2 - bounded) / bounded**2, axis=1) / (samples - terms), 0)
    mean, variance = normalised.mean(axis=1), normalised.var(axis=1, ddof=1)
    moments = (variance - np.mean(1 / size) * mean) / mean**2
    start = np.clip(np.minimum(rough, moments), LEAST_DISPERSION, _largest(samples))
    groups = len(np.unique(x, axis=0))
    mu = linear * size if groups == terms else fit_coefficients(counts, x, size, start).mu
    mu = np.maximum(mu, LEAST_MEAN)
    found = fit_dispersions(counts, x, mu, start)
    return np.clip(found, LEAST_DISPERSION, _largest(samples)), mu


def fit_trend(means: FloatArray, dispersions: FloatArray, *, df: int) -> DispersionTrend:
    """Fit the trend and the prior; a parametric trend that fails gives way to a local one.

    Parameters
    ----------
    means, dispersions
        Mean of normalised counts and gene-wise dispersion, shape (genes,).
    df
        Residual degrees of freedom.
    """
    used = dispersions > 100 * LEAST_DISPERSION
    if used.sum() < 3:
        raise TooFewCases(
            "Hardly any gene varies more than Poisson counts do.", step="fit_trend", got=f"{int(used.sum())} genes"
        )
    coefficients = _fit_parametric(means[used], dispersions[used])
    kind: Trend
    if coefficients is None:
        kind, curve = "local", _fit_local(means[used], dispersions[used])
    else:
        asymptote, extra = coefficients
        kind, curve = "parametric", lambda at: asymptote + extra / at
    residual = np.log(dispersions) - np.log(curve(means))
    above = dispersions >= 100 * LEAST_DISPERSION
    spread = float(stats.median_abs_deviation(residual[above], scale=1 / 1.4826)) ** 2
    beyond = _match_residuals(residual[above], df) if df <= _FEW_DF else spread - float(special.polygamma(1, df / 2))
    return DispersionTrend(kind, curve, coefficients, spread, max(beyond, _LEAST_PRIOR_VARIANCE))


def shrink(
    counts: FloatArray, x: FloatArray, mu: FloatArray, own: FloatArray, means: FloatArray, trend: DispersionTrend
) -> FloatArray:
    """Return final dispersions: posterior modes, but a gene far above the trend keeps its own estimate."""
    fitted = trend.curve(means)
    start = np.where(own > 0.1 * fitted, own, fitted)
    mode = fit_dispersions(counts, x, mu, start, prior_mean=fitted, prior_variance=trend.prior_variance)
    mode = np.clip(mode, LEAST_DISPERSION, _largest(len(x)))
    outlier = np.log(own) > np.log(fitted) + _OUTLIER_SD * math.sqrt(trend.spread)
    return np.where(outlier, own, mode)


def _match_residuals(residual: FloatArray, df: int) -> float:
    """Return the variance of a normal that, added to log(chi-square / df), comes closest to the residuals.

    Closest in Kullback-Leibler divergence over bins of one half; DESeq2 finds it by simulation, this by quadrature.
    """
    breaks = np.arange(-20, 21) / 2
    observed = np.histogram(residual, breaks)[0].astype(np.float64)
    observed /= observed.sum() / 2
    sampling = np.log(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, df) / df)
    floor = min(observed[observed > 0].min(), 2e-4)  # what 10,000 draws can show
    best, least = 0.0, math.inf
    for variance in np.linspace(0, 8, 200):
        sd = max(math.sqrt(variance), 1e-6)
        expected = 2 * np.diff(special.ndtr((breaks[:, None] - sampling) / sd).mean(axis=1))
        divergence = float(np.sum(observed * (np.log(observed + floor) - np.log(expected + floor))))
        if divergence < least:
            best, least = float(variance), divergence
    return best


def _largest(samples: int) -> float:
    return float(max(10, samples))


def _fit_parametric(means: FloatArray, dispersions: FloatArray) -> tuple[float, float] | None:
    """Fit a gamma regression with identity link, leaving out genes far from the curve, until it settles."""
    coefficients: FloatArray = np.array([0.1, 1.0])
    for _ in range(11):
        ratio = dispersions / (coefficients[0] + coefficients[1] / means)
        good = (ratio > 1e-4) & (ratio < 15)
        fitted = _gamma_regression(dispersions[good], 1 / means[good], coefficients)
        if fitted is None or not (fitted > 0).all():
            return None
        settled = np.sum(np.log(fitted / coefficients) ** 2) < 1e-6
        coefficients = fitted
        if settled:
            return float(fitted[0]), float(fitted[1])
    return None


def _gamma_regression(y: FloatArray, inverse_mean: FloatArray, start: FloatArray) -> FloatArray | None:
    x = np.column_stack([np.ones_like(inverse_mean), inverse_mean])
    beta, deviance = start, math.inf
    for _ in range(25):
        mu = x @ beta
        if not (mu > 0).all():
            return None
        root = 1 / mu
        beta = np.asarray(np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0], dtype=np.float64)
        mu = x @ beta
        if not (mu > 0).all():
            return None
        now = float(-2 * np.sum(np.log(y / mu) - (y - mu) / mu))
        if abs(now - deviance) / (abs(now) + 0.1) < 1e-8:
            return beta
        deviance = now
    return None


def _fit_local(means: FloatArray, dispersions: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Fit a local quadratic over 70 % nearest neighbours, weighted by mean, on the log scale (Loader 1999).

    Fits are made at the ends of cells no wider than 0.8 bandwidths and joined by cubic Hermite polynomials (R: locfit).
    """
    x, y = np.log(means), np.log(dispersions)
    neighbours = max(3, int(0.7 * len(x) + 1e-12))

    def fit_at(at: float) -> tuple[float, float, float]:
        distance = np.abs(x - at)
        reach = float(np.partition(distance, neighbours - 1)[neighbours - 1])
        near = distance < reach
        weight = np.sqrt(means[near] * (1 - (distance[near] / reach) ** 3) ** 3)
        centred = x[near] - at
        basis = np.column_stack([np.ones_like(centred), centred, centred**2 / 2]) * weight[:, None]
        value, slope, _ = np.linalg.lstsq(basis, y[near] * weight, rcond=None)[0]
        return float(value), float(slope), reach

    bend = float(np.polyfit(x - x.mean(), y, 2, w=np.sqrt(means))[0])
    ends = [float(x.min()), float(x.max())]
    fits = {at: fit_at(at) for at in ends}
    pending = [(ends[0], ends[1])]
    while pending:
        low, high = pending.pop()
        if high - low <= 0.8 * min(fits[low][2], fits[high][2]):
            continue
        middle = (low + high) / 2
        fits[middle] = fit_at(middle)
        pending += [(low, middle), (middle, high)]
    knots = np.array(sorted(fits))
    values, slopes = np.array([fits[k][0] for k in knots]), np.array([fits[k][1] for k in knots])

    def curve(at: FloatArray) -> FloatArray:
        log_at = np.log(at)
        cell = np.clip(np.searchsorted(knots, log_at, side="right") - 1, 0, len(knots) - 2)
        width = knots[cell + 1] - knots[cell]
        t = np.clip((log_at - knots[cell]) / width, 0.0, 1.0)
        smooth = (
            values[cell] * (1 + 2 * t) * (1 - t) ** 2
            + slopes[cell] * width * t * (1 - t) ** 2
            + values[cell + 1] * t**2 * (3 - 2 * t)
            + slopes[cell + 1] * width * t**2 * (t - 1)
        )
        # Beyond the ends: straight on, bent as the one quadratic through all genes.
        before, after = np.minimum(log_at - knots[0], 0), np.maximum(log_at - knots[-1], 0)
        smooth += slopes[0] * before + slopes[-1] * after + bend * (before + after) ** 2
        return np.asarray(np.exp(smooth))

    return curve
