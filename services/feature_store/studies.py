"""What each study reads of a cohort's features: sequences and regions, and what networks made."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.shared.cohort import SEQUENCES, Region, Sequence

RADIOMICS = "radiomics"
DEEP = "deep"

STUDY_SOURCES: dict[str, tuple[tuple[Sequence, ...], tuple[Region, ...]]] = {
    "grading": ((Sequence.T1, Sequence.T1C, Sequence.T2), (Region.TC, Region.WT)),
    "grading_survival": ((Sequence.T1, Sequence.T1C, Sequence.T2), (Region.TC, Region.WT)),
    "atrx": ((Sequence.T1C, Sequence.FLAIR), (Region.ED, Region.ET, Region.WT)),
    "ferroptosis_imaging": (SEQUENCES, (Region.TC, Region.WT)),
}
"""Radiomic features: sequences and regions. Shape belongs to a region alone. None are made of diffusion maps."""

STUDY_DEEP: dict[str, str] = {
    "grading": r"grade_[^_]+_deep_\d+",
    "grading_survival": r"gradesurvival_[^_]+_deep_\d+",
    "atrx": rf"({Sequence.T1C}|{Sequence.FLAIR})_[^_]+_deep_\d+",
    "diffusion": r"diffusionsurvival_[^_]+_deep_risk",
}
"""Deep features: the pooled ones of a network, those of ResNet-34 on a sequence, or the risk that a network says."""


def study_service(study: str, kind: str = RADIOMICS) -> str:
    """Return the name of a study's feature service; a study may share its name with a clinical column."""
    return f"{kind}_{study}"


def study_kinds(study: str, *, deep: bool) -> tuple[str, ...]:
    """Return the kinds of features that a study reads from the feature store; none where it reads nothing there."""
    wanted = {RADIOMICS: study in STUDY_SOURCES, DEEP: deep and study in STUDY_DEEP}
    return tuple(kind for kind, known in wanted.items() if known)


def radiomic_views(study: str) -> frozenset[str]:
    """Return the views of radiomic features that a study reads."""
    sequences, regions = STUDY_SOURCES.get(study, ((), ()))
    return frozenset(f"{start}_{region}" for start in ("mask", *sequences) for region in regions)


def deep_columns(study: str, columns: Iterable[str]) -> list[str]:
    """Return the deep features that a study reads, of some columns and in their order.

    >>> deep_columns("grading", ["grade_WT_deep_1", "grade_WT_deep_logit", "riskgroup_TC_deep_1"])
    ['grade_WT_deep_1']
    """
    pattern = STUDY_DEEP.get(study)
    return [] if pattern is None else [column for column in columns if re.fullmatch(pattern, column)]


def maker_column(start: str) -> str:
    """Return the column that says which network made the deep features that begin alike.

    >>> maker_column("grade_WT")
    'grade_WT_deep_maker'
    """
    return f"{start}_{DEEP}_maker"
