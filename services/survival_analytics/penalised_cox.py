"""LASSO, elastic-net and ridge Cox regression with the conventions of R's ``glmnet``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.concordance import concordance_of
from services.survival_analytics.coordinate_descent import cox_path
from services.survival_analytics.inputs import FloatArray, Follow, IntArray, read_follow_up
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

__all__ = ["CrossValidation", "PenalisedPath", "cross_validate", "fit_path", "partial_deviance"]

THRESHOLD = 1e-7
MAX_PASSES = 100_000


@dataclass(frozen=True, eq=False)
class _RiskOrder:
    """Patients by ascending time, deaths before censorings, cut into blocks that begin at event times."""

    rows: IntArray
    first_used: int
    stop: IntArray
    deaths: FloatArray


def _risk_order(follow: Follow) -> _RiskOrder:
    rows = np.lexsort((1 - follow.event, follow.time))
    time, event = follow.time[rows], follow.event[rows]
    event_times, count = np.unique(time[event == 1], return_counts=True)
    start = np.searchsorted(time, event_times, side="left")
    stop = np.append(start[1:], time.size).astype(np.int64)
    return _RiskOrder(rows, int(start[0]), stop, count.astype(np.float64))


def fit_path(
    x: ArrayLike,
    time: ArrayLike,
    *,
    event: ArrayLike,
    l1_ratio: float = 1.0,
    lambdas: ArrayLike | None = None,
    count: int = 100,
    smallest_ratio: float | None = None,
    standardised: bool = True,
    penalty_factor: ArrayLike | None = None,
    threshold: float = THRESHOLD,
    max_passes: int = MAX_PASSES,
) -> PenalisedPath:
    """Fit a Cox model along a path of penalties.

    Parameters
    ----------
    x
        Shape (n, p): covariates; column names of a table are kept.
    time, event
        Shape (n,): times above zero; Breslow's ties.
    l1_ratio
        1 = LASSO, 0 = ridge, between = elastic net (``alpha`` in R).
    lambdas
        Penalties of one's own; otherwise ``count`` of them, log-spaced down from the smallest that keeps every
        coefficient at zero, to ``smallest_ratio`` of it (0.01 where n < p, else 0.0001).
    standardised
        Scale covariates by their population standard deviation; coefficients come back on the original scale.
    penalty_factor
        Shape (p,): relative penalties; 0 leaves a covariate unpenalised.
    threshold
        Convergence: largest change of the deviance by a coordinate, relative to the null deviance.
    max_passes
        Passes over the covariates, in all.

    Returns
    -------
    PenalisedPath

    Raises
    ------
    InvalidTable
        Every covariate is constant.
    InvalidValue, TooFewCases
        Bad times, events or options.

    Notes
    -----
    Simon et al. (2011); R ``glmnet(family = "cox")``. The deviance is twice the log-likelihood ratio to the saturated
    model. The path stops early once it explains 99 % or gains nothing more.
    """
    matrix = read_matrix(x, step="fit_path")
    follow = _read_outcome(time, event, matrix, step="fit_path")
    return _fit(
        matrix,
        follow,
        column_names(x, matrix.shape[1]),
        l1_ratio=l1_ratio,
        lambdas=lambdas,
        count=count,
        smallest_ratio=smallest_ratio,
        standardised=standardised,
        penalty_factor=penalty_factor,
        threshold=threshold,
        max_passes=max_passes,
    )


def _read_outcome(time: ArrayLike, event: ArrayLike, matrix: FloatArray, *, step: str) -> Follow:
    follow = read_follow_up(time, event, step=step)
    if matrix.shape[0] != len(follow):
        raise InvalidValue(
            "The covariates and the times have different numbers of rows.",
            step=step,
            field="x",
            expected=len(follow),
            got=matrix.shape[0],
        )
    if (follow.time <= 0).any():
        raise InvalidValue(
            "A penalised Cox model needs times above zero.",
            step=step,
            field="time",
            expected="> 0",
            got=float(follow.time.min()),
            remedy="Give patients with an event on day 0 half a day.",
        )
    return follow


def _fit(
    matrix: FloatArray,
    follow: Follow,
    names: tuple[str, ...],
    *,
    l1_ratio: float,
    lambdas: ArrayLike | None,
    count: int,
    smallest_ratio: float | None,
    standardised: bool,
    penalty_factor: ArrayLike | None,
    threshold: float,
    max_passes: int,
) -> PenalisedPath:
    n, p = matrix.shape
    penalties, free, ratio = read_penalty_options(
        l1_ratio, lambdas, count, smallest_ratio, n, p, step="fit_path", single_precision_grid=True
    )
    order = _risk_order(follow)
    scaled = standardise(matrix[order.rows], scale=standardised)
    if not scaled.usable.any():
        raise InvalidTable("Every covariate is constant.", step="fit_path", field="x")
    factor = _read_factor(penalty_factor, p)
    mass = np.full(n, 1.0 / n)
    coefficients, fitted, explained, scale, done, passes = cox_path(
        scaled.rows,
        mass,
        follow.event[order.rows] * mass,
        order.deaths / n,
        order.stop,
        order.first_used,
        scaled.usable,
        factor,
        float(l1_ratio),
        penalties,
        free,
        ratio,
        penalties.size,
        threshold,
        max_passes,
    )
    if done == 0:
        raise TooFewCases(
            "Not even the first penalty converged.", step="fit_path", remedy="Raise max_passes or the first penalty."
        )
    return PenalisedPath(
        "cox",
        names,
        float(l1_ratio),
        finish_lambdas(fitted[:done], free=free),
        coefficients[:done] / scaled.scale,
        np.zeros(done),
        explained[:done],
        2 * n * float(scale),
        convergence_notices(passes),
    )


def _read_factor(penalty_factor: ArrayLike | None, p: int) -> FloatArray:
    if penalty_factor is None:
        return np.ones(p)
    factor = np.asarray(penalty_factor, dtype=np.float64)
    if factor.shape != (p,) or not (factor >= 0).all() or not factor.any():
        raise InvalidValue(
            "Penalty factors must be one number at or above zero per covariate, not all zero.",
            step="fit_path",
            field="penalty_factor",
            got=factor.shape,
        )
    return np.asarray(factor * p / factor.sum())


def partial_deviance(follow: Follow, eta: FloatArray) -> FloatArray:
    """Return -2 (log partial likelihood - saturated) with Breslow's ties for linear predictors of shape (n, k)."""
    order = _risk_order(follow)
    values = eta[order.rows]
    values = values - values.mean(axis=0)
    start = np.append(order.first_used, order.stop[:-1])
    risk = np.add.reduceat(np.exp(values), start, axis=0)[::-1].cumsum(axis=0)[::-1]
    died = follow.event[order.rows].astype(np.float64)
    log_likelihood = died @ values - order.deaths @ np.log(risk)
    saturated = -float(order.deaths @ np.log(order.deaths))
    return np.asarray(2 * (saturated - log_likelihood))


def cross_validate(
    x: ArrayLike,
    time: ArrayLike,
    *,
    event: ArrayLike,
    folds: ArrayLike | int = 10,
    l1_ratio: float = 1.0,
    measure: Literal["deviance", "concordance"] = "deviance",
    grouped: bool = True,
    lambdas: ArrayLike | None = None,
    count: int = 100,
    smallest_ratio: float | None = None,
    standardised: bool = True,
    threshold: float = THRESHOLD,
    max_passes: int = MAX_PASSES,
    seed: int = 0,
    workers: int = 1,
) -> CrossValidation:
    """Choose the penalty of a Cox model by cross-validation.

    Parameters
    ----------
    x, time, event, l1_ratio, lambdas, count, smallest_ratio, standardised, threshold, max_passes
        As in :func:`fit_path`.
    folds
        Shape (n,): fold of each patient; or the number of folds, drawn with ``seed``.
    measure
        Partial-likelihood deviance per event, or Harrell's C.
    grouped
        Deviance of all patients minus that of those kept, which uses the whole risk sets; otherwise that of the
        patients left out among themselves.
    workers
        Folds fitted at the same time.

    Returns
    -------
    CrossValidation

    Raises
    ------
    TooFewCases
        A fold without events, or folds too small for ungrouped deviance.

    Notes
    -----
    R ``cv.glmnet(family = "cox")``: fold curves are interpolated at the penalties of the whole fit, weighted by the
    events (deviance) or patients (concordance) of the fold.
    """
    step = "cross_validate"
    if measure not in ("deviance", "concordance"):
        raise InvalidValue("Unknown measure.", step=step, expected="deviance or concordance", got=measure)
    matrix = read_matrix(x, step=step)
    follow = _read_outcome(time, event, matrix, step=step)
    names = column_names(x, matrix.shape[1])
    fold = read_folds(folds, len(follow), seed=seed, step=step)
    n_folds = int(fold.max()) + 1
    events = np.bincount(fold, weights=follow.event, minlength=n_folds)
    if (events == 0).any():
        raise TooFewCases(
            "A fold has no event.",
            step=step,
            field="folds",
            expected="events in every fold",
            got=f"none in fold {int(np.argmin(events))}",
            remedy="Use fewer folds or balance them by event.",
        )
    if measure == "deviance" and len(follow) / n_folds < 10:
        grouped = True

    def fit(rows: IntArray) -> PenalisedPath:
        return _fit(
            matrix[rows],
            Follow(follow.time[rows], follow.event[rows]),
            names,
            l1_ratio=l1_ratio,
            lambdas=lambdas,
            count=count,
            smallest_ratio=smallest_ratio,
            standardised=standardised,
            penalty_factor=None,
            threshold=threshold,
            max_passes=max_passes,
        )

    parts = [np.arange(len(follow)), *(np.flatnonzero(fold != f) for f in range(n_folds))]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        path, *fold_paths = pool.map(fit, parts)
    raw = np.empty((n_folds, path.lambdas.size))
    for f, part in enumerate(fold_paths):
        out = fold == f
        beta = part.coefficients_at(path.lambdas)
        used = np.flatnonzero(beta.any(axis=0))
        eta = matrix[:, used] @ beta[:, used].T
        left_out = Follow(follow.time[out], follow.event[out])
        if measure == "concordance":
            raw[f] = [concordance_of(left_out, column).estimate for column in eta[out].T]
        elif grouped:
            kept = Follow(follow.time[~out], follow.event[~out])
            raw[f] = (partial_deviance(follow, eta) - partial_deviance(kept, eta[~out])) / events[f]
        else:
            raw[f] = partial_deviance(left_out, eta[out]) / events[f]
    weights = np.asarray(events if measure == "deviance" else np.bincount(fold, minlength=n_folds), dtype=np.float64)
    return summarise_folds(path, raw, weights, measure)
