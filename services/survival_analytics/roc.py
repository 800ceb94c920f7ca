"""ROC curves of binary outcomes: AUC with DeLong's limits and its comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtr

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.inputs import FloatArray, IntArray, Notice, read_classes, read_score

Direction = Literal["higher", "lower", "auto"]


@dataclass(frozen=True, eq=False)
class RocCurve:
    """An ROC curve from the most lenient to the strictest threshold.

    Attributes
    ----------
    direction
        ``higher``: cases have higher scores; ``lower``: lower ones.
    threshold
        Shape (k,): midway between neighbouring scores, infinite at both ends.
    sensitivity, specificity
        Shape (k,).
    area
        Area under the whole curve.
    """

    direction: Literal["higher", "lower"]
    n_cases: int
    n_controls: int
    threshold: FloatArray
    sensitivity: FloatArray
    specificity: FloatArray
    area: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per threshold."""
        return pd.DataFrame(
            {"threshold": self.threshold, "sensitivity": self.sensitivity, "specificity": self.specificity}
        )

    def partial_area(
        self, *, specificity_from: float = 1.0, specificity_to: float = 0.8, corrected: bool = False
    ) -> float:
        """Return the area between two specificities.

        Parameters
        ----------
        specificity_from, specificity_to
            Bounds of the range, in any order.
        corrected
            McClish's correction: one half for a useless and one for a perfect score.
        """
        low, high = sorted((specificity_from, specificity_to))
        if not 0 <= low < high <= 1:
            raise InvalidValue("The specificity range must lie in [0, 1].", step="roc", got=f"{low}…{high}")
        # Ascending specificity goes with falling sensitivity.
        x, y = self.specificity, self.sensitivity
        inside = (x > low) & (x < high)
        knots = np.concatenate(([low], x[inside], [high]))
        values = np.concatenate(([_value_at(x, y, low).min()], y[inside], [_value_at(x, y, high).max()]))
        area = float(np.sum(np.diff(knots) * (values[1:] + values[:-1]) / 2))
        if not corrected:
            return area
        useless = ((1 - low) ** 2 - (1 - high) ** 2) / 2
        return float((1 + (area - useless) / ((high - low) - useless)) / 2)

    def specificity_at(self, sensitivity: float) -> float:
        """Return the best specificity that keeps at least the given sensitivity."""
        return float(self.specificity[self.sensitivity >= sensitivity].max())


def _value_at(x: FloatArray, y: FloatArray, at: float) -> FloatArray:
    """Return the sensitivities at one specificity: several on a vertical stretch, else one by interpolation."""
    exact = np.flatnonzero(x == at)
    if exact.size:
        return y[exact]
    right = int(np.searchsorted(x, at))
    share = (at - x[right - 1]) / (x[right] - x[right - 1])
    return np.array([y[right - 1] + share * (y[right] - y[right - 1])])


@dataclass(frozen=True)
class Auc:
    """Area under an ROC curve with DeLong's standard error and limits (clipped to [0, 1])."""

    direction: Literal["higher", "lower"]
    n_cases: int
    n_controls: int
    estimate: float
    standard_error: float
    lower: float
    upper: float
    level: float
    notices: tuple[Notice, ...] = ()

    @property
    def variance(self) -> float:
        """Square of the standard error."""
        return self.standard_error**2

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        names = ("direction", "n_cases", "n_controls", "estimate", "standard_error", "lower", "upper", "level")
        return pd.DataFrame([{name: getattr(self, name) for name in names}])


@dataclass(frozen=True)
class AucComparison:
    """Two AUCs compared by DeLong's method.

    Paired tests use the normal distribution, unpaired ones Student's t with Welch-type degrees of freedom.
    """

    paired: bool
    first: float
    second: float
    difference: float
    standard_error: float
    lower: float
    upper: float
    statistic: float
    degrees_of_freedom: float
    p_value: float
    covariance: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


@dataclass(frozen=True, eq=False)
class AucMatrix:
    """All scores compared with each other.

    Attributes
    ----------
    names
        Scores.
    areas
        Shape (s,).
    covariance, p_values
        Shape (s, s); the diagonal of ``p_values`` is one.
    """

    names: tuple[str, ...]
    areas: FloatArray
    covariance: FloatArray
    p_values: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return the p-values as a square table."""
        return pd.DataFrame(self.p_values, index=list(self.names), columns=list(self.names))


def _resolve(direction: Direction, outcome: IntArray, score: FloatArray) -> Literal["higher", "lower"]:
    if direction == "auto":
        controls, cases = score[outcome == 0], score[outcome == 1]
        return "higher" if np.median(controls) <= np.median(cases) else "lower"
    if direction in get_args(Direction):
        return direction
    raise InvalidValue("Unknown direction.", step="roc", expected=get_args(Direction), got=direction)


def roc(outcome: ArrayLike, score: ArrayLike, *, direction: Direction = "higher") -> RocCurve:
    """Trace the ROC curve.

    Parameters
    ----------
    outcome
        Shape (n,): 1 = case, 0 = control.
    score
        Shape (n,).
    direction
        Whether cases have ``higher`` or ``lower`` scores; ``auto`` asks the group medians, as R ``pROC`` does, and
        makes an AUC below one half unlikely: do not use it to validate.

    Raises
    ------
    OneClass
        Only cases or only controls.
    """
    y = read_classes(outcome, field="outcome", step="roc")
    x = read_score(score, y, step="roc")
    way = _resolve(direction, y, x)
    signed = x if way == "higher" else -x
    levels, index = np.unique(signed, return_inverse=True)
    cases = np.bincount(index[y == 1], minlength=levels.size)
    controls = np.bincount(index[y == 0], minlength=levels.size)
    n1, n0 = int(cases.sum()), int(controls.sum())
    sensitivity = (n1 - np.concatenate(([0], np.cumsum(cases)))) / n1
    specificity = np.concatenate(([0], np.cumsum(controls))) / n0
    middle = np.concatenate(([-np.inf], (levels[:-1] + levels[1:]) / 2, [np.inf]))
    area = float(np.sum(np.diff(specificity) * (sensitivity[1:] + sensitivity[:-1]) / 2))
    return RocCurve(way, n1, n0, middle if way == "higher" else -middle, sensitivity, specificity, area)


@dataclass(frozen=True, eq=False)
class _Placements:
    area: float
    of_cases: FloatArray
    of_controls: FloatArray

    @property
    def variance(self) -> float:
        return float(
            self.of_cases.var(ddof=1) / self.of_cases.size + self.of_controls.var(ddof=1) / self.of_controls.size
        )

    def covariance(self, other: _Placements) -> float:
        cases = np.dot(self.of_cases - self.of_cases.mean(), other.of_cases - other.of_cases.mean())
        controls = np.dot(self.of_controls - self.of_controls.mean(), other.of_controls - other.of_controls.mean())
        m, n = self.of_cases.size, self.of_controls.size
        return float(cases / (m - 1) / m + controls / (n - 1) / n)


def _placements(outcome: IntArray, score: FloatArray, *, step: str) -> _Placements:
    """Return DeLong's structural components by midranks (Sun and Xu 2014), O(n log n)."""
    cases, controls = score[outcome == 1], score[outcome == 0]
    m, n = cases.size, controls.size
    if m < 2 or n < 2:
        raise TooFewCases(
            "DeLong's variance needs two cases and two controls.",
            step=step,
            expected="at least 2 and 2",
            got=f"{m} and {n}",
        )
    pooled = np.concatenate((cases, controls))
    order = np.argsort(pooled, kind="stable")
    joint = _midranks(pooled, order)
    is_case = order < m
    ordered_cases, ordered_controls = order[is_case], order[~is_case] - m
    own_cases = _midranks(cases, ordered_cases)
    own_controls = _midranks(controls, ordered_controls)
    of_cases = (joint[:m] - own_cases) / n
    of_controls = 1 - (joint[m:] - own_controls) / m
    return _Placements(float((joint[:m].sum() - m * (m + 1) / 2) / (m * n)), of_cases, of_controls)


def _midranks(values: FloatArray, order: IntArray) -> FloatArray:
    ordered = values[order]
    fresh = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    start = np.flatnonzero(fresh)
    stop = np.append(start[1:], values.size)
    middle = (start + stop + 1) / 2
    ranks = np.empty(values.size)
    ranks[order] = np.repeat(middle, stop - start)
    return ranks


def auc(outcome: ArrayLike, score: ArrayLike, *, direction: Direction = "higher", level: float = 0.95) -> Auc:
    """Return the area under the ROC curve with DeLong's limits.

    Parameters
    ----------
    outcome, score, direction
        As in :func:`roc`.
    level
        Confidence level.

    Notes
    -----
    DeLong et al. (1988); R ``pROC::ci.auc(method = "delong")``. O(n log n).

    Examples
    --------
    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).estimate
    0.75
    """
    y = read_classes(outcome, field="outcome", step="auc")
    x = read_score(score, y, step="auc")
    way = _resolve(direction, y, x)
    parts = _placements(y, x if way == "higher" else -x, step="auc")
    error = float(np.sqrt(parts.variance))
    half = float(ndtri(1 - (1 - level) / 2)) * error
    notices: tuple[Notice, ...] = ()
    if error == 0:
        notices = (Notice("no_variance", "The score separates the classes completely: the limits have no width."),)
    return Auc(
        way,
        parts.of_cases.size,
        parts.of_controls.size,
        parts.area,
        error,
        max(0.0, parts.area - half),
        min(1.0, parts.area + half),
        level,
        notices,
    )


def compare_auc(
    outcome: ArrayLike, first: ArrayLike, *, second: ArrayLike, direction: Direction = "higher", level: float = 0.95
) -> AucComparison:
    """Compare two scores measured in the same patients (DeLong's paired test; R ``pROC::roc.test(paired = TRUE)``)."""
    step = "compare_auc"
    y = read_classes(outcome, field="outcome", step=step)
    parts = []
    for name, values in (("first", first), ("second", second)):
        x = read_score(values, y, field=name, step=step)
        parts.append(_placements(y, x if _resolve(direction, y, x) == "higher" else -x, step=step))
    covariance = parts[0].covariance(parts[1])
    variance = parts[0].variance + parts[1].variance - 2 * covariance
    return _compare(parts[0].area, parts[1].area, variance, covariance, level=level, degrees=np.inf, paired=True)


def compare_auc_unpaired(
    outcome: ArrayLike,
    score: ArrayLike,
    *,
    other_outcome: ArrayLike,
    other_score: ArrayLike,
    direction: Direction = "higher",
    level: float = 0.95,
) -> AucComparison:
    """Compare AUCs of two different sets of patients (R ``pROC::roc.test(paired = FALSE)``)."""
    step = "compare_auc_unpaired"
    parts = []
    for outcomes, scores in ((outcome, score), (other_outcome, other_score)):
        y = read_classes(outcomes, field="outcome", step=step)
        x = read_score(scores, y, step=step)
        parts.append(_placements(y, x if _resolve(direction, y, x) == "higher" else -x, step=step))
    v1, v2 = parts[0].variance, parts[1].variance
    n1, n2 = (p.of_cases.size + p.of_controls.size for p in parts)
    denominator = v1**2 / (n1 - 1) + v2**2 / (n2 - 1)
    degrees = (v1 + v2) ** 2 / denominator if denominator > 0 else np.inf
    return _compare(parts[0].area, parts[1].area, v1 + v2, 0.0, level=level, degrees=degrees, paired=False)


def _compare(
    one: float, two: float, variance: float, covariance: float, *, level: float, degrees: float, paired: bool
) -> AucComparison:
    difference = one - two
    if not variance > 1e-16:
        if difference == 0:
            return AucComparison(paired, one, two, 0.0, 0.0, 0.0, 0.0, 0.0, degrees, 1.0, covariance)
        raise TooFewCases(
            "The difference of the AUCs has no variance: both scores separate the classes completely.",
            step="compare_auc",
            got=f"{one:g} and {two:g}",
        )
    error = float(np.sqrt(variance))
    z = difference / error
    half = float(ndtri(1 - (1 - level) / 2)) * error
    p_value = 2 * float(ndtr(-abs(z)) if np.isinf(degrees) else stdtr(degrees, -abs(z)))
    return AucComparison(
        paired,
        one,
        two,
        difference,
        error,
        difference - half,
        difference + half,
        z,
        float(degrees),
        p_value,
        covariance,
    )


def compare_auc_matrix(
    outcome: ArrayLike, scores: Mapping[str, ArrayLike], *, direction: Direction = "higher"
) -> AucMatrix:
    """Compare every pair of scores in the same patients by DeLong's test."""
    y = read_classes(outcome, field="outcome", step="compare_auc_matrix")
    names = tuple(scores)
    parts = []
    for name in names:
        x = read_score(scores[name], y, field=name, step="compare_auc_matrix")
        parts.append(_placements(y, x if _resolve(direction, y, x) == "higher" else -x, step="compare_auc_matrix"))
    s = len(names)
    covariance, p_values = np.empty((s, s)), np.ones((s, s))
    for i in range(s):
        for j in range(s):
            covariance[i, j] = parts[i].covariance(parts[j])
    for i in range(s):
        for j in range(i):
            variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
            result = _compare(
                parts[i].area, parts[j].area, variance, covariance[i, j], level=0.95, degrees=np.inf, paired=True
            )
            p_values[i, j] = p_values[j, i] = result.p_value
    return AucMatrix(names, np.array([p.area for p in parts]), covariance, p_values)
