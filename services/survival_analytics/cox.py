"""Cox regression: fit, predict, screen covariates one by one, and bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr, ndtri

from services.shared.errors import GliaflowError, InvalidTable, InvalidValue
from services.survival_analytics.concordance import Concordance, concordance_of
from services.survival_analytics.cox_baseline import (
    Baseline,
    BaselineHazard,
    PredictedSurvival,
    Residuals,
    compute_residuals,
    estimate_baseline,
    predict_curves,
)
from services.survival_analytics.cox_likelihood import (
    Design,
    Ties,
    build_design,
    maximise,
    monotone_notice,
)
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    IntArray,
    Notice,
    format_level,
    read_columns,
    read_follow_up,
    read_groups,
    read_time_points,
    refuse_constant,
    require_column,
)
from services.survival_analytics.proportional_hazards import (
    ProportionalHazardsTest,
    TimeTransform,
    score_time_dependence,
)

__all__ = [
    "CoxBootstrap",
    "CoxModel",
    "CoxScreen",
    "GlobalTest",
    "bootstrap_cox",
    "check_proportional_hazards",
    "fit_cox",
    "screen_covariates",
]


@dataclass(frozen=True)
class GlobalTest:
    """A test of all coefficients at once."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True, eq=False)
class CoxModel:
    """A fitted Cox model.

    Attributes
    ----------
    covariates
        Names, in the order of all (p,) arrays.
    coefficients, standard_errors, hazard_ratios, lower, upper, z, p_values
        Shape (p,): limits are those of the hazard ratio at ``level``.
    covariance
        Shape (p, p).
    likelihood_ratio, wald, score
        Global tests.
    concordance
        Harrell's C of the linear predictor in the data that were fitted (apparent).
    means
        Shape (p,): what the centred linear predictor is centred at; zero for columns of -1, 0 and 1 only.
    baselines
        One per stratum.
    """

    covariates: tuple[str, ...]
    ties: Ties
    strata: str | None
    n: int
    n_events: int
    level: float
    coefficients: FloatArray
    standard_errors: FloatArray
    hazard_ratios: FloatArray
    lower: FloatArray
    upper: FloatArray
    z: FloatArray
    p_values: FloatArray
    covariance: FloatArray
    log_likelihood_null: float
    log_likelihood: float
    aic: float
    bic: float
    likelihood_ratio: GlobalTest
    wald: GlobalTest
    score: GlobalTest
    concordance: Concordance
    means: FloatArray
    centre: FloatArray
    baselines: tuple[Baseline, ...]
    iterations: int
    notices: tuple[Notice, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate."""
        return pd.DataFrame(
            {
                "covariate": self.covariates,
                "coefficient": self.coefficients,
                "standard_error": self.standard_errors,
                "hazard_ratio": self.hazard_ratios,
                "lower": self.lower,
                "upper": self.upper,
                "z": self.z,
                "p_value": self.p_values,
            }
        )

    def predict_risk(self, frame: pd.DataFrame, *, centred: bool = True) -> FloatArray:
        """Return linear predictors, shape (n,); higher = higher risk.

        Parameters
        ----------
        frame
            Holds the covariates.
        centred
            Subtract the linear predictor of ``means`` (R: ``predict(type = "lp")``).
        """
        matrix = read_columns(frame, self.covariates, step="predict_risk")
        return (matrix - (self.means if centred else 0.0)) @ self.coefficients

    def predict_survival(self, frame: pd.DataFrame, times: ArrayLike) -> PredictedSurvival:
        """Predict survival of patients at times, with limits on the log scale.

        Parameters
        ----------
        frame
            Holds the covariates and, for a stratified model, the stratum.
        times
            Shape (t,), in the unit of the fitted times.

        Raises
        ------
        InvalidValue
            A stratum that the model has not seen.
        """
        points = read_time_points(times, step="predict_survival")
        centred = read_columns(frame, self.covariates, step="predict_survival") - self.centre
        if self.strata is None:
            return predict_curves(self.baselines[0], centred, self.coefficients, self.covariance, points)
        labels = [format_level(v) for v in require_column(frame, self.strata, step="predict_survival").tolist()]
        known = {baseline.stratum: baseline for baseline in self.baselines}
        unseen = sorted(set(labels) - set(known))
        if unseen:
            raise InvalidValue(
                "A patient belongs to a stratum that the model has not seen.",
                step="predict_survival",
                field=self.strata,
                expected=", ".join(known),
                got=", ".join(unseen),
            )
        shape = (points.size, len(labels))
        survival, error, lower, upper = (np.empty(shape) for _ in range(4))
        for label, baseline in known.items():
            rows = np.flatnonzero(np.array(labels, dtype=object) == label)
            if rows.size:
                part = predict_curves(baseline, centred[rows], self.coefficients, self.covariance, points)
                survival[:, rows], error[:, rows] = part.survival, part.standard_error
                lower[:, rows], upper[:, rows] = part.lower, part.upper
        return PredictedSurvival(points, survival, error, lower, upper)

    def baseline_hazard(self) -> BaselineHazard:
        """Return the cumulative baseline hazard with all covariates at zero (R: ``basehaz(centered = FALSE)``)."""
        factor = float(np.exp(-self.centre @ self.coefficients))
        labels = tuple(b.stratum for b in self.baselines for _ in range(b.time.size))
        return BaselineHazard(
            labels,
            np.concatenate([b.time for b in self.baselines]),
            np.concatenate([np.cumsum(b.hazard) for b in self.baselines]) * factor,
        )


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
