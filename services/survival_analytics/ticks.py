"""Round numbers for axes, as R's ``pretty`` chooses them."""

from __future__ import annotations

import numpy as np

from services.survival_analytics.inputs import FloatArray


def pretty_ticks(low: float, high: float, *, count: int = 5) -> FloatArray:
    """Return about ``count`` intervals of 1, 2 or 5 times a power of ten that cover a range.

    Examples
    --------
    >>> pretty_ticks(39, 82, count=10).tolist()
    [35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0]
    """
    span = high - low
    if span == 0 and high == 0:
        cell, small = 1.0, True
    else:
        cell = max(abs(low), abs(high))
        small = bool(span < cell * 1.4 * max(1, count) * np.finfo(float).eps * 3)
    if small:
        if cell > 10:
            cell = 9 + cell / 10
        cell *= 0.75
        if count // 3 > 1:
            cell /= count // 3
    else:
        cell = span / count if count > 1 else span
    base = 10.0 ** np.floor(np.log10(max(cell, 20 * np.finfo(float).tiny)))
    unit = base
    if 2 * base - cell < 1.5 * (cell - unit):
        unit = 2 * base
        if 5 * base - cell < 2.75 * (cell - unit):
            unit = 5 * base
            if 10 * base - cell < 1.5 * (cell - unit):
                unit = 10 * base
    first = np.floor(low / unit + 1e-10)
    last = np.ceil(high / unit - 1e-10)
    while first * unit > low + 1e-7 * unit:
        first -= 1
    while last * unit < high - 1e-7 * unit:
        last += 1
    missing = int(0.5 + (count // 3) - (last - first))
    if missing > 0:
        if first >= 0:
            last += missing // 2
            first -= missing // 2 + missing % 2
        else:
            first -= missing // 2
            last += missing // 2 + missing % 2
    ticks: FloatArray = np.arange(first, last + 1) * unit
    ticks[np.abs(ticks) < 1e-14 * unit] = 0.0
    # Whole multiples of a decimal unit, rounded to the digits that they have.
    digits = max(0, int(-np.floor(np.log10(unit))))
    if digits < 15:
        ticks = np.round(ticks, digits)
    return ticks
