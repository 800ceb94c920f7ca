"""Glioma grade from radiomics: LGG (WHO 2–3) against HGG (WHO 4), after Front Oncol 2022, 969907.

z-scores → Levene's and t-test (p < 0.05) → LASSO → random forest of 100 trees → 8 features → support vector machine
with radial kernel, C and gamma by grid. All of it is repeated inside each training part of a stratified nested
cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from pydantic import Field

from pipelines.modelling.classifiers import fit_svm
from pipelines.modelling.selection import (
    Array,
    compare_groups,
    fit_scaling,
    forest_importance,
    keep_significant,
    lasso_support,
    most_important,
)
from pipelines.modelling.study import Progress, StudyParameters, StudyPlan, StudyResult, run_study
from pipelines.modelling.tables import participant_classes
from pipelines.modelling.validation import Classifier, Outcome, Rival, Selection, derive_seed, stratified_folds

NAME = "grading"
VERSION = "1"
CLASSES = ("LGG", "HGG")
INTENDED_USE = (
    "Research: probability that an untreated adult-type diffuse glioma is WHO grade 4 (HGG) rather than 2 or 3 (LGG), "
    "from radiomic features extracted with the settings of the training data. Not for clinical decisions."
)
_SPELLINGS = {
    "LGG": frozenset({"lgg", "2", "3", "2.0", "3.0", "g2", "g3", "ii", "iii"}),
    "HGG": frozenset({"hgg", "gbm", "4", "4.0", "g4", "iv"}),
}


class Parameters(StudyParameters):
    """Parameters of the grading study."""

    alpha: float = Field(0.05, gt=0, lt=1, description="Level of Levene's and the t-test")
    lasso_folds: int = Field(5, ge=2, le=20, description="Folds that choose the LASSO's penalty by squared error")
    trees: int = Field(100, ge=10, le=2000, description="Trees of the random forest")
    features: int = Field(8, ge=1, le=200, description="Features kept by importance")
    c: tuple[float, ...] = Field((0.1, 1.0, 10.0, 100.0), min_length=1, description="Penalty factors of the machine")
    gamma: tuple[float, ...] = Field((0.01, 0.03, 0.1, 0.3), min_length=1, description="Widths of its kernel")


@dataclass(frozen=True)
class GradingRecipe:
    """Selection and classifier of the grading study."""

    parameters: Parameters

    @property
    def settings(self) -> list[dict[str, float]]:
        """The grid of C and gamma."""
        return [{"c": c, "gamma": gamma} for c in self.parameters.c for gamma in self.parameters.gamma]

    @property
    def rivals(self) -> dict[str, Rival]:
        """None: the paper names one classifier."""
        return {}

    def select(self, values: Array, outcome: Outcome, *, seed: int) -> Selection:
        """Scale, test, LASSO, forest."""
        p = self.parameters
        scaling = fit_scaling(values, max_missing=p.max_missing)
        steps = {"scaling": len(scaling.columns)}
        z = scaling.z_scores(values)
        tests = compare_groups(z, outcome, alpha=p.alpha)
        kept, filled_tests = keep_significant(tests.t_test, alpha=p.alpha, at_least=min(p.features, z.shape[1]))
        steps["t_test"] = len(kept)
        support, filled_lasso = lasso_support(
            z[:, kept],
            outcome,
            folds=stratified_folds(outcome, folds=p.lasso_folds, seed=derive_seed(seed, 0)),
            criterion="error",
            p_values=tests.t_test[kept],
            at_least=2,
        )
        kept = kept[support]
        steps["lasso"] = len(kept)
        if len(kept) > p.features:
            importance = forest_importance(z[:, kept], outcome, trees=p.trees, seed=derive_seed(seed, 1))
            kept = kept[most_important(importance, count=p.features)]
        steps["forest"] = len(kept)
        filled = tuple(name for name, so in (("t_test", filled_tests), ("lasso", filled_lasso)) if so)
        return Selection(scaling.take(kept), steps, filled)

    def fit(self, z: Array, outcome: Outcome, setting: Mapping[str, float]) -> Classifier:
        """Fit the support vector machine."""
        return fit_svm(z, outcome, c=setting["c"], gamma=setting["gamma"])


def read_labels(participants: pd.DataFrame, ids: pd.Index) -> pd.Series:
    """Return LGG or HGG for each patient of a feature table (NaN: unknown).

    The clinical column ``grade`` tells, and ``grade_group`` where a release states no more than LGG or HGG.
    """
    columns = [name for name in ("grade", "grade_group") if name in participants] or ["grade"]
    first, *rest = (participant_classes(participants, name, ids, spellings=_SPELLINGS) for name in columns)
    return first.where(first.notna(), rest[0]).rename("grade") if rest else first.rename("grade")


def run(
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    clinical: pd.DataFrame | None = None,
    parameters: StudyParameters | None = None,
    seed: int = 0,
    excluded: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Run the grading study, from images alone; see :func:`pipelines.modelling.study.run_study`."""
    del clinical
    chosen = Parameters.model_validate((parameters or Parameters()).model_dump())
    plan = StudyPlan(NAME, VERSION, CLASSES, INTENDED_USE, GradingRecipe(chosen), chosen)
    return run_study(plan, features, labels, seed=seed, excluded=excluded, progress=progress)
