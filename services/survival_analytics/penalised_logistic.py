"""LASSO, elastic-net and ridge logistic regression with the conventions of R's ``glmnet``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from services.shared.errors import InvalidTable, InvalidValue, OneClass, TooFewCases
from services.survival_analytics.coordinate_descent import logistic_path
from services.survival_analytics.inputs import FloatArray, IntArray, read_classes
from services.survival_analytics.penalised_path import (
    CrossValidation,
    PenalisedPath,
    column_names,
    convergence_notices,
    finish_lambdas,
    read_folds,
    read_matrix,
    read_penalty_options,
    standardise,
    summarise_folds,
)
from services.survival_analytics.roc import roc

THRESHOLD = 1e-7
MAX_PASSES = 100_000


def fit_logistic_path(
    x: ArrayLike,
    outcome: ArrayLike,
    *,
    l1_ratio: float = 1.0,
    lambdas: ArrayLike | None = None,
    count: int = 100,
    smallest_ratio: float | None = None,
    standardised: bool = True,
    threshold: float = THRESHOLD,
    max_passes: int = MAX_PASSES,
) -> PenalisedPath:
    """Fit a logistic model along a path of penalties (R ``glmnet(family = "binomial")``).

    Parameters
    ----------
    x
        Shape (n, p).
    outcome
        Shape (n,): 1 = case, 0 = control; at least two of each.
    l1_ratio, lambdas, count, smallest_ratio, standardised, threshold, max_passes
        As in :func:`services.survival_analytics.penalised_cox.fit_path`.
    """
    matrix = read_matrix(x, step="fit_logistic_path")
    y = read_classes(outcome, field="outcome", step="fit_logistic_path")
    if y.size != matrix.shape[0]:
        raise InvalidValue(
            "The covariates and the outcome have different numbers of rows.",
            step="fit_logistic_path",
            field="x",
            expected=y.size,
            got=matrix.shape[0],
        )
    return _fit(
        matrix,
        y,
        column_names(x, matrix.shape[1]),
        l1_ratio=l1_ratio,
        lambdas=lambdas,
        count=count,
        smallest_ratio=smallest_ratio,
        standardised=standardised,
        threshold=threshold,
        max_passes=max_passes,
    )


def _fit(
    matrix: FloatArray,
    y: IntArray,
    names: tuple[str, ...],
    *,
    l1_ratio: float,
    lambdas: ArrayLike | None,
    count: int,
    smallest_ratio: float | None,
    standardised: bool,
    threshold: float,
    max_passes: int,
) -> PenalisedPath:
    n, p = matrix.shape
    if min(y.sum(), n - y.sum()) < 2:
        raise OneClass(
            "Each class needs two patients or more.", step="fit_logistic_path", field="outcome", got=int(y.sum())
        )
    penalties, free, ratio = read_penalty_options(
        l1_ratio, lambdas, count, smallest_ratio, n, p, step="fit_logistic_path"
    )
    scaled = standardise(matrix, scale=standardised)
    if not scaled.usable.any():
        raise InvalidTable("Every covariate is constant.", step="fit_logistic_path", field="x")
    coefficients, intercepts, fitted, explained, null, done, passes = logistic_path(
        scaled.rows,
        y.astype(np.float64),
        np.full(n, 1.0 / n),
        scaled.usable,
        np.ones(p),
        float(l1_ratio),
        penalties,
        free,
        ratio,
        penalties.size,
        threshold,
        max_passes,
    )
    if done == 0:
        raise TooFewCases("Not even the first penalty converged.", step="fit_logistic_path", remedy="Raise max_passes.")
    original = coefficients[:done] / scaled.scale
    return PenalisedPath(
        "logistic",
        names,
        float(l1_ratio),
        finish_lambdas(fitted[:done], free=free),
        original,
        intercepts[:done] - original @ scaled.mean,
        explained[:done],
        2 * n * float(null),
        convergence_notices(passes),
    )


def cross_validate_logistic(
    x: ArrayLike,
    outcome: ArrayLike,
    *,
    folds: ArrayLike | int = 10,
    l1_ratio: float = 1.0,
    measure: Literal["deviance", "auc", "misclassification"] = "deviance",
    lambdas: ArrayLike | None = None,
    count: int = 100,
    smallest_ratio: float | None = None,
    standardised: bool = True,
    threshold: float = THRESHOLD,
    max_passes: int = MAX_PASSES,
    seed: int = 0,
    workers: int = 1,
) -> CrossValidation:
    """Choose the penalty of a logistic model by cross-validation (R ``cv.glmnet(family = "binomial")``).

    Parameters
    ----------
    measure
        Deviance, area under the ROC curve (folds of ten patients or more), or misclassification at 0.5.
    x, outcome, folds, l1_ratio, lambdas, count, smallest_ratio, standardised, threshold, max_passes, seed, workers
        As in :func:`services.survival_analytics.penalised_cox.cross_validate`.
    """
    step = "cross_validate_logistic"
    if measure not in ("deviance", "auc", "misclassification"):
        raise InvalidValue("Unknown measure.", step=step, expected="deviance, auc or misclassification", got=measure)
    matrix = read_matrix(x, step=step)
    y = read_classes(outcome, field="outcome", step=step)
    names = column_names(x, matrix.shape[1])
    fold = read_folds(folds, y.size, seed=seed, step=step)
    n_folds = int(fold.max()) + 1
    if measure == "auc" and any(np.ptp(y[fold == f]) == 0 for f in range(n_folds)):
        raise OneClass("A fold has a single class: its AUC does not exist.", step=step, field="folds")

    def fit(rows: IntArray) -> PenalisedPath:
        return _fit(
            matrix[rows],
            y[rows],
            names,
            l1_ratio=l1_ratio,
            lambdas=lambdas,
            count=count,
            smallest_ratio=smallest_ratio,
            standardised=standardised,
            threshold=threshold,
            max_passes=max_passes,
        )

    parts = [np.arange(y.size), *(np.flatnonzero(fold != f) for f in range(n_folds))]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        path, *fold_paths = pool.map(fit, parts)
    raw = np.empty((n_folds, path.lambdas.size))
    for f, part in enumerate(fold_paths):
        out = fold == f
        eta = matrix[out] @ part.coefficients_at(path.lambdas).T + part.intercepts_at(path.lambdas)
        probability = 1 / (1 + np.exp(-eta))
        truth = y[out][:, None]
        if measure == "auc":
            raw[f] = [roc(y[out], column).area for column in probability.T]
        elif measure == "misclassification":
            raw[f] = np.where(truth == 1, probability <= 0.5, probability > 0.5).mean(axis=0)
        else:
            q = np.clip(probability, 1e-5, 1 - 1e-5)
            raw[f] = (-2 * np.where(truth == 1, np.log(q), np.log(1 - q))).mean(axis=0)
    return summarise_folds(path, raw, np.bincount(fold, minlength=n_folds).astype(np.float64), measure)
