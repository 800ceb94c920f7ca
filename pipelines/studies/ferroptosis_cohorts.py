"""Cohorts of the ferroptosis study: log scale, candidate genes, normal tissue, and validation on the training scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd

from pipelines.datasets.ferrdb import read_ferrdb
from pipelines.genomics.expression import (
    check_expression,
    detect_scale,
    merge_duplicates,
    prepare_expression,
    require_overlap,
)
from pipelines.genomics.harmonise import (
    RANKS_OF,
    Harmonised,
    Method,
    MissingGenes,
    TrainingScale,
    harmonise,
    rank_within_samples,
    scale_kind,
    training_scale,
)
from pipelines.modelling.survival_data import SurvivalData, survival_data
from pipelines.modelling.survival_study import StudyCohort
from services.shared.errors import InvalidValue, TooFewCases

Contrast = Literal["tissue", "grade", "none"]
ZScores = Literal["signed_log2", "as_they_are"]
SIGNED_LOG = "signed log2 of "
CONTRAST_COLUMN = "contrast: WHO grade 4"
"""Column that carries the contrast of patients into the recipe; it is never a candidate."""

_STEP = "ferroptosis"
LEAST_SAMPLES_A_SIDE = 3


@dataclass(frozen=True)
class Candidates:
    """Genes that the signature may choose from.

    Parameters
    ----------
    genes
        Sorted.
    statement
        Where they come from, and how many each restriction left.
    """

    genes: tuple[str, ...]
    statement: dict[str, object]


@dataclass(frozen=True)
class TrainingCohort:
    """What the recipe learns from.

    Parameters
    ----------
    data
        Patients with follow-up; values on the scale of ``scale.scale``.
    scale
        Mean and deviation of every candidate gene over these patients.
    normals
        Normal tissue x candidate genes on the same scale; no rows where there is none.
    contrast, statement
        What differential expression compares, and what was done to get here.
    """

    data: SurvivalData
    scale: TrainingScale
    normals: pd.DataFrame
    contrast: Contrast
    statement: dict[str, object]


def on_log_scale(cohort: StudyCohort, *, z_scores: ZScores = "signed_log2", stated: str = "") -> StudyCohort:
    """Return a cohort whose expression is logged or standardised, one column a gene.

    FPKM, TPM and counts become log2(x + 1); log2 values stay as they are.

    Parameters
    ----------
    z_scores
        ``signed_log2`` makes sign(z)·log2(1 + |z|) of z-scores, because those of linear expression have long tails
        that would rule a LASSO; ``as_they_are`` keeps them.
    stated
        What a value is, where the cohort does not say so; without it, values that cannot be z-scores are looked at.

    Raises
    ------
    InvalidTable, InvalidValue
        Where values do not fit the scale that the cohort states (negative FPKM, already logged …).
    """
    cohort = cohort if cohort.scale else replace(cohort, scale=stated or _apparent_scale(cohort))
    kind = scale_kind(cohort.scale)
    if kind == "z-score":
        values = merge_duplicates(cohort.features)
        z = check_expression(values, step=_STEP)
        if z_scores == "as_they_are":
            return replace(cohort, features=values)
        logged = pd.DataFrame(np.sign(z) * np.log2(1 + np.abs(z)), index=values.index, columns=values.columns)
        return replace(cohort, features=logged, scale=f"{SIGNED_LOG}{cohort.scale}")
    if kind == "log2":
        return replace(cohort, features=prepare_expression(cohort.features, unit="log2").values)
    unit: Literal["counts", "tpm", "fpkm"] = (
        "counts" if kind == "counts" else "tpm" if "tpm" in cohort.scale.lower() else "fpkm"
    )
    values = prepare_expression(cohort.features, unit=unit).values
    return replace(cohort, features=values, scale=f"log2(x + 1) of {cohort.scale}")


def _apparent_scale(cohort: StudyCohort) -> str:
    kind = detect_scale(cohort.features)
    if kind == "log2" and (cohort.features < 0).any(axis=None):
        raise InvalidValue(
            "it is not known what the expression values are: negative ones may be z-scores or logarithms",
            case=cohort.name,
            step=_STEP,
            field="scale",
            expected="z-score, log2, FPKM, TPM or counts",
            got="nothing",
            remedy="set the parameter scale",
        )
    return {"log2": "log2, as values look", "counts": "counts, as values look", "linear": "linear, as values look"}[
        kind
    ]


def choose_candidates(
    training: StudyCohort,
    validation: Mapping[str, StudyCohort],
    *,
    gene_lists: Sequence[str],
    roles: Sequence[str],
    platform_genes: Sequence[str] | None,
) -> Candidates:
    """Return the genes of the lists that the training platform has, cut to those that named platforms have too.

    Parameters
    ----------
    gene_lists
        FerrDb files; without any, every gene of the training matrix is a candidate.
    roles
        Roles in ferroptosis to keep; none means all.
    platform_genes
        Validation cohorts whose gene names (never their values) restrict the candidates; None means all of them.

    Raises
    ------
    IdMismatch
        Where the lists and the matrix, or the platforms, share no gene.
    """
    genes = sorted(map(str, training.features.columns))
    statement: dict[str, object] = {"genes_of_matrix": len(genes)}
    if gene_lists:
        listed = read_ferrdb(*map(Path, gene_lists))
        wanted = listed.with_role(*roles)
        found = set(require_overlap(wanted, genes, step=_STEP))
        genes = [gene for gene in genes if gene in found]
        statement |= {
            "gene_lists": [Path(name).name for name in gene_lists],
            "genes_listed": len(wanted),
            "list_entries_left_out": len(listed.left_out),
            "candidates": len(genes),
            "candidates_are": "genes of the lists that the matrix has",
        }
    else:
        statement |= {"candidates": len(genes), "candidates_are": "every gene of the matrix: no gene list was given"}
    names = sorted(validation) if platform_genes is None else sorted(platform_genes)
    strange = [name for name in names if name not in validation]
    if strange:
        raise InvalidValue(
            "a platform is none of the validation cohorts",
            step=_STEP,
            field="platform_genes",
            expected=", ".join(sorted(validation)) or "validation cohorts",
            got=", ".join(strange),
        )
    lacking: dict[str, int] = {}
    for name in names:
        known = set(require_overlap(genes, validation[name].features.columns, step=_STEP))
        lacking[name] = sum(gene not in known for gene in genes)
        genes = [gene for gene in genes if gene in known]
    statement |= {"candidates_lacking_on_platform": lacking, "candidates_on_all_platforms": len(genes)}
    return Candidates(tuple(genes), statement)


def prepare_training(
    cohort: StudyCohort, genes: Sequence[str], *, contrast: Literal["auto", "tissue", "grade", "none"], method: Method
) -> TrainingCohort:
    """Separate normal tissue, choose the contrast, rank where asked for, and join follow-up.

    Raises
    ------
    TooFewCases
        Where the contrast that is asked for has too few samples on one side.
    """
    frame = cohort.features[list(genes)]
    frame = frame.set_axis(frame.index.astype(str))
    clinical = cohort.clinical.set_axis(cohort.clinical.index.astype(str))
    scale = cohort.scale
    if method == "rank":
        frame, scale = rank_within_samples(frame), f"{RANKS_OF}{scale}"
    normal = _normal_tissue(clinical)
    normals = frame[frame.index.isin(normal)].sort_index()
    tumours = frame[~frame.index.isin(normal)]
    chosen = _choose_contrast(contrast, clinical, len(normals))
    if chosen == "grade":
        grade = who_grade(clinical).reindex(tumours.index)
        high = (grade == 4).astype(np.float64).where(grade.notna())
        tumours = tumours.assign(**{CONTRAST_COLUMN: high})
    data = survival_data(
        tumours, clinical[~clinical.index.isin(normal)], excluded=cohort.excluded, minimum_events=1, step=_STEP
    )
    columns = [name for name in data.columns if name != CONTRAST_COLUMN]
    positions = [data.columns.index(name) for name in columns]
    studied = pd.DataFrame(data.values[:, positions], index=list(data.ids), columns=columns)
    statement: dict[str, object] = {
        "scale": scale,
        "contrast": chosen,
        "contrast_is": {
            "tissue": f"tumour against {len(normals)} samples of normal tissue",
            "grade": "WHO grade 4 against 2 and 3, within each training fold",
            "none": "no differential expression: the cohort holds no normal tissue",
        }[chosen],
        "normal_tissue_samples": len(normals),
    }
    return TrainingCohort(data, training_scale(studied, scale), normals[columns], chosen, statement)


def harmonise_cohort(
    cohort: StudyCohort, onto: TrainingScale, *, method: Method, missing_genes: MissingGenes
) -> Harmonised:
    """Return the expression of a new cohort's tumours on the training scale; no follow-up is looked at.

    Raises
    ------
    InvalidTable, IdMismatch, TooFewCases
        See :func:`pipelines.genomics.harmonise.harmonise`.
    """
    frame = cohort.features.set_axis(cohort.features.index.astype(str))
    frame = frame[~frame.index.isin([*_normal_tissue(cohort.clinical), *cohort.excluded])].sort_index()
    return harmonise(
        frame, scale=cohort.scale, onto=onto, method=method, missing_genes=missing_genes, cohort=cohort.name
    )


def with_follow_up(cohort: StudyCohort, done: Harmonised) -> SurvivalData:
    """Return harmonised patients with their follow-up, and who is left out for which reason."""
    clinical = cohort.clinical.set_axis(cohort.clinical.index.astype(str))
    clinical = clinical[~clinical.index.isin(_normal_tissue(clinical))]
    data = survival_data(done.values, clinical, step=_STEP)
    excluded = {name: reason for name, reason in cohort.excluded.items() if name in clinical.index}
    reasons = dict(cast(Mapping[str, str], data.flow["patients_excluded"])) | excluded
    flow = data.flow | {"patients_excluded": dict(sorted(reasons.items())), "harmonised": done.statement}
    return replace(data, flow=flow)


def without_training_patients(cohort: StudyCohort, training: StudyCohort) -> StudyCohort:
    """Exclude whoever also stands in the training cohort: the same identifier, and age and sex as far as known."""
    own, other = (c.clinical.set_axis(c.clinical.index.astype(str)) for c in (cohort, training))
    common = own.index.intersection(other.index)
    same = pd.Series(data=True, index=common)
    for column, largest in (("age_years", 1.0), ("sex", 0.0)):
        if column in own and column in other:
            pair = own.loc[common, column], other.loc[common, column]
            if largest:
                ages = [pd.to_numeric(values, errors="coerce") for values in pair]
                same &= ~((ages[0] - ages[1]).abs() > largest)
            else:
                same &= (pair[0] == pair[1]) | pair[0].isna() | pair[1].isna()
    found = dict.fromkeys(map(str, common[same.to_numpy(dtype=bool)]), "patient of the training cohort")
    return replace(cohort, excluded=found | cohort.excluded)


def prepare_validation(
    cohort: StudyCohort, onto: TrainingScale, *, method: Method, missing_genes: MissingGenes
) -> SurvivalData:
    """Return a validation cohort on the training scale, with its follow-up."""
    return with_follow_up(cohort, harmonise_cohort(cohort, onto, method=method, missing_genes=missing_genes))


def who_grade(clinical: pd.DataFrame) -> pd.Series:
    """Return WHO grades as numbers; NaN where unknown, for everybody where there is no such column."""
    if "grade" not in clinical:
        return pd.Series(np.nan, index=clinical.index)
    return pd.to_numeric(clinical["grade"], errors="coerce").astype(np.float64)


def _normal_tissue(clinical: pd.DataFrame) -> list[str]:
    if "tissue" not in clinical:
        return []
    is_normal = clinical["tissue"].astype("string").str.strip().str.lower().str.startswith("normal").fillna(value=False)
    return [str(name) for name in clinical.index[is_normal.to_numpy(dtype=bool)]]


def _choose_contrast(asked: str, clinical: pd.DataFrame, normals: int) -> Contrast:
    if asked == "auto":
        return "tissue" if normals >= LEAST_SAMPLES_A_SIDE else "none"
    if asked == "tissue" and normals < LEAST_SAMPLES_A_SIDE:
        raise TooFewCases(
            "there is too little normal tissue to compare tumours with",
            step=_STEP,
            field="tissue",
            expected=f'at least {LEAST_SAMPLES_A_SIDE} samples with tissue "normal"',
            got=normals,
            remedy='set contrast to "grade" or "none"',
        )
    if asked == "grade":
        grade = who_grade(clinical)
        sides = int((grade == 4).sum()), int((grade < 4).sum())
        if min(sides) < LEAST_SAMPLES_A_SIDE:
            raise TooFewCases(
                "too few patients have a grade on either side of the contrast",
                step=_STEP,
                field="grade",
                expected=f"at least {LEAST_SAMPLES_A_SIDE} of grade 4 and of grade 2 or 3",
                got=f"{sides[0]} of grade 4, {sides[1]} of grade 2 or 3",
                remedy='set contrast to "none"',
            )
        return "grade"
    return "tissue" if asked == "tissue" else "none"
