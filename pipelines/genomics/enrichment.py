"""Over-representation of gene sets among chosen genes, within a universe that is stated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from pipelines.genomics.expression import FloatArray, require_overlap
from pipelines.genomics.gene_sets import GeneSets, restrict
from services.shared.errors import DuplicateId, IdMismatch
from services.survival_analytics.multiplicity import adjust_p_values


@dataclass(frozen=True)
class OverRepresentation:
    """Result of a test a gene set, in the order of the sets.

    Parameters
    ----------
    sets
        Names.
    size, overlap
        Genes of the set in the universe, and those of them that were chosen.
    members
        The chosen genes of each set, sorted.
    fold
        Share of the set among chosen genes over its share in the universe.
    p, fdr
        P(X >= overlap) of the hypergeometric distribution; Benjamini-Hochberg over all sets tested.
    universe, chosen
        Sizes of both.
    dropped
        Genes in the universe, by name of a set outside the limits of size; these were not tested.
    """

    sets: tuple[str, ...]
    size: np.ndarray
    overlap: np.ndarray
    members: tuple[tuple[str, ...], ...]
    fold: FloatArray
    p: FloatArray
    fdr: FloatArray
    universe: int
    chosen: int
    dropped: dict[str, int]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a set, most significant first."""
        frame = pd.DataFrame(
            {name: getattr(self, name) for name in ("size", "overlap", "fold", "p", "fdr")}
            | {"genes": [";".join(genes) for genes in self.members]},
            index=pd.Index(self.sets, name="gene_set"),
        )
        return frame.sort_values(["p", "fold"], ascending=[True, False], kind="stable")


def over_representation(
    genes: Iterable[str], sets: GeneSets, *, universe: Iterable[str], least: int = 1, most: int | None = None
) -> OverRepresentation:
    """Test whether sets hold more of the chosen genes than chance gives them.

    Parameters
    ----------
    genes
        Chosen genes, a subset of the universe.
    universe
        Every gene that could have been chosen: those measured and kept, not the whole genome.
    least, most
        Limits of a set's size within the universe.

    Raises
    ------
    DuplicateId, IdMismatch
        Where chosen genes repeat or lie outside the universe, or sets and universe share no gene.
    """
    step = "over_representation"
    chosen = [str(gene) for gene in genes]
    if len(set(chosen)) < len(chosen):
        raise DuplicateId("A chosen gene stands twice.", step=step, field="genes")
    everything = dict.fromkeys(str(gene) for gene in universe)
    strange = [gene for gene in chosen if gene not in everything]
    if strange:
        require_overlap(chosen, everything, step=step)
        raise IdMismatch(
            "Chosen genes lie outside the universe.",
            step=step,
            field="universe",
            expected="every gene that could have been chosen",
            got=f"{len(strange)} others, such as {strange[0]}",
        )
    tested = restrict(sets, everything, least=least, most=most, step=step)
    picked = set(chosen)
    members = tuple(tuple(sorted(picked.intersection(found))) for found in tested.sets.values())
    size = np.array([len(found) for found in tested.sets.values()])
    overlap = np.array([len(found) for found in members])
    p = np.clip(hypergeom.sf(overlap - 1, len(everything), size, len(chosen)), 0.0, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        fold = (overlap / len(chosen)) / (size / len(everything)) if chosen else np.full(len(size), np.nan)
    return OverRepresentation(
        sets=tuple(tested.sets),
        size=size,
        overlap=overlap,
        members=members,
        fold=np.asarray(fold, dtype=np.float64),
        p=p,
        fdr=adjust_p_values(p),
        universe=len(everything),
        chosen=len(chosen),
        dropped=tested.dropped,
    )
