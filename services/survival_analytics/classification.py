"""Classification at a threshold of a score, and the thresholds that are best by a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from services.shared.errors import InvalidValue
from services.survival_analytics.inputs import Notice, read_classes, read_score
from services.survival_analytics.roc import Direction, roc

Criterion = Literal["youden", "closest-topleft"]


@dataclass(frozen=True)
class Classification:
    """A 2×2 table at a threshold, with exact (Clopper–Pearson) limits of its rates.

    Rates whose denominator is zero are NaN and named in ``notices``.
    """

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    sensitivity: float
    sensitivity_lower: float
    sensitivity_upper: float
    specificity: float
    specificity_lower: float
    specificity_upper: float
    accuracy: float
    accuracy_lower: float
    accuracy_upper: float
    positive_predictive_value: float
    positive_predictive_value_lower: float
    positive_predictive_value_upper: float
    negative_predictive_value: float
    negative_predictive_value_lower: float
    negative_predictive_value_upper: float
    f1: float
    youden: float
    distance_to_corner: float
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([{k: v for k, v in vars(self).items() if k != "notices"}])


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Thresholds that are best by a criterion; several where they tie, from lenient to strict."""

    criterion: Criterion
    direction: Literal["higher", "lower"]
    rows: tuple[Classification, ...]

    @property
    def best(self) -> float:
        """The most lenient of the best thresholds."""
        return self.rows[0].threshold

    def to_frame(self) -> pd.DataFrame:
        """Return one row per threshold."""
        return pd.concat([row.to_frame() for row in self.rows], ignore_index=True)


def best_threshold(
    outcome: ArrayLike,
    score: ArrayLike,
    *,
    criterion: Criterion = "youden",
    direction: Direction = "higher",
    level: float = 0.95,
) -> Thresholds:
    """Find the threshold that is best by Youden's index or closest to the top left corner.

    A threshold chosen and judged on the same patients looks better than it is.

    Returns
    -------
    Thresholds
        Every threshold that attains the optimum, with its classification table (R ``pROC::coords(x = "best")``).
    """
    if criterion not in get_args(Criterion):
        raise InvalidValue("Unknown criterion.", step="best_threshold", expected=get_args(Criterion), got=criterion)
    curve = roc(outcome, score, direction=direction)
    if criterion == "youden":
        merit = curve.sensitivity + curve.specificity
    else:
        merit = -((1 - curve.sensitivity) ** 2 + (1 - curve.specificity) ** 2)
    best = np.flatnonzero(merit == merit.max())
    rows = tuple(
        classify(outcome, score, threshold=float(curve.threshold[k]), direction=curve.direction, level=level)
        for k in best
    )
    return Thresholds(criterion, curve.direction, rows)


def classify(
    outcome: ArrayLike,
    score: ArrayLike,
    *,
    threshold: float,
    direction: Literal["higher", "lower"] = "higher",
    level: float = 0.95,
) -> Classification:
    """Return the 2×2 table and its rates when scores at or beyond a threshold count as positive."""
    y = read_classes(outcome, field="outcome", step="classify")
    x = read_score(score, y, step="classify")
    positive = x >= threshold if direction == "higher" else x <= threshold
    tp, fp = int(np.sum(positive & (y == 1))), int(np.sum(positive & (y == 0)))
    fn, tn = int(np.sum(y == 1)) - tp, int(np.sum(y == 0)) - fp
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    notices = []
    if tp + fp == 0:
        notices.append(Notice("no_positives", "No patient is positive: the positive predictive value does not exist."))
    if tn + fn == 0:
        notices.append(Notice("no_negatives", "No patient is negative: the negative predictive value does not exist."))
    return Classification(
        float(threshold),
        tp,
        fp,
        tn,
        fn,
        *_rate(tp, tp + fn, level),
        *_rate(tn, tn + fp, level),
        *_rate(tp + tn, y.size, level),
        *_rate(tp, tp + fp, level),
        *_rate(tn, tn + fn, level),
        2 * tp / (2 * tp + fp + fn),
        sensitivity + specificity,
        (1 - sensitivity) ** 2 + (1 - specificity) ** 2,
        tuple(notices),
    )


def _rate(hits: int, total: int, level: float) -> tuple[float, float, float]:
    """Return a proportion with exact limits (Clopper and Pearson 1934)."""
    if total == 0:
        return float("nan"), float("nan"), float("nan")
    tail = (1 - level) / 2
    lower = float(betaincinv(hits, total - hits + 1, tail)) if hits else 0.0
    upper = float(betaincinv(hits + 1, total - hits, 1 - tail)) if hits < total else 1.0
    return hits / total, lower, upper
