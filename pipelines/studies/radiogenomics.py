"""Which pathways differ between imaging risk groups, and whether their genes tell survival elsewhere.

After EBioMedicine 2021, 103583: genes that differ between high and low imaging risk (DESeq2, FDR < 0.25, |log2 fold
change| > 0.10) → gene sets over-represented among them (FDR < 0.05 within each collection) → a GSVA score for each
patient and set → Pearson correlation with the risk score (FDR < 0.01) → mean expression of the genes of the correlated
sets → a cut-off on this cohort, applied unchanged to others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field

from pipelines.genomics.correlation import correlate
from pipelines.genomics.counts import compare_counts, variance_stabilised
from pipelines.genomics.differential import design_matrix, moderated_t
from pipelines.genomics.enrichment import over_representation
from pipelines.genomics.expression import take_genes
from pipelines.genomics.gene_sets import GeneSets
from pipelines.genomics.pathways import gsva
from services.shared.contracts import Contract
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.cutpoint import minimum_p
from services.survival_analytics.kaplan_meier import compare_survival
from services.survival_analytics.multiplicity import adjust_p_values

STEP = "radiogenomics"
GROUPS = ("low", "high")


class RadiogenomicsParameters(Contract):
    """Thresholds of each step, as published."""

    differential_fdr: float = Field(0.25, gt=0, le=1, description="Genes: false discovery rate below")
    log_fold_change: float = Field(0.10, ge=0, description="Genes: absolute log2 fold change above")
    enrichment_fdr: float = Field(0.05, gt=0, le=1, description="Gene sets: false discovery rate below")
    correlation_fdr: float = Field(0.01, gt=0, le=1, description="Pathway scores against risk: FDR below")
    least_genes: int = Field(5, ge=2, description="Smallest gene set, counting the genes that were measured")
    most_genes: int = Field(500, ge=2, description="Largest gene set")


@dataclass(frozen=True)
class Radiogenomics:
    """What each step found; a step that found nothing leaves the tables of the later ones empty.

    Parameters
    ----------
    differential
        One row a gene: ``gene``, ``log_fold_change`` (log2, high against low), ``p``, ``fdr``, ``chosen``.
    enrichment
        One row a set tested: ``collection``, ``gene_set``, ``size``, ``overlap``, ``fold``, ``p``, ``fdr``, ``genes``,
        ``enriched``.
    pathways
        Patients x enriched sets, named ``<collection>:<set>``: GSVA scores.
    correlations
        One row an enriched set: ``pathway``, ``r``, ``p``, ``fdr``, ``correlated``.
    genes
        Measured genes of the correlated sets, sorted.
    flow
        Patients, genes and sets that each step left.
    """

    differential: pd.DataFrame
    enrichment: pd.DataFrame
    pathways: pd.DataFrame
    correlations: pd.DataFrame
    genes: tuple[str, ...]
    flow: dict[str, int]


def radiogenomics(
    matrix: pd.DataFrame,
    scores: pd.Series,
    groups: pd.Series,
    collections: Mapping[str, GeneSets],
    *,
    kind: Literal["counts", "log2"] = "counts",
    parameters: RadiogenomicsParameters | None = None,
) -> Radiogenomics:
    """Find the pathways behind an imaging risk score.

    Parameters
    ----------
    matrix
        Patients x genes.
    scores, groups
        Risk score, and ``low`` or ``high``, by patient. Patients of one table alone are left out and counted.
    collections
        Gene sets by collection, e.g. ``{"Hallmark": read_gmt(...)}``; the universe is the genes of ``matrix``.
    kind
        ``counts``: read counts, compared by DESeq2's Wald test and scored on the variance-stabilised scale. ``log2``:
        logarithmic values, compared by limma's moderated t.

    Raises
    ------
    IdMismatch, InvalidTable, InvalidValue, TooFewCases
        Where tables share no patients, groups are not both there, counts are no counts, or no set has genes enough.
    """
    p = parameters or RadiogenomicsParameters()
    if not collections:
        raise TooFewCases(
            "there is no collection of gene sets", step=STEP, field="collections", expected="at least one"
        )
    patients = _common(matrix.index, scores.index, groups.index)
    table, score, group = matrix.loc[patients], scores.loc[patients], groups.loc[patients]
    strange = sorted(set(map(str, group)) - set(GROUPS))
    if strange:
        raise InvalidValue(
            "a risk group is not known", step=STEP, field="groups", expected=" or ".join(GROUPS), got=", ".join(strange)
        )
    differential = compare_groups(table, group, kind=kind, parameters=p)
    chosen = tuple(differential.loc[differential["chosen"], "gene"])
    enrichment = _enrich(chosen, collections, universe=tuple(differential["gene"]), parameters=p)
    enriched = enrichment[enrichment["enriched"]]
    sets = {
        f"{collection}:{name}": collections[collection][name]
        for collection, name in zip(enriched["collection"], enriched["gene_set"], strict=True)
    }
    expression = variance_stabilised(table) if kind == "counts" else table
    pathways, correlations = _score(expression, score, sets, p)
    correlated = correlations.loc[correlations["correlated"], "pathway"]
    measured = set(map(str, expression.columns))
    genes = tuple(sorted({gene for name in correlated for gene in sets[name]} & measured))
    flow = {
        "patients": len(patients),
        "patients_left_out": len(matrix.index.union(scores.index).union(groups.index)) - len(patients),
        "patients_high": int((group == "high").sum()),
        "genes_tested": len(differential),
        "genes_different": len(chosen),
        "sets_tested": len(enrichment),
        "sets_enriched": len(sets),
        "sets_correlated": len(correlated),
        "genes_of_correlated_sets": len(genes),
    }
    return Radiogenomics(differential, enrichment, pathways, correlations, genes, flow)


def compare_groups(
    matrix: pd.DataFrame, groups: pd.Series, *, kind: Literal["counts", "log2"], parameters: RadiogenomicsParameters
) -> pd.DataFrame:
    """Return each gene's log2 fold change, high against low risk, and whether it passes both thresholds."""
    design = design_matrix(pd.DataFrame({"risk": groups}), group="risk", case="high")
    result = (
        compare_counts(matrix, design, coefficient="risk")
        if kind == "counts"
        else moderated_t(matrix, design, coefficient="risk")
    )
    table = pd.DataFrame(
        {"gene": result.genes, "log_fold_change": result.log_fold_change, "p": result.p, "fdr": result.fdr}
    )
    table["chosen"] = (table["fdr"].fillna(1.0) < parameters.differential_fdr) & (
        table["log_fold_change"].abs() > parameters.log_fold_change
    )
    return table.sort_values(["p", "gene"], ignore_index=True)


def _enrich(
    chosen: tuple[str, ...],
    collections: Mapping[str, GeneSets],
    *,
    universe: tuple[str, ...],
    parameters: RadiogenomicsParameters,
) -> pd.DataFrame:
    """Test each collection on its own, as its false discovery rate is its own."""
    columns = ["collection", "gene_set", "size", "overlap", "fold", "p", "fdr", "genes", "enriched"]
    parts = []
    for name in sorted(collections) if chosen else ():
        result = over_representation(
            chosen, collections[name], universe=universe, least=parameters.least_genes, most=parameters.most_genes
        )
        parts.append(result.to_frame().reset_index().assign(collection=name))
    if not parts:
        return pd.DataFrame({column: pd.Series(dtype=bool if column == "enriched" else object) for column in columns})
    table = pd.concat(parts, ignore_index=True)
    table["enriched"] = table["fdr"] < parameters.enrichment_fdr
    return table[columns]


def _score(
    expression: pd.DataFrame, score: pd.Series, sets: GeneSets, parameters: RadiogenomicsParameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return GSVA scores of the sets and their correlation with the risk score."""
    if not sets:
        empty = {"pathway": object, "r": float, "p": float, "fdr": float, "correlated": bool}
        return pd.DataFrame(index=expression.index), pd.DataFrame({n: pd.Series(dtype=d) for n, d in empty.items()})
    pathways = gsva(expression, sets, least=parameters.least_genes, most=parameters.most_genes).values
    table = correlate(pathways, score).to_frame().rename_axis("pathway").reset_index()
    table["correlated"] = table["fdr"] < parameters.correlation_fdr
    return pathways, table.sort_values(["p", "pathway"], ignore_index=True)


def correlate_with_images(pathways: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Correlate every pathway score with every image feature (Pearson).

    Parameters
    ----------
    pathways, images
        Patients x pathway scores, patients x image features; patients of one table alone are left out.

    Returns
    -------
    DataFrame
        One row a pair, most significant first: ``pathway``, ``feature``, ``r``, ``p``, and ``fdr`` over all pairs.
    """
    patients = _common(pathways.index, images.index)
    parts = []
    for pathway in map(str, pathways.columns):
        table = correlate(images.loc[patients], pathways.loc[patients, pathway]).to_frame()
        parts.append(table.rename_axis("feature").reset_index().assign(pathway=pathway))
    pairs = pd.concat(parts, ignore_index=True)
    pairs["fdr"] = adjust_p_values(pairs["p"].to_numpy())
    return pairs.sort_values(["p", "pathway", "feature"], ignore_index=True)[["pathway", "feature", "r", "p", "fdr"]]


@dataclass(frozen=True)
class GeneCutoff:
    """Where the mean expression of some genes parts patients; high = above the cut.

    Parameters
    ----------
    scale
        What an expression value was, e.g. ``log2(FPKM + 1)``: the cut means nothing on another scale.
    p_corrected
        Of the log-rank test that chose the cut, corrected for the search (Miller and Siegmund 1982).
    """

    genes: tuple[str, ...]
    cut: float
    scale: str
    p_corrected: float


@dataclass(frozen=True)
class GeneGroups:
    """Survival above and below a cut-off of mean expression; hazard ratio of high against low, with 95 % limits."""

    groups: pd.Series
    log_rank_p: float
    weighted_log_rank_p: float
    hazard_ratio: float
    lower: float
    upper: float


def fit_gene_cutoff(
    expression: pd.DataFrame, months: ArrayLike, event: ArrayLike, *, genes: Iterable[str], scale: str
) -> GeneCutoff:
    """Find the cut-off of mean expression with the smallest log-rank p (X-tile) in the cohort that it is learnt from.

    Raises
    ------
    TooFewCases
        Where there is no gene: no pathway was correlated.
    IdMismatch
        Where a gene was not measured.
    """
    genes = tuple(genes)
    if not genes:
        raise TooFewCases("there is no gene to average", step=STEP, field="genes", expected="genes of a correlated set")
    result = minimum_p(months, event, score=_mean(expression, genes))
    return GeneCutoff(genes, result.cut, scale, min(1.0, result.p_corrected))


def apply_gene_cutoff(
    cutoff: GeneCutoff, expression: pd.DataFrame, months: ArrayLike, event: ArrayLike, *, scale: str
) -> GeneGroups:
    """Part a cohort at a cut-off learnt elsewhere and compare survival.

    Raises
    ------
    InvalidTable
        Where the expression is on another scale, or all patients fall on one side.
    IdMismatch
        Where a gene was not measured; it is never filled in.
    """
    if scale != cutoff.scale:
        raise InvalidTable(
            "the cut-off belongs to another scale of expression",
            step=STEP,
            field="scale",
            expected=cutoff.scale,
            got=scale,
            remedy="bring both cohorts to one scale, within the training-only rule, before the cut-off is learnt",
        )
    high = _mean(expression, cutoff.genes) > cutoff.cut
    if high.all() or not high.any():
        raise InvalidTable(
            "all patients fall on one side of the cut-off",
            step=STEP,
            field="mean expression",
            expected=f"values on both sides of {cutoff.cut:.4g}",
            got=f"{int(high.sum())} of {len(high)} above",
            remedy="check that both cohorts are on one scale",
        )
    labels = np.where(high, "high", "low")
    frame = pd.DataFrame({"months": months, "event": event, "high": high.astype(np.float64)})
    model = fit_cox(frame, "months", event="event", covariates=["high"])
    return GeneGroups(
        pd.Series(labels, index=expression.index, name="group"),
        compare_survival(months, event, group=labels).p_value,
        compare_survival(months, event, group=labels, rho=1.0).p_value,
        float(model.hazard_ratios[0]),
        float(model.lower[0]),
        float(model.upper[0]),
    )


def _mean(expression: pd.DataFrame, genes: tuple[str, ...]) -> np.ndarray:
    return np.asarray(take_genes(expression, genes).to_numpy(dtype=np.float64).mean(axis=1))


def _common(first: pd.Index, *others: pd.Index) -> pd.Index:
    """Return the patients of every table, sorted."""
    for index in (first, *others):
        if index.has_duplicates:
            raise IdMismatch(
                "a patient stands twice", step=STEP, field="patients", got=str(index[index.duplicated()][0])
            )
    common = first
    for index in others:
        common = common.intersection(index)
    if common.empty:
        raise IdMismatch(
            "the tables share no patient",
            step=STEP,
            field="patients",
            expected="the same identifiers in every table",
            got="; ".join(", ".join(map(str, index[:2])) for index in (first, *others)),
        )
    return common.sort_values()
