"""A smooth curve through points: robust local regression, as R's ``approxfun(lowess(x, y, f), rule = 2)``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.genomics.expression import FloatArray
from services.survival_analytics.lowess import smooth_lowess

_ROBUST_STEPS = 3


def fit_lowess(x: FloatArray, y: FloatArray, *, span: float) -> Callable[[FloatArray], FloatArray]:
    """Return the smooth curve through points, constant beyond their range.

    Parameters
    ----------
    x, y
        Shape (n,).
    span
        Fraction of the points in each local fit.
    """
    order = np.argsort(x, kind="stable")
    fitted = smooth_lowess(x[order], y[order], fraction=span, robust_steps=_ROBUST_STEPS)
    at, first = np.unique(x[order], return_inverse=True)
    mean = np.bincount(first, weights=fitted) / np.bincount(first)
    return lambda new: np.interp(new, at, mean)
