"""Cleveland's locally weighted regression, number for number as R's ``lowess``."""

from __future__ import annotations

import numpy as np

from services.survival_analytics.inputs import FloatArray


def smooth_lowess(x: FloatArray, y: FloatArray, *, fraction: float = 2 / 3, robust_steps: int = 0) -> FloatArray:
    """Smooth y over ascending x.

    Parameters
    ----------
    x, y
        Shape (n,), x ascending.
    fraction
        Share of points in each local line.
    robust_steps
        Times that points far from the curve lose weight (R: ``iter``, whose default is 3).

    Notes
    -----
    Cleveland (1979, 1981). Lines are fitted at points at least a hundredth of the range apart and joined in between.
    """
    n = x.size
    if n < 2:
        return y.copy()
    width = max(2, min(n, int(fraction * n + 1e-7)))
    trust = np.ones(n)
    smooth = _pass(x, y, width, trust)
    for _ in range(robust_steps):
        residual = np.abs(y - smooth)
        middle = np.sort(residual)
        scale = 3.0 * (middle[n // 2] + middle[n - n // 2 - 1])  # six medians
        if scale < 1e-7 * residual.mean():
            break
        ratio = residual / scale
        trust = np.where(ratio <= 0.001, 1.0, np.where(ratio <= 0.999, (1 - ratio**2) ** 2, 0.0))
        smooth = _pass(x, y, width, trust)
    return smooth


def _pass(x: FloatArray, y: FloatArray, width: int, trust: FloatArray) -> FloatArray:
    n = x.size
    delta = 0.01 * float(x[-1] - x[0])
    smooth = np.empty(n)
    left, right, last, i = 0, width - 1, -1, 0
    while True:
        if right < n - 1 and x[i] - x[left] > x[right + 1] - x[i]:
            left += 1
            right += 1
            continue
        smooth[i] = _local_line(x, y, trust, i, left, right)
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


def _local_line(x: FloatArray, y: FloatArray, trust: FloatArray, i: int, left: int, right: int) -> float:
    at = float(x[i])
    h = max(at - x[left], x[right] - at)
    # Ties with the farthest neighbour to its right take part too.
    end = max(int(np.searchsorted(x, at + 0.999 * h, side="right")), right + 1)
    near, values = x[left:end], y[left:end]
    distance = np.abs(near - at)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(distance <= 0.001 * h, 1.0, (1 - (distance / h) ** 3) ** 3)
    weight = np.where(distance <= 0.999 * h, weight, 0.0) * trust[left:end]
    total = float(weight.sum())
    if total <= 0:
        return float(y[i])
    weight = weight / total
    if h > 0:
        centre = float(weight @ near)
        spread = float(weight @ (near - centre) ** 2)
        if np.sqrt(spread) > 0.001 * float(x[-1] - x[0]):
            weight = weight * ((at - centre) / spread * (near - centre) + 1)
    return float(weight @ values)
