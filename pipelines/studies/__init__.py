"""Studies, each of which reads like its paper's Methods section."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

import pandas as pd

from pipelines.modelling.study import Progress, StudyParameters, StudyResult
from services.shared.errors import NotFound

STUDY_NAMES = ("atrx", "grading")


class Study(Protocol):
    """What a study's module offers."""

    Parameters: type[StudyParameters]
    CLASSES: tuple[str, str]

    def read_labels(self, participants: pd.DataFrame, ids: pd.Index) -> pd.Series:
        """Return the class of each patient of a feature table, from a cohort's clinical table."""

    def run(
        self,
        features: pd.DataFrame,
        labels: pd.Series,
        *,
        parameters: StudyParameters | None = None,
        seed: int = 0,
        excluded: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> StudyResult:
        """Run the study."""


def study(name: str) -> Study:
    """Return a study by name.

    Raises
    ------
    NotFound
        Listing the studies that there are.
    """
    if name not in STUDY_NAMES:
        raise NotFound("there is no such study", field="study", expected=", ".join(STUDY_NAMES), got=name)
    return cast(Study, importlib.import_module(f"pipelines.studies.{name}"))
