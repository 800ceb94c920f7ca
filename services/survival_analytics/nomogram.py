"""Nomograms: points per level of each covariate, and what a total of points predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit

from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.cox_model import CoxModel
from services.survival_analytics.inputs import FloatArray, read_columns, read_time_points
from services.survival_analytics.logistic import LogisticModel
from services.survival_analytics.risk_sets import evaluate_steps
from services.survival_analytics.spline import interpolate_sorted
from services.survival_analytics.ticks import pretty_ticks

SURVIVAL_TICKS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
RISK_TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
MAX_LEVELS = 10
INTERVALS = 10


@dataclass(frozen=True, eq=False)
class CovariateAxis:
    """Points of one covariate.

    Attributes
    ----------
    levels, contribution, points
        Shape (l,): values, coefficient times value, and points from 0 to at most 100.
    """

    covariate: str
    coefficient: float
    levels: FloatArray
    contribution: FloatArray
    points: FloatArray


@dataclass(frozen=True, eq=False)
class OutcomeAxis:
    """Where probabilities lie on the scale of total points.

    Attributes
    ----------
    time
        Time of a survival probability; NaN for a logistic risk.
    reference
        Survival at the time with a linear predictor of zero; NaN for a logistic risk.
    probability, points
        Shape (k,): ticks that the axis can show.
    """

    label: str
    time: float
    reference: float
    probability: FloatArray
    points: FloatArray


@dataclass(frozen=True, eq=False)
class NomogramPrediction:
    """Points and predictions of patients: total points and linear predictors (n,), probabilities (outcomes, n)."""

    total_points: FloatArray
    linear_predictor: FloatArray
    labels: tuple[str, ...]
    probability: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per patient."""
        table = pd.DataFrame({"total_points": self.total_points, "linear_predictor": self.linear_predictor})
        for label, row in zip(self.labels, self.probability, strict=True):
            table[label] = row
        return table


@dataclass(frozen=True, eq=False)
class Nomogram:
    """A nomogram: total points are ``(linear predictor - intercept) * points_per_unit``.

    Attributes
    ----------
    family
        ``cox``: outcomes are survival probabilities; ``logistic``: the risk.
    axes
        One per covariate.
    total_points
        Ticks of the total.
    linear_predictor, linear_predictor_points
        Ticks of the linear predictor, and where they lie on the total.
    outcomes
        One per time, or the risk.
    """

    family: Literal["cox", "logistic"]
    axes: tuple[CovariateAxis, ...]
    intercept: float
    model_intercept: float
    points_per_unit: float
    total_points: FloatArray
    linear_predictor: FloatArray
    linear_predictor_points: FloatArray
    outcomes: tuple[OutcomeAxis, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate and level."""
        return pd.concat(
            [
                pd.DataFrame({"covariate": axis.covariate, "level": axis.levels, "points": axis.points})
                for axis in self.axes
            ],
            ignore_index=True,
        )

    def predict(self, frame: pd.DataFrame) -> NomogramPrediction:
        """Return total points and predictions of patients."""
        names = [axis.covariate for axis in self.axes]
        beta = np.array([axis.coefficient for axis in self.axes])
        lp = read_columns(frame, names, step="nomogram") @ beta + self.model_intercept
        rows = [self._probability(outcome, lp) for outcome in self.outcomes]
        labels = tuple(outcome.label for outcome in self.outcomes)
        return NomogramPrediction((lp - self.intercept) * self.points_per_unit, lp, labels, np.array(rows))

    def probability_at(self, total_points: ArrayLike) -> FloatArray:
        """Return the outcome probabilities at totals of points, shape (outcomes, m)."""
        lp = self.intercept + np.atleast_1d(np.asarray(total_points, dtype=np.float64)) / self.points_per_unit
        return np.array([self._probability(outcome, lp) for outcome in self.outcomes])

    def _probability(self, outcome: OutcomeAxis, lp: FloatArray) -> FloatArray:
        if self.family == "logistic":
            return np.asarray(expit(lp))
        return np.asarray(outcome.reference ** np.exp(lp))

    def to_json(self) -> str:
        """Return all that a web page needs to compute points and predictions.

        Points of a covariate are ``points_at_zero + points_per_value * value``; the linear predictor is
        ``intercept + total / points_per_unit``; survival is ``reference ** exp(lp)``, a risk ``1 / (1 + exp(-lp))``.
        """
        covariates = [
            {
                "name": axis.covariate,
                "levels": axis.levels.tolist(),
                "points": axis.points.tolist(),
                "points_per_value": axis.coefficient * self.points_per_unit,
                "points_at_zero": float(axis.points[0] - axis.coefficient * self.points_per_unit * axis.levels[0]),
            }
            for axis in self.axes
        ]
        outcomes = [
            {
                "label": outcome.label,
                "time": None if np.isnan(outcome.time) else outcome.time,
                "reference": None if np.isnan(outcome.reference) else outcome.reference,
                "ticks": outcome.probability.tolist(),
                "points": outcome.points.tolist(),
            }
            for outcome in self.outcomes
        ]
        return json.dumps(
            {
                "family": self.family,
                "intercept": self.intercept,
                "points_per_unit": self.points_per_unit,
                "total_points": self.total_points.tolist(),
                "covariates": covariates,
                "outcomes": outcomes,
            },
            indent=2,
        )


def build_nomogram(
    model: CoxModel | LogisticModel,
    times: Sequence[float] = (),
    *,
    frame: pd.DataFrame,
    probability_ticks: Sequence[float] | None = None,
    time_unit: str = "",
) -> Nomogram:
    """Build the nomogram of a model.

    Parameters
    ----------
    model
        A Cox model without strata, or a logistic one.
    times
        Times of the survival axes, for a Cox model.
    frame
        Patients whose values set the ranges of the axes: up to ten distinct values are shown as they are, more as
        round numbers that cover the range.
    probability_ticks
        Probabilities to mark.
    time_unit
        Written after the times in labels.

    Raises
    ------
    InvalidTable
        A stratified model, times for a logistic model, or none for a Cox model.

    Notes
    -----
    R ``rms::nomogram``: the covariate with the largest effect over its range spans 100 points; every axis begins at 0.
    """
    step = "build_nomogram"
    points = read_time_points(list(times), step=step) if len(times) else np.zeros(0)
    matrix = read_columns(frame, model.covariates, step=step)
    if isinstance(model, CoxModel):
        if model.strata is not None:
            raise InvalidTable("A stratified model has no single nomogram.", step=step, field=model.strata)
        if not points.size:
            raise InvalidTable("A Cox nomogram needs times.", step=step, field="times", expected="one or more times")
        beta, offset = model.coefficients, -float(model.centre @ model.coefficients)
    else:
        if points.size:
            raise InvalidTable("A logistic nomogram has no times.", step=step, field="times", got=list(times))
        beta, offset = model.coefficients[1:], float(model.coefficients[0])
    levels = [_axis_levels(matrix[:, j]) for j in range(beta.size)]
    contributions = [level * b for level, b in zip(levels, beta, strict=True)]
    widest = max(float(np.ptp(c)) for c in contributions)
    if widest == 0:
        raise TooFewCases("Every coefficient is zero: there is nothing to draw.", step=step)
    scale = 100 / widest
    intercept = offset + sum(float(c.min()) for c in contributions)
    axes = tuple(
        CovariateAxis(name, float(b), level, c, (c - c.min()) * scale)
        for name, b, level, c in zip(model.covariates, beta, levels, contributions, strict=True)
    )
    lp = matrix @ beta + offset
    lp_ticks = pretty_ticks(float(lp.min()), float(lp.max()), count=INTERVALS)
    highest = 100.0 if beta.size == 1 else max(100.0, scale * (float(lp_ticks.max()) - intercept))
    outcomes = []
    grid = np.linspace(lp_ticks[0], lp_ticks[-1], 1000)
    if isinstance(model, CoxModel):
        ticks = np.asarray(SURVIVAL_TICKS if probability_ticks is None else probability_ticks, dtype=np.float64)
        baseline = model.baselines[0]
        reference = np.exp(-evaluate_steps(baseline.time, np.cumsum(baseline.hazard), points, initial=0.0))
        for t, s in zip(points, reference, strict=True):
            label = f"survival at {t:g} {time_unit}".rstrip()
            outcomes.append(_outcome(label, float(t), float(s), s ** np.exp(grid), grid, ticks, intercept, scale))
    else:
        ticks = np.asarray(RISK_TICKS if probability_ticks is None else probability_ticks, dtype=np.float64)
        nan = float("nan")
        outcomes.append(_outcome("risk", nan, nan, expit(grid), grid, ticks, intercept, scale))
    return Nomogram(
        "cox" if isinstance(model, CoxModel) else "logistic",
        axes,
        intercept,
        offset,
        scale,
        pretty_ticks(0.0, highest, count=INTERVALS),
        lp_ticks,
        (lp_ticks - intercept) * scale,
        tuple(outcomes),
    )


def _axis_levels(values: FloatArray) -> FloatArray:
    distinct = np.unique(values)
    if distinct.size < 2:
        raise InvalidValue("A covariate does not vary in the table.", step="build_nomogram", got=float(distinct[0]))
    if distinct.size <= MAX_LEVELS:
        return distinct
    return pretty_ticks(float(distinct[0]), float(distinct[-1]), count=INTERVALS)


def _outcome(
    label: str,
    time: float,
    reference: float,
    probability: FloatArray,
    grid: FloatArray,
    ticks: FloatArray,
    intercept: float,
    scale: float,
) -> OutcomeAxis:
    position = interpolate_sorted(probability, grid, ticks)
    shown = ~np.isnan(position)
    return OutcomeAxis(label, time, reference, ticks[shown], (position[shown] - intercept) * scale)
