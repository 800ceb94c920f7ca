"""The permutation bound of Hothorn and Lausen (2003) for maximally selected rank statistics."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from services.survival_analytics.inputs import BoolArray, FloatArray, IntArray


def permutation_p_value(scores: FloatArray, group_sizes: IntArray) -> float:
    """Bound the chance that permuted scores give a larger maximum.

    Real scores are first mapped to integers 0…n, as R's ``maxstat(pmethod = "HL")`` does, and both the observed
    maximum and its distribution are those of the integers. Sums of m integers are counted by the shift algorithm of
    Streitberg and Röhmel; of the mass beyond the limit at each group size, the part that was beyond it at the size
    before is taken off.

    Parameters
    ----------
    scores
        Shape (n,), in ascending order of the marker.
    group_sizes
        Shape (k,): sizes of the low group at the allowed cuts.

    Returns
    -------
    float
        At most one.
    """
    integers = _to_integers(scores)
    n = integers.size
    total = int(integers.sum())
    m = np.arange(1, n)
    expected = m / n * total
    variance = m * (n - m) / (n**2 * (n - 1.0)) * (n * float(np.sum(integers**2)) - float(total) ** 2)
    cumulative = np.cumsum(integers)[group_sizes - 1]
    limit = float(np.max(np.abs((cumulative - expected[group_sizes - 1]) / np.sqrt(variance[group_sizes - 1]))))
    mass = _subset_sums(integers.astype(np.int64), total)
    sums = np.arange(1, total + 1)
    with np.errstate(divide="ignore"):
        scale = np.exp(gammaln(m + 1) + gammaln(n - m + 1) - gammaln(n + 1))
    standard = np.abs((sums[None, :] - expected[:, None]) / np.sqrt(variance)[:, None])
    beyond = np.where(standard > limit, mass * scale[:, None], 0.0)
    by_size = beyond.sum(axis=1)
    largest = int(integers.max())
    for size in range(int(group_sizes.min()), n - 1):
        row = beyond[size - 1]
        hit = np.flatnonzero(row > 0) + 1
        rising = hit[hit < expected[size - 1]]
        rising = rising[_still_beyond(standard[size], rising + largest, limit)]
        falling = hit[hit > expected[size - 1]]
        falling = falling[_still_beyond(standard[size], falling, limit)]
        # The number of orders of size m + 1 that contain one of size m equals the latter's share of all orders.
        by_size[size] -= row[rising - 1].sum() + row[falling - 1].sum()
    return float(min(1.0, by_size[group_sizes - 1].sum()))


def _still_beyond(standard: FloatArray, sums: IntArray, limit: float) -> BoolArray:
    inside = sums <= standard.size
    value = np.zeros(sums.size)
    value[inside] = standard[sums[inside] - 1]
    return value > limit


def _to_integers(scores: FloatArray) -> FloatArray:
    shifted: FloatArray = scores - scores.min()
    if np.all(scores == np.floor(scores)):
        return shifted
    fraction = scores - np.floor(scores)
    if np.all(fraction[fraction != 0] == 0.5):
        doubled = 2 * scores
        return np.asarray(doubled - doubled.min())
    return np.asarray(np.round(shifted * scores.size / shifted.max()))


def _subset_sums(integers: IntArray, total: int) -> FloatArray:
    """Return the number of subsets by size (rows 1…n-1) and sum (columns 1…total)."""
    n = integers.size
    counts = np.zeros((n + 1, total + 1))
    counts[0, 0] = 1.0
    reached = 0
    for used, value in enumerate(integers):
        v = int(value)
        reached += v
        # Backwards in size, so that every score enters a subset once.
        source = counts[: used + 1, : reached - v + 1].copy()
        counts[1 : used + 2, v : reached + 1] += source
    return counts[1:n, 1:]
