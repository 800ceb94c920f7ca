"""Comparison of two scores' concordances measured in the same patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtr
from scipy.stats import rankdata

from services.shared.errors import InvalidValue, TooFewCases, TooLarge
from services.survival_analytics.concordance import concordance_of, quade_error, somers_d, strict_concordance
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    read_follow_up,
    read_score,
)
from services.survival_analytics.pair_counts import count_joint_pairs, count_pairs

ComparisonMethod = Literal["jackknife", "u-statistic", "paired", "noether"]
MAX_JOINT_ROWS = 50_000


@dataclass(frozen=True, eq=False)
class ConcordanceComparison:
    """Two correlated concordances.

    Attributes
    ----------
    first, second
        C of both scores.
    covariance
        Shape (2, 2).
    difference, standard_error, statistic, p_value
        First minus second; two-sided p-value except for ``noether`` (one-sided: first is larger).
    """

    method: ComparisonMethod
    first: float
    second: float
    covariance: FloatArray
    difference: float
    standard_error: float
    statistic: float
    p_value: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame(
            [
                {
                    "method": self.method,
                    "first": self.first,
                    "second": self.second,
                    "difference": self.difference,
                    "standard_error": self.standard_error,
                    "statistic": self.statistic,
                    "p_value": self.p_value,
                }
            ]
        )


@dataclass(frozen=True)
class PairwisePreference:
    """How often one score separates a pair more, in the right direction, than the other (R: ``Hmisc::rcorrp.cens``)."""

    n: int
    n_events: int
    preference: float
    standard_error: float
    first_more: float
    second_more: float
    relevant_pairs: float
    uncertain_pairs: float
    first: float
    second: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


def compare_concordance(
    time: ArrayLike,
    event: ArrayLike,
    *,
    first: ArrayLike,
    second: ArrayLike,
    method: ComparisonMethod = "jackknife",
) -> ConcordanceComparison:
    """Compare the concordance of two scores measured in the same patients.

    Parameters
    ----------
    time, event
        Shape (n,).
    first, second
        Shape (n,) each, higher = higher risk.
    method
        ``jackknife``: covariance of influences (R: ``survival::concordance`` of two models), O(n log n).
        ``u-statistic``: Kang et al. (2015) (R: ``compareC``), O(n²).
        ``noether``: one-sided t test with the rank correlation of the scores (R: ``survcomp::cindex.comp``).

    Raises
    ------
    TooFewCases
        The scores order every pair alike, so that their difference has no variance.
    """
    step = "compare_concordance"
    follow = read_follow_up(time, event, step=step)
    a = read_score(first, follow, field="first", step=step)
    b = read_score(second, follow, field="second", step=step)
    if method == "jackknife":
        one, two = concordance_of(follow, a), concordance_of(follow, b)
        influence = np.column_stack((one.influence, two.influence))
        return _compare(method, one.estimate, two.estimate, influence.T @ influence)
    if method == "u-statistic":
        return _compare_u_statistics(follow, a, b)
    if method == "noether":
        return _compare_strict(follow, a, b)
    raise InvalidValue("Unknown method.", step=step, expected=get_args(ComparisonMethod), got=method)


def _compare(method: ComparisonMethod, one: float, two: float, covariance: FloatArray) -> ConcordanceComparison:
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = one - two
    if not variance > 1e-15:
        raise TooFewCases(
            "Both scores order every pair alike: the difference of their concordances has no variance.",
            step="compare_concordance",
            got=f"difference {difference:g}",
        )
    error = float(np.sqrt(variance))
    z = difference / error
    return ConcordanceComparison(method, one, two, covariance, difference, error, z, 2 * float(ndtr(-abs(z))))


def _compare_u_statistics(follow: Follow, a: FloatArray, b: FloatArray) -> ConcordanceComparison:
    n = _require_joint_size(follow)
    if n < 4:
        raise TooFewCases("At least four patients are needed.", step="compare_concordance", got=n)
    counts, _, _ = count_joint_pairs(follow.time, follow.event, a, b)
    r, s1, s2, joint = counts[:, 0], counts[:, 1], counts[:, 2], counts[:, 3]
    as_event, as_later = count_pairs(follow.time, follow.event, a, np.ones(n))
    untied_a = (as_event + as_later)[:, :2].sum()
    as_event, as_later = count_pairs(follow.time, follow.event, b, np.ones(n))
    untied_b = (as_event + as_later)[:, :2].sum()

    def covariance(x: FloatArray, y: FloatArray, products: float) -> float:
        inner = 4 * (x * y).sum() - 2 * products - 2 * (2 * n - 3) * x.sum() * y.sum() / n / (n - 1)
        return float(inner / n / (n - 1) / (n - 2) / (n - 3))

    t_r, t1, t2 = (float(v.sum()) / n / (n - 1) for v in (r, s1, s2))
    v_r = covariance(r, r, r.sum())
    v1, v2 = covariance(s1, s1, untied_a), covariance(s2, s2, untied_b)
    c1, c2, c12 = covariance(r, s1, s1.sum()), covariance(r, s2, s2.sum()), covariance(s1, s2, joint.sum())

    def delta(x: float, y: float, v_xy: float, v_xr: float, v_yr: float) -> float:
        return 0.25 * (v_xy / t_r**2 - y * v_xr / t_r**3 - x * v_yr / t_r**3 + x * y * v_r / t_r**4)

    matrix = np.array(
        [
            [delta(t1, t1, v1, c1, c1), delta(t1, t2, c12, c1, c2)],
            [delta(t1, t2, c12, c1, c2), delta(t2, t2, v2, c2, c2)],
        ]
    )
    return _compare("u-statistic", (t1 / t_r + 1) / 2, (t2 / t_r + 1) / 2, matrix)


def _compare_strict(follow: Follow, a: FloatArray, b: FloatArray) -> ConcordanceComparison:
    one = strict_concordance(follow.time, follow.event, score=a)
    two = strict_concordance(follow.time, follow.event, score=b)
    r = float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
    cross = r * one.standard_error * two.standard_error
    covariance = np.array([[one.standard_error**2, cross], [cross, two.standard_error**2]])
    difference = one.estimate - two.estimate
    error = float(np.sqrt(one.standard_error**2 + two.standard_error**2 - 2 * cross))
    if 1 - abs(r) <= 1e-15 or error == 0:
        return ConcordanceComparison("noether", one.estimate, two.estimate, covariance, difference, error, 0.0, 1.0)
    statistic = difference / error
    p_value = float(stdtr(len(follow) - 1, -statistic))
    return ConcordanceComparison(
        "noether", one.estimate, two.estimate, covariance, difference, error, statistic, p_value
    )


def compare_separation(time: ArrayLike, event: ArrayLike, *, first: ArrayLike, second: ArrayLike) -> PairwisePreference:
    """Return how often each score separates a pair more (R: ``rcorrp.cens(-first, -second, Surv(time, event))``)."""
    step = "compare_separation"
    follow = read_follow_up(time, event, step=step)
    a = read_score(first, follow, field="first", step=step)
    b = read_score(second, follow, field="second", step=step)
    n = _require_joint_size(follow)
    counts, more, uncertain = count_joint_pairs(follow.time, follow.event, a, b)
    relevant, preference = counts[:, 0], counts[:, 4]
    total = relevant.sum()
    if total == 0:
        raise TooFewCases("No pair of patients can be compared.", step=step, got="none")
    share = float(2 * more / total)
    gamma = float(preference.sum() / total)
    return PairwisePreference(
        n,
        int(follow.event.sum()),
        gamma,
        quade_error(relevant, preference),
        share,
        share - gamma,
        float(total),
        2 * uncertain,
        somers_d(follow.time, follow.event, score=a).concordance,
        somers_d(follow.time, follow.event, score=b).concordance,
    )


def _require_joint_size(follow: Follow) -> int:
    n = len(follow)
    if n > MAX_JOINT_ROWS:
        raise TooLarge(
            "Comparing pairs under two scores takes a time that grows with the square of the rows.",
            step="compare_concordance",
            expected=f"at most {MAX_JOINT_ROWS} rows",
            got=n,
            remedy="Use method='jackknife', which grows with n log n.",
        )
    return n
