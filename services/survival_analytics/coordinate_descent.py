"""Compiled coordinate descent along a path of penalties, for the Cox and the logistic likelihood.

The iteration is that of Friedman, Hastie and Tibshirani (2010) and Simon et al. (2011): a quadratic approximation of
the likelihood with diagonal weights, cyclic updates over the covariates that the strong rule keeps, then over the
active ones, and a check of the optimality conditions of all others. Its stopping rules are those of R's ``glmnet``, so
that a fit at the same threshold stops at the same coefficients.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MAX_EXPONENT = 300.0  # squares of sums over risk sets stay representable; a fit this far out orders every death
MIN_PROBABILITY = 1e-9
MIN_LAMBDAS = 5
MIN_GAIN = 1e-5
FAST = {"reassoc", "contract", "arcp"}


@njit(cache=True, fastmath=FAST, nogil=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(cache=True, fastmath=FAST, nogil=True)
def _weighted_square(w, x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.shape[0]):
        total += w[i] * x[i] * x[i]
    return total


@njit(cache=True, fastmath=FAST, nogil=True)
def _subtract_weighted(residual, change, weight, x):  # type: ignore[no-untyped-def]
    for i in range(residual.shape[0]):
        residual[i] -= change * weight[i] * x[i]


@njit(cache=True, fastmath=FAST, nogil=True)
def _add_linear(eta, beta, before, active, n_active, x):  # type: ignore[no-untyped-def]
    for a in range(n_active):
        j = active[a]
        change = beta[j] - before[j]
        if change != 0.0:
            for i in range(eta.shape[0]):
                eta[i] += change * x[j, i]


@njit(cache=True, nogil=True)
def _soft(u, l1, curvature, l2):  # type: ignore[no-untyped-def]
    if abs(u) <= l1:
        return 0.0
    if u > 0:
        return (u - l1) / (curvature + l2)
    return (u + l1) / (curvature + l2)


@njit(cache=True, nogil=True)
def _cox_derivatives(eta, mass, died, deaths, stop, first_used, top, exp_eta, weight, residual):  # type: ignore[no-untyped-def]
    """Fill weights and gradients per patient (sorted by time); return the log partial likelihood."""
    n = eta.shape[0]
    blocks = stop.shape[0]
    for i in range(n):
        value = eta[i]
        if value > top:
            value = top
        elif value < -top:
            value = -top
        exp_eta[i] = mass[i] * np.exp(value)
    at_risk = np.empty(blocks)
    total = 0.0
    for b in range(blocks - 1, -1, -1):
        begin = stop[b - 1] if b > 0 else first_used
        for i in range(stop[b] - 1, begin - 1, -1):
            total += exp_eta[i]
        at_risk[b] = total
    value = 0.0
    hazard = 0.0
    squared = 0.0
    for i in range(first_used):
        weight[i] = 0.0
        residual[i] = 0.0
    for b in range(blocks):
        begin = stop[b - 1] if b > 0 else first_used
        hazard += deaths[b] / at_risk[b]
        squared += deaths[b] / at_risk[b] ** 2
        value -= deaths[b] * np.log(at_risk[b])
        for i in range(begin, stop[b]):
            weight[i] = exp_eta[i] * (hazard - exp_eta[i] * squared)
            residual[i] = died[i] - exp_eta[i] * hazard
            value += died[i] * eta[i]
    return value


@njit(cache=True, nogil=True)
def cox_path(  # type: ignore[no-untyped-def]
    x,
    mass,
    died,
    deaths,
    stop,
    first_used,
    usable,
    penalty,
    l1_ratio,
    lambdas,
    free,
    ratio,
    count,
    threshold,
    max_passes,
):
    """Fit a path for the Cox likelihood.

    ``x`` has shape (p, n), standardised, patients by ascending time. Returns coefficients (k, p), lambdas, the
    fraction of deviance explained, the null log-likelihood ratio, the number of lambdas fitted, and passes.
    """
    p, n = x.shape
    coefficients = np.zeros((count, p))
    fitted_lambda = np.zeros(count)
    explained = np.zeros(count)
    beta = np.zeros(p)
    before = np.zeros(p)
    gradient = np.zeros(p)
    strong = np.zeros(p, dtype=np.bool_)
    listed = np.zeros(p, dtype=np.bool_)
    active = np.empty(p, dtype=np.int64)
    n_active = 0
    curvature = np.zeros(p)
    eta = np.zeros(n)
    exp_eta = np.empty(n)
    weight = np.empty(n)
    residual = np.empty(n)
    null = _cox_derivatives(eta, mass, died, deaths, stop, first_used, MAX_EXPONENT, exp_eta, weight, residual)
    saturated = 0.0
    for b in range(deaths.shape[0]):
        saturated -= deaths[b] * np.log(deaths[b])
    scale = saturated - null
    limit = threshold * scale
    for j in range(p):
        if usable[j]:
            gradient[j] = abs(_dot(residual, x[j]))
    lam = 0.0
    passes = 0
    done = 0
    for k in range(count):
        previous = lam
        if not free:
            lam = lambdas[k]
        elif k > 1:
            lam = lam * ratio
        elif k == 0:
            lam = 9.9e35
        else:
            previous = 0.0
            for j in range(p):
                if usable[j] and penalty[j] > 0.0:
                    previous = max(previous, gradient[j] / penalty[j])
            previous = previous / max(l1_ratio, 1e-3)
            lam = ratio * previous
        l1 = l1_ratio * lam
        l2 = (1.0 - l1_ratio) * lam
        keep = l1_ratio * (2.0 * lam - previous)
        for j in range(p):
            if usable[j] and not strong[j] and gradient[j] > keep * penalty[j]:
                strong[j] = True
        while True:
            if passes > max_passes:
                return coefficients, fitted_lambda, explained, scale, done, -passes
            for a in range(n_active):
                before[active[a]] = beta[active[a]]
            for j in range(p):
                if strong[j]:
                    curvature[j] = _weighted_square(weight, x[j])
            while True:
                passes += 1
                largest = 0.0
                for j in range(p):
                    if not strong[j] or curvature[j] <= 0.0:
                        continue  # a column on which the likelihood is flat by now stays where it is
                    u = beta[j] * curvature[j] + _dot(residual, x[j])
                    new = _soft(u, penalty[j] * l1, curvature[j], penalty[j] * l2)
                    if new != beta[j]:
                        change = new - beta[j]
                        beta[j] = new
                        largest = max(largest, curvature[j] * change * change)
                        if not listed[j]:
                            listed[j] = True
                            active[n_active] = j
                            n_active += 1
                        _subtract_weighted(residual, change, weight, x[j])
                if largest < limit or passes > max_passes:
                    break
                while True:
                    passes += 1
                    largest = 0.0
                    for a in range(n_active):
                        j = active[a]
                        if curvature[j] <= 0.0:
                            continue
                        u = beta[j] * curvature[j] + _dot(residual, x[j])
                        new = _soft(u, penalty[j] * l1, curvature[j], penalty[j] * l2)
                        if new != beta[j]:
                            change = new - beta[j]
                            beta[j] = new
                            largest = max(largest, curvature[j] * change * change)
                            _subtract_weighted(residual, change, weight, x[j])
                    if largest < limit or passes > max_passes:
                        break
            _add_linear(eta, beta, before, active, n_active, x)
            value = _cox_derivatives(eta, mass, died, deaths, stop, first_used, MAX_EXPONENT, exp_eta, weight, residual)
            moved = False
            for a in range(n_active):
                j = active[a]
                if curvature[j] * (beta[j] - before[j]) ** 2 >= limit:
                    moved = True
                    break
            if not moved:
                for j in range(p):
                    if usable[j] and not strong[j]:
                        gradient[j] = abs(_dot(residual, x[j]))
                        if gradient[j] > l1 * penalty[j]:
                            strong[j] = True
                            moved = True
                if not moved:
                    break
        coefficients[k] = beta
        fitted_lambda[k] = lam
        explained[k] = (value - null) / scale
        done = k + 1
        if k + 1 < min(MIN_LAMBDAS, count) or not free:
            continue
        if (explained[k] - explained[k - MIN_LAMBDAS + 1]) / explained[k] < 100.0 * MIN_GAIN:
            break
        if explained[k] > 0.99:
            break
    return coefficients, fitted_lambda, explained, scale, done, passes


@njit(cache=True, nogil=True)
def _logistic_state(x, y, mass, beta, intercept, active, n_active, eta, probability, weight, residual):  # type: ignore[no-untyped-def]
    n = y.shape[0]
    top = np.log(1.0 / MIN_PROBABILITY - 1.0)
    for i in range(n):
        eta[i] = intercept
    for a in range(n_active):
        j = active[a]
        if beta[j] != 0.0:
            for i in range(n):
                eta[i] += beta[j] * x[j, i]
    total = 0.0
    for i in range(n):
        if eta[i] < -top:
            probability[i] = 0.0
        elif eta[i] > top:
            probability[i] = 1.0
        else:
            probability[i] = 1.0 / (1.0 + np.exp(-eta[i]))
        weight[i] = mass[i] * probability[i] * (1.0 - probability[i])
        total += weight[i]
        residual[i] = mass[i] * (y[i] - probability[i])
    return total


@njit(cache=True, nogil=True)
def _logistic_deviance(y, mass, probability):  # type: ignore[no-untyped-def]
    value = 0.0
    for i in range(y.shape[0]):
        q = min(max(probability[i], MIN_PROBABILITY), 1.0 - MIN_PROBABILITY)
        value -= mass[i] * (y[i] * np.log(q) + (1.0 - y[i]) * np.log(1.0 - q))
    return value


@njit(cache=True, nogil=True)
def logistic_path(  # type: ignore[no-untyped-def]
    x, y, mass, usable, penalty, l1_ratio, lambdas, free, ratio, count, threshold, max_passes
):
    """Fit a path for the logistic likelihood; as :func:`cox_path`, with intercepts."""
    p, n = x.shape
    coefficients = np.zeros((count, p))
    intercepts = np.zeros(count)
    fitted_lambda = np.zeros(count)
    explained = np.zeros(count)
    beta = np.zeros(p)
    before = np.zeros(p)
    gradient = np.zeros(p)
    strong = np.zeros(p, dtype=np.bool_)
    listed = np.zeros(p, dtype=np.bool_)
    active = np.empty(p, dtype=np.int64)
    n_active = 0
    curvature = np.zeros(p)
    eta = np.empty(n)
    probability = np.empty(n)
    weight = np.empty(n)
    residual = np.empty(n)
    share = _dot(mass, y)
    intercept = np.log(share / (1.0 - share))
    total = _logistic_state(x, y, mass, beta, intercept, active, 0, eta, probability, weight, residual)
    null = _logistic_deviance(y, mass, probability)
    limit = threshold * null
    smallest = (1.0 + MIN_PROBABILITY) * MIN_PROBABILITY * (1.0 - MIN_PROBABILITY)
    for j in range(p):
        if usable[j]:
            gradient[j] = abs(_dot(residual, x[j]))
            curvature[j] = _weighted_square(weight, x[j])
    lam = 0.0
    passes = 0
    done = 0
    for k in range(count):
        previous = lam
        if not free:
            lam = lambdas[k]
        elif k > 1:
            lam = lam * ratio
        elif k == 0:
            lam = 9.9e35
        else:
            previous = 0.0
            for j in range(p):
                if usable[j] and penalty[j] > 0.0:
                    previous = max(previous, gradient[j] / penalty[j])
            previous = previous / max(l1_ratio, 1e-3)
            lam = ratio * previous
        l1 = l1_ratio * lam
        l2 = (1.0 - l1_ratio) * lam
        keep = l1_ratio * (2.0 * lam - previous)
        for j in range(p):
            if usable[j] and not strong[j] and gradient[j] > keep * penalty[j]:
                strong[j] = True
        while True:
            if passes > max_passes:
                return coefficients, intercepts, fitted_lambda, explained, null, done, -passes
            intercept_before = intercept
            for a in range(n_active):
                before[active[a]] = beta[active[a]]
            for j in range(p):
                if strong[j]:
                    curvature[j] = _weighted_square(weight, x[j])
            full = True
            while True:
                passes += 1
                largest = 0.0
                size = p if full else n_active
                for a in range(size):
                    j = a if full else active[a]
                    if full and not strong[j]:
                        continue
                    u = beta[j] * curvature[j] + _dot(residual, x[j])
                    new = _soft(u, penalty[j] * l1, curvature[j], penalty[j] * l2)
                    if new != beta[j]:
                        change = new - beta[j]
                        beta[j] = new
                        largest = max(largest, curvature[j] * change * change)
                        for i in range(n):
                            residual[i] -= change * weight[i] * x[j, i]
                        if not listed[j]:
                            listed[j] = True
                            active[n_active] = j
                            n_active += 1
                step = 0.0
                for i in range(n):
                    step += residual[i]
                step /= total
                if step != 0.0:
                    intercept += step
                    largest = max(largest, total * step * step)
                    for i in range(n):
                        residual[i] -= step * weight[i]
                if passes > max_passes:
                    break
                if largest < limit:
                    if full:
                        break
                    full = True
                else:
                    full = False
            total = _logistic_state(x, y, mass, beta, intercept, active, n_active, eta, probability, weight, residual)
            if total <= smallest:
                break
            moved = total * (intercept - intercept_before) ** 2 >= limit
            if not moved:
                for a in range(n_active):
                    j = active[a]
                    if curvature[j] * (beta[j] - before[j]) ** 2 >= limit:
                        moved = True
                        break
            if not moved:
                for j in range(p):
                    if usable[j] and not strong[j]:
                        gradient[j] = abs(_dot(residual, x[j]))
                        if gradient[j] > l1 * penalty[j]:
                            strong[j] = True
                            moved = True
                if not moved:
                    break
        coefficients[k] = beta
        intercepts[k] = intercept
        fitted_lambda[k] = lam
        explained[k] = (null - _logistic_deviance(y, mass, probability)) / null
        done = k + 1
        if k + 1 < min(MIN_LAMBDAS, count) or not free:
            continue
        if explained[k] - explained[k - 1] < MIN_GAIN or explained[k] > 0.999 or total <= smallest:
            break
    return coefficients, intercepts, fitted_lambda, explained, null, done, passes
