"""Signatures: a recipe that weighs features, the risk score, its cut-off and baseline survival, from training patients.

Everything that a recipe learns, from imputation to weights, it learns inside ``fit``, so that a fold or a training
cohort can repeat the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.cutoff import CutoffRule, find_cutoff
from pipelines.modelling.selection import Scaling, fit_scaling, keep_significant
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.validation import derive_seed
from services.model_serving.package import CoxSignature, FittedModel
from services.model_serving.predictor import classifier_scores, standardise, survival_probabilities
from services.shared.errors import InvalidTable, InvalidValue, TooFewCases

__all__ = [
    "CoxLasso",
    "CutoffRule",
    "ElasticNetCox",
    "FittedSelection",
    "Signature",
    "SignatureRecipe",
    "baseline_survival",
    "cox_signature",
    "event_folds",
    "find_cutoff",
    "fit_signature",
    "high_risk",
    "predicted_survival",
    "risk_scores",
    "screen_univariable",
    "unpenalised_weights",
]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Event = npt.NDArray[np.int64]

BASELINE_POINTS = 200


@dataclass(frozen=True)
class FittedSelection:
    """The features that a recipe kept, and their weights.

    Parameters
    ----------
    scaling
        Training statistics of the kept columns, in column order.
    coefficients
        Log hazard ratio per standard deviation, shape (kept,).
    steps
        Number of columns after each step.
    tables
        What the steps found, by name: ``screening``, ``path`` …
    filled_up
        Steps that kept nothing and were given the strongest feature.
    """

    scaling: Scaling
    coefficients: Array
    steps: dict[str, int]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    filled_up: tuple[str, ...] = ()


class SignatureRecipe(Protocol):
    """How a study makes a risk score."""

    @property
    def name(self) -> str:
        """What the recipe is called."""

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:
        """Choose and weigh features from raw values (NaN is missing) of training patients."""


@dataclass(frozen=True)
class Signature:
    """A fitted signature.

    Parameters
    ----------
    cutoff
        The rule that was used: ``median`` where the rule asked for leaves no group of a tenth of the patients.
    p_value_corrected
        Of the cut-off, corrected for the search; None for the median.
    """

    model: FittedModel
    selection: FittedSelection
    cutoff: CutoffRule
    p_value_corrected: float | None


@dataclass(frozen=True)
class ElasticNetCox:
    """Scaling, univariable Cox screening, elastic-net Cox whose penalty is cross-validated (glmnet's ``cv.glmnet``).

    Parameters
    ----------
    l1_ratio
        1 is the LASSO, 0 ridge regression.
    screen_p
        Univariable Wald P below which a feature goes on; None without screening.
    folds
        Folds that choose the penalty, balanced by event; fewer where there are fewer deaths.
    measure
        What chooses the penalty: partial-likelihood deviance, which a few extreme values can decide, or Harrell's C.
    rule
        The best penalty by that measure, or the largest within a standard error of it.
    max_missing
        Largest share of missing values of a usable feature.
    max_features
        Largest number of features with a weight: the penalty grows until so few are left.
    smallest_ratio
        Smallest penalty of the path over that which leaves no feature; glmnet's own (0.0001, or 0.01 with more features
        than patients) if not given. A path that ends sooner takes a hundredth of the time.
    """

    l1_ratio: float = 0.5
    screen_p: float | None = 0.05
    folds: int = 10
    measure: Literal["deviance", "concordance"] = "deviance"
    rule: Literal["min", "1se"] = "min"
    max_missing: float = 0.5
    max_features: int | None = None
    smallest_ratio: float | None = None

    @property
    def name(self) -> str:
        """What the recipe is called."""
        return "cox_lasso" if self.l1_ratio == 1 else "cox_elastic_net"

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:
        """Choose and weigh features from raw values (NaN is missing) of training patients.

        Raises
        ------
        TooFewCases
            Where fewer than three deaths cannot be spread over folds.
        InvalidTable
            Where no feature can be used.
        """
        scaling = fit_scaling(values, max_missing=self.max_missing)
        steps = {"given": values.shape[1], "usable": len(scaling.columns)}
        z = scaling.z_scores(values)
        screening = screen_univariable(z, months, event, names=[names[column] for column in scaling.columns])
        p_values = screening["p_value"].fillna(1.0).to_numpy()
        filled: list[str] = []
        if self.screen_p is not None:
            kept, short = keep_significant(p_values, alpha=self.screen_p, at_least=1)
            filled += ["screened"] * short
            scaling, z, p_values = scaling.take(kept), z[:, kept], p_values[kept]
            steps["screened"] = len(kept)
            screening["kept"] = np.isin(np.arange(len(screening)), kept)
        kept_names = [names[column] for column in scaling.columns]
        coefficients, path = _penalised_weights(self, z, months, event, names=kept_names, seed=seed)
        if not coefficients.any():
            strongest = int(np.argmin(p_values))
            coefficients[strongest] = unpenalised_weights(z[:, [strongest]], months, event)[0]
            filled.append("weighted")
        kept = np.flatnonzero(coefficients)
        steps["weighted"] = len(kept)
        tables = {"screening": screening, "path": path}
        return FittedSelection(scaling.take(kept), coefficients[kept], steps, tables, tuple(filled))


@dataclass(frozen=True)
class CoxLasso(ElasticNetCox):
    """Scaling, univariable Cox screening, LASSO-Cox; parameters as :class:`ElasticNetCox`."""

    l1_ratio: float = 1.0


def screen_univariable(z: Array, months: Array, event: Event, *, names: Sequence[str]) -> pd.DataFrame:
    """Return a univariable Cox model per column: feature, hazard_ratio (per SD) with 95 % limits, p_value.

    Parameters
    ----------
    z
        z-scores, shape (patients, features).
    """
    from services.survival_analytics.cox import screen_columns

    screen = screen_columns(z, months, event=event)
    half = 1.959963984540054 * screen.standard_errors
    with np.errstate(over="ignore"):
        return pd.DataFrame(
            {
                "feature": list(names),
                "hazard_ratio": np.exp(screen.coefficients),
                "low": np.exp(screen.coefficients - half),
                "high": np.exp(screen.coefficients + half),
                "p_value": screen.p_values,
            }
        )


def event_folds(event: Event, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each patient's fold; every fold holds deaths and censored patients in proportion, within one patient.

    Raises
    ------
    TooFewCases
        Where there are fewer deaths than folds.
    """
    deaths = int(event.sum())
    if deaths < folds:
        raise TooFewCases(
            "there are fewer deaths than folds",
            step="cross-validation",
            field="event",
            expected=f"at least {folds} deaths, one a fold",
            got=f"{deaths} among {len(event)} patients",
            remedy="use fewer folds, or add patients or follow-up",
        )
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(event == value)) for value in (1, 0)])
    fold = np.empty(len(event), dtype=np.int64)
    fold[order] = np.arange(len(event)) % folds
    return fold


def _penalised_weights(
    recipe: ElasticNetCox, z: Array, months: Array, event: Event, *, names: Sequence[str], seed: int
) -> tuple[Array, pd.DataFrame]:
    """Return coefficients per standard deviation, and the path: penalty, measure, and every coefficient on it."""
    from services.survival_analytics.penalised_cox import cross_validate

    fold = event_folds(event, folds=max(3, min(recipe.folds, int(event.sum()))), seed=derive_seed(seed, 0))
    found = cross_validate(
        z,
        months,
        event=event,
        folds=fold,
        l1_ratio=recipe.l1_ratio,
        measure=recipe.measure,
        smallest_ratio=recipe.smallest_ratio,
    )
    chosen = found.index_min if recipe.rule == "min" else found.index_1se
    if recipe.max_features is not None:
        chosen = int(np.flatnonzero(found.nonzero[: chosen + 1] <= recipe.max_features)[-1])
    path = found.to_frame().rename(columns={"mean": recipe.measure, "lower": "low", "upper": "high"})
    path["chosen"] = np.arange(len(path)) == chosen
    weights = pd.DataFrame(found.path.coefficients, columns=[f"coefficient_{name}" for name in names])
    return found.path.coefficients[chosen].copy(), pd.concat([path, weights.loc[:, weights.any()]], axis="columns")


def unpenalised_weights(z: Array, months: Array, event: Event) -> Array:
    """Return the coefficients of a multivariable Cox model (Efron's ties), shape (features,).

    A single column whose likelihood has no maximum (it orders every death) is given a weight of one.
    """
    from services.survival_analytics.cox import fit_cox, screen_columns

    if z.shape[1] == 1:
        weight = screen_columns(z, months, event=event).coefficients
        if np.isnan(weight[0]):
            return np.array([-1.0 if np.corrcoef(z[:, 0], months)[0, 1] > 0 else 1.0])
        return weight
    columns = [f"x{j}" for j in range(z.shape[1])]
    frame = pd.DataFrame(z, columns=columns).assign(months=months, event=event)
    return fit_cox(frame, "months", event="event", covariates=columns).coefficients


def fit_signature(
    recipe: SignatureRecipe,
    data: SurvivalData,
    *,
    cutoff: CutoffRule = "maximally_selected",
    horizons_months: Sequence[float] = (12, 24, 36),
    seed: int,
) -> Signature:
    """Fit a recipe, the baseline survival and the cut-off to these patients.

    Parameters
    ----------
    cutoff
        ``maximally_selected`` (maxstat, survminer), ``x_tile`` (smallest log-rank P) or ``median``, found on the very
        scores that the recipe was fitted to; groups of at least a tenth of the patients.
    horizons_months
        Survival is predicted up to the last of them; past the last death its value is kept.
    """
    selection = recipe.fit(data.values, data.months, data.event, names=data.columns, seed=seed)
    scores = np.asarray(selection.scaling.z_scores(data.values) @ selection.coefficients)
    horizons = np.asarray(horizons_months, dtype=np.float64)
    times, survival = baseline_survival(scores, data.months, data.event, horizons=horizons)
    threshold, used, p_value = find_cutoff(scores, data.months, data.event, rule=cutoff)
    scaling = selection.scaling
    model = FittedModel(
        columns=tuple(data.columns[column] for column in scaling.columns),
        medians=scaling.medians,
        means=scaling.means,
        scales=scaling.scales,
        classifier=CoxSignature(selection.coefficients, times, survival),
        threshold=threshold,
    )
    return Signature(model, selection, used, p_value)


def baseline_survival(scores: Array, months: Array, event: Event, *, horizons: Array) -> tuple[Array, Array]:
    """Return times and survival of a patient with score 0, by Efron's estimate with the coefficients held.

    All event times up to the last horizon, or 200 of them, and the horizons.
    """
    from services.survival_analytics.cox_baseline import estimate_baseline
    from services.survival_analytics.cox_likelihood import build_design
    from services.survival_analytics.inputs import read_follow_up
    from services.survival_analytics.risk_sets import evaluate_steps

    follow = read_follow_up(months, event, step="baseline survival")
    design = build_design(follow, scores[:, None], None, ties="efron")
    baseline = estimate_baseline(design, np.ones(1), ("",))[0]
    inside = baseline.time[baseline.time <= horizons.max()]
    if len(inside) > BASELINE_POINTS:
        inside = inside[np.round(np.linspace(0, len(inside) - 1, BASELINE_POINTS)).astype(np.int64)]
    times = np.unique(np.concatenate([inside, horizons]))
    hazard = evaluate_steps(baseline.time, np.cumsum(baseline.hazard), times, initial=0.0)
    return times, np.exp(-hazard * np.exp(-design.shift[0]))


def cox_signature(model: FittedModel) -> CoxSignature:
    """Return a model's coefficients and baseline survival.

    Raises
    ------
    InvalidValue
        Where the model is a classifier.
    """
    if not isinstance(model.classifier, CoxSignature):
        raise InvalidValue("the model gives no risk score", field="model", expected="cox", got=model.classifier.kind)
    return model.classifier


def risk_scores(
    model: FittedModel, data: SurvivalData | pd.DataFrame, *, platform: str | None = None, cohort: str | None = None
) -> Array:
    """Return risk scores, shape (patients,): the log hazard relative to the training means.

    Parameters
    ----------
    data
        Patients with at least the model's columns; a missing value takes the training median.
    platform, cohort
        What a value of the model's columns is, and whose patients these are; for the error.

    Raises
    ------
    InvalidTable
        Naming the features that the patients lack, or of which none of them has a value.
    """
    signature = cox_signature(model)
    columns = pd.Index(data.columns).astype(str)
    lacking = [name for name in model.columns if name not in columns]
    if not lacking:
        positions = columns.get_indexer(pd.Index(model.columns))
        values = data.values[:, positions] if isinstance(data, SurvivalData) else data.iloc[:, positions].to_numpy()
        values = np.asarray(values, dtype=np.float64)
        lacking = [name for name, column in zip(model.columns, values.T, strict=True) if np.isnan(column).all()]
    if lacking:
        raise InvalidTable(
            "features of the signature were not measured in these patients",
            step="risk score" if cohort is None else f"risk score of {cohort}",
            field=", ".join(lacking[:20]) + (" …" if len(lacking) > 20 else ""),
            expected=f"{len(model.columns)} features" + (f" as {platform}" if platform else ""),
            got=f"without {len(lacking)} of them",
            remedy="give a cohort whose platform measures them, or fit a signature of features that both measure",
        )
    return classifier_scores(signature, standardise(model, values))


def high_risk(model: FittedModel, scores: Array) -> npt.NDArray[np.bool_]:
    """Return who is at high risk: scores at or above the cut-off."""
    return np.asarray(scores >= model.threshold)


def predicted_survival(model: FittedModel, scores: Array, times_months: npt.ArrayLike) -> Array:
    """Return predicted survival probabilities, shape (patients, times)."""
    return survival_probabilities(cox_signature(model), scores, np.asarray(times_months, dtype=np.float64))
