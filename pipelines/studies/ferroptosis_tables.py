"""Tables of the ferroptosis study that its paper shows: volcano, Venn, enrichment, Table 1, scores and heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.genomics.differential import ModeratedT, design_matrix, moderated_t
from pipelines.genomics.enrichment import over_representation
from pipelines.genomics.gene_sets import GeneSets, read_gmt, restrict
from pipelines.modelling.survival_data import SurvivalData
from services.shared.errors import TooFewCases
from services.survival_analytics.cohort_table import describe_cohort

CHARACTERISTICS = ("grade", "age_years", "sex", "idh", "codeletion_1p19q", "mgmt")
_BINS = 30


def compare_expression(case: pd.DataFrame, control: pd.DataFrame) -> ModeratedT:
    """Return limma's moderated t of each gene, case less control (samples x genes, same columns)."""
    frame = pd.concat([case, control]).reset_index(drop=True)
    samples = pd.DataFrame({"group": np.repeat([1, 0], [len(case), len(control)])}, index=frame.index)
    return moderated_t(frame, design_matrix(samples, group="group", case=1), coefficient="group")


def differential_table(tested: ModeratedT, *, contrast: str, used: bool, fdr: float, change: float) -> pd.DataFrame:
    """Return one row a gene: difference with limits, moderated t, P, FDR, and whether it passes.

    Parameters
    ----------
    used
        Whether the signature's genes were chosen by it; otherwise it only describes.
    """
    chosen = set(tested.select(fdr=fdr, log_fold_change=change))
    table = tested.to_frame().reset_index()
    table["differential"] = table["gene"].isin(chosen)
    table["direction"] = np.where(table["log_fold_change"] > 0, "up", "down")
    return table.assign(contrast=contrast, used_for_selection=used).sort_values(["p", "gene"], ignore_index=True)


def venn_table(
    candidates: Sequence[str],
    screening: pd.DataFrame,
    differential: pd.DataFrame | None,
    signature: Sequence[str],
    *,
    alpha: float,
) -> pd.DataFrame:
    """Return how many genes each step finds, and how many both of them.

    Parameters
    ----------
    screening
        ``feature`` and ``p_value`` of every candidate.
    differential
        ``gene``, ``differential`` and ``direction``; None where nothing was compared.
    """
    prognostic = set(screening.loc[screening["p_value"] < alpha, "feature"])
    sets: dict[str, set[str]] = {"candidates": set(candidates), "prognostic": prognostic}
    if differential is not None:
        found = differential[differential["differential"]]
        sets["differential"] = set(found["gene"])
        both = sets["differential"] & prognostic
        up = set(found.loc[found["direction"] == "up", "gene"])
        sets |= {"intersection": both, "intersection_up": both & up, "intersection_down": both - up}
    else:
        sets["intersection"] = prognostic
    sets["signature"] = set(signature)
    rows = [{"set": name, "genes": len(genes), "names": ";".join(sorted(genes))} for name, genes in sets.items()]
    return pd.DataFrame(rows)


def read_collections(paths: Sequence[str], genes: Sequence[str]) -> dict[str, GeneSets]:
    """Return gene sets by collection (the file's name without ``.gmt``).

    Raises
    ------
    NotFound, InvalidTable, IdMismatch
        Where a file is not there or no GMT, or shares no gene with the candidates.
    """
    collections: dict[str, GeneSets] = {}
    for path in map(Path, paths):
        sets = read_gmt(path)
        restrict(sets, genes, step=f"enrichment in {path.name}")
        collections[path.name.removesuffix(".gmt")] = sets
    return collections


def enrichment_table(
    chosen: Mapping[str, Sequence[str]], universe: Sequence[str], collections: Mapping[str, GeneSets], *, least: int
) -> pd.DataFrame:
    """Return over-representation of gene sets among chosen genes, by collection and list.

    FDR is over the sets of one collection. Sets without a chosen gene are tested and left out of the table; a
    collection without a set of ``least`` genes in the universe has no row.

    Parameters
    ----------
    chosen
        Genes by name of the list.
    universe
        Genes that could have been chosen.
    """
    tables = []
    for collection, sets in collections.items():
        for list_name, genes in chosen.items():
            try:
                result = over_representation(genes, sets, universe=universe, least=least)
            except TooFewCases:
                continue
            table = result.to_frame().reset_index()
            found = table[table["overlap"] > 0].assign(
                collection=collection,
                genes_of=list_name,
                universe_genes=result.universe,
                chosen_genes=result.chosen,
                sets_tested=len(result.sets),
            )
            tables.append(found)
    columns = ["collection", "genes_of", "universe_genes", "chosen_genes", "gene_set", "size", "overlap", "fold", "p"]
    columns += ["fdr", "genes", "sets_tested"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def characteristics_table(predictions: pd.DataFrame, cohorts: Mapping[str, SurvivalData]) -> pd.DataFrame:
    """Return the paper's Table 1: clinical and molecular characteristics by risk group, for each part.

    Categories by chi-square (Fisher where expected counts are small), age by ranks as median and quartiles.

    Parameters
    ----------
    predictions
        ``case_id``, ``part`` and ``group``.
    cohorts
        Patients by part.
    """
    tables = []
    for part, data in cohorts.items():
        own = predictions[predictions["part"] == part].set_index("case_id")
        frame = data.clinical.loc[own.index]
        columns = [name for name in CHARACTERISTICS if name in frame and frame[name].notna().any()]
        if own["group"].nunique() < 2 or not columns:
            continue
        frame = frame[columns].assign(
            group=own["group"], **{name: frame[name].astype("object") for name in columns if name != "age_years"}
        )
        described = describe_cohort(
            frame,
            "group",
            columns=columns,
            categorical=[name for name in columns if name != "age_years"],
            non_normal=["age_years"],
        ).to_frame()
        sizes = own["group"].value_counts()
        heads = {f"{name} (n={sizes[name]})": name for name in sizes.index} | {f"all (n={len(own)})": "all"}
        described = described.rename(columns=heads)
        described.insert(0, "part", part)
        described.insert(1, "patients", len(own))
        for name in ("low", "high"):
            described[f"patients_{name}"] = int(sizes[name])
        tables.append(described)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["part"])


def score_distribution(predictions: pd.DataFrame, *, cutoff: float) -> pd.DataFrame:
    """Return a histogram of risk scores by part and group: ``low_edge``, ``high_edge``, ``patients``, ``cutoff``."""
    rows: list[dict[str, object]] = []
    for part, own in predictions.groupby("part", sort=True):
        scores = own["risk_score"].to_numpy(dtype=np.float64)
        edges = np.histogram_bin_edges(scores, bins=_BINS)
        for group, members in own.groupby("group", sort=True):
            counts = np.histogram(members["risk_score"], bins=edges)[0]
            rows += [
                {
                    "part": part,
                    "group": group,
                    "low_edge": low,
                    "high_edge": high,
                    "patients": int(count),
                    "cutoff": cutoff,
                }
                for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
            ]
    return pd.DataFrame(rows)


def heat_map(data: SurvivalData, predictions: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """Return z-scores of the signature's genes by training patient, from the lowest risk score to the highest."""
    position = {name: i for i, name in enumerate(data.columns)}
    values = data.values[:, [position[gene] for gene in genes]]
    z = pd.DataFrame((values - values.mean(axis=0)) / values.std(axis=0), index=list(data.ids), columns=list(genes))
    own = predictions[predictions["part"] == "train"].set_index("case_id")[["risk_score", "group"]]
    table = own.join(z).sort_values(["risk_score"], kind="stable")
    return table.rename_axis("case_id").reset_index()
