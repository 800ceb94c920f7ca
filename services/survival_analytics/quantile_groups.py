"""Groups of patients by quantiles of a prediction, cut and labelled as R's ``cut`` and ``Hmisc::cut2`` do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.inputs import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class QuantileGroups:
    """Group of each patient (0…g-1) and the groups' labels."""

    codes: IntArray
    labels: tuple[str, ...]


def cut_at_quantiles(x: FloatArray, groups: int, *, step: str) -> QuantileGroups:
    """Cut at equally spaced quantiles (type 7); the lowest interval includes its lower end.

    Quantiles that coincide are used once, so that ties can leave fewer groups than asked for.
    """
    if groups < 2:
        raise InvalidValue("At least two groups are needed.", step=step, field="groups", got=groups)
    breaks = np.unique(np.quantile(x, np.arange(groups + 1) / groups))
    if breaks.size < 2:
        raise TooFewCases("The prediction has a single value: it cannot be grouped.", step=step, got=float(x[0]))
    codes = np.clip(np.searchsorted(breaks, x, side="left") - 1, 0, breaks.size - 2)
    return QuantileGroups(codes.astype(np.int64), interval_labels(breaks))


def interval_labels(breaks: FloatArray) -> tuple[str, ...]:
    """Write intervals with as many digits, three or more, as keep neighbouring ends apart."""
    for digits in range(3, 13):
        ends = [f"{value:.{digits}g}" for value in breaks]
        if all(a != b for a, b in pairwise(ends)):
            break
    labels = [f"({a},{b}]" for a, b in pairwise(ends)]
    labels[0] = "[" + labels[0][1:]
    return tuple(labels)


def group_evenly(x: FloatArray, groups: int, *, step: str) -> QuantileGroups:
    """Group into intervals [low, high) of about equal size (R: ``Hmisc::cut2(x, g = groups)``)."""
    if groups < 1:
        raise InvalidValue("At least one group is needed.", step=step, field="groups", got=groups)
    levels, counts = np.unique(x, return_counts=True)
    cumulative = np.cumsum(counts)
    targets = np.arange(1, groups + 1) * (x.size / groups)
    cuts = levels[np.minimum(np.searchsorted(cumulative, targets, side="left"), levels.size - 1)]
    cuts[-1] = levels[-1]
    starts: list[float] = []
    lower, upper = float(levels[0]), np.inf
    for position, cut in enumerate(cuts):
        if cut == upper:
            continue
        upper = float(cut)
        starts.append(lower)
        above = levels[levels > upper]
        lower = upper if position == groups - 1 or above.size == 0 else float(above[0])
    edges = np.array(starts)
    codes = np.searchsorted(edges, x, side="right") - 1
    ends = [f"{value:.3g}" for value in [*starts, float(levels[-1])]]
    labels = [f"[{a},{b})" for a, b in pairwise(ends)]
    labels[-1] = labels[-1][:-1] + "]"
    return QuantileGroups(codes.astype(np.int64), tuple(labels))
