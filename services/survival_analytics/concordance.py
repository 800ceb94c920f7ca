"""Concordance of a risk score with survival: Harrell's and Uno's C, Somers' Dxy and their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    IntArray,
    Notice,
    read_follow_up,
    read_groups,
    read_score,
)
from services.survival_analytics.pair_counts import count_pairs
from services.survival_analytics.risk_sets import censoring_steps, evaluate_steps, merge_near_ties, tabulate

Weighting = Literal["harrell", "uno"]


@dataclass(frozen=True, eq=False)
class Concordance:
    """Concordance of one score.

    Attributes
    ----------
    estimate, standard_error, lower, upper
        C, the infinitesimal-jackknife standard error, and normal limits.
    concordant, discordant, tied_score
        Weighted numbers of comparable pairs (totals over strata).
    tied_time, tied_both
        Pairs of events at the same time, with different and with equal scores.
    influence
        Shape (n,): each patient's influence on C.
    strata_counts
        Shape (strata, 5): the five counts by stratum.
    """

    n: int
    n_events: int
    weighting: Weighting
    estimate: float
    standard_error: float
    lower: float
    upper: float
    concordant: float
    discordant: float
    tied_score: float
    tied_time: float
    tied_both: float
    influence: FloatArray
    strata_counts: FloatArray
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        names = ("n", "n_events", "weighting", "estimate", "standard_error", "lower", "upper")
        counts = ("concordant", "discordant", "tied_score", "tied_time", "tied_both")
        return pd.DataFrame([{name: getattr(self, name) for name in (*names, *counts)}])


@dataclass(frozen=True)
class SomersD:
    """Somers' Dxy of a score with censored survival (R: ``Hmisc::rcorr.cens``); C = (Dxy + 1) / 2.

    Pairs are counted in both orders. ``standard_error`` belongs to Dxy: that of C is half of it.
    """

    n: int
    n_events: int
    concordance: float
    d_xy: float
    standard_error: float
    relevant_pairs: float
    concordant_pairs: float
    uncertain_pairs: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


@dataclass(frozen=True)
class StrictConcordance:
    """Concordance over pairs with distinct times and distinct scores (R: ``survcomp``, method "noether")."""

    n: int
    estimate: float
    standard_error: float
    lower: float
    upper: float
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


def concordance(
    time: ArrayLike,
    event: ArrayLike,
    *,
    score: ArrayLike,
    weighting: Weighting = "harrell",
    horizon: float | None = None,
    strata: ArrayLike | None = None,
    level: float = 0.95,
) -> Concordance:
    """Estimate how well a score orders patients by survival.

    Parameters
    ----------
    time, event
        Shape (n,).
    score
        Shape (n,), higher = higher risk.
    weighting
        ``harrell`` counts every comparable pair once; ``uno`` weighs it by 1/G(t-)², which removes the
        dependence on censoring.
    horizon
        Use events up to and including this time only.
    strata
        Shape (n,): compare patients of the same stratum only.
    level
        Confidence level.

    Raises
    ------
    TooFewCases
        No pair can be compared.

    Notes
    -----
    Harrell et al. (1982), Uno et al. (2011); variance and counts of R ``survival::concordance``
    (``timewt = "n"`` and ``"n/G2"``, ``ymax = horizon``). O(n log n) time, O(n) memory.

    Examples
    --------
    >>> concordance([1, 2, 3, 4], [1, 1, 1, 0], score=[4, 3, 1, 2]).estimate
    0.8333333333333334
    """
    step = "concordance"
    follow = read_follow_up(time, event, step=step)
    values = read_score(score, follow, step=step)
    codes = np.zeros(len(follow), dtype=np.int64)
    if strata is not None:
        codes, _ = read_groups(strata, field="strata", step=step)
    return concordance_of(follow, values, weighting=weighting, horizon=horizon, strata=codes, level=level)


def concordance_of(
    follow: Follow,
    score: FloatArray,
    *,
    weighting: Weighting = "harrell",
    horizon: float | None = None,
    strata: IntArray | None = None,
    level: float = 0.95,
) -> Concordance:
    """Estimate concordance from checked columns."""
    if weighting not in get_args(Weighting):
        raise InvalidValue("Unknown weighting.", step="concordance", expected=get_args(Weighting), got=weighting)
    times = merge_near_ties(follow.time)
    codes = np.zeros(len(follow), dtype=np.int64) if strata is None else strata
    n_strata = int(codes.max()) + 1
    counts = np.zeros((n_strata, 5))
    per_patient = np.zeros((len(follow), 3))
    for stratum in range(n_strata):
        rows = np.flatnonzero(codes == stratum) if n_strata > 1 else np.arange(len(follow))
        part = Follow(times[rows], follow.event[rows])
        if not part.event.any():
            continue
        weight = _pair_weights(part, weighting, horizon)
        as_event, as_later = count_pairs(part.time, part.event, score[rows], weight)
        counts[stratum, :3] = as_event.sum(axis=0)
        counts[stratum, 3:] = _tied_events(part, score[rows], weight)
        per_patient[rows] = as_event + as_later
    concordant, discordant, tied = counts[:, :3].sum(axis=0)
    pairs = concordant + discordant + tied
    if pairs == 0:
        raise TooFewCases(
            "No pair of patients can be compared.",
            step="concordance",
            expected="an event before another patient's last follow-up",
            got="none",
        )
    somers = (concordant - discordant) / pairs
    influence = (per_patient[:, 0] - per_patient[:, 1] - per_patient.sum(axis=1) * somers) / (2 * pairs)
    estimate = float((somers + 1) / 2)
    standard_error = float(np.sqrt(np.sum(influence**2)))
    half = float(ndtri(1 - (1 - level) / 2)) * standard_error
    notices = (
        () if tied < pairs else (Notice("constant_score", "The score has one value: C is one half by definition."),)
    )
    totals = counts.sum(axis=0)
    return Concordance(
        len(follow),
        int(follow.event.sum()),
        weighting,
        estimate,
        standard_error,
        estimate - half,
        estimate + half,
        float(totals[0]),
        float(totals[1]),
        float(totals[2]),
        float(totals[3]),
        float(totals[4]),
        influence,
        counts,
        notices,
    )


def _pair_weights(follow: Follow, weighting: Weighting, horizon: float | None) -> FloatArray:
    weight = np.ones(len(follow))
    if weighting == "uno" and follow.event.sum() > 1:
        table = tabulate(follow, merge_ties=False)
        before = evaluate_steps(table.time, censoring_steps(table, events_first=True), follow.time, before=True)
        weight = np.where(follow.event == 1, 1.0 / np.where(before > 0, before, 1.0) ** 2, 1.0)
    if horizon is not None:
        weight = np.where(follow.time > horizon, 0.0, weight)
    return weight


def _tied_events(follow: Follow, score: FloatArray, weight: FloatArray) -> FloatArray:
    rows = follow.event == 1
    time, marker, w = follow.time[rows], score[rows], weight[rows]
    _, by_time, n_time = np.unique(time, return_inverse=True, return_counts=True)
    _, by_both, n_both = np.unique(np.column_stack((time, marker)), axis=0, return_inverse=True, return_counts=True)
    # A pair carries the weight of its time; each of d tied patients sees (d - 1) / 2 pairs.
    all_ties = float(np.sum(w * (n_time[by_time] - 1) / 2))
    both = float(np.sum(w * (n_both[by_both.ravel()] - 1) / 2))
    return np.array([all_ties - both, both])


def somers_d(time: ArrayLike, event: ArrayLike, *, score: ArrayLike) -> SomersD:
    """Return Somers' Dxy with Quade's standard error (R: ``rcorr.cens(-score, Surv(time, event))``)."""
    follow = read_follow_up(time, event, step="somers_d")
    values = read_score(score, follow, step="somers_d")
    as_event, as_later = count_pairs(follow.time, follow.event, values, np.ones(len(follow)))
    per_patient = as_event + as_later
    relevant = per_patient.sum(axis=1)
    signed = per_patient[:, 0] - per_patient[:, 1]
    total = relevant.sum()
    if total == 0:
        raise TooFewCases("No pair of patients can be compared.", step="somers_d", got="none")
    agreeing = float((per_patient[:, 0] + 0.5 * per_patient[:, 2]).sum())
    c = agreeing / total
    n = len(follow)
    tied_events = 2 * _tied_events(follow, values, np.ones(n)).sum()
    return SomersD(
        n,
        int(follow.event.sum()),
        float(c),
        float(2 * (c - 0.5)),
        quade_error(relevant, signed),
        float(total),
        agreeing,
        float(n * (n - 1) - total - tied_events),
    )


def quade_error(relevant: FloatArray, signed: FloatArray) -> float:
    """Return the standard error of a sum over pairs divided by the pairs that count (Quade 1974).

    Parameters
    ----------
    relevant, signed
        Shape (n,): of each patient, the pairs that count, and the signed ones.
    """
    r, w = relevant.sum(), signed.sum()
    inner = (relevant**2).sum() * w**2 - 2 * r * w * (relevant * signed).sum() + (signed**2).sum() * r**2
    return float(2 * np.sqrt(inner) / r**2)


def strict_concordance(
    time: ArrayLike, event: ArrayLike, *, score: ArrayLike, level: float = 0.95
) -> StrictConcordance:
    """Return C over untied pairs with Noether's variance (R: ``survcomp::concordance.index``; Pencina 2004)."""
    follow = read_follow_up(time, event, step="strict_concordance")
    values = read_score(score, follow, step="strict_concordance")
    n = len(follow)
    as_event, as_later = count_pairs(follow.time, follow.event, values, np.ones(n), tied_censored=False)
    both = as_event + as_later
    c, d = both[:, 0], both[:, 1]
    if n < 3 or c.sum() + d.sum() == 0:
        raise TooFewCases("No pair of patients can be compared.", step="strict_concordance", got="none")
    pc, pd_ = c.sum() / (n * (n - 1)), d.sum() / (n * (n - 1))
    triples = n * (n - 1) * (n - 2)
    pcc, pdd, pcd = (c * (c - 1)).sum() / triples, (d * (d - 1)).sum() / triples, (c * d).sum() / triples
    variance = 4 / (pc + pd_) ** 4 * (pd_**2 * pcc - 2 * pc * pd_ * pcd + pc**2 * pdd) / n
    estimate = float(pc / (pc + pd_))
    if not variance > 0:
        raise TooFewCases(
            "The variance of C cannot be estimated: all comparable pairs agree or too few exist.",
            step="strict_concordance",
            got=f"C = {estimate:g}",
        )
    error = float(np.sqrt(variance))
    half = float(ndtri(1 - (1 - level) / 2)) * error
    p_value = 2 * float(ndtr(-abs((estimate - 0.5) / error)))
    return StrictConcordance(n, estimate, error, max(0.0, estimate - half), min(1.0, estimate + half), p_value)


def truncated_concordance(time: ArrayLike, event: ArrayLike, *, score: ArrayLike, horizon: float) -> float:
    """Return Uno's C for events strictly before a horizon and pairs with distinct times (R: ``survC1::Est.Cval``)."""
    follow = read_follow_up(time, event, step="truncated_concordance")
    values = read_score(score, follow, step="truncated_concordance")
    table = tabulate(follow, merge_ties=False)
    before = evaluate_steps(table.time, censoring_steps(table, events_first=False), follow.time, before=True)
    use = (follow.event == 1) & (follow.time < horizon)
    weight = np.where(use, 1.0 / np.where(before > 0, before, 1.0) ** 2, 0.0)
    as_event, _ = count_pairs(follow.time, follow.event, values, weight, tied_censored=False)
    # Pairs with a patient censored at the very event time are left out; later patients count as usual.
    pairs = as_event.sum()
    if pairs == 0:
        raise TooFewCases("No pair can be compared before the horizon.", step="truncated_concordance", got=horizon)
    return float((as_event[:, 0].sum() + 0.5 * as_event[:, 2].sum()) / pairs)
