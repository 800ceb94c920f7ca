"""The cut-off between low and high risk, found on the scores of training patients."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from services.shared.errors import InvalidValue, TooFewCases

Array = npt.NDArray[np.float64]
Event = npt.NDArray[np.int64]
CutoffRule = Literal["maximally_selected", "x_tile", "median"]

MIN_PROPORTION = 0.1


def find_cutoff(
    scores: Array, months: Array, event: Event, *, rule: CutoffRule
) -> tuple[float, CutoffRule, float | None]:
    """Return the score from which patients are at high risk, the rule that was used, and its corrected P.

    Parameters
    ----------
    scores, months, event
        Shape (patients,).
    rule
        ``maximally_selected``: maximally selected log-rank statistic (maxstat, survminer), P of Lausen and Schumacher
        or Hothorn and Lausen; ``x_tile``: smallest log-rank P, corrected after Miller and Siegmund; ``median``, without
        P. Both searches leave a tenth of the patients in each group; where no cut does, the median is taken.

    Notes
    -----
    The cut lies midway between the neighbouring scores of these patients: it separates them as the packages' own cut
    (the lower neighbour) does, and no rounding of a score moves a patient across.
    """
    from services.survival_analytics.cutpoint import maximally_selected_rank, median_cutpoint, minimum_p

    p_value: float | None = None
    if rule not in get_args(CutoffRule):
        raise InvalidValue(
            "unknown rule of the cut-off", field="cutoff", expected=", ".join(get_args(CutoffRule)), got=rule
        )
    try:
        if rule == "maximally_selected":
            ranked = maximally_selected_rank(months, event, score=scores, min_proportion=MIN_PROPORTION)
            cut, p_value = ranked.cut, ranked.p_value
        elif rule == "x_tile":
            tiled = minimum_p(months, event, score=scores, min_proportion=MIN_PROPORTION)
            cut, p_value = tiled.cut, tiled.p_corrected
        else:
            cut = median_cutpoint(scores)
    except TooFewCases:
        rule, cut = "median", median_cutpoint(scores)
    if cut == scores.max():
        cut = scores[scores < cut].max(initial=-np.inf)  # ties at the top: they are the high group
    if not np.isfinite(cut):
        return float(scores[0]), rule, p_value
    return float((scores[scores <= cut].max() + scores[scores > cut].min()) / 2), rule, p_value
