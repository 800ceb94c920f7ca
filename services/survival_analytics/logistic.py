"""Logistic regression: fit, Wald and profile limits, and stepwise selection by an information criterion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit, log_expit, ndtr, ndtri

from services.shared.errors import InvalidTable, InvalidValue
from services.survival_analytics.inputs import (
    FloatArray,
    IntArray,
    Notice,
    read_classes,
    read_columns,
    refuse_constant,
    require_column,
)
from services.survival_analytics.spline import interpolate_sorted, natural_grid

StepDirection = Literal["backward", "forward", "both"]
MAX_ITERATIONS = 60


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """Where the logistic likelihood is largest (columns as given, intercept included by the caller).

    Attributes
    ----------
    coefficients, covariance
        Shape (p,) and (p, p).
    deviance
        -2 log-likelihood.
    """

    coefficients: FloatArray
    covariance: FloatArray
    deviance: float
    separated: bool


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """A fitted logistic model; the first term is the intercept.

    Attributes
    ----------
    terms
        ``(Intercept)`` and the covariates.
    coefficients, standard_errors, z, p_values, odds_ratios
        Shape (p + 1,).
    wald_lower, wald_upper, profile_lower, profile_upper
        Limits of the odds ratios; profile limits are NaN where the likelihood does not fall far enough.
    """

    terms: tuple[str, ...]
    n: int
    n_events: int
    level: float
    coefficients: FloatArray
    covariance: FloatArray
    standard_errors: FloatArray
    z: FloatArray
    p_values: FloatArray
    odds_ratios: FloatArray
    wald_lower: FloatArray
    wald_upper: FloatArray
    profile_lower: FloatArray
    profile_upper: FloatArray
    deviance: float
    null_deviance: float
    aic: float
    bic: float
    linear_predictor: FloatArray
    notices: tuple[Notice, ...]

    @property
    def covariates(self) -> tuple[str, ...]:
        """The terms without the intercept."""
        return self.terms[1:]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per term."""
        return pd.DataFrame(
            {
                "term": self.terms,
                "coefficient": self.coefficients,
                "standard_error": self.standard_errors,
                "z": self.z,
                "p_value": self.p_values,
                "odds_ratio": self.odds_ratios,
                "wald_lower": self.wald_lower,
                "wald_upper": self.wald_upper,
                "profile_lower": self.profile_lower,
                "profile_upper": self.profile_upper,
            }
        )

    def predict_risk(self, frame: pd.DataFrame) -> FloatArray:
        """Return predicted probabilities, shape (n,)."""
        matrix = read_columns(frame, self.covariates, step="predict_risk")
        return expit(self.coefficients[0] + matrix @ self.coefficients[1:])  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class StepwiseSelection:
    """The path of a stepwise search.

    Attributes
    ----------
    selected
        Covariates of the last model, in the order in which it lists them.
    steps
        Empty string for the start, then ``- name`` or ``+ name``.
    criterion
        Shape (steps,): value of the criterion after each step.
    """

    direction: StepDirection
    selected: tuple[str, ...]
    steps: tuple[str, ...]
    criterion: FloatArray
    model: LogisticModel | None

    def to_frame(self) -> pd.DataFrame:
        """Return one row per step."""
        return pd.DataFrame({"step": self.steps, "criterion": self.criterion})


def maximise_logistic(
    design: FloatArray, outcome: IntArray, *, offset: FloatArray | None = None, start: FloatArray | None = None
) -> LogisticFit:
    """Fit a logistic regression by Newton's method.

    Parameters
    ----------
    design
        Shape (n, p), with a column of ones where an intercept is wanted.
    outcome
        Shape (n,), 0 or 1.
    offset
        Shape (n,): part of the linear predictor with coefficient one.
    start
        Shape (p,): where to begin.
    """
    y = outcome.astype(np.float64)
    shift = np.zeros(y.size) if offset is None else offset
    sign = np.where(outcome == 1, 1.0, -1.0)
    # The first step starts from probabilities of 1/4 and 3/4, and the covariance is that of the last step's weights,
    # as in R's glm: standard errors then agree beyond the convergence of the coefficients.
    eta = np.log(3.0) * sign if start is None else design @ start + shift
    beta = np.zeros(design.shape[1]) if start is None else start
    deviance = _deviance(eta, sign)
    covariance = np.full((beta.size, beta.size), np.inf)
    unbounded = False
    for iteration in range(MAX_ITERATIONS):
        p = expit(eta)
        weight = p * (1 - p)
        try:
            factor = cho_factor(design.T @ (weight[:, None] * design))
        except LinAlgError:
            unbounded = True
            break
        covariance = cho_solve(factor, np.eye(beta.size))
        proposal = cho_solve(factor, design.T @ (weight * (eta - shift) + y - p))
        value = _deviance(design @ proposal + shift, sign)
        halvings = 0
        while iteration > 0 and value > deviance + 1e-9 * (1 + abs(deviance)) and halvings < 30:
            proposal = (proposal + beta) / 2
            value = _deviance(design @ proposal + shift, sign)
            halvings += 1
        change, drift = abs(deviance - value), float(np.max(np.abs(design @ (proposal - beta))))
        beta, deviance, eta = proposal, value, design @ proposal + shift
        if change <= 1e-14 * (abs(deviance) + 0.1):
            break
        unbounded = iteration == MAX_ITERATIONS - 1 or (iteration > 20 and drift > 0.5)
        if unbounded:
            break
    return LogisticFit(beta, covariance, deviance, unbounded or deviance < 1e-8)


def _refuse_collinear() -> None:
    raise InvalidTable(
        "The covariates are collinear: their coefficients are not determined.",
        step="fit_logistic",
        expected="covariates none of which is a combination of the others",
        remedy="Remove a covariate (for indicator columns: leave one level out).",
    )


def _deviance(eta: FloatArray, sign: FloatArray) -> float:
    return -2 * float(np.sum(log_expit(sign * eta)))


def fit_logistic(
    frame: pd.DataFrame,
    outcome: str,
    *,
    covariates: Sequence[str],
    level: float = 0.95,
    profile: bool = False,
) -> LogisticModel:
    """Fit a logistic regression with an intercept.

    Parameters
    ----------
    frame
        One row per patient.
    outcome
        Column of 1 = case and 0 = control.
    covariates
        Numeric columns.
    level
        Confidence level.
    profile
        Compute profile-likelihood limits as well.

    Raises
    ------
    InvalidTable, InvalidValue, OneClass
        Unknown, constant or collinear columns; values that are missing; a single class.

    Notes
    -----
    R ``glm(family = binomial)``; profile limits as ``MASS::confint`` interpolates them (a spline through the profile).
    Named notices: ``separation``, ``few_events``.
    """
    step = "fit_logistic"
    y = read_classes(np.asarray(require_column(frame, outcome, step=step)), field=outcome, step=step)
    matrix = read_columns(frame, covariates, step=step)
    refuse_constant(matrix, covariates, step=step)
    return _describe(matrix, y, tuple(covariates), level=level, profile=profile)


def _describe(
    matrix: FloatArray, y: IntArray, covariates: tuple[str, ...], *, level: float, profile: bool
) -> LogisticModel:
    n, p = matrix.shape[0], matrix.shape[1] + 1
    design = np.column_stack((np.ones(n), matrix))
    if np.linalg.matrix_rank(design / np.abs(design).max(axis=0)) < p:
        _refuse_collinear()
    fit = maximise_logistic(design, y)
    error = np.sqrt(np.diag(fit.covariance))
    z = np.divide(fit.coefficients, error, out=np.zeros(p), where=np.isfinite(error) & (error > 0))
    half = float(ndtri(1 - (1 - level) / 2)) * error
    share = y.mean()
    null = float(-2 * (y.sum() * np.log(share) + (n - y.sum()) * np.log(1 - share)))
    limits = np.full((p, 2), np.nan)
    notices = []
    if fit.separated:
        notices.append(
            Notice(
                "separation",
                "A combination of covariates separates the classes: coefficients grow without bound, and their Wald "
                "tests mean nothing. Use a penalised fit.",
            )
        )
    elif profile:
        limits = profile_limits(design, y, fit, level=level)
    smaller = int(min(y.sum(), n - y.sum()))
    if smaller <= p - 1:
        notices.append(Notice("few_events", f"{smaller} patients in the smaller class for {p - 1} covariates."))
    with np.errstate(over="ignore"):
        return LogisticModel(
            ("(Intercept)", *covariates),
            n,
            int(y.sum()),
            level,
            fit.coefficients,
            fit.covariance,
            error,
            z,
            2 * ndtr(-np.abs(z)),
            np.exp(fit.coefficients),
            np.exp(fit.coefficients - half),
            np.exp(fit.coefficients + half),
            np.exp(limits[:, 0]),
            np.exp(limits[:, 1]),
            fit.deviance,
            null,
            fit.deviance + 2 * p,
            fit.deviance + float(np.log(n)) * p,
            design @ fit.coefficients,
            tuple(notices),
        )


def profile_limits(design: FloatArray, outcome: IntArray, fit: LogisticFit, *, level: float) -> FloatArray:
    """Return profile-likelihood limits of each coefficient, shape (p, 2).

    The profile is walked in steps of a fifth of a normal quantile somewhat beyond that of ``level``; a cubic spline
    through the signed root deviances is read off at the quantiles of ``level``, as R's ``MASS::confint`` does.
    """
    p = fit.coefficients.size
    z_max = float(-ndtri((1 - level) / 8))
    stride = z_max / 5
    error = np.sqrt(np.diag(fit.covariance))
    limits = np.full((p, 2), np.nan)
    cuts = np.array([ndtri((1 - level) / 2), ndtri(1 - (1 - level) / 2)])
    for j in range(p):
        others = np.delete(design, j, axis=1)
        points, roots = [float(fit.coefficients[j])], [0.0]
        for side in (-1, 1):
            root, count = 0.0, 0
            start = np.delete(fit.coefficients, j)
            while count < 9 and abs(root) < z_max:
                count += 1
                value = float(fit.coefficients[j] + side * count * stride * error[j])
                constrained = maximise_logistic(others, outcome, offset=design[:, j] * value, start=start)
                start = constrained.coefficients
                root = side * float(np.sqrt(max(constrained.deviance - fit.deviance, 0.0)))
                points.append(value)
                roots.append(root)
        order = np.argsort(points)
        grid_x, grid_y = natural_grid(np.array(points)[order], np.array(roots)[order])
        limits[j] = interpolate_sorted(grid_y, grid_x, cuts)
    return limits


def select_stepwise(
    frame: pd.DataFrame,
    outcome: str,
    *,
    covariates: Sequence[str],
    direction: StepDirection = "backward",
    penalty: float = 2.0,
) -> StepwiseSelection:
    """Select covariates step by step (R ``MASS::stepAIC``).

    Parameters
    ----------
    frame, outcome, covariates
        As in :func:`fit_logistic`.
    direction
        ``backward`` and ``both`` start from all covariates, ``forward`` from none.
    penalty
        Per coefficient: 2 gives AIC, log(n) BIC.

    Notes
    -----
    Standard errors and p-values of the selected model ignore the search and are too small.
    """
    step = "select_stepwise"
    if direction not in get_args(StepDirection):
        raise InvalidValue("Unknown direction.", step=step, expected=get_args(StepDirection), got=direction)
    y = read_classes(np.asarray(require_column(frame, outcome, step=step)), field=outcome, step=step)
    matrix = read_columns(frame, covariates, step=step)
    refuse_constant(matrix, covariates, step=step)
    names = tuple(covariates)
    ones = np.ones((y.size, 1))

    def criterion(columns: Sequence[int]) -> float:
        design = np.hstack((ones, matrix[:, list(columns)]))
        return float(maximise_logistic(design, y).deviance + penalty * design.shape[1])

    current = [] if direction == "forward" else list(range(len(names)))
    value = criterion(current)
    steps, values = [""], [value]
    while True:
        moves: list[tuple[float, str, list[int]]] = []
        if direction != "forward":
            for j in current:
                rest = [k for k in current if k != j]
                moves.append((criterion(rest), f"- {names[j]}", rest))
        if direction != "backward":
            for j in range(len(names)):
                if j in current:
                    continue
                moves.append((criterion([*current, j]), f"+ {names[j]}", [*current, j]))
        if not moves:
            break
        best = min(moves, key=lambda move: move[0])
        if best[0] >= value - 1e-7:
            break
        value, current = best[0], best[2]
        steps.append(best[1])
        values.append(value)
    model = None
    chosen = tuple(names[j] for j in current)
    if chosen:
        model = _describe(matrix[:, current], y, chosen, level=0.95, profile=False)
    return StepwiseSelection(direction, chosen, tuple(steps), np.array(values), model)
