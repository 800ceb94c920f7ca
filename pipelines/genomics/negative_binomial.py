"""Negative binomial regression of many genes at once: coefficients by reweighted least squares, and dispersions.

Numerical choices (start, step rule, stopping) are those of DESeq2 1.38, because its results depend on them.
Arrays are genes x samples; ``mu`` is the fitted mean of a count, ``alpha`` the dispersion: var = mu + alpha mu^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from pipelines.genomics.expression import FloatArray

LEAST_DISPERSION = 1e-8
LEAST_MEAN = 0.5
_RIDGE = 1e-6 / np.log(2) ** 2
_LARGEST_COEFFICIENT = 30.0
_TOLERANCE = 1e-8
_ITERATIONS = 100
_DISPERSION_TOLERANCE = 1e-6
_ARMIJO = 1e-4
_LOG_ALPHA = (-30.0, 10.0)


@dataclass(frozen=True)
class Regression:
    """Fitted coefficients (natural log scale), shape (genes, coefficients), with what follows from them."""

    coefficients: FloatArray
    covariance: FloatArray  # (genes, coefficients, coefficients)
    mu: FloatArray  # (genes, samples)
    leverage: FloatArray  # (genes, samples)


def fit_coefficients(counts: FloatArray, x: FloatArray, size: FloatArray, alpha: FloatArray) -> Regression:
    """Fit log(mu / size) = x beta given dispersions, with a ridge too weak to matter.

    Parameters
    ----------
    counts
        Shape (genes, samples).
    x
        Design, shape (samples, coefficients).
    size
        Size factors, shape (samples,).
    alpha
        Dispersions, shape (genes,).
    """
    q, r = np.linalg.qr(x)
    beta = np.linalg.solve(r, q.T @ np.log(counts / size + 0.1).T).T
    mu = np.maximum(size * np.exp(beta @ x.T), LEAST_MEAN)
    deviance = np.zeros(len(counts))
    active = np.arange(len(counts))
    failed = np.zeros(len(counts), bool)
    for iteration in range(_ITERATIONS):
        y, m, a = counts[active], mu[active], alpha[active, None]
        w = m / (1 + a * m)
        z = np.log(m / size) + (y - m) / m
        new = np.linalg.solve(_information(x, w) + _RIDGE * np.eye(x.shape[1]), ((w * z) @ x)[:, :, None])[:, :, 0]
        diverged = (np.abs(new) > _LARGEST_COEFFICIENT).any(axis=1)
        beta[active] = new
        mu[active] = np.maximum(size * np.exp(np.clip(new @ x.T, -300, 300)), LEAST_MEAN)
        now = -2 * log_likelihood(y, mu[active], a)
        change = np.abs(now - deviance[active]) / (np.abs(now) + 0.1)
        deviance[active] = now
        failed[active[diverged | np.isnan(change)]] = True
        going = ~diverged & ~np.isnan(change) & ((change >= _TOLERANCE) | (iteration == 0))
        active = active[going]
        if active.size == 0:
            break
    failed[active] = True
    for gene in np.flatnonzero(failed):
        beta[gene] = _search(counts[gene], x, size, alpha[gene], beta[gene])
    mu = size * np.exp(beta @ x.T)
    bounded = np.maximum(mu, LEAST_MEAN)
    w = bounded / (1 + alpha[:, None] * bounded)
    information = _information(x, w)
    inverse = np.linalg.inv(information + _RIDGE * np.eye(x.shape[1]))
    leverage = w * np.einsum("np,gpq,nq->gn", x, inverse, x)
    return Regression(beta, inverse @ information @ inverse, mu, leverage)


def log_likelihood(counts: FloatArray, mu: FloatArray, alpha: FloatArray) -> FloatArray:
    """Return the log likelihood of each gene, shape (genes,)."""
    n = 1 / alpha
    terms = (
        special.gammaln(counts + n)
        - special.gammaln(n)
        - special.gammaln(counts + 1)
        + special.xlogy(counts, mu / (n + mu))
        - n * np.log1p(mu * alpha)
    )
    result: FloatArray = terms.sum(axis=1)
    return result


def fit_dispersions(
    counts: FloatArray,
    x: FloatArray,
    mu: FloatArray,
    start: FloatArray,
    *,
    prior_mean: FloatArray | None = None,
    prior_variance: float = 1.0,
) -> FloatArray:
    """Maximise the Cox-Reid adjusted profile likelihood, with a log-normal prior where one is given.

    Parameters
    ----------
    counts, mu
        Shape (genes, samples).
    start, prior_mean
        Dispersion to start from and the prior's median, shape (genes,).
    prior_variance
        Variance of the log dispersion.

    Returns
    -------
    Dispersions, shape (genes,), not yet bounded.
    """
    centre = None if prior_mean is None else np.log(prior_mean)

    def value(at: FloatArray, rows: np.ndarray) -> FloatArray:
        return _log_posterior(at, counts[rows], x, mu[rows], None if centre is None else centre[rows], prior_variance)

    def slope(at: FloatArray, rows: np.ndarray) -> FloatArray:
        return _slope(at, counts[rows], x, mu[rows], None if centre is None else centre[rows], prior_variance)

    a = np.log(start)
    everyone = np.arange(len(a))
    lp, dlp = value(a, everyone), slope(a, everyone)
    first = lp.copy()
    kappa = np.ones(len(a))
    accepted = np.zeros(len(a), int)
    steps = np.zeros(len(a), int)
    active = everyone
    for _ in range(_ITERATIONS):
        if active.size == 0:
            break
        steps[active] += 1
        k, d, here = kappa[active], dlp[active], a[active]
        with np.errstate(divide="ignore", invalid="ignore"):
            k = np.where(here + k * d < _LOG_ALPHA[0], (_LOG_ALPHA[0] - here) / d, k)
            k = np.where(here + k * d > _LOG_ALPHA[1], (_LOG_ALPHA[1] - here) / d, k)
        proposed = here + k * d
        new = value(proposed, active)
        good = -new <= -lp[active] - k * _ARMIJO * d**2
        taken = active[good]
        accepted[taken] += 1
        a[taken] = proposed[good]
        change = new[good] - lp[taken]
        small = change < _DISPERSION_TOLERANCE
        vanishing = ~small & (a[taken] < np.log(LEAST_DISPERSION / 10))
        lp[taken] = np.where(vanishing, lp[taken], new[good])
        kappa[active[~good]] = k[~good] / 2
        on = taken[~small & ~vanishing]
        kappa[on] = np.minimum(k[good][~small & ~vanishing] * 1.1, 1.0)
        kappa[on[accepted[on] % 5 == 0]] /= 2
        if on.size:
            dlp[on] = slope(a[on], on)
        stopped = np.zeros(len(a), bool)
        stopped[taken[small | vanishing]] = True
        active = active[~stopped[active]]
    if prior_mean is None:
        stuck = lp < first + np.abs(first) / 1e6
        a[stuck] = np.log(start[stuck])
        again = ((steps == _ITERATIONS) | (steps == 1)) & (np.exp(a) > LEAST_DISPERSION * 10)
    else:
        again = steps == _ITERATIONS
    rows = np.flatnonzero(again)
    if rows.size:
        a[rows] = _grid_search(value, rows, max(10, counts.shape[1]))
    return np.exp(a)


def _grid_search(value, rows: np.ndarray, largest: int) -> FloatArray:  # type: ignore[no-untyped-def]
    grid = np.linspace(np.log(LEAST_DISPERSION), np.log(largest), 20)
    width = grid[1] - grid[0]
    coarse = np.column_stack([value(np.full(rows.size, at), rows) for at in grid])
    best = grid[np.argmax(coarse, axis=1)]
    offsets = np.linspace(-width, width, 20)
    fine = np.column_stack([value(best + offset, rows) for offset in offsets])
    result: FloatArray = best + offsets[np.argmax(fine, axis=1)]
    return result


def _log_posterior(
    a: FloatArray, y: FloatArray, x: FloatArray, mu: FloatArray, centre: FloatArray | None, variance: float
) -> FloatArray:
    alpha = np.exp(a)[:, None]
    n = 1 / alpha
    information = _information(x, 1 / (1 / mu + alpha))
    likelihood = np.sum(
        special.gammaln(y + n) - special.gammaln(n) - y * np.log(mu + n) - n * np.log1p(mu * alpha), axis=1
    )
    result: FloatArray = likelihood - 0.5 * np.linalg.slogdet(information)[1]
    return result if centre is None else result - 0.5 * (a - centre) ** 2 / variance


def _slope(
    a: FloatArray, y: FloatArray, x: FloatArray, mu: FloatArray, centre: FloatArray | None, variance: float
) -> FloatArray:
    alpha = np.exp(a)[:, None]
    n = 1 / alpha
    w = 1 / (1 / mu + alpha)
    adjustment = -0.5 * np.einsum("gpq,gqp->g", np.linalg.inv(_information(x, w)), _information(x, -(w**2)))
    share = mu * alpha
    inner = special.digamma(n) + np.log1p(share) - share / (1 + share) - special.digamma(y + n) + y / (mu + n)
    likelihood = (n**2)[:, 0] * inner.sum(axis=1)
    result: FloatArray = (likelihood + adjustment) * alpha[:, 0]
    return result if centre is None else result - (a - centre) / variance


def _information(x: FloatArray, w: FloatArray) -> FloatArray:
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    return (w @ products).reshape(len(w), x.shape[1], x.shape[1])


def _search(y: FloatArray, x: FloatArray, size: FloatArray, alpha: float, start: FloatArray) -> FloatArray:
    """Return coefficients of a gene whose iterations do not settle."""

    def loss(beta: FloatArray) -> float:
        mu = size * np.exp(np.clip(x @ beta, -300, 300))
        return float(-log_likelihood(y[None], mu[None], np.array([[alpha]]))[0] + 0.5 * _RIDGE * beta @ beta)

    begin = np.where(np.abs(start) < _LARGEST_COEFFICIENT, start, 0.0)
    bounds = [(-_LARGEST_COEFFICIENT, _LARGEST_COEFFICIENT)] * len(begin)
    return np.asarray(optimize.minimize(loss, begin, method="L-BFGS-B", bounds=bounds).x)
