"""Survival of lower-grade glioma from radiomics of one sequence, after Front Oncol 2022, 969907.

For each sequence, tests, a random forest and a support vector machine tell death before the median follow-up from
survival beyond it; the sequence that does so best stays. A random forest picks 10 of its features, an elastic-net Cox
model weighs them: the signature. Cut-off; uni- and multivariable Cox model with clinical factors; clinical against
integrated nomogram. All of the signature is repeated inside each training fold. The paper's 512 deep features of a
network take part where the features have them (each patient's from a network that never saw him); they go with every
sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
from pydantic import Field

from pipelines.modelling.clinical_factors import choose_factors, with_factor_tables
from pipelines.modelling.feature_names import kind_of
from pipelines.modelling.nomograms import with_nomograms
from pipelines.modelling.signature import CutoffRule, ElasticNetCox
from pipelines.modelling.study import Progress
from pipelines.modelling.survival_data import SurvivalData, survival_data
from pipelines.modelling.survival_parts import usable_horizons
from pipelines.modelling.survival_recipes import SEQUENCE_WORDS, SequenceForestCox, sequence_of
from pipelines.modelling.survival_study import (
    StudyCohort,
    SurvivalPlan,
    SurvivalStudyParameters,
    SurvivalStudyResult,
    run_survival_study,
)
from services.shared.errors import InvalidTable, InvalidValue

NAME = "grading_survival"
VERSION = "1"
KIND = "survival"
MATRIX = "features"
INTENDED_USE = (
    "Research: risk score of overall survival of untreated lower-grade glioma (WHO 2 and 3) from {features} "
    "extracted with the settings of the training data. Not for clinical decisions."
)
PATH_END = 0.05
CATEGORICAL = ("grade",)


class Parameters(SurvivalStudyParameters):
    """Parameters of the survival half of the grading study."""

    horizons_months: tuple[float, ...] = Field((12, 36, 60), min_length=1, description="Months of calibration")
    cutoff: CutoffRule = Field("x_tile", description="Rule of the cut-off between low and high risk")
    repeats: int = Field(2, ge=1, le=100, description="Times that the outer cross-validation is repeated")
    permutations: int = Field(5, ge=0, le=1000, description="Runs of the cross-validation with shuffled follow-up")
    bootstraps: int = Field(500, ge=0, le=100_000, description="Resamples of patients behind confidence limits")
    max_missing: float = Field(0.2, ge=0, lt=1, description="Largest share of missing values of a usable feature")
    sequences: tuple[str, ...] = Field(("T1c", "T1", "T2"), min_length=1, description="Sequences to choose from")
    picks: int = Field(10, ge=1, le=100, description="Features that the forest leaves")
    trees: int = Field(100, ge=10, le=2000, description="Trees of the random forest")
    alpha: float = Field(0.05, gt=0, lt=1, description="Level of Levene's and the t-test")
    inner_folds: int = Field(3, ge=2, le=20, description="Folds that compare sequences and choose the penalty")
    l1_ratio: float = Field(0.5, gt=0, le=1, description="Elastic net: 1 is the LASSO")
    clinical: tuple[str, ...] = Field(
        ("age_years", "sex", "grade", "histology"), description="Factors of the Cox models, as far as they are known"
    )
    nomogram: tuple[str, ...] = Field(("age_years", "histology"), description="Factors of both nomograms, as published")
    keep_p: float = Field(0.05, gt=0, le=1, description="P that a factor needs, alone and among the others")
    max_missing_clinical: float = Field(0.1, ge=0, lt=1, description="Largest share that lacks a known factor")


def run(
    training: StudyCohort,
    validation: Mapping[str, StudyCohort],
    *,
    parameters: SurvivalStudyParameters | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SurvivalStudyResult:
    """Run the survival half of the grading study.

    Parameters
    ----------
    training
        Features whose names tell their sequence, and a clinical table with grade and follow-up.
    validation
        Further cohorts by name.

    Raises
    ------
    InvalidTable
        Where no feature names a sequence, or the clinical table has neither grade nor follow-up.
    TooFewCases
        Where there are fewer deaths than folds.
    """
    p = Parameters.model_validate((parameters or Parameters()).model_dump())
    data = read_lower_grade(training, p)
    horizons, unused = usable_horizons(data, p.horizons_months)
    p = p.model_copy(update={"horizons_months": horizons})
    others = {name: read_lower_grade(cohort, p) for name, cohort in validation.items()}
    factors = choose_factors(data.clinical, p.clinical, max_missing=p.max_missing_clinical)
    nomogram = choose_factors(data.clinical, p.nomogram, max_missing=p.max_missing_clinical)
    deep = any(kind_of(name) == "deep" for name in data.columns)
    features = "radiomic features and those of a network," if deep else "radiomic features"
    plan = SurvivalPlan(NAME, VERSION, INTENDED_USE.format(features=features), _recipe(p), p, training.scale)
    result = run_survival_study(plan, data, others, seed=seed, progress=progress)
    result = with_nomograms(result, data, others, clinical_columns=nomogram.known, categorical=CATEGORICAL, seed=seed)
    named = {f"validation_{name}": part for name, part in others.items()}
    result = with_factor_tables(
        result, {"train": data, "cv": data, **named}, factors=factors, categorical=CATEGORICAL, keep_p=p.keep_p
    )
    optimism = result.metrics["train_c_index"] - result.metrics["cv_c_index"]
    return replace(
        result,
        metrics=dict(sorted((result.metrics | {"optimism_c_index": round(optimism, 10)}).items())),
        flow=result.flow | {"horizons_left_out": unused},
    )


def read_lower_grade(cohort: StudyCohort, p: Parameters) -> SurvivalData:
    """Return the patients of a cohort with a glioma of WHO grade 2 or 3, by ``grade``, or ``grade_group`` where empty.

    Raises
    ------
    InvalidTable
        Where there is no grade, or no feature names one of the sequences.
    InvalidValue
        Where a sequence that was asked for is not known.
    """
    strange = [name for name in p.sequences if name not in SEQUENCE_WORDS]
    if strange:
        raise InvalidValue(
            "a sequence is not known", step=NAME, field="sequences", expected=", ".join(SEQUENCE_WORDS), got=strange[0]
        )
    if not any(sequence_of(str(name)) in p.sequences for name in cohort.features.columns):
        raise InvalidTable(
            "no feature names a sequence",
            step=NAME,
            field=f"features of {cohort.name}",
            expected=f"names with one of {', '.join(p.sequences)} as a word, such as TEXTURE_GLCM_ET_T1Gd_Contrast",
            got=", ".join(map(str, cohort.features.columns[:3])) or "no column",
        )
    if not {"grade", "grade_group"} & set(cohort.clinical):
        raise InvalidTable(
            "the clinical table has no grade",
            step=NAME,
            field=f"clinical table of {cohort.name}",
            expected="grade (2, 3 or 4), or grade_group (LGG or HGG)",
            got=", ".join(map(str, cohort.clinical.columns[:8])),
            remedy="import the cohort together with its clinical release",
        )
    clinical = cohort.clinical
    grade = pd.to_numeric(clinical.get("grade", pd.Series(index=clinical.index, dtype=float)), errors="coerce")
    group = clinical.get("grade_group", pd.Series(index=clinical.index, dtype=object))
    lower = grade.isin([2, 3]) | (grade.isna() & (group == "LGG"))
    known = grade.notna() | group.notna()
    excluded = dict.fromkeys(map(str, clinical.index[~known]), "grade not known")
    excluded |= dict.fromkeys(map(str, clinical.index[known & ~lower]), "not a lower-grade glioma")
    return survival_data(cohort.features, clinical, excluded=excluded | cohort.excluded, step=cohort.name)


def _recipe(p: Parameters) -> SequenceForestCox:
    base = ElasticNetCox(
        l1_ratio=p.l1_ratio, screen_p=None, folds=p.inner_folds, max_missing=p.max_missing, smallest_ratio=PATH_END
    )
    return SequenceForestCox(
        base,
        sequences=p.sequences,
        picks=p.picks,
        trees=p.trees,
        alpha=p.alpha,
        folds=p.inner_folds,
        max_missing=p.max_missing,
    )
