"""P-values adjusted for the number of tests."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from services.shared.errors import InvalidValue
from services.survival_analytics.inputs import FloatArray

Adjustment = Literal["BH", "BY", "holm", "hochberg", "bonferroni", "none"]


def adjust_p_values(p_values: ArrayLike, *, method: Adjustment = "BH") -> FloatArray:
    """Return adjusted p-values in the order given (R: ``p.adjust``).

    Parameters
    ----------
    p_values
        Shape (m,), each in [0, 1].
    method
        ``BH`` and ``BY`` control the false discovery rate, the others the family-wise error.

    Examples
    --------
    >>> adjust_p_values([0.01, 0.04, 0.03], method="holm").tolist()
    [0.03, 0.06, 0.06]
    """
    if method not in get_args(Adjustment):
        raise InvalidValue("Unknown adjustment.", step="adjust_p_values", expected=get_args(Adjustment), got=method)
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InvalidValue("P-values must lie in [0, 1].", step="adjust_p_values", field="p_values")
    m = p.size
    if method == "none" or m < 2:
        return p.copy()
    if method == "bonferroni":
        return np.minimum(1.0, m * p)
    if method == "holm":
        order = np.argsort(p, kind="stable")
        steps = np.maximum.accumulate((m - np.arange(m)) * p[order])
    else:
        order = np.argsort(p, kind="stable")[::-1]
        rank = np.arange(m, 0, -1)
        factor = {
            "BH": m / rank,
            "BY": m / rank * np.sum(1.0 / np.arange(1, m + 1)),
            "hochberg": (m - rank + 1).astype(np.float64),
        }[method]
        steps = np.minimum.accumulate(factor * p[order])
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted
