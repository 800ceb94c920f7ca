"""What penalised Cox and logistic fits share: a path of coefficients and a cross-validated curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.inputs import BoolArray, FloatArray, IntArray, Notice, read_vector

Measure = Literal["deviance", "concordance", "auc", "misclassification"]


@dataclass(frozen=True, eq=False)
class PenalisedPath:
    """Coefficients along a falling sequence of penalties.

    Attributes
    ----------
    names
        Covariates.
    lambdas, deviance_ratio, nonzero
        Shape (k,): penalty, explained fraction of the null deviance, and number of nonzero coefficients.
    coefficients
        Shape (k, p), on the scale of the data.
    intercepts
        Shape (k,): zero for a Cox model, which has none.
    """

    family: Literal["cox", "logistic"]
    names: tuple[str, ...]
    l1_ratio: float
    lambdas: FloatArray
    coefficients: FloatArray
    intercepts: FloatArray
    deviance_ratio: FloatArray
    null_deviance: float
    notices: tuple[Notice, ...] = ()

    @property
    def nonzero(self) -> IntArray:
        """Number of nonzero coefficients at each penalty."""
        return np.asarray(np.count_nonzero(self.coefficients, axis=1), dtype=np.int64)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per penalty: lambda, nonzero, deviance_ratio, and a column per covariate that ever enters."""
        used = np.flatnonzero(self.coefficients.any(axis=0))
        table = pd.DataFrame({"lambda": self.lambdas, "nonzero": self.nonzero, "deviance_ratio": self.deviance_ratio})
        columns = pd.DataFrame(self.coefficients[:, used], columns=[self.names[j] for j in used])
        return pd.concat([table, columns], axis=1)

    def coefficients_at(self, penalty: ArrayLike) -> FloatArray:
        """Return coefficients at penalties, interpolated linearly between neighbours, shape (m, p)."""
        return self._interpolate(np.atleast_1d(np.asarray(penalty, dtype=np.float64)), self.coefficients)

    def intercepts_at(self, penalty: ArrayLike) -> FloatArray:
        """Return intercepts at penalties, shape (m,)."""
        return self._interpolate(np.atleast_1d(np.asarray(penalty, dtype=np.float64)), self.intercepts[:, None])[:, 0]

    def predict(self, x: ArrayLike, *, penalty: float) -> FloatArray:
        """Return linear predictors of patients, shape (n,)."""
        matrix = read_matrix(x, step="predict")
        eta: FloatArray = matrix @ self.coefficients_at(penalty)[0] + self.intercepts_at(penalty)[0]
        return eta

    def _interpolate(self, s: FloatArray, values: FloatArray) -> FloatArray:
        k = self.lambdas.size
        if k == 1:
            return np.repeat(values, s.size, axis=0)
        span = self.lambdas[0] - self.lambdas[-1]
        grid = (self.lambdas[0] - self.lambdas) / span
        at = np.clip((self.lambdas[0] - s) / span, grid.min(), grid.max())
        position = np.interp(at, grid, np.arange(k, dtype=np.float64))
        # A penalty of the path that went through text is still that penalty.
        whole = np.round(position)
        position = np.where(np.abs(position - whole) < 1e-9, whole, position)
        left = np.floor(position).astype(np.int64)
        right = np.ceil(position).astype(np.int64)
        gap = grid[left] - grid[right]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where((left == right) | (np.abs(gap) < np.finfo(float).eps), 1.0, (at - grid[right]) / gap)
        mixed: FloatArray = share[:, None] * values[left] + (1 - share)[:, None] * values[right]
        return mixed


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """A cross-validated path.

    Attributes
    ----------
    lambdas, mean, standard_error, nonzero
        Shape (k,).
    lambda_min, lambda_1se
        Best penalty, and the largest one within a standard error of it.
    index_min, index_1se
        Their positions, from 0.
    path
        The fit to all patients.
    """

    measure: Measure
    lambdas: FloatArray
    mean: FloatArray
    standard_error: FloatArray
    nonzero: IntArray
    lambda_min: float
    lambda_1se: float
    index_min: int
    index_1se: int
    path: PenalisedPath

    def to_frame(self) -> pd.DataFrame:
        """Return one row per penalty."""
        return pd.DataFrame(
            {
                "lambda": self.lambdas,
                "mean": self.mean,
                "standard_error": self.standard_error,
                "lower": self.mean - self.standard_error,
                "upper": self.mean + self.standard_error,
                "nonzero": self.nonzero,
            }
        )

    def selected(self, *, rule: Literal["min", "1se"] = "min") -> pd.Series:
        """Return the nonzero coefficients at ``lambda_min`` or ``lambda_1se``, by name."""
        beta = self.path.coefficients[self.index_min if rule == "min" else self.index_1se]
        kept = np.flatnonzero(beta)
        return pd.Series(beta[kept], index=[self.path.names[j] for j in kept], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Standardised:
    """Covariates centred and scaled by their population standard deviation, one row per covariate, shape (p, n)."""

    rows: FloatArray
    mean: FloatArray
    scale: FloatArray
    usable: BoolArray


def standardise(x: FloatArray, *, scale: bool) -> Standardised:
    """Centre covariates and, where asked, scale them; constant ones are marked as not usable."""
    mean = x.mean(axis=0)
    rows = np.ascontiguousarray((x - mean).T)
    usable = np.ptp(x, axis=0) > 0
    spread = np.ones(x.shape[1])
    if scale:
        spread = np.sqrt(np.einsum("ij,ij->i", rows, rows) / x.shape[0])
        spread[~usable] = 1.0
        rows /= spread[:, None]
    return Standardised(rows, mean, spread, usable)


def read_matrix(x: ArrayLike, *, step: str) -> FloatArray:
    """Return a finite (n, p) matrix."""
    matrix = np.asarray(x, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InvalidValue(
            "The covariates must form a table.", step=step, field="x", expected="shape (n, p)", got=matrix.shape
        )
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise InvalidValue(
            "The covariates hold missing or infinite values.",
            step=step,
            field=f"column {column}",
            got=f"{matrix[row, column]} in row {row}",
            remedy="Drop or impute them first.",
        )
    return matrix


def column_names(x: ArrayLike, p: int) -> tuple[str, ...]:
    """Return the column names of a table, or x1…xp."""
    if isinstance(x, pd.DataFrame):
        return tuple(map(str, x.columns))
    return tuple(f"x{j + 1}" for j in range(p))


def read_penalty_options(
    l1_ratio: float,
    lambdas: ArrayLike | None,
    count: int,
    smallest_ratio: float | None,
    n: int,
    p: int,
    *,
    step: str,
    single_precision_grid: bool = False,
) -> tuple[FloatArray, bool, float]:
    """Return the penalties (or room for them), whether the path chooses them, and the ratio of neighbours.

    ``single_precision_grid`` takes the root with an exponent rounded to single precision, as glmnet's Cox code does;
    its penalties differ from the exact ones in the ninth digit.
    """
    if not 0 <= l1_ratio <= 1:
        raise InvalidValue("l1_ratio must lie in [0, 1].", step=step, field="l1_ratio", got=l1_ratio)
    if lambdas is not None:
        given = np.sort(read_vector(lambdas, field="lambdas", step=step))[::-1].copy()
        if (given < 0).any():
            raise InvalidValue("Penalties must not be negative.", step=step, field="lambdas", got=given.min())
        return given, False, 1.0
    if count < 2:
        raise InvalidValue("A path needs at least two penalties.", step=step, field="count", got=count)
    floor = (1e-2 if n < p else 1e-4) if smallest_ratio is None else smallest_ratio
    if not 0 < floor < 1:
        raise InvalidValue("smallest_ratio must lie between 0 and 1.", step=step, field="smallest_ratio", got=floor)
    exponent = 1.0 / (count - 1)
    if single_precision_grid:
        exponent = float(np.float32(exponent))
    return np.zeros(count), True, float(max(1e-6, floor) ** exponent)


def finish_lambdas(lambdas: FloatArray, *, free: bool) -> FloatArray:
    """Replace the infinite first penalty by the one that continues the sequence."""
    if free and lambdas.size > 2:
        lambdas = lambdas.copy()
        lambdas[0] = np.exp(2 * np.log(lambdas[1]) - np.log(lambdas[2]))
    return lambdas


def convergence_notices(passes: int) -> tuple[Notice, ...]:
    """Return a notice where the path stopped early because it ran out of passes."""
    if passes >= 0:
        return ()
    return (Notice("path_cut_short", "The iteration limit was reached; the path ends before its last penalty."),)


def read_folds(folds: ArrayLike | int, n: int, *, seed: int, step: str) -> IntArray:
    """Return fold numbers 0…f-1 per patient, drawn in balance if only their number is given."""
    if isinstance(folds, (int, np.integer)):
        if not 3 <= folds <= n:
            raise InvalidValue(
                "At least three folds are needed.", step=step, field="folds", expected=f"3…{n}", got=folds
            )
        return np.random.default_rng(seed).permutation(np.arange(n) % int(folds)).astype(np.int64)
    given = read_vector(folds, field="folds", step=step)
    if given.size != n:
        raise InvalidValue("A fold is needed for every patient.", step=step, field="folds", expected=n, got=given.size)
    _, codes = np.unique(given, return_inverse=True)
    if codes.max() < 2:
        raise TooFewCases("At least three folds are needed.", step=step, field="folds", got=int(codes.max()) + 1)
    return codes.astype(np.int64)


def summarise_folds(path: PenalisedPath, raw: FloatArray, weights: FloatArray, measure: Measure) -> CrossValidation:
    """Average a measure of shape (folds, k) over folds and pick the best penalties."""
    share = weights / weights.sum()
    mean = share @ raw
    error = np.sqrt(share @ (raw - mean) ** 2 / (raw.shape[0] - 1))
    cost = -mean if measure in ("concordance", "auc") else mean
    best = int(np.flatnonzero(cost <= cost.min())[0])
    within = int(np.flatnonzero(cost <= cost[best] + error[best])[0])
    return CrossValidation(
        measure,
        path.lambdas,
        mean,
        error,
        path.nonzero,
        float(path.lambdas[best]),
        float(path.lambdas[within]),
        best,
        within,
        path,
    )
