"""Univariable Cox models of many covariates: one by one with notices, or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr

from services.shared.errors import GliaflowError
from services.survival_analytics.cox_fit import fit_cox
from services.survival_analytics.cox_likelihood import (
    Stratum,
    Ties,
    build_design,
)
from services.survival_analytics.inputs import (
    FloatArray,
    Notice,
    read_follow_up,
    require_column,
)
from services.survival_analytics.penalised_path import read_matrix

_CHUNK = 512
_ROUNDS = 30


@dataclass(frozen=True, eq=False)
class CoxScreen:
    """Univariable Cox models of many covariates; NaN rows are explained in ``notices``."""

    covariates: tuple[str, ...]
    coefficients: FloatArray
    hazard_ratios: FloatArray
    lower: FloatArray
    upper: FloatArray
    p_values: FloatArray
    concordance: FloatArray
    notices: tuple[Notice, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate."""
        return pd.DataFrame(
            {
                "covariate": self.covariates,
                "coefficient": self.coefficients,
                "hazard_ratio": self.hazard_ratios,
                "lower": self.lower,
                "upper": self.upper,
                "p_value": self.p_values,
                "concordance": self.concordance,
            }
        )


def screen_covariates(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    covariates: Sequence[str],
    ties: Ties = "efron",
    level: float = 0.95,
) -> CoxScreen:
    """Fit a univariable Cox model per covariate.

    A covariate that cannot be fitted (constant, missing values) keeps its row, with NaN and a notice
    ``not_fitted``; the others go on.
    """
    read_follow_up(
        np.asarray(require_column(frame, time, step="screen_covariates")),
        np.asarray(require_column(frame, event, step="screen_covariates")),
        step="screen_covariates",
    )
    values = np.full((6, len(covariates)), np.nan)
    notices: list[Notice] = []
    for row, name in enumerate(covariates):
        require_column(frame, name, step="screen_covariates")
        try:
            model = fit_cox(frame, time, event=event, covariates=[name], ties=ties, level=level)
        except GliaflowError as error:
            notices.append(Notice("not_fitted", f"{name}: {error.detail}"))
            continue
        notices += [Notice(notice.name, f"{name}: {notice.detail}") for notice in model.notices]
        values[:, row] = [
            model.coefficients[0],
            model.hazard_ratios[0],
            model.lower[0],
            model.upper[0],
            model.p_values[0],
            model.concordance.estimate,
        ]
    return CoxScreen(
        tuple(covariates), values[0], values[1], values[2], values[3], values[4], values[5], tuple(notices)
    )


@dataclass(frozen=True, eq=False)
class ColumnScreen:
    """Univariable Cox models of the columns of a matrix.

    Attributes
    ----------
    coefficients, standard_errors, p_values
        Shape (p,): log hazard ratio per unit, its standard error and Wald's two-sided p-value; NaN for a column that
        is constant, or whose likelihood has no maximum.
    """

    coefficients: FloatArray
    standard_errors: FloatArray
    p_values: FloatArray


def screen_columns(x: ArrayLike, time: ArrayLike, *, event: ArrayLike, ties: Ties = "efron") -> ColumnScreen:
    """Fit a univariable Cox model per column, side by side: what :func:`screen_covariates` fits, for thousands.

    Parameters
    ----------
    x
        Shape (n, p).
    time, event
        Shape (n,).
    """
    matrix = read_matrix(x, step="screen_columns")
    follow = read_follow_up(time, event, step="screen_columns")
    beta, error = np.empty(matrix.shape[1]), np.empty(matrix.shape[1])
    for start in range(0, matrix.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        design = build_design(follow, matrix[:, part], None, ties=ties)
        estimate, spread = _maximise_columns(design.strata[0])
        constant = np.ptp(matrix[:, part], axis=0) == 0
        beta[part] = np.where(constant, np.nan, estimate / design.scale)
        error[part] = np.where(constant, np.nan, spread / design.scale)
    return ColumnScreen(beta, error, 2 * ndtr(-np.abs(beta / error)))


def _maximise_columns(stratum: Stratum) -> tuple[FloatArray, FloatArray]:
    """Return coefficient and standard error of each standardised column alone, by Newton's method."""
    columns = stratum.covariates.shape[1]
    beta, last = np.zeros(columns), np.full(columns, np.inf)
    step = np.zeros(columns)
    for _ in range(_ROUNDS):
        score, information = _column_derivatives(stratum, beta)
        # The log-likelihood is concave: a score that grew or changed sign without shrinking means a step too far.
        worse = np.abs(score) > np.abs(last)
        step = np.where(worse, -step / 2, np.clip(score / np.maximum(information, 1e-12), -1.0, 1.0))
        last = np.where(worse, last, score)
        if np.abs(step).max() < 1e-9:
            break
        beta = beta + step
    information = _column_derivatives(stratum, beta)[1]
    unbounded = (np.abs(step) > 1e-5) | (information < 1e-8)
    with np.errstate(divide="ignore"):
        error = 1 / np.sqrt(information)
    return np.where(unbounded, np.nan, beta), np.where(unbounded, np.nan, error)


def _column_derivatives(stratum: Stratum, beta: FloatArray) -> tuple[FloatArray, FloatArray]:
    x = stratum.covariates
    risk = np.exp(np.clip(x * beta, -50, 50))
    s0, s1, s2 = (_at_risk(stratum, part) for part in (risk, risk * x, risk * x * x))
    mean = s1 / s0
    return (x[stratum.deaths] - mean).sum(axis=0), (s2 / s0 - mean**2).sum(axis=0)


def _at_risk(stratum: Stratum, values: FloatArray) -> FloatArray:
    """Return sums over the (thinned) risk set of each death, shape (deaths, p)."""
    total = np.add.reduceat(values, stratum.first, axis=0)[::-1].cumsum(axis=0)[::-1][stratum.block]
    if not stratum.tied:
        return total
    dead = np.add.reduceat(values[stratum.deaths], stratum.death_start, axis=0)
    return np.asarray(total - stratum.fraction[:, None] * dead[stratum.block])
