"""Cox regression: fit, residuals, test of proportional hazards, and bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
from scipy.special import chdtrc, ndtr, ndtri

from services.shared.errors import InvalidTable, InvalidValue
from services.survival_analytics.concordance import concordance_of
from services.survival_analytics.cox_baseline import (
    Residuals,
    compute_residuals,
    estimate_baseline,
)
from services.survival_analytics.cox_likelihood import (
    Design,
    Ties,
    build_design,
    maximise,
    monotone_notice,
)
from services.survival_analytics.cox_model import CoxModel, GlobalTest
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    IntArray,
    Notice,
    read_columns,
    read_follow_up,
    read_groups,
    refuse_constant,
    require_column,
)
from services.survival_analytics.proportional_hazards import (
    ProportionalHazardsTest,
    TimeTransform,
    score_time_dependence,
)


@dataclass(frozen=True, eq=False)
class CoxBootstrap:
    """Coefficients refitted in resampled patients.

    Attributes
    ----------
    coefficients
        Shape (replicates, p); replicates that could not be fitted are left out and counted in ``failed``.
    lower, upper
        Shape (p,): percentile limits of the coefficients.
    """

    covariates: tuple[str, ...]
    coefficients: FloatArray
    lower: FloatArray
    upper: FloatArray
    failed: int

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate."""
        return pd.DataFrame(
            {
                "covariate": self.covariates,
                "mean": self.coefficients.mean(axis=0),
                "standard_error": self.coefficients.std(axis=0, ddof=1),
                "lower": self.lower,
                "upper": self.upper,
            }
        )


@dataclass(frozen=True, eq=False)
class _Problem:
    follow: Follow
    covariates: FloatArray
    codes: IntArray | None
    labels: tuple[str, ...]
    design: Design


def _prepare(
    frame: pd.DataFrame, time: str, event: str, covariates: Sequence[str], ties: Ties, strata: str | None, step: str
) -> _Problem:
    if ties not in get_args(Ties):
        raise InvalidValue("Unknown tie handling.", step=step, field="ties", expected=get_args(Ties), got=ties)
    follow = read_follow_up(
        np.asarray(require_column(frame, time, step=step)),
        np.asarray(require_column(frame, event, step=step)),
        step=step,
    )
    reserved = {time, event, strata} & set(covariates)
    if reserved:
        raise InvalidTable(
            "An outcome or stratum column is named as covariate.", step=step, field=sorted(map(str, reserved))[0]
        )
    matrix = read_columns(frame, covariates, step=step)
    refuse_constant(matrix, covariates, step=step)
    codes: IntArray | None = None
    labels: tuple[str, ...] = ("",)
    if strata is not None:
        codes, labels = read_groups(pd.Series(require_column(frame, strata, step=step)), field=strata, step=step)
    return _Problem(follow, matrix, codes, labels, build_design(follow, matrix, codes, ties=ties))


def fit_cox(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    covariates: Sequence[str],
    ties: Ties = "efron",
    strata: str | None = None,
    level: float = 0.95,
) -> CoxModel:
    """Fit a Cox proportional-hazards model.

    Parameters
    ----------
    frame
        One row per patient.
    time, event
        Columns: follow-up in any unit, and 1 = event, 0 = censored.
    covariates
        Numeric columns; categories as indicator columns.
    ties
        Efron's approximation (default) or Breslow's.
    strata
        Column whose values have baseline hazards of their own.
    level
        Confidence level of the hazard ratios.

    Returns
    -------
    CoxModel

    Raises
    ------
    InvalidTable
        Unknown or repeated column, constant or collinear covariates.
    InvalidValue, TooFewCases
        Bad times or events, no events.

    Notes
    -----
    Cox (1972), Efron (1977); equals R ``survival::coxph``. AIC = -2 log L + 2p; BIC uses log(events).
    Named notices: ``monotone_likelihood``, ``few_events``.
    """
    problem = _prepare(frame, time, event, covariates, ties, strata, "fit_cox")
    design, follow = problem.design, problem.follow
    names = tuple(covariates)
    maximum = maximise(design)
    beta = maximum.coefficients
    p = beta.size
    error = np.sqrt(np.diag(maximum.covariance))
    z = beta / error
    half = float(ndtri(1 - (1 - level) / 2)) * error
    ratio = 2 * (maximum.log_likelihood - maximum.log_likelihood_null)
    wald = float(beta @ np.linalg.solve(maximum.covariance, beta))
    trivial = np.isin(problem.covariates, (-1.0, 0.0, 1.0)).all(axis=0)
    lp = problem.covariates @ beta
    with np.errstate(over="ignore"):
        hazard_ratios, lower, upper = np.exp(beta), np.exp(beta - half), np.exp(beta + half)
    return CoxModel(
        names,
        ties,
        strata,
        len(follow),
        design.n_events,
        level,
        beta,
        error,
        hazard_ratios,
        lower,
        upper,
        z,
        2 * ndtr(-np.abs(z)),
        maximum.covariance,
        maximum.log_likelihood_null,
        maximum.log_likelihood,
        -2 * maximum.log_likelihood + 2 * p,
        -2 * maximum.log_likelihood + p * float(np.log(design.n_events)),
        GlobalTest(ratio, p, float(chdtrc(p, max(ratio, 0.0)))),
        GlobalTest(wald, p, float(chdtrc(p, wald))),
        GlobalTest(maximum.score_test, p, float(chdtrc(p, maximum.score_test))),
        concordance_of(follow, lp, strata=problem.codes, level=level),
        np.where(trivial, 0.0, design.shift),
        design.shift,
        estimate_baseline(design, beta, problem.labels),
        maximum.iterations,
        (*monotone_notice(maximum, names), *_few_events(design.n_events, p)),
    )


def _few_events(n_events: int, p: int) -> tuple[Notice, ...]:
    if n_events > p:
        return ()
    return (
        Notice(
            "few_events",
            f"{n_events} events for {p} covariates: the model can fit any outcome; its estimates are not stable.",
        ),
    )


def cox_residuals(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    covariates: Sequence[str],
    ties: Ties = "efron",
    strata: str | None = None,
) -> Residuals:
    """Fit a Cox model and return its martingale, deviance and Schoenfeld residuals."""
    problem = _prepare(frame, time, event, covariates, ties, strata, "cox_residuals")
    return compute_residuals(problem.follow, problem.design, maximise(problem.design).coefficients)


def check_proportional_hazards(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    covariates: Sequence[str],
    ties: Ties = "efron",
    strata: str | None = None,
    transform: TimeTransform = "km",
) -> ProportionalHazardsTest:
    """Test whether hazard ratios change with time.

    Parameters
    ----------
    frame, time, event, covariates, ties, strata
        As in :func:`fit_cox`.
    transform
        Time scale along which a change is sought: ``km`` (1 - Kaplan–Meier), ``identity``, ``log`` or ``rank``.

    Returns
    -------
    ProportionalHazardsTest
        One test per covariate and a global one, and scaled Schoenfeld residuals.

    Notes
    -----
    Score test of a coefficient that changes with g(t), Grambsch and Therneau (1994);
    R ``survival::cox.zph(terms = FALSE)``.
    """
    problem = _prepare(frame, time, event, covariates, ties, strata, "check_proportional_hazards")
    maximum = maximise(problem.design)
    return score_time_dependence(
        problem.follow, problem.design, maximum.coefficients, tuple(covariates), transform=transform
    )


def bootstrap_cox(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    covariates: Sequence[str],
    replicates: int = 1000,
    seed: int = 0,
    ties: Ties = "efron",
    strata: str | None = None,
    level: float = 0.95,
) -> CoxBootstrap:
    """Refit a Cox model in patients drawn with replacement.

    Parameters
    ----------
    frame, time, event, covariates, ties, strata
        As in :func:`fit_cox`.
    replicates
        Number of resamples.
    seed
        Of the generator that draws patients.
    level
        Of the percentile limits.
    """
    step = "bootstrap_cox"
    if replicates < 2:
        raise InvalidValue("At least two replicates are needed.", step=step, field="replicates", got=replicates)
    problem = _prepare(frame, time, event, covariates, ties, strata, step)
    rng = np.random.default_rng(seed)
    n = len(problem.follow)
    fitted: list[FloatArray] = []
    for _ in range(replicates):
        rows = rng.integers(0, n, n)
        follow = Follow(problem.follow.time[rows], problem.follow.event[rows])
        codes = None if problem.codes is None else problem.codes[rows]
        if not follow.event.any():
            continue
        try:
            maximum = maximise(build_design(follow, problem.covariates[rows], codes, ties=ties))
        except InvalidTable:
            continue
        if maximum.unbounded.size == 0:
            fitted.append(maximum.coefficients)
    if len(fitted) < max(2, replicates // 2):
        raise InvalidTable(
            "Most resamples cannot be fitted.",
            step=step,
            expected=f"at least {max(2, replicates // 2)} of {replicates}",
            got=len(fitted),
            remedy="Use fewer covariates or a penalised fit.",
        )
    coefficients = np.array(fitted)
    tail = (1 - level) / 2
    lower, upper = np.quantile(coefficients, [tail, 1 - tail], axis=0)
    return CoxBootstrap(tuple(covariates), coefficients, lower, upper, replicates - len(fitted))
