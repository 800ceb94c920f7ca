"""A study's part of the report, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.reporting.classification import classification_pictures, classification_tables, judge, summarise
from pipelines.reporting.comparison import paper_table, why_different
from pipelines.reporting.optional_tables import nomogram_figures
from pipelines.reporting.picture import Picture
from pipelines.reporting.sources import Phantom, StudyOutputs
from pipelines.reporting.survival_section import judge_survival, survival_pictures, survival_tables
from pipelines.reporting.tables import Table


@dataclass(frozen=True)
class StudySection:
    """One study as the template prints it: figures by width, then tables."""

    name: str
    title: str
    paragraphs: tuple[str, ...]
    pictures: tuple[Picture, ...]
    wide: tuple[Picture, ...]
    nomograms: tuple[Picture, ...]
    tables: tuple[Table, ...]


def study_section(study: StudyOutputs, phantom: Phantom | None) -> StudySection:
    """Return a study's figures and tables."""
    if study.kind == "survival":
        judged, (narrow, wide), tables = (
            judge_survival(study, phantom),
            survival_pictures(study),
            survival_tables(study),
        )
    else:
        judged, (narrow, wide) = judge(summarise(study), phantom), classification_pictures(study)
        tables = classification_tables(study)
    beside = paper_table(study)
    return StudySection(
        name=study.name,
        title=_title(study),
        paragraphs=(
            study.model.intended_use,
            judged,
            *((why_different(study.paper, simulated=phantom is not None),) if study.paper is not None else ()),
        ),
        pictures=narrow,
        wide=wide,
        nomograms=nomogram_figures(study),
        tables=(*((beside,) if beside is not None else ()), *tables),
    )


def _title(study: StudyOutputs) -> str:
    if study.paper is not None:
        return study.paper.title
    return "survival" if study.kind == "survival" else f"{study.classes[1]} against {study.classes[0]}"
