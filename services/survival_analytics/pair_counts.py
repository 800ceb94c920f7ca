"""Compiled counting of concordant and discordant pairs: O(n log n) per score, O(n²) only where two scores meet."""

from __future__ import annotations

import numpy as np
from numba import njit

from services.survival_analytics.inputs import FloatArray, IntArray


@njit(cache=True)
def _add(tree, position, weight):  # type: ignore[no-untyped-def]
    position += 1
    size = tree.shape[0]
    while position < size:
        tree[position] += weight
        position += position & (-position)


@njit(cache=True)
def _prefix(tree, position):  # type: ignore[no-untyped-def]
    total = 0.0
    while position > 0:
        total += tree[position]
        position -= position & (-position)
    return total


@njit(cache=True)
def _count(time, event, rank, weight, levels, order, tied_censored):  # type: ignore[no-untyped-def]
    n = time.shape[0]
    as_event = np.zeros((n, 3))
    as_later = np.zeros((n, 3))
    later = np.zeros(levels + 1)
    dead = np.zeros(levels + 1)
    n_later = 0.0
    w_dead = 0.0
    start = 0
    while start < n:
        stop = start
        now = time[order[start]]
        while stop < n and time[order[stop]] == now:
            stop += 1
        for phase in range(2):
            # Censored patients outlive an event at the same time unless ties are left out.
            if (phase == 0) == tied_censored:
                for at in range(start, stop):
                    i = order[at]
                    if event[i] == 0:
                        below = _prefix(dead, rank[i])
                        upto = _prefix(dead, rank[i] + 1)
                        as_later[i, 0] -= w_dead - upto
                        as_later[i, 1] -= below
                        as_later[i, 2] -= upto - below
                if tied_censored:
                    for at in range(start, stop):
                        i = order[at]
                        if event[i] == 0:
                            _add(later, rank[i], 1.0)
                            n_later += 1.0
            else:
                for at in range(start, stop):
                    i = order[at]
                    if event[i] == 1:
                        w = weight[i]
                        below = _prefix(later, rank[i])
                        upto = _prefix(later, rank[i] + 1)
                        as_event[i, 0] = w * below
                        as_event[i, 1] = w * (n_later - upto)
                        as_event[i, 2] = w * (upto - below)
                for at in range(start, stop):
                    i = order[at]
                    if event[i] == 1:
                        _add(dead, rank[i], weight[i])
                        w_dead += weight[i]
                for at in range(start, stop):
                    i = order[at]
                    if event[i] == 1:
                        below = _prefix(dead, rank[i])
                        upto = _prefix(dead, rank[i] + 1)
                        as_later[i, 0] -= w_dead - upto
                        as_later[i, 1] -= below
                        as_later[i, 2] -= upto - below
        for at in range(start, stop):
            i = order[at]
            if event[i] == 1 or not tied_censored:
                _add(later, rank[i], 1.0)
                n_later += 1.0
        start = stop
    for i in range(n):
        below = _prefix(dead, rank[i])
        upto = _prefix(dead, rank[i] + 1)
        as_later[i, 0] += w_dead - upto
        as_later[i, 1] += below
        as_later[i, 2] += upto - below
    return as_event, as_later


def count_pairs(
    time: FloatArray, event: IntArray, score: FloatArray, weight: FloatArray, *, tied_censored: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Count each patient's concordant, discordant and score-tied pairs.

    Parameters
    ----------
    time, event, score
        Shape (n,); a higher score means a higher risk.
    weight
        Shape (n,): weight of the pairs that a patient's event opens.
    tied_censored
        Whether a patient censored at an event's time counts as having outlived it.

    Returns
    -------
    as_event, as_later
        Shape (n, 3) each: pairs in which the patient had the earlier event, and in which it lived longer.
    """
    levels, rank = np.unique(score, return_inverse=True)
    order = np.argsort(-time, kind="stable").astype(np.int64)
    return _count(time, event, rank.astype(np.int64), weight, levels.size, order, tied_censored)  # type: ignore[no-any-return]


@njit(cache=True)
def _sign(value):  # type: ignore[no-untyped-def]
    if value > 0:
        return 1.0
    if value < 0:
        return -1.0
    return 0.0


@njit(cache=True)
def _count_joint(time, event, first, second):  # type: ignore[no-untyped-def]
    n = time.shape[0]
    # Per patient: comparable pairs, signed agreement of both scores, their product, and
    # whether the first score separates the pair more than the second.
    out = np.zeros((n, 5))
    more = 0.0
    uncertain = 0.0
    for i in range(n):
        for j in range(i + 1, n):
            if event[i] == 1 and (time[i] < time[j] or (time[i] == time[j] and event[j] == 0)):
                early, late = i, j
            elif event[j] == 1 and (time[j] < time[i] or (time[i] == time[j] and event[i] == 0)):
                early, late = j, i
            else:
                if not (event[i] == 1 and event[j] == 1):
                    uncertain += 1.0
                continue
            a = first[early] - first[late]
            b = second[early] - second[late]
            sa, sb = _sign(a), _sign(b)
            wider = 1.0 if a > b else (-1.0 if a < b else 0.0)
            if a > b:
                more += 1.0
            out[i, 0] += 1.0
            out[j, 0] += 1.0
            out[i, 1] += sa
            out[j, 1] += sa
            out[i, 2] += sb
            out[j, 2] += sb
            out[i, 3] += sa * sb
            out[j, 3] += sa * sb
            out[i, 4] += wider
            out[j, 4] += wider
    return out, more, uncertain


def count_joint_pairs(
    time: FloatArray, event: IntArray, first: FloatArray, second: FloatArray
) -> tuple[FloatArray, float, float]:
    """Count pairs for two scores together, in O(n²) time and O(n) memory.

    Returns
    -------
    counts
        Shape (n, 5): comparable pairs; signed agreement of the first and of the second score; the sum of the
        products of those signs; pairs that the first score separates more minus those it separates less.
    more
        Pairs that the first score separates more.
    uncertain
        Pairs that cannot be ordered because of censoring.
    """
    counts, more, uncertain = _count_joint(time, event, first, second)
    return counts, float(more), float(uncertain)
