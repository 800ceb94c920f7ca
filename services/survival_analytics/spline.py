"""Interpolation as R does it: the Forsythe–Malcolm–Moler cubic spline, and lines through sorted points."""

from __future__ import annotations

import numpy as np

from services.survival_analytics.inputs import FloatArray


def natural_grid(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a cubic spline through points, on three times as many equidistant abscissae (R: ``spline(x, y)``).

    The end slopes come from the cubics through the first and the last four points (Forsythe, Malcolm and Moler 1977).
    """
    grid = np.linspace(x[0], x[-1], 3 * x.size)
    return grid, fmm_spline(x, y, grid)


def fmm_spline(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Evaluate the Forsythe–Malcolm–Moler spline; beyond the ends the end cubics go on."""
    n = x.size
    if n < 2:
        return np.full(at.size, float(y[0]))
    h = np.diff(x)
    slope = np.diff(y) / h
    if n == 2:
        return np.asarray(y[0] + slope[0] * (at - x[0]))
    matrix = np.zeros((n, n))
    right = np.zeros(n)
    for i in range(1, n - 1):
        matrix[i, i - 1], matrix[i, i], matrix[i, i + 1] = h[i - 1], 2 * (h[i - 1] + h[i]), h[i]
        right[i] = slope[i] - slope[i - 1]
    matrix[0, 0], matrix[0, 1] = -h[0], h[0]
    matrix[-1, -1], matrix[-1, -2] = -h[-1], h[-1]
    if n > 3:
        third = np.diff(slope) / (x[2:] - x[:-2])
        fourth = np.diff(third) / (x[3:] - x[:-3])
        right[0] = fourth[0] * h[0] ** 2
        right[-1] = -fourth[-1] * h[-1] ** 2
    c = np.linalg.solve(matrix, right)
    b = np.empty(n)
    b[:-1] = slope - h * (c[1:] + 2 * c[:-1])
    b[-1] = slope[-1] + h[-1] * (c[-2] + 2 * c[-1])
    d = np.append(np.diff(c) / h, (c[-1] - c[-2]) / h[-1])
    c = 3 * c
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, n - 1)
    gap = at - x[piece]
    cubic = np.where(piece == 0, np.where(at < x[0], 0.0, d[piece]), d[piece])
    return y[piece] + gap * (b[piece] + gap * (c[piece] + gap * cubic))


def interpolate_sorted(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Interpolate linearly; points with equal x are averaged, and outside the range there is NaN (R: ``approx``)."""
    levels, index = np.unique(x, return_inverse=True)
    tied = levels.size < x.size
    y = np.bincount(index, weights=y) / np.bincount(index) if tied else y[np.argsort(x, kind="stable")]
    if levels.size < 2:
        return np.where(at == levels[0], y[0], np.nan)
    return np.interp(at, levels, y, left=np.nan, right=np.nan)
