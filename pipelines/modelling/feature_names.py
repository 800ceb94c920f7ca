"""What a column of an imaging table is: kind of feature, region and sequence, read from its name.

Three conventions are known: gliaflow's own (``T1c_ET_original_glcm_Imc1``, ``mask_ED_original_shape_Flatness``,
``T1c_ET_deep_7``), that of TCGA's published radiomics (``TEXTURE_GLCM_ET_T1Gd_Energy``) and that of PyRadiomics tables
with region and sequence before double underscores (``core__t1ce__original_glcm_Imc1``).
"""

from __future__ import annotations

import re
from typing import Literal

from services.shared.cohort import Sequence

Kind = Literal["radiomics", "deep"]
FeatureRegion = Literal["edema", "tumour", "overall"]

_REGIONS: dict[FeatureRegion, frozenset[str]] = {
    "edema": frozenset({"ed", "edema", "oedema", "peritumoral", "peritumoural"}),
    "tumour": frozenset({"et", "net", "ncr", "nec", "nc", "tc", "core", "enhancing", "nonenhancing", "necrosis"}),
    "overall": frozenset({"wt", "whole", "overall", "lesion"}),
}
_SEQUENCES: dict[Sequence, frozenset[str]] = {
    Sequence.T1: frozenset({"t1", "t1w", "t1n"}),
    Sequence.T1C: frozenset({"t1c", "t1ce", "t1gd", "t1wce"}),
    Sequence.T2: frozenset({"t2", "t2w"}),
    Sequence.FLAIR: frozenset({"flair", "t2f"}),
}
_DEEP = re.compile(r"[^_]+_[^_]+_deep_(\d+|risk|logit)")
_TOKEN = re.compile(r"[A-Za-z0-9]+")


def kind_of(column: str) -> Kind:
    """Return whether a network made a feature (``<sequence>_<region>_deep_<number>`` or its answer) or a formula."""
    return "deep" if _DEEP.fullmatch(column) else "radiomics"


def region_of(column: str) -> FeatureRegion:
    """Return the region that a feature describes.

    ``tumour`` is enhancing and non-enhancing core; ``overall`` the whole lesion, a relation between regions, or a
    feature that names none (position, growth parameters).
    """
    tokens = _tokens(column)
    found = [region for region, known in _REGIONS.items() if tokens & known]
    return found[0] if len(found) == 1 else "overall"


def sequence_of(column: str) -> Sequence | None:
    """Return the one sequence that a feature was measured on; None for a shape, or where it names several or none."""
    tokens = _tokens(column)
    found = [sequence for sequence, known in _SEQUENCES.items() if tokens & known]
    return found[0] if len(found) == 1 else None


def _tokens(column: str) -> frozenset[str]:
    return frozenset(token.lower() for token in _TOKEN.findall(column.replace("T1-Gd", "T1Gd")))
