"""Cleveland's local regression without robustness steps, number for number as R's ``lowess(iter = 0)``."""

from __future__ import annotations

import numpy as np

from services.survival_analytics.inputs import FloatArray


def smooth_lowess(x: FloatArray, y: FloatArray, *, fraction: float = 2 / 3) -> FloatArray:
    """Smooth y over ascending x.

    Parameters
    ----------
    x, y
        Shape (n,), x ascending.
    fraction
        Share of points in each local line.

    Notes
    -----
    Cleveland (1981). Lines are fitted at points at least a hundredth of the range apart and joined in between.
    """
    n = x.size
    delta = 0.01 * float(x[-1] - x[0])
    width = max(2, min(n, int(fraction * n + 1e-7)))
    smooth = np.empty(n)
    left, right, last, i = 0, width - 1, -1, 0
    while True:
        if right < n - 1 and x[i] - x[left] > x[right + 1] - x[i]:
            left += 1
            right += 1
            continue
        smooth[i] = _local_line(x, y, float(x[i]), float(y[i]), left, right)
        if last < i - 1:
            share = (x[last + 1 : i] - x[last]) / (x[i] - x[last])
            smooth[last + 1 : i] = share * smooth[i] + (1 - share) * smooth[last]
        last = i
        i += 1
        while i < n and x[i] <= x[last] + delta:
            if x[i] == x[last]:
                smooth[i] = smooth[last]
                last = i
            i += 1
        if last >= n - 1:
            return smooth
        i = max(last + 1, i - 1)


def _local_line(x: FloatArray, y: FloatArray, at: float, fallback: float, left: int, right: int) -> float:
    h = max(at - x[left], x[right] - at)
    end = max(int(np.searchsorted(x, at + 0.999 * h, side="right")), left + 1)
    near, values = x[left:end], y[left:end]
    distance = np.abs(near - at)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(distance <= 0.001 * h, 1.0, (1 - (distance / h) ** 3) ** 3)
    weight = np.where(distance <= 0.999 * h, weight, 0.0)
    total = float(weight.sum())
    if total <= 0:
        return fallback
    weight = weight / total
    if h > 0:
        centre = float(weight @ near)
        spread = float(weight @ (near - centre) ** 2)
        if np.sqrt(spread) > 0.001 * float(x[-1] - x[0]):
            weight = weight * ((at - centre) / spread * (near - centre) + 1)
    return float(weight @ values)
