"""Robust locally weighted regression on one variable (Cleveland 1979), with R's choices of span, skips and weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.genomics.expression import FloatArray

_ROBUST_ITERATIONS = 3


def fit_lowess(x: FloatArray, y: FloatArray, *, span: float) -> Callable[[FloatArray], FloatArray]:
    """Return the smooth curve through points, constant beyond their range.

    R: ``approxfun(lowess(x, y, f), rule = 2)``.

    Parameters
    ----------
    x, y
        Shape (n,). Points closer than 1 % of the range of x are interpolated, not fitted.
    span
        Fraction of the points in each local fit.
    """
    order = np.argsort(x, kind="stable")
    xs, ys = x[order], y[order]
    fitted = _smooth(xs, ys, span)
    at, first = np.unique(xs, return_inverse=True)
    mean = np.bincount(first, weights=fitted) / np.bincount(first)
    return lambda new: np.interp(new, at, mean)


def _smooth(x: FloatArray, y: FloatArray, span: float) -> FloatArray:
    n = x.size
    if n < 2:
        return y.copy()
    neighbours = max(2, min(n, int(span * n + 1e-7)))
    skip = 0.01 * (x[-1] - x[0])
    robustness = np.ones(n)
    fitted = y.copy()
    for iteration in range(_ROBUST_ITERATIONS + 1):
        fitted = _pass(x, y, neighbours, skip, robustness)
        if iteration == _ROBUST_ITERATIONS:
            break
        residual = np.abs(y - fitted)
        middle = np.sort(residual)
        scale = 3.0 * (middle[n // 2] + middle[n - n // 2 - 1])  # six medians
        if scale < 1e-7 * residual.mean():
            break
        ratio = residual / scale
        robustness = np.where(ratio <= 0.001, 1.0, np.where(ratio <= 0.999, (1 - ratio**2) ** 2, 0.0))
    return fitted


def _pass(x: FloatArray, y: FloatArray, neighbours: int, skip: float, robustness: FloatArray) -> FloatArray:
    n = x.size
    fitted = np.empty(n)
    left, last, i = 0, -1, 0
    while True:
        while left + neighbours < n and x[i] - x[left] > x[left + neighbours] - x[i]:
            left += 1
        local = _fit_at(x, y, x[i], left, left + neighbours, robustness)
        fitted[i] = y[i] if local is None else local
        if last < i - 1:
            gap = (x[last + 1 : i] - x[last]) / (x[i] - x[last])
            fitted[last + 1 : i] = gap * fitted[i] + (1 - gap) * fitted[last]
        last = i
        cut = x[last] + skip
        i = last + 1
        while i < n and x[i] <= cut:
            if x[i] == x[last]:
                fitted[i] = fitted[last]
                last = i
            i += 1
        i = max(last + 1, i - 1)
        if last >= n - 1:
            return fitted


def _fit_at(x: FloatArray, y: FloatArray, at: float, left: int, right: int, robustness: FloatArray) -> float | None:
    reach = max(at - x[left], x[right - 1] - at)
    # Ties with the farthest neighbour to its right take part too.
    right = max(right, int(np.searchsorted(x, at + 0.999 * reach, side="right")))
    xs, ys = x[left:right], y[left:right]
    distance = np.abs(xs - at)
    weight = np.where(
        distance <= 0.001 * reach,
        1.0,
        np.where(distance <= 0.999 * reach, (1 - (distance / max(reach, 1e-300)) ** 3) ** 3, 0.0),
    )
    weight = weight * robustness[left:right]
    total = weight.sum()
    if total <= 0:
        return None
    weight /= total
    if reach > 0:
        centre = weight @ xs
        squares = weight @ (xs - centre) ** 2
        if np.sqrt(squares) > 0.001 * (x[-1] - x[0]):
            weight = weight * ((at - centre) / squares * (xs - centre) + 1)
    return float(weight @ ys)
