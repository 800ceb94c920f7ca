"""ATRX status from radiomics: mutant against wild type, after Quant Imaging Med Surg 2024, 23-807.

z-scores → t-test (p < 0.05) → LASSO (10-fold cross-validation by AUC) → backward elimination by AIC where more than
20 features remain → logistic regression, compared with a random forest and a support vector machine. All of it is
repeated inside each training part of a stratified nested cross-validation.

The study's own figures are those of all imaging features. Beside them stand the paper's imaging models by region and
kind of feature, the imaging score of the best of them, the clinical model (age, sex, WHO grade, VASARI) and the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pipelines.modelling.classifiers import fit_logistic, fit_svm
from pipelines.modelling.fusion_study import FusionExtension, ValidationCohort
from pipelines.modelling.selection import (
    Array,
    backward_aic,
    compare_groups,
    fit_scaling,
    keep_significant,
    lasso_support,
)
from pipelines.modelling.study import Progress, StudyParameters, StudyPlan, StudyResult, run_study
from pipelines.modelling.tables import participant_classes
from pipelines.modelling.validation import Classifier, Outcome, Rival, Selection, derive_seed, stratified_folds
from services.model_serving.predictor import classifier_scores
from services.shared.errors import InvalidTable

NAME = "atrx"
VERSION = "1"
CLASSES = ("WT", "Mutant")
INTENDED_USE = (
    "Research: probability that an untreated adult-type diffuse glioma carries an ATRX mutation, from radiomic "
    "features extracted with the settings of the training data. Not for clinical decisions."
)
FUSION_USE = (
    "Research: probability that an untreated adult-type diffuse glioma carries an ATRX mutation, from imaging features "
    "extracted with the settings of the training data, age_years, sex_male (1 male, 0 female), WHO grade (2 to 4) and "
    "the other clinical columns named here. Not for clinical decisions."
)
Population = Literal["all", "idh_mutant", "idh_mutant_noncodel"]
_SPELLINGS = {
    "WT": frozenset({"wt", "wild type", "wild-type", "wildtype"}),
    "Mutant": frozenset({"mutant", "mut", "mutated"}),
}


class Parameters(StudyParameters):
    """Parameters of the ATRX study."""

    alpha: float = Field(0.05, gt=0, lt=1, description="Level of the t-test")
    lasso_folds: int = Field(10, ge=2, le=20, description="Folds that choose the LASSO's penalty by AUC")
    max_features: int = Field(20, ge=1, le=200, description="More features than this go through backward elimination")
    c: float = Field(1.0, gt=0, description="Inverse ridge penalty of the logistic regressions")
    trees: int = Field(100, ge=10, le=2000, description="Trees of the random forest that is compared")
    population: Population = Field(
        "all", description="Who is studied: all, idh_mutant, or without 1p/19q codeletion too"
    )
    grades: Literal["all", "lower"] = Field("all", description="Whether WHO grade 4 is left out (lower)")


@dataclass(frozen=True)
class AtrxRecipe:
    """Selection and classifier of the ATRX study."""

    parameters: Parameters

    @property
    def settings(self) -> list[dict[str, float]]:
        """One setting: the logistic regression is not tuned."""
        return [{"c": self.parameters.c}]

    @property
    def rivals(self) -> dict[str, Rival]:
        """Random forest and support vector machine, as in the paper."""
        return {"random_forest": self._forest_scores, "svm_rbf": _machine_scores}

    def select(self, values: Array, outcome: Outcome, *, seed: int) -> Selection:
        """Scale, test, LASSO, backward elimination."""
        p = self.parameters
        scaling = fit_scaling(values, max_missing=p.max_missing)
        steps = {"scaling": len(scaling.columns)}
        z = scaling.z_scores(values)
        tests = compare_groups(z, outcome, alpha=p.alpha, levene=False)
        kept, filled_tests = keep_significant(tests.t_test, alpha=p.alpha, at_least=min(2, z.shape[1]))
        steps["t_test"] = len(kept)
        support, filled_lasso = lasso_support(
            z[:, kept],
            outcome,
            folds=stratified_folds(outcome, folds=p.lasso_folds, seed=derive_seed(seed, 0)),
            criterion="auc",
            p_values=tests.t_test[kept],
            at_least=2,
        )
        kept = kept[support]
        steps["lasso"] = len(kept)
        if len(kept) > p.max_features:
            kept = kept[backward_aic(z[:, kept], outcome)]
        steps["aic"] = len(kept)
        filled = tuple(name for name, so in (("t_test", filled_tests), ("lasso", filled_lasso)) if so)
        return Selection(scaling.take(kept), steps, filled)

    def fit(self, z: Array, outcome: Outcome, setting: Mapping[str, float]) -> Classifier:
        """Fit the logistic regression."""
        return fit_logistic(z, outcome, c=setting["c"])

    def _forest_scores(self, z: Array, outcome: Outcome, z_test: Array, seed: int) -> Array:
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(n_estimators=self.parameters.trees, random_state=seed, n_jobs=1)
        return np.asarray(forest.fit(z, outcome).predict_proba(z_test)[:, 1])


def _machine_scores(z: Array, outcome: Outcome, z_test: Array, seed: int) -> Array:
    """Return decision values at scikit-learn's default C = 1 and gamma = 1 / features."""
    del seed
    return classifier_scores(fit_svm(z, outcome, c=1.0, gamma=1.0 / z.shape[1]), z_test)


def read_labels(participants: pd.DataFrame, ids: pd.Index) -> pd.Series:
    """Return WT or Mutant for each patient of a feature table, from the clinical column ``atrx`` (NaN: unknown)."""
    return participant_classes(participants, "atrx", ids, spellings=_SPELLINGS)


def outside_population(population: Population, clinical: pd.DataFrame | None, ids: pd.Index) -> dict[str, str]:
    """Return the reason by ``case_id`` of patients who do not belong to a population, or are not known to.

    Parameters
    ----------
    clinical
        Indexed by ``case_id``, with ``idh`` and, for ``idh_mutant_noncodel``, ``codeletion_1p19q``.

    Raises
    ------
    InvalidTable
        Where the clinical table is not there, or lacks the column.
    """
    wanted = {"all": {}, "idh_mutant": {"idh": "mutant"}}.get(
        population, {"idh": "mutant", "codeletion_1p19q": "non-codel"}
    )
    reasons: dict[str, str] = {}
    for column, value in wanted.items():
        if clinical is None or column not in clinical:
            raise InvalidTable(
                "the clinical table does not tell who belongs to the population",
                step=NAME,
                field=column,
                expected=f"a clinical column {column} for the population {population}",
                got="no clinical table" if clinical is None else ", ".join(map(str, clinical.columns[:12])),
                remedy="give the clinical table, or study the population 'all'",
            )
        states = clinical[column].set_axis(clinical.index.astype(str)).reindex(ids.astype(str))
        for case, state in states.items():
            if pd.isna(state):
                reasons.setdefault(str(case), f"{column} unknown")
            elif str(state).strip().lower() != value:
                reasons.setdefault(str(case), f"{column} {str(state).strip()}")
    return reasons


def outside_grades(clinical: pd.DataFrame | None, ids: pd.Index) -> dict[str, str]:
    """Return the reason by ``case_id`` of patients of WHO grade 4, or whose grade is not known.

    Parameters
    ----------
    clinical
        Indexed by ``case_id``, with ``grade`` (2 to 4), or else ``grade_group`` (HGG or LGG).

    Raises
    ------
    InvalidTable
        Where the clinical table is not there, or lacks both columns.
    """
    columns = [] if clinical is None else [name for name in ("grade", "grade_group") if name in clinical]
    if clinical is None or not columns:
        raise InvalidTable(
            "the clinical table does not tell who is of lower grade",
            step=NAME,
            field="grade",
            expected="a clinical column grade or grade_group",
            got="no clinical table" if clinical is None else ", ".join(map(str, clinical.columns[:12])),
            remedy="give the clinical table, or study all grades",
        )
    table = clinical[columns].set_axis(clinical.index.astype(str)).reindex(ids.astype(str))
    number = pd.to_numeric(table["grade"], errors="coerce") if "grade" in table else pd.Series(np.nan, table.index)
    group = table["grade_group"] if "grade_group" in table else pd.Series(None, table.index, dtype=object)
    high = (number == 4) | (group == "HGG")
    lower = number.isin([2, 3]) | (group == "LGG")
    reasons = {str(case): "WHO grade 4" for case in table.index[high]}
    return reasons | {str(case): "grade unknown" for case in table.index[~high & ~lower]}


def run(
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    clinical: pd.DataFrame | None = None,
    parameters: StudyParameters | None = None,
    seed: int = 0,
    excluded: Mapping[str, str] | None = None,
    validation: Mapping[str, ValidationCohort] | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Run the ATRX study; see :func:`pipelines.modelling.study.run_study`.

    Parameters
    ----------
    clinical
        Clinical table indexed by ``case_id``; without it there is neither clinical model nor fusion.
    validation
        Other cohorts by name, to which the finished models are applied unchanged.
    """
    chosen = Parameters.model_validate((parameters or Parameters()).model_dump())
    plan = StudyPlan(NAME, VERSION, CLASSES, INTENDED_USE, AtrxRecipe(chosen), chosen)
    cohorts = {
        name: replace(
            cohort,
            excluded={**_outside(chosen, cohort.clinical, cohort.features.index), **cohort.excluded},
        )
        for name, cohort in sorted((validation or {}).items())
    }
    extension = FusionExtension(clinical, chosen.c, FUSION_USE, cohorts)
    left_out = {**_outside(chosen, clinical, features.index), **(excluded or {})}
    return run_study(plan, features, labels, seed=seed, excluded=left_out, extension=extension, progress=progress)


def _outside(chosen: Parameters, clinical: pd.DataFrame | None, ids: pd.Index) -> dict[str, str]:
    outside = outside_population(chosen.population, clinical, ids)
    return outside if chosen.grades == "all" else {**outside, **outside_grades(clinical, ids)}
