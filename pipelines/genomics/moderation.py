"""Empirical Bayes moderation of gene-wise variances and the odds of a difference (Smyth 2004)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from pipelines.genomics.expression import FloatArray
from services.shared.errors import TooFewCases

_CHANGED = 0.01  # prior share of genes that differ
_PRIOR_SD = (0.1, 4.0)  # limits of a changed gene's prior standard deviation, log2 units


@dataclass(frozen=True)
class Prior:
    """Scaled inverse chi-square prior of the variances.

    Parameters
    ----------
    df
        Prior degrees of freedom; infinite where variances differ no more than by chance.
    variance
        Prior variance: shape (1,), or (genes,) where it follows average expression.
    """

    df: float
    variance: FloatArray

    def squeeze(self, variance: FloatArray, df: int) -> FloatArray:
        """Return posterior variances, shape (genes,)."""
        if math.isinf(self.df):
            return np.broadcast_to(self.variance, variance.shape).copy()
        result: FloatArray = (df * variance + self.df * self.variance) / (df + self.df)
        return result


def fit_variance_prior(variance: FloatArray, df: int, *, trend_over: FloatArray | None = None) -> Prior:
    """Match moments of the log variances with a scaled F distribution (limma: ``fitFDist``).

    Parameters
    ----------
    variance
        Residual variances, shape (genes,), each with ``df`` degrees of freedom.
    trend_over
        Average expression, shape (genes,): the prior variance then follows it as a natural cubic spline.
    """
    n = variance.size
    if n < 2:
        raise TooFewCases("Variances cannot be moderated with one gene.", step="fit_variance_prior", got=n)
    middle = float(np.median(variance)) or 1.0
    variance = np.maximum(variance, 1e-5 * middle)
    e = np.log(variance) - special.digamma(df / 2) + math.log(df / 2)
    basis = _spline_basis(trend_over) if trend_over is not None else None
    if basis is None:
        centre: FloatArray = np.array([e.mean()])
        spread = float(e.var(ddof=1))
    else:
        q, _ = np.linalg.qr(basis)
        centre = q @ (q.T @ e)
        spread = float(np.sum((e - centre) ** 2) / (n - basis.shape[1]))
    spread -= float(special.polygamma(1, df / 2))
    if spread <= 0:
        return Prior(df=math.inf, variance=np.array([variance.mean()]) if basis is None else np.exp(centre))
    prior_df = 2 * _inverse_trigamma(spread)
    return Prior(df=prior_df, variance=np.exp(centre + special.digamma(prior_df / 2) - math.log(prior_df / 2)))


def log_odds(t: FloatArray, unscaled: FloatArray, df_total: float, prior: Prior) -> FloatArray:
    """Return the log odds that each gene differs (limma's B), given 1 % do.

    Parameters
    ----------
    t, unscaled
        Moderated t and standard error over sigma, shape (genes,).
    df_total
        Degrees of freedom of t.
    """
    middle = float(np.median(prior.variance))
    limits = (_PRIOR_SD[0] ** 2 / middle, _PRIOR_SD[1] ** 2 / middle)
    ratio = (unscaled**2 + _effect_variance(t, unscaled, df_total, limits)) / unscaled**2
    if prior.df > 1e6:
        kernel = t**2 * (1 - 1 / ratio) / 2
    else:
        kernel = (1 + df_total) / 2 * np.log((t**2 + df_total) / (t**2 / ratio + df_total))
    result: FloatArray = math.log(_CHANGED / (1 - _CHANGED)) - np.log(ratio) / 2 + kernel
    return result


def _effect_variance(t: FloatArray, unscaled: FloatArray, df: float, limits: tuple[float, float]) -> float:
    """Return the prior variance of changed genes over sigma squared, from the largest t (limma: tmixture.vector)."""
    genes = t.size
    count = math.ceil(_CHANGED / 2 * genes)
    share = max(count / genes, _CHANGED)
    top = np.argsort(-np.abs(t), kind="stable")[:count]
    size, base = np.abs(t[top]), unscaled[top] ** 2
    p0 = 2 * stats.t.sf(size, df)
    target = ((np.arange(1, count + 1) - 0.5) / genes - (1 - share) * p0) / share
    found = np.zeros(count)
    above = target > p0
    found[above] = base[above] * ((size[above] / stats.t.isf(target[above] / 2, df)) ** 2 - 1)
    return float(np.clip(found, limits[0], limits[1]).mean())


def _inverse_trigamma(value: float) -> float:
    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y


def _spline_basis(x: FloatArray) -> FloatArray | None:
    """Return a basis of natural cubic splines, shape (genes, up to 4), with knots at quantiles of x.

    None where x has a single value. The basis spans what R's ``ns(x, df, intercept = TRUE)`` spans.
    """
    size = min(1 + (x.size >= 3) + (x.size >= 6) + (x.size >= 30), np.unique(x).size)
    if size < 2:
        return None
    x = (x - x.min()) / np.ptp(x)
    knots = np.array([0.0, *np.quantile(x, np.linspace(0, 1, size)[1:-1]), 1.0])

    def chord(k: int) -> FloatArray:
        rising = np.clip(x - knots[k], 0, None) ** 3 - np.clip(x - knots[-1], 0, None) ** 3
        result: FloatArray = rising / (knots[-1] - knots[k])
        return result

    last = chord(len(knots) - 2)
    return np.column_stack([np.ones_like(x), x, *(chord(k) - last for k in range(len(knots) - 2))])
