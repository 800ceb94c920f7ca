"""Studies, each of which reads like its paper's Methods section.

A classification study learns a class from features; a survival study learns a risk score from features or expression
and follow-up, and may be applied to other cohorts unchanged.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, cast

from services.shared.errors import NotFound

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.modelling.study import Progress, StudyParameters, StudyResult
    from pipelines.modelling.survival_study import StudyCohort, SurvivalStudyParameters, SurvivalStudyResult

Kind = Literal["classification", "survival"]

STUDIES: dict[str, tuple[Kind, str]] = {
    "ferroptosis": ("survival", "survival from the expression of ferroptosis genes; --validation applies it elsewhere"),
    "ferroptosis_imaging": ("classification", "the genes' risk group from images; labels by --risk-groups-of"),
    "diffusion": (
        "survival",
        "survival from diffusion maps (own images: --deep), with clinical and integrated nomogram",
    ),
    "grading": ("classification", "LGG (WHO 2-3) against HGG (WHO 4) from images"),
    "grading_survival": ("survival", "survival of lower-grade glioma from images, with nomogram"),
    "atrx": ("classification", "ATRX mutation from images, and fused with clinical columns"),
}
"""Every study by name, with its kind and what it tells."""


class Study(Protocol):
    """What the module of a classification study offers."""

    Parameters: type[StudyParameters]
    CLASSES: tuple[str, str]

    def read_labels(self, participants: pd.DataFrame, ids: pd.Index) -> pd.Series:
        """Return the class of each patient of a feature table, from a cohort's clinical table."""

    def run(
        self,
        features: pd.DataFrame,
        labels: pd.Series,
        *,
        clinical: pd.DataFrame | None = None,
        parameters: StudyParameters | None = None,
        seed: int = 0,
        excluded: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> StudyResult:
        """Run the study; ``clinical`` has the rows of the clinical table, indexed like ``features``."""


class SurvivalStudy(Protocol):
    """What the module of a survival study offers."""

    Parameters: type[SurvivalStudyParameters]
    MATRIX: Literal["expression", "features"]

    def run(
        self,
        training: StudyCohort,
        validation: Mapping[str, StudyCohort],
        *,
        parameters: SurvivalStudyParameters | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> SurvivalStudyResult:
        """Fit to one cohort and apply unchanged to others."""


def kind_of(name: str) -> Kind:
    """Return a study's kind.

    Raises
    ------
    NotFound
        Listing the studies that there are.
    """
    if name not in STUDIES:
        raise NotFound("there is no such study", field="study", expected=", ".join(STUDIES), got=name)
    return STUDIES[name][0]


def parameters_of(name: str) -> type[StudyParameters] | type[SurvivalStudyParameters]:
    """Return what a study of either kind is told."""
    module = study(name) if kind_of(name) == "classification" else survival_study(name)
    return module.Parameters


def study(name: str) -> Study:
    """Return a classification study by name; see :func:`kind_of`."""
    return cast(Study, _module(name, "classification"))


def survival_study(name: str) -> SurvivalStudy:
    """Return a survival study by name; see :func:`kind_of`."""
    return cast(SurvivalStudy, _module(name, "survival"))


def _module(name: str, kind: Kind) -> object:
    if kind_of(name) != kind:
        of_kind = ", ".join(each for each, (its, _) in STUDIES.items() if its == kind)
        raise NotFound(f"there is no such {kind} study", field="study", expected=of_kind, got=name)
    return importlib.import_module(f"pipelines.studies.{name}")
