"""Compares a recomputed result with R's, field by field."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from survival_oracle.deviations import Deviation

SPECIAL = {"NA": math.nan, "NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}
MISSING = object()


def differences(
    expected: object, actual: object, *, tolerance: float, deviations: list[Deviation], path: str = ""
) -> Iterator[str]:
    """Yield one line for every field that is missing or differs."""
    deviation = next((d for d in deviations if d.matches(path)), None)
    if deviation is not None and deviation.tolerance is None:
        return
    tolerance = tolerance if deviation is None else deviation.tolerance
    if actual is MISSING:
        yield f"{path}: not computed"
    elif isinstance(expected, dict):
        if not isinstance(actual, dict):
            yield f"{path}: expected fields, got {type(actual).__name__}"
            return
        for key, value in expected.items():
            yield from differences(
                value, actual.get(key, MISSING), tolerance=tolerance, deviations=deviations, path=f"{path}/{key}"
            )
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        for position, value in enumerate(expected):
            yield from differences(
                value, actual[position], tolerance=tolerance, deviations=deviations, path=f"{path}/{position}"
            )
    else:
        yield from _compare_values(expected, actual, tolerance, path)


def _compare_values(expected: object, actual: object, tolerance: float, path: str) -> Iterator[str]:
    want, got = _flatten(expected), _flatten(actual)
    if len(want) != len(got):
        yield f"{path}: {len(want)} values expected, {len(got)} computed"
        return
    for position, (a, b) in enumerate(zip(want, got, strict=True)):
        if not _same(a, b, tolerance):
            yield f"{path}[{position}]: R {a!r}, computed {b!r}"


def _flatten(value: object) -> list[object]:
    if isinstance(value, np.ndarray):
        return value.ravel().tolist()
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _flatten(item)]
    return [value]


def _same(expected: object, actual: object, tolerance: float) -> bool:
    if isinstance(expected, str):
        if expected not in SPECIAL or isinstance(actual, str):
            return expected == actual
        expected = SPECIAL[expected]
    if expected is None or isinstance(expected, bool) or isinstance(actual, (str, type(None))):
        return expected == actual
    a, b = float(expected), float(actual)
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if math.isinf(a) or math.isinf(b):
        return a == b
    # Relative, with room for rounding where the true value is zero.
    return abs(a - b) <= tolerance * abs(a) + 1e-3 * tolerance
