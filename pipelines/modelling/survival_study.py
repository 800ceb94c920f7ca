"""Run a survival study: a signature, its apparent and cross-validated figures, shuffled follow-up, other cohorts."""

from __future__ import annotations

import platform as machine
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field

from pipelines.modelling.held_out import HeldOutShare, held_out_cases
from pipelines.modelling.performance import permuted_metrics
from pipelines.modelling.signature import (
    CutoffRule,
    SignatureRecipe,
    fit_signature,
)
from pipelines.modelling.study import FoldCounter, Progress
from pipelines.modelling.survival_data import SurvivalData, survival_data
from pipelines.modelling.survival_performance import SurvivalFigures, stratified_concordance
from pipelines.modelling.survival_tables import feature_table, fold_table, join_parts, prediction_table, study_flow
from pipelines.modelling.survival_validation import (
    apply_signature,
    cross_validate_signature,
    evaluate_out_of_fold,
    make_survival_splits,
    permuted_survival,
    pool_survival,
    select_outside_folds,
)
from pipelines.modelling.validation import derive_seed
from services.model_serving.package import Estimate, FittedModel, ModelCard, TrainingData
from services.shared.contracts import Contract
from services.shared.errors import InvalidValue, TooFewCases
from services.shared.manifest import package_versions

CARD_FIGURES = ("c_index", "hazard_ratio", "ibs")


def _ascending(horizons: tuple[float, ...]) -> tuple[float, ...]:
    if list(horizons) != sorted(set(horizons)):
        raise ValueError("the horizons must ascend")
    return horizons


class SurvivalStudyParameters(Contract):
    """Parameters of every survival study."""

    folds: int = Field(5, ge=2, le=20, description="Outer folds, balanced by event")
    repeats: int = Field(1, ge=1, le=100, description="Times that the outer cross-validation is repeated")
    permutations: int = Field(5, ge=0, le=1000, description="Runs of the cross-validation with shuffled follow-up")
    bootstraps: int = Field(1000, ge=0, le=100_000, description="Resamples of patients behind confidence limits")
    horizons_months: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(_ascending)] = Field(
        (12, 24, 36), min_length=1, description="Times of AUC, calibration and predicted survival, ascending"
    )
    cutoff: CutoffRule = Field("maximally_selected", description="Rule of the cut-off between low and high risk")
    max_missing: float = Field(0.5, ge=0, lt=1, description="Largest share of missing values of a usable feature")
    held_out_share: float = HeldOutShare


@dataclass(frozen=True)
class StudyCohort:
    """The tables of a cohort that a survival study works on.

    Parameters
    ----------
    features
        Expression or image features, indexed by ``case_id``.
    clinical
        Follow-up and clinical columns, indexed by ``case_id``.
    scale
        What a value of ``features`` is.
    excluded
        Reason by ``case_id`` of patients knowingly left out.
    """

    name: str
    features: pd.DataFrame
    clinical: pd.DataFrame
    scale: str
    excluded: dict[str, str] = field(default_factory=dict)

    def without_held_out(self, share: float) -> StudyCohort:
        """Return the cohort without the features of the patients that are held out."""
        reasons = held_out_cases(map(str, self.features.index), share)
        features = self.features[~self.features.index.astype(str).isin(list(reasons))]
        return replace(self, features=features, excluded=self.excluded | reasons)

    def data(self, columns: Iterable[str] | None = None) -> SurvivalData:
        """Return features (all, or some of them) and follow-up of the same patients; see :func:`survival_data`."""
        features = self.features if columns is None else self.features.loc[:, list(columns)]
        return survival_data(features, self.clinical, excluded=self.excluded, step=self.name)


@dataclass(frozen=True)
class SurvivalPlan:
    """What a survival study is, apart from its data.

    Parameters
    ----------
    platform
        What a value of a feature is, such as ``log2(FPKM + 1)``.
    """

    name: str
    version: str
    intended_use: str
    recipe: SignatureRecipe
    parameters: SurvivalStudyParameters
    platform: str


@dataclass(frozen=True)
class SurvivalStudyResult:
    """Everything that a survival study found.

    Parameters
    ----------
    metrics
        Flat figures ``<part>_<figure>`` with ``_low`` and ``_high`` as 95 % limits; the parts are ``train``
        (apparent), ``cv`` (out-of-fold), ``permuted`` and ``validation_<cohort>``.
    tables, documents
        By name, and texts by file name.
    flow
        Patients and features in and out, with reasons, of the training cohort and of each other one.
    model, card
        The signature fitted to all training patients, and its description; no other cohort touches either.
    fold_models
        The model of each outer fold.
    """

    study: str
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    documents: dict[str, str]
    flow: dict[str, object]
    parameters: dict[str, object]
    model: FittedModel
    card: ModelCard
    fold_models: tuple[FittedModel, ...]


def run_survival_study(
    plan: SurvivalPlan,
    training: SurvivalData,
    validation: Mapping[str, SurvivalData],
    *,
    seed: int,
    progress: Progress | None = None,
) -> SurvivalStudyResult:
    """Run a survival study.

    Parameters
    ----------
    training
        Patients that the signature learns from.
    validation
        Other cohorts by name; the signature and its cut-off are applied to them unchanged.
    seed
        The same seed and data give the same result.
    progress
        Called with folds done, folds in all, and what is being done.

    Raises
    ------
    TooFewCases
        Where there are fewer deaths than folds, or none in a validation cohort.
    InvalidValue
        Where a horizon lies outside the training follow-up.
    InvalidTable
        Where a validation cohort lacks a feature of the signature, or no feature can be used.
    """
    parameters = plan.parameters
    horizons, cutoff, bootstraps = parameters.horizons_months, parameters.cutoff, parameters.bootstraps
    _check_horizons(training, horizons)
    splits = make_survival_splits(
        training.event, folds=parameters.folds, repeats=parameters.repeats, seed=derive_seed(seed, 0)
    )
    total = len(splits) * (1 + parameters.permutations) + 2 + len(validation)
    count = FoldCounter(progress, total=total)
    signature = fit_signature(plan.recipe, training, cutoff=cutoff, horizons_months=horizons, seed=derive_seed(seed, 2))
    model = signature.model
    parts = {
        "train": apply_signature(model, training, horizons=horizons, bootstraps=bootstraps, seed=derive_seed(seed, 5))
    }
    count.label("signature")()
    results = cross_validate_signature(
        plan.recipe,
        training,
        cutoff=cutoff,
        horizons=horizons,
        seed=seed,
        splits=splits,
        done=count.label("cross-validation"),
    )
    pooled = pool_survival(results, len(training.ids))
    parts["cv"] = evaluate_out_of_fold(
        pooled, training, horizons=horizons, bootstraps=bootstraps, seed=derive_seed(seed, 6)
    )
    permuted = permuted_survival(
        plan.recipe,
        training,
        runs=parameters.permutations,
        folds=parameters.folds,
        repeats=parameters.repeats,
        cutoff=cutoff,
        seed=seed,
        done=count.label("shuffled follow-up"),
    )
    metrics = permuted_metrics(permuted, parts["cv"].metrics["c_index"], figure="c_index")
    metrics |= _paper_order(plan, training, model, seed)
    count.label("selection outside the folds")()
    card = _card(plan, training, parts, metrics)
    for name, data in validation.items():
        parts[f"validation_{name}"] = _validate(plan, model, name, data, seed=derive_seed(seed, 7))
        count.label(f"validation on {name}")()
    for part, figures in parts.items():
        metrics |= {f"{part}_{figure}": value for figure, value in figures.metrics.items()}
    metrics |= {"features_given": len(training.columns), "features_in_model": len(model.columns)}
    metrics["cutoff"] = model.threshold
    if signature.p_value_corrected is not None:
        metrics["cutoff_p_corrected"] = signature.p_value_corrected
    tables = {
        "predictions": prediction_table(model, training, pooled, validation, horizons),
        "folds": fold_table(training, pooled),
        "features": feature_table(training, signature, pooled),
        **{name: join_parts(parts, name) for name in ("survival_curves", "time_dependent_auc", "calibration")},
        "permuted": permuted,
        **signature.selection.tables,
    }
    return SurvivalStudyResult(
        study=plan.name,
        metrics={name: ten_digits(value) for name, value in sorted(metrics.items())},
        tables=tables,
        documents={},
        flow=study_flow(training, validation, signature, parts),
        parameters={**parameters.model_dump(mode="json"), "recipe": plan.recipe.name, "seed": seed},
        model=model,
        card=card,
        fold_models=tuple(result.signature.model for result in results),
    )


def _check_horizons(data: SurvivalData, horizons_months: Sequence[float]) -> None:
    """Refuse horizons that no patient is followed up to.

    Raises
    ------
    InvalidValue
        Where a horizon is 0 or less, or past the last follow-up.
    """
    if min(horizons_months) <= 0 or max(horizons_months) >= data.months.max():
        raise InvalidValue(
            "a horizon lies outside the training follow-up",
            step="signature",
            field="horizons_months",
            expected=f"above 0 and below {data.months.max():g}",
            got=", ".join(f"{horizon:g}" for horizon in horizons_months),
            remedy="choose earlier horizons",
        )


def _validate(plan: SurvivalPlan, model: FittedModel, name: str, data: SurvivalData, *, seed: int) -> SurvivalFigures:
    if not data.event.any():
        raise TooFewCases(
            "nobody died in a validation cohort", step=name, field="event", got=f"{len(data.ids)} patients"
        )
    return apply_signature(
        model,
        data,
        horizons=plan.parameters.horizons_months,
        bootstraps=plan.parameters.bootstraps,
        seed=seed,
        platform=plan.platform,
        cohort=name,
    )


def _paper_order(plan: SurvivalPlan, training: SurvivalData, model: FittedModel, seed: int) -> dict[str, float]:
    splits = make_survival_splits(training.event, folds=plan.parameters.folds, repeats=1, seed=derive_seed(seed, 0))
    pooled = select_outside_folds(
        plan.recipe, training, columns=model.columns, splits=splits, cutoff=plan.parameters.cutoff, seed=seed
    )
    found = stratified_concordance(training, pooled.scores, pooled.strata)
    name = "paper_order_optimistic_c_index"
    return {name: found.estimate, f"{name}_low": found.lower, f"{name}_high": found.upper}


def _card(
    plan: SurvivalPlan, training: SurvivalData, parts: Mapping[str, SurvivalFigures], permuted: Mapping[str, float]
) -> ModelCard:
    """Describe the model by what its training patients say: out-of-fold figures without a prefix, and apparent C."""
    found = parts["cv"].metrics
    names = (*CARD_FIGURES, *(f"auc_{h:g}" for h in plan.parameters.horizons_months))

    def estimate(figures: Mapping[str, float], name: str) -> Estimate:
        values = [figures.get(f"{name}{end}") for end in ("", "_low", "_high")]
        value, low, high = (None if v is None else ten_digits(v) for v in values)
        return Estimate(value=value if value is not None else np.nan, low=low, high=high)

    metrics = {name: estimate(found, name) for name in names if name in found}
    metrics["apparent_c_index"] = estimate(parts["train"].metrics, "c_index")
    if "permuted_c_index" in permuted:
        metrics["permuted_c_index"] = estimate(permuted, "permuted_c_index")
    versions = package_versions("gliaflow", "numpy", "scipy")
    return ModelCard(
        study=plan.name,
        classes=("low", "high"),
        intended_use=plan.intended_use,
        metrics=metrics,
        training=TrainingData(
            patients=len(training.ids),
            patients_by_class={
                "censored": int((training.event == 0).sum()),
                "deaths": int(training.event.sum()),
            },
            features_sha256=training.features_sha256,
            labels_sha256=training.labels_sha256,
        ),
        code_version=f"gliaflow {versions['gliaflow']}, {plan.name} {plan.version}",
        packages={**versions, "python": machine.python_version()},
        platform=plan.platform,
    )


def ten_digits(value: float) -> float:
    """Return ten significant digits; a small P stays what it is."""
    return value if isinstance(value, int) else float(f"{value:.10g}")
