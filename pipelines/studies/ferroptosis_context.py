"""What a signature's figures mean: age and grade alone, risk within a grade, and other ways to harmonise platforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.genomics.harmonise import Method, MissingGenes, TrainingScale, harmonise, training_scale
from pipelines.modelling.selection import Array, fit_scaling
from pipelines.modelling.signature import (
    CutoffRule,
    FittedSelection,
    SignatureRecipe,
    fit_signature,
    high_risk,
    risk_scores,
    unpenalised_weights,
)
from pipelines.modelling.survival_data import Event, SurvivalData
from pipelines.modelling.survival_performance import evaluate_survival
from pipelines.modelling.survival_study import StudyCohort
from pipelines.modelling.survival_validation import (
    SurvivalFold,
    apply_signature,
    cross_validate_signature,
    evaluate_out_of_fold,
    pool_survival,
)
from pipelines.studies.ferroptosis_cohorts import CONTRAST_COLUMN, TrainingCohort, prepare_validation, who_grade
from services.model_serving.package import FittedModel
from services.shared.errors import GliaflowError

CLINICAL = {"age": ("age_years",), "age and grade": ("age_years", "grade")}
LEAST_DEATHS = 5
_SHOWN = ("patients", "deaths", "c_index", "auc_", "hazard_ratio", "logrank_p")
_MAX_MISSING = 0.5


@dataclass(frozen=True)
class Judging:
    """How every comparison judges: folds, cut-off and horizons of the study, normal limits, one seed."""

    folds: int
    cutoff: CutoffRule
    horizons: tuple[float, ...]
    seed: int


@dataclass(frozen=True)
class Judged:
    """Scores of the patients of one part; ``strata`` are the folds that out-of-fold scores come from."""

    data: SurvivalData
    scores: Array
    high: npt.NDArray[np.bool_]
    strata: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class ClinicalCox:
    """An unpenalised Cox model of all columns, a missing value by the training median."""

    name = "clinical_cox"

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:
        """Weigh every column that varies."""
        del names, seed
        scaling = fit_scaling(values, max_missing=_MAX_MISSING)
        weights = unpenalised_weights(scaling.z_scores(values), months, event)
        return FittedSelection(scaling, weights, {"given": values.shape[1], "weighted": len(weights)})


def clinical_figures(training: SurvivalData, validation: Mapping[str, SurvivalData], judging: Judging) -> pd.DataFrame:
    """Return the figures of clinical columns alone: out of fold, and applied to validation cohorts unchanged."""
    rows: list[dict[str, object]] = []
    for name, columns in CLINICAL.items():
        own = clinical_data(training, columns)
        rows.append(_row(name, "cv", partial(_out_of_fold, ClinicalCox(), own, judging)))
        if "c_index" not in rows[-1]:
            continue
        model = _fit(ClinicalCox(), own, judging)
        rows += [
            _row(name, f"validation_{cohort}", partial(_apply, model, clinical_data(data, columns), judging))
            for cohort, data in validation.items()
        ]
    return pd.DataFrame(rows)


def within_grades(parts: Mapping[str, Judged], judging: Judging) -> pd.DataFrame:
    """Return the figures of the signature within WHO grade 2–3 and within grade 4, where enough patients died."""
    rows: list[dict[str, object]] = []
    for part, judged in parts.items():
        grade = who_grade(judged.data.clinical).to_numpy()
        for name, members in (("signature within grade 2-3", grade < 4), ("signature within grade 4", grade == 4)):
            chosen = np.flatnonzero(members)
            if len(chosen) == len(grade) or judged.data.event[chosen].sum() < LEAST_DEATHS:
                continue
            rows.append(_row(name, part, partial(_subset, judged, chosen, judging)))
    return pd.DataFrame(rows)


def compare_harmonisation(
    ways: Mapping[Method, Callable[[], tuple[TrainingCohort, SignatureRecipe]]],
    validation: Mapping[str, StudyCohort],
    judging: Judging,
    *,
    missing_genes: MissingGenes,
) -> pd.DataFrame:
    """Return the signature's figures under every way to harmonise, in training and in each validation cohort.

    In training each held-out fold stands for a new cohort: ``reference`` shifts and scales it by its own mean and
    deviation. A way that a cohort's scale does not permit has a note and no figures.

    Parameters
    ----------
    ways
        What prepares training data and recipe, by method.
    """
    rows: list[dict[str, object]] = []
    for method, prepare in ways.items():
        try:
            training, recipe = prepare()
            folds = _folds(recipe, training.data, judging)
            if method == "reference":
                folds = [_as_new_cohort(fold, training) for fold in folds]
            model = _fit(recipe, training.data, judging)
        except GliaflowError as error:
            rows.append({"predictor": method, "part": "cv", "note": error.detail})
            continue
        rows.append(_row(method, "cv", partial(_pooled, folds, training.data, judging)))
        rows += [
            _row(
                method,
                f"validation_{name}",
                partial(_apply_way, model, cohort, training.scale, method, missing_genes, judging),
            )
            for name, cohort in validation.items()
        ]
    return pd.DataFrame(rows).rename(columns={"predictor": "harmonise"})


def clinical_data(data: SurvivalData, columns: Sequence[str]) -> SurvivalData:
    """Return patients with clinical columns in place of genes; NaN where a value is missing."""
    values = np.column_stack(
        [
            pd.to_numeric(data.clinical[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            if name in data.clinical
            else np.full(len(data.ids), np.nan)
            for name in columns
        ]
    )
    return replace(data, columns=tuple(columns), values=values)


def _row(predictor: str, part: str, judge: Callable[[], dict[str, float]]) -> dict[str, object]:
    try:
        found = {name: value for name, value in judge().items() if name.startswith(_SHOWN)}
        return {"predictor": predictor, "part": part, **found, "note": ""}
    except GliaflowError as error:
        return {"predictor": predictor, "part": part, "note": error.detail}


def _fit(recipe: SignatureRecipe, data: SurvivalData, judging: Judging) -> FittedModel:
    return fit_signature(recipe, data, cutoff=judging.cutoff, horizons_months=judging.horizons, seed=judging.seed).model


def _folds(recipe: SignatureRecipe, data: SurvivalData, judging: Judging) -> list[SurvivalFold]:
    return cross_validate_signature(
        recipe, data, folds=judging.folds, cutoff=judging.cutoff, horizons=judging.horizons, seed=judging.seed
    )


def _out_of_fold(recipe: SignatureRecipe, data: SurvivalData, judging: Judging) -> dict[str, float]:
    return _pooled(_folds(recipe, data, judging), data, judging)


def _pooled(folds: Sequence[SurvivalFold], data: SurvivalData, judging: Judging) -> dict[str, float]:
    pooled = pool_survival(folds, len(data.ids))
    return evaluate_out_of_fold(pooled, data, horizons=judging.horizons, bootstraps=0, seed=judging.seed).metrics


def _apply(model: FittedModel, data: SurvivalData, judging: Judging) -> dict[str, float]:
    return apply_signature(model, data, horizons=judging.horizons, bootstraps=0, seed=judging.seed).metrics


def _apply_way(
    model: FittedModel,
    cohort: StudyCohort,
    onto: TrainingScale,
    method: Method,
    missing_genes: MissingGenes,
    judging: Judging,
) -> dict[str, float]:
    return _apply(model, prepare_validation(cohort, onto, method=method, missing_genes=missing_genes), judging)


def _subset(judged: Judged, rows: npt.NDArray[np.intp], judging: Judging) -> dict[str, float]:
    return evaluate_survival(
        judged.scores[rows],
        judged.high[rows],
        None,
        judged.data.take(rows),
        horizons=judging.horizons,
        bootstraps=0,
        seed=judging.seed,
        strata=None if judged.strata is None else judged.strata[rows],
    ).metrics


def _as_new_cohort(fold: SurvivalFold, training: TrainingCohort) -> SurvivalFold:
    """Return a fold whose validation patients were shifted and scaled to the training part by their own moments."""
    genes = [name for name in training.data.columns if name != CONTRAST_COLUMN]
    positions = [training.data.columns.index(name) for name in genes]
    frame = pd.DataFrame(training.data.values[:, positions], columns=genes)
    onto = training_scale(frame.iloc[fold.split.train], training.scale.scale)
    new = harmonise(frame.iloc[fold.split.test], scale=training.scale.scale, onto=onto, method="reference").values
    scores = risk_scores(fold.signature.model, new)
    return replace(fold, scores=scores, high=high_risk(fold.signature.model, scores))
