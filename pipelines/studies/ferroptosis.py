"""Ferroptosis gene signature of survival, after Front Neurosci 2022, 1082867 (genomic half).

Ferroptosis genes → genes that are expressed → differential expression of tumour against normal tissue (limma, FDR <
0.05 and |log2 fold change| > 1) and univariable Cox P < 0.05 → their intersection → LASSO-Cox → risk score → maximally
selected cut-off. All of it is repeated inside each training fold. A validation cohort takes coefficients and cut-off as
they are; its expression is brought to the training scale without its follow-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from pydantic import Field

from pipelines.genomics.differential import ModeratedT
from pipelines.genomics.expression import fit_low_expression_filter
from pipelines.genomics.gene_sets import GeneSets
from pipelines.genomics.harmonise import RANKS_OF, Method, MissingGenes, scale_kind
from pipelines.modelling.nomograms import with_nomograms
from pipelines.modelling.selection import Array, Index, fit_scaling
from pipelines.modelling.signature import CoxLasso, FittedSelection, screen_univariable
from pipelines.modelling.study import Progress
from pipelines.modelling.survival_data import Event, SurvivalData
from pipelines.modelling.survival_recipes import fit_within
from pipelines.modelling.survival_study import (
    StudyCohort,
    SurvivalPlan,
    SurvivalStudyParameters,
    SurvivalStudyResult,
    run_survival_study,
)
from pipelines.modelling.validation import derive_seed
from pipelines.studies.ferroptosis_cohorts import (
    CONTRAST_COLUMN,
    LEAST_SAMPLES_A_SIDE,
    Contrast,
    TrainingCohort,
    ZScores,
    choose_candidates,
    on_log_scale,
    prepare_training,
    prepare_validation,
    who_grade,
    without_training_patients,
)
from pipelines.studies.ferroptosis_context import (
    LEAST_DEATHS,
    Judged,
    Judging,
    clinical_figures,
    compare_harmonisation,
    within_grades,
)
from pipelines.studies.ferroptosis_signature import (
    apply_to_cohort,
    on_signature_scale,
    ranked_model,
    risk_groups,
    score_patients,
)
from pipelines.studies.ferroptosis_tables import (
    characteristics_table,
    compare_expression,
    differential_table,
    enrichment_table,
    heat_map,
    read_collections,
    score_distribution,
    venn_table,
)

__all__ = [
    "FerroptosisRecipe",
    "Parameters",
    "apply_to_cohort",
    "on_signature_scale",
    "risk_groups",
    "run",
    "score_patients",
]

NAME = "ferroptosis"
VERSION = "1"
KIND = "survival"
MATRIX = "expression"
INTENDED_USE = (
    "Research: risk score of overall survival of adult-type diffuse glioma from the expression of ferroptosis genes, "
    "on the scale of the training platform. Not for clinical decisions."
)
NEW_COHORTS: dict[Method, str] = {
    "none": "New patients' values are taken as they are.",
    "reference": "A new cohort's genes are shifted and scaled to the training mean and deviation by its own, without "
    "follow-up; a single patient cannot be scored so.",
    "rank": "A new patient's genes are ranked within the sample.",
}
"""What the model card says of new patients, by how they are harmonised."""
_LEAST_DIFFERENTIAL = 2


class Parameters(SurvivalStudyParameters):
    """Parameters of the ferroptosis study."""

    gene_lists: tuple[str, ...] = Field((), description="FerrDb files; without any, every gene is a candidate")
    roles: tuple[Literal["driver", "suppressor", "marker"], ...] = Field((), description="Roles to keep; none: all")
    gene_sets: tuple[str, ...] = Field((), description="GMT files for over-representation")
    scale: str = Field(
        "", description="What values are where a table does not say so: z-score, log2, FPKM, TPM, counts"
    )
    z_scores: ZScores = Field("signed_log2", description="What becomes of z-scores: sign(z) log2(1 + |z|), or nothing")
    universe: Literal["candidates", "matrix"] = Field(
        "candidates", description="Genes that over-representation counts as eligible: the candidates, or all measured"
    )
    least_set_genes: int = Field(5, ge=1, description="Genes that a set must have in the universe to be tested")
    low_expression: float | None = Field(1.0, description="log2 value that an expressed gene reaches; None: no filter")
    low_expression_share: float = Field(0.2, ge=0, le=1, description="Share of training samples that must reach it")
    contrast: Literal["auto", "tissue", "grade", "none"] = Field(
        "auto", description="Differential expression: tumour against normal, WHO 4 against 2-3, or none; auto: as found"
    )
    fdr: float = Field(0.05, gt=0, le=1, description="False discovery rate of differential expression")
    log_fold_change: float = Field(1.0, ge=0, description="Least absolute difference, in units of the training scale")
    screen_p: float = Field(0.05, gt=0, le=1, description="P of the univariable Cox model")
    lasso_folds: int = Field(10, ge=3, le=20, description="Folds that choose the LASSO's penalty")
    lambda_rule: Literal["min", "1se"] = Field("min", description="Penalty of least deviance, or within one SE of it")
    nomogram_columns: tuple[str, ...] = Field(
        ("age_years", "grade"), description="Clinical columns of the nomogram that the signature is set against"
    )
    harmonise: Method = Field("reference", description="How a validation cohort gets to the training scale")
    platform_genes: tuple[str, ...] | None = Field(
        None, description="Validation cohorts whose gene names restrict the candidates; None: all of them"
    )
    missing_genes: MissingGenes = Field("error", description="What a gene means that a validation platform lacks")
    compare_harmonisation: bool = Field(
        default=True, description="Whether a table shows the other ways to harmonise too"
    )


@dataclass(frozen=True)
class FerroptosisRecipe:
    """Filter, differential expression, univariable Cox and LASSO-Cox, all within training patients.

    Parameters
    ----------
    contrast
        ``tissue`` compares with ``normals``; ``grade`` by the patients' column :data:`CONTRAST_COLUMN`.
    normals
        Normal tissue x genes.
    filtered
        Whether the scale permits the filter of low expression.
    """

    parameters: Parameters
    contrast: Contrast
    normals: pd.DataFrame
    filtered: bool

    name = "ferroptosis"

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:
        """Choose and weigh genes from training patients.

        Raises
        ------
        TooFewCases
            Where no gene is expressed, or deaths are too few for the LASSO's folds.
        """
        p = self.parameters
        kept = np.array([i for i, name in enumerate(names) if name != CONTRAST_COLUMN], dtype=np.intp)
        steps, filled = {"candidates": len(kept)}, []
        if self.filtered and p.low_expression is not None:
            chosen = fit_low_expression_filter(
                pd.DataFrame(values[:, kept], columns=[names[i] for i in kept]),
                least=p.low_expression,
                in_fraction=p.low_expression_share,
                drop_constant=False,
            )
            kept = _positions(kept, names, chosen.genes)
            steps["expressed"] = len(kept)
        if self.contrast == "tissue" or CONTRAST_COLUMN in names:
            tested = self.compare(pd.DataFrame(values, columns=list(names)), [names[i] for i in kept])
            found = tested.select(fdr=p.fdr, log_fold_change=p.log_fold_change)
            if len(found) < _LEAST_DIFFERENTIAL:
                filled.append("differential")
                order = np.argsort(tested.p, kind="stable")[:_LEAST_DIFFERENTIAL]
                found = tuple(tested.genes[i] for i in order)
            kept = _positions(kept, names, found)
            steps["differential"] = len(kept)
        lasso = CoxLasso(screen_p=p.screen_p, folds=p.lasso_folds, rule=p.lambda_rule, max_missing=p.max_missing)
        fitted = fit_within(lasso, kept, values, months, event, names=names, seed=seed)
        steps |= {name: count for name, count in fitted.steps.items() if name != "given"}
        return replace(fitted, steps=steps, filled_up=(*filled, *fitted.filled_up))

    def compare(self, frame: pd.DataFrame, genes: Sequence[str]) -> ModeratedT:
        """Return the differences of the contrast in these patients (and the normal tissue)."""
        own = frame[list(genes)]
        if self.contrast == "tissue":
            return compare_expression(own, self.normals[list(genes)])
        high = frame[CONTRAST_COLUMN]
        return compare_expression(own[high == 1], own[high == 0])


def run(
    training: StudyCohort,
    validation: Mapping[str, StudyCohort],
    *,
    parameters: SurvivalStudyParameters | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SurvivalStudyResult:
    """Fit the signature to one cohort and apply it unchanged to others.

    Parameters
    ----------
    training, validation
        Expression by ``case_id`` with its scale in words; samples whose clinical column ``tissue`` says ``normal`` are
        normal tissue.
    seed
        The same seed and tables give the same result; follow-up of validation cohorts changes no byte of the model.

    Raises
    ------
    IdMismatch, InvalidTable, InvalidValue, TooFewCases
        Where gene lists, platforms, scales or patients do not fit together.
    """
    chosen = Parameters.model_validate((parameters or Parameters()).model_dump())
    own = on_log_scale(training, z_scores=chosen.z_scores, stated=chosen.scale)
    others = {
        name: on_log_scale(without_training_patients(cohort, training), z_scores=chosen.z_scores, stated=chosen.scale)
        for name, cohort in sorted(validation.items())
    }
    candidates = choose_candidates(
        own, others, gene_lists=chosen.gene_lists, roles=chosen.roles, platform_genes=chosen.platform_genes
    )
    prepared, recipe = _prepare(own, candidates.genes, chosen, chosen.harmonise)
    judged = {
        name: prepare_validation(cohort, prepared.scale, method=chosen.harmonise, missing_genes=chosen.missing_genes)
        for name, cohort in others.items()
    }
    collections = read_collections(chosen.gene_sets, candidates.genes)
    intended_use = f"{INTENDED_USE} {NEW_COHORTS[chosen.harmonise]}"
    plan = SurvivalPlan(NAME, VERSION, intended_use, recipe, chosen, prepared.scale.scale)
    result = run_survival_study(plan, prepared.data, judged, seed=seed, progress=progress)
    flow = result.flow | {
        "candidates": candidates.statement,
        "low_expression_filter": _filter_applies(prepared, chosen)[1],
        **prepared.statement,
        "harmonise": chosen.harmonise,
        "gene_columns_merged": {
            cohort.name: int(cohort.features.columns.duplicated().sum()) for cohort in (training, *validation.values())
        },
    }
    tables = _tables(result, recipe, prepared, judged, [str(name) for name in own.features.columns], collections)
    judging = Judging(chosen.folds, chosen.cutoff, chosen.horizons_months, derive_seed(seed, 8))
    tables["context"] = pd.concat(
        [
            clinical_figures(prepared.data, judged, judging),
            within_grades(_judged(result, prepared.data, judged), judging),
        ],
        ignore_index=True,
    )
    if chosen.compare_harmonisation:
        ways = {method: partial(_prepare, own, candidates.genes, chosen, method) for method in get_args(Method)}
        tables["harmonisation"] = compare_harmonisation(ways, others, judging, missing_genes=chosen.missing_genes)
    result = replace(result, flow=flow, tables=result.tables | tables)
    result = _with_nomograms(result, prepared.data, judged, chosen, seed)
    model = result.model if chosen.harmonise != "rank" else ranked_model(result.model, prepared.scale)
    return replace(result, model=model)


def _prepare(
    own: StudyCohort, genes: Sequence[str], p: Parameters, method: Method
) -> tuple[TrainingCohort, FerroptosisRecipe]:
    prepared = prepare_training(own, genes, contrast=p.contrast, method=method)
    return prepared, FerroptosisRecipe(p, prepared.contrast, prepared.normals, _filter_applies(prepared, p)[0])


def _with_nomograms(
    result: SurvivalStudyResult,
    training: SurvivalData,
    validation: Mapping[str, SurvivalData],
    p: Parameters,
    seed: int,
) -> SurvivalStudyResult:
    """Compare clinical columns with and without the signature; where patients lack them, say so instead."""
    known = [name for name in p.nomogram_columns if name in training.clinical and training.clinical[name].nunique() > 1]
    if not known:
        return replace(result, flow=result.flow | {"nomogram": "no clinical column that was asked for varies"})
    usable = {}
    for name, data in validation.items():
        present = [column for column in known if column in data.clinical]
        complete = data.clinical[present].notna().all(axis=1).to_numpy()
        if len(present) == len(known) and data.event[complete].sum() >= LEAST_DEATHS:
            usable[name] = data
    return with_nomograms(result, training, usable, clinical_columns=known, seed=derive_seed(seed, 9))


def _judged(
    result: SurvivalStudyResult, training: SurvivalData, validation: Mapping[str, SurvivalData]
) -> dict[str, Judged]:
    """Return scores and groups of patients that the signature had not seen, by part."""
    parts = {"cv": training} | {f"validation_{name}": data for name, data in validation.items()}
    found = {}
    for part, data in parts.items():
        table = result.tables["predictions"]
        own = table[table["part"] == part].set_index("case_id").loc[list(data.ids)]
        strata = own["fold"].to_numpy(dtype=np.int64) if part == "cv" else None
        scores = own["risk_score"].to_numpy(dtype=np.float64)
        found[part] = Judged(data, scores, (own["group"] == "high").to_numpy(), strata)
    return found


def _tables(
    result: SurvivalStudyResult,
    recipe: FerroptosisRecipe,
    prepared: TrainingCohort,
    judged: Mapping[str, SurvivalData],
    matrix: Sequence[str],
    collections: Mapping[str, GeneSets],
) -> dict[str, pd.DataFrame]:
    """Return the paper's tables: all but the model's own describe, and choose nothing."""
    p, data, genes = recipe.parameters, prepared.data, list(prepared.scale.genes)
    frame = pd.DataFrame(data.values, columns=list(data.columns))
    screening = _screen_candidates(frame[genes], data, p)
    tables = {"screening": screening}
    differential = _describe_differences(recipe, frame, genes, data)
    if differential is not None:
        tables["differential"] = differential
    used = differential if recipe.contrast != "none" else None
    venn = venn_table(genes, screening, used, result.model.columns, alpha=p.screen_p)
    predictions = result.tables["predictions"]
    if collections:
        listed = venn.set_index("set")["names"].str.split(";")
        chosen = {name: [gene for gene in listed[name] if gene] for name in ("signature", "intersection")}
        universe = genes if p.universe == "candidates" else list(matrix)
        found = enrichment_table(chosen, universe, collections, least=p.least_set_genes)
        tables["enrichment"] = found.assign(universe=p.universe)
    parts = {"train": data, "cv": data} | {f"validation_{name}": other for name, other in judged.items()}
    return tables | {
        "venn": venn,
        "table_1": characteristics_table(predictions, parts),
        "score_distribution": score_distribution(predictions, cutoff=result.model.threshold),
        "heat_map": heat_map(data, predictions, result.model.columns),
    }


def _screen_candidates(frame: pd.DataFrame, data: SurvivalData, p: Parameters) -> pd.DataFrame:
    scaling = fit_scaling(frame.to_numpy(), max_missing=p.max_missing)
    names = [str(frame.columns[i]) for i in scaling.columns]
    table = screen_univariable(scaling.z_scores(frame.to_numpy()), data.months, data.event, names=names)
    return table.assign(kept=table["p_value"] < p.screen_p).sort_values(["p_value", "feature"], ignore_index=True)


def _describe_differences(
    recipe: FerroptosisRecipe, frame: pd.DataFrame, genes: Sequence[str], data: SurvivalData
) -> pd.DataFrame | None:
    """Return the contrast's differences; without one those of WHO grade 4 against 2-3, if known."""
    p = recipe.parameters
    if recipe.contrast == "none":
        grade = who_grade(data.clinical)
        sides = frame.loc[(grade == 4).to_numpy(), genes], frame.loc[(grade < 4).to_numpy(), genes]
        if min(map(len, sides)) < LEAST_SAMPLES_A_SIDE:
            return None
        tested = compare_expression(*sides)
    else:
        tested = recipe.compare(frame, genes)
    contrast = "tumour against normal tissue" if recipe.contrast == "tissue" else "WHO grade 4 against 2-3"
    return differential_table(
        tested, contrast=contrast, used=recipe.contrast != "none", fdr=p.fdr, change=p.log_fold_change
    )


def _filter_applies(prepared: TrainingCohort, p: Parameters) -> tuple[bool, str]:
    """Return whether genes can be judged as expressed on this scale, and the reason in words."""
    scale = prepared.scale.scale
    if p.low_expression is None:
        return False, "not asked for"
    if scale.startswith(RANKS_OF) or scale_kind(scale) != "log2":
        return False, f"not applicable: {scale} has no level at which a gene is expressed"
    if (prepared.data.values < 0).any():
        return False, "not applicable: values were centred, some are negative"
    return True, f"at least {p.low_expression:g} in {p.low_expression_share:.0%} of the training samples of each fold"


def _positions(kept: Index, names: Sequence[str], genes: Sequence[str]) -> Index:
    wanted = set(genes)
    return np.array([i for i in kept if names[i] in wanted], dtype=np.intp)
