"""ROC analysis of a score against survival to a time point, with censoring weighted away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.inputs import (
    BoolArray,
    FloatArray,
    Follow,
    IntArray,
    Notice,
    read_follow_up,
    read_score,
    read_time_points,
)
from services.survival_analytics.risk_sets import censoring_weights, survival_at

CaseRule = Literal["before", "at-or-before"]


@dataclass(frozen=True, eq=False)
class TimeDependentAuc:
    """Cumulative/dynamic AUC at several times.

    Attributes
    ----------
    times, estimate, standard_error, lower, upper
        Shape (t,): standard errors from the influence function; limits are clipped to [0, 1].
    cases, controls, censored
        Shape (t,): patients with the event by t, without it past t, and censored before t.
    cumulative_incidence, survival
        Shape (t,): weighted shares of cases and controls.
    influence
        Shape (n, t): rows in the order of the table.
    """

    case_rule: CaseRule
    times: FloatArray
    estimate: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    cases: IntArray
    controls: IntArray
    censored: IntArray
    cumulative_incidence: FloatArray
    survival: FloatArray
    influence: FloatArray
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per time."""
        return pd.DataFrame(
            {
                "time": self.times,
                "estimate": self.estimate,
                "standard_error": self.standard_error,
                "lower": self.lower,
                "upper": self.upper,
                "cases": self.cases,
                "controls": self.controls,
                "censored": self.censored,
            }
        )


@dataclass(frozen=True, eq=False)
class TimeDependentRoc:
    """An ROC curve at one time, from the strictest to the most lenient cut."""

    time: float
    cut: FloatArray
    sensitivity: FloatArray
    false_positive_rate: FloatArray
    area: float
    survival: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cut."""
        return pd.DataFrame(
            {"cut": self.cut, "sensitivity": self.sensitivity, "false_positive_rate": self.false_positive_rate}
        )

    @property
    def youden_cut(self) -> float:
        """The first cut at which sensitivity minus false positives is largest."""
        return float(self.cut[np.argmax(self.sensitivity - self.false_positive_rate)])


@dataclass(frozen=True, eq=False)
class TimeDependentAucComparison:
    """Differences of two scores' AUCs at several times (first minus second)."""

    times: FloatArray
    difference: FloatArray
    standard_error: FloatArray
    lower: FloatArray
    upper: FloatArray
    p_values: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per time."""
        return pd.DataFrame(
            {
                "time": self.times,
                "difference": self.difference,
                "standard_error": self.standard_error,
                "lower": self.lower,
                "upper": self.upper,
                "p_value": self.p_values,
            }
        )


def time_dependent_auc(
    time: ArrayLike,
    event: ArrayLike,
    *,
    score: ArrayLike,
    times: ArrayLike | float,
    case_rule: CaseRule = "before",
    level: float = 0.95,
) -> TimeDependentAuc:
    """Estimate the AUC of a score for the event by each time.

    Parameters
    ----------
    time, event
        Shape (n,).
    score
        Shape (n,), higher = higher risk.
    times
        Evaluation times, in the unit of ``time``.
    case_rule
        ``before``: an event exactly at t is neither case nor control (R: ``timeROC``).
        ``at-or-before``: it is a case (R: ``riskRegression::Score``). Each rule carries the standard error of its
        package; the two differ only where t is an observed event time, and by the package's handling of ties.
    level
        Confidence level.

    Raises
    ------
    TooFewCases
        No case or no control at one of the times.

    Notes
    -----
    Inverse probability of censoring weights of the marginal Kaplan–Meier estimate; Blanche et al. (2013),
    Hung and Chiang (2010). O(n log n) per time and O(n) memory.
    """
    step = "time_dependent_auc"
    follow = read_follow_up(time, event, step=step)
    marker = read_score(score, follow, step=step)
    points = read_time_points(times, step=step)
    if case_rule not in get_args(CaseRule):
        raise InvalidValue("Unknown case rule.", step=step, expected=get_args(CaseRule), got=case_rule)
    weights = censoring_weights(follow, points)
    n, k = len(follow), points.size
    estimate, incidence, survival = np.empty(k), np.empty(k), np.empty(k)
    cases_n, controls_n = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    influence = np.empty((n, k))
    for column, t in enumerate(points):
        cases, controls = _split(follow, float(t), case_rule)
        if not cases.any() or not controls.any():
            raise TooFewCases(
                f"At time {t:g} there is no case or no control.",
                step=step,
                field="times",
                expected="events before and patients followed past the time",
                got=f"{int(cases.sum())} cases, {int(controls.sum())} controls",
                remedy="Choose a time inside the follow-up.",
            )
        case_weight = np.where(cases, 1.0 / weights.before_own_time, 0.0)
        control_weight = 1.0 / weights.at_points[column]
        below, _ = _weighted_below(marker, np.where(controls, control_weight, 0.0))
        _, above = _weighted_below(marker, case_weight)
        total = case_weight.sum() * control_weight * controls.sum()
        estimate[column] = float(case_weight @ below) / total
        cases_n[column], controls_n[column] = cases.sum(), controls.sum()
        incidence[column] = case_weight.sum() / n
        survival[column] = control_weight * controls.sum() / n
        spread = _Weighted(cases, controls, case_weight, control_weight, below, above, float(estimate[column]))
        if case_rule == "before":
            influence[:, column] = _influence_before(follow, spread)
        else:
            influence[:, column] = _influence_at_or_before(follow, float(t), spread)
    error = influence.std(axis=0, ddof=1) / np.sqrt(n)
    half = float(ndtri(1 - (1 - level) / 2)) * error
    return TimeDependentAuc(
        case_rule,
        points,
        estimate,
        error,
        np.maximum(estimate - half, 0.0),
        np.minimum(estimate + half, 1.0),
        cases_n,
        controls_n,
        n - cases_n - controls_n,
        incidence,
        survival,
        influence,
    )


def _split(follow: Follow, t: float, case_rule: CaseRule) -> tuple[BoolArray, BoolArray]:
    by_then = follow.time < t if case_rule == "before" else follow.time <= t
    return by_then & (follow.event == 1), follow.time > t


def _weighted_below(marker: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return each patient's weight of strictly lower markers (ties count half), and of higher ones."""
    _, index = np.unique(marker, return_inverse=True)
    by_level = np.bincount(index, weights=weight)
    upto = np.cumsum(by_level)
    below = upto - by_level
    total = float(weight.sum())
    return (below + by_level / 2)[index], (total - upto + by_level / 2)[index]


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Cases and controls with their weights; ``below`` and ``above`` are weighted counts of the other group."""

    cases: BoolArray
    controls: BoolArray
    case_weight: FloatArray
    control_weight: float
    below: FloatArray
    above: FloatArray
    area: float


def _influence_before(follow: Follow, parts: _Weighted) -> FloatArray:
    """Return the influence of each patient on the AUC, with T < t as cases (Blanche et al. 2013, appendix).

    The censoring martingales run over single patients in order of time, tied ones in the order given.
    """
    n = len(follow)
    order = np.argsort(follow.time, kind="stable")
    time, censored = follow.time[order], (follow.event[order] == 0).astype(np.float64)
    case_weight = parts.case_weight[order] / n
    control_weight = parts.control_weight / n
    column_sums = parts.case_weight[order] * parts.below[order]
    row_sums = np.where(parts.controls[order], parts.control_weight * parts.above[order], 0.0)
    kernel = float(column_sums.sum()) / n**2
    incidence = float(case_weight.sum())
    survival = control_weight * float(parts.controls.sum())
    at_risk_share = parts.controls[order] / parts.controls.mean()
    f_cases = case_weight * n
    a = column_sums / n - kernel * f_cases / incidence
    tail = a[::-1].cumsum()[::-1]
    position = np.arange(n)
    share = (n - position) / n
    hazard = censored / (n - position)
    first = np.searchsorted(time, time, side="left")
    compensated = censored / share[first] * tail[first] - np.cumsum(hazard / share * tail)
    constant = float(column_sums.sum()) / n - kernel * float(np.sum(at_risk_share + f_cases / incidence - 1))
    by_weights = constant + compensated
    by_control = row_sums - n * kernel
    by_case = column_sums - n * kernel * (at_risk_share + (f_cases - incidence) / incidence)
    result = np.empty(n)
    result[order] = (by_weights + by_control + by_case) / (incidence * survival) / n
    return result


def _influence_at_or_before(follow: Follow, t: float, parts: _Weighted) -> FloatArray:
    """Return the influence of each patient on the AUC, with T ≤ t as cases (riskRegression, marginal censoring)."""
    n = len(follow)
    case_sum = float(parts.case_weight.sum())
    control_sum = parts.control_weight * float(parts.controls.sum())
    mu = case_sum * control_sum / n**2
    nu = parts.area * mu
    numerator = np.where(parts.cases, parts.case_weight * parts.below, 0.0)
    numerator = np.where(parts.controls, parts.control_weight * parts.above, numerator) / n
    denominator = np.where(parts.cases, parts.case_weight * control_sum, 0.0)
    denominator = np.where(parts.controls, parts.control_weight * case_sum, denominator) / n
    direct = (numerator * mu - denominator * nu) / mu**2
    past = censoring_influence(follow, t, np.column_stack((parts.case_weight * parts.below, parts.case_weight)))
    shift = past.at_time
    term_numerator = past.sums[:, 0] / n**2 + shift * nu
    term_denominator = (past.sums[:, 1] * control_sum + shift * control_sum * case_sum) / n**2
    return direct + (term_numerator * mu - term_denominator * nu) / mu**2


@dataclass(frozen=True, eq=False)
class CensoringInfluence:
    """How each patient moves the censoring weights.

    Attributes
    ----------
    at_time
        Shape (n,): influence on minus the log censoring probability at t (or at the own time, if earlier).
    sums
        Shape (n, q): Σ over patients with an event of a weighted quantity times the influence on their weight.
    """

    at_time: FloatArray
    sums: FloatArray


def censoring_influence(follow: Follow, t: float, quantities: FloatArray) -> CensoringInfluence:
    """Return the influence of the estimated censoring distribution on weighted sums over cases up to t.

    Parameters
    ----------
    follow
        Follow-up of n patients.
    t
        Horizon.
    quantities
        Shape (n, q), zero for patients that are not cases by t.
    """
    n = len(follow)
    distinct, index = np.unique(follow.time, return_inverse=True)
    k = distinct.size
    total = np.bincount(index, minlength=k)
    at_risk = total[::-1].cumsum()[::-1].astype(np.float64)
    lost = np.bincount(index, weights=1 - follow.event, minlength=k)
    compensator = np.cumsum(lost / at_risk * n / at_risk)
    by_time = np.column_stack(
        [np.bincount(index, weights=quantities[:, j], minlength=k) for j in range(quantities.shape[1])]
    )
    upto = np.cumsum(by_time, axis=0)
    before = np.concatenate(([0.0], compensator[:-1]))
    drained = np.cumsum(by_time * before[:, None], axis=0)
    horizon = int(np.searchsorted(distinct, t, side="right")) - 1
    if horizon < 0:
        at_time = np.zeros(n)
    else:
        own = (1 - follow.event) * n / at_risk[index] - compensator[index]
        at_time = np.where(index <= horizon, own, -compensator[horizon])
    sums = -drained[index] + at_time[:, None] * (by_time.sum(axis=0) - upto[index])
    return CensoringInfluence(at_time, sums)


def compare_time_dependent_auc(
    first: TimeDependentAuc, second: TimeDependentAuc, *, level: float = 0.95
) -> TimeDependentAucComparison:
    """Compare two scores measured in the same patients, time by time (R: ``timeROC::compare``, ``Score``)."""
    if first.influence.shape != second.influence.shape or not np.array_equal(first.times, second.times):
        raise InvalidValue(
            "Both AUCs must come from the same patients and times.",
            step="compare_time_dependent_auc",
            expected=first.influence.shape,
            got=second.influence.shape,
        )
    difference = first.estimate - second.estimate
    n = first.influence.shape[0]
    error = (first.influence - second.influence).std(axis=0, ddof=1) / np.sqrt(n)
    half = float(ndtri(1 - (1 - level) / 2)) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, difference / error, 0.0)
    return TimeDependentAucComparison(
        first.times, difference, error, difference - half, difference + half, 2 * ndtr(-np.abs(z))
    )


def weighted_roc(
    time: ArrayLike, event: ArrayLike, *, score: ArrayLike, at: float, case_rule: CaseRule = "before"
) -> TimeDependentRoc:
    """Trace the weighted ROC curve at one time, over all distinct scores from high to low (R: ``timeROC``)."""
    step = "weighted_roc"
    follow = read_follow_up(time, event, step=step)
    marker = read_score(score, follow, step=step)
    weights = censoring_weights(follow, np.array([float(at)]))
    cases, controls = _split(follow, float(at), case_rule)
    if not cases.any() or not controls.any():
        raise TooFewCases("There is no case or no control at the time.", step=step, field="at", got=at)
    levels, index = np.unique(-marker, return_inverse=True)
    case_weight = np.where(cases, 1.0 / weights.before_own_time, 0.0)
    hits = np.concatenate(([0.0], np.cumsum(np.bincount(index, weights=case_weight)))) / case_weight.sum()
    alarms = np.concatenate(([0.0], np.cumsum(np.bincount(index, weights=controls)))) / controls.sum()
    area = float(np.sum(np.diff(alarms) * (hits[1:] + hits[:-1]) / 2))
    return TimeDependentRoc(
        float(at), np.concatenate(([np.inf], -levels)), hits, alarms, area, survival_at(follow, float(at))
    )
