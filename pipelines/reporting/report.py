"""Write what is known of a cohort as one self-contained page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.reporting.checklist import checklist
from pipelines.reporting.classification import StudySummary, glance_notes, glance_table, summarise
from pipelines.reporting.figures import draw_by_region
from pipelines.reporting.gallery import OUTLINES, can_show, draw_case
from pipelines.reporting.methods import banners, facts, limits, method_tables
from pipelines.reporting.page import render_page
from pipelines.reporting.patient_flow import draw_patient_flow, left_out_table
from pipelines.reporting.picture import Picture, standalone_svg
from pipelines.reporting.sources import CohortState, StudyOutputs, read_state, read_studies
from pipelines.reporting.study_section import StudySection, study_section
from pipelines.reporting.survival_section import judge_survival, survival_glance
from pipelines.reporting.tables import Table, characteristics_table, leavers_table, quality_table
from services.segmentation.contracts import Finding
from services.shared.cohort import CaseKeys, Region
from services.shared.storage import Storage

SHOWN_CASES = 6
_REGIONS = (Region.WT, Region.TC, Region.ET, Region.ED)


@dataclass(frozen=True)
class ReportPaths:
    """Where a report stands: its storage key, and the place a person would open."""

    report: str
    url: str


def report_key(cohort: str) -> str:
    """Return the storage key of a cohort's report."""
    return f"reports/{cohort}/report.html"


def write_report(storage: Storage, cohort: str, studies: Sequence[str] | None = None) -> ReportPaths:
    """Write a cohort's report; the same content of storage gives the same bytes.

    Beside the page, each study's figures are written to ``reports/<cohort>/figures/<study>/<name>.svg``.

    Parameters
    ----------
    studies
        Which studies to show; None means every finished one.

    Raises
    ------
    NotFound
        Where there is no such cohort, or a named study has not run on it.
    UnreadableFile
        Where a file of an earlier step cannot be read.
    """
    state = read_state(storage, cohort)
    outputs = read_studies(storage, cohort, studies)
    sections = tuple(study_section(study, state.phantom) for study in outputs)
    page = render(storage, state, outputs, sections)
    for section in sections:
        _write_figures(storage, f"reports/{cohort}/figures/{section.name}", section)
    key = report_key(cohort)
    storage.write_text(key, page)
    return ReportPaths(key, storage.url(key))


def _write_figures(storage: Storage, folder: str, section: StudySection) -> None:
    pictures = (*section.pictures, *section.wide, *section.nomograms)
    drawings = {p.name: svg for p in pictures if (svg := standalone_svg(p)) is not None}
    keys = {f"{folder}/{name.removeprefix(f'{section.name}-')}.svg": svg for name, svg in drawings.items()}
    for key in set(storage.files(folder)) - set(keys):
        storage.remove(key)
    for key, svg in keys.items():
        storage.write_text(key, svg)


def summary_table(storage: Storage, cohort: str, studies: Sequence[str] | None = None) -> tuple[StudySummary, ...]:
    """Return one line for each study that tells classes apart, for the terminal.

    Raises
    ------
    NotFound
        Where a named study has not run on the cohort.
    """
    found = read_studies(storage, cohort, studies)
    return tuple(summarise(study) for study in found if study.kind == "classification")


def overview_tables(storage: Storage, cohort: str, studies: Sequence[str] | None = None) -> tuple[Table, ...]:
    """Return the overview of the page: a table of the studies of each kind that has run.

    Raises
    ------
    NotFound
        Where a named study has not run on the cohort.
    """
    return _overview(read_studies(storage, cohort, studies))


def _overview(outputs: Sequence[StudyOutputs]) -> tuple[Table, ...]:
    rows = tuple(summarise(study) for study in outputs if study.kind == "classification")
    survival = survival_glance(outputs)
    return (*((glance_table(rows),) if rows else ()), *((survival,) if survival is not None else ()))


def render(
    storage: Storage, state: CohortState, outputs: Sequence[StudyOutputs], sections: Sequence[StudySection]
) -> str:
    """Return the page."""
    summaries = tuple(summarise(study) for study in outputs if study.kind == "classification")
    notes = [
        *(glance_notes(summaries, state.phantom) if summaries else ()),
        *(f"{s.name}: {judge_survival(s, state.phantom)}" for s in outputs if s.kind == "survival"),
    ]
    gallery, gallery_note = _gallery(storage, state)
    return render_page(
        "report.html",
        cohort=state.name,
        lead=_lead(state),
        imaged=state.imaged,
        banners=banners(state),
        facts=facts(state, outputs),
        glance=_overview(outputs),
        glance_notes=notes,
        flow=draw_patient_flow(state, outputs),
        left_out=left_out_table(state, outputs),
        leavers=leavers_table(state.quarantine),
        characteristics=characteristics_table(state.members.participants) if state.members else None,
        gallery=gallery,
        gallery_note=gallery_note,
        outlines=OUTLINES,
        quality=quality_table(state.quality) if state.quality else None,
        segmentation_pictures=_segmentation_pictures(state.findings),
        studies=sections,
        limits=limits(state, outputs),
        methods=method_tables(state, outputs),
        checklists=[checklist(state, study) for study in outputs],
    )


def _lead(state: CohortState) -> str:
    told = "images" if state.imaged else "measurements"
    return f"What {told} of these patients say about their tumours, how sure that is, and how it was found."


def _gallery(storage: Storage, state: CohortState) -> tuple[list[Picture], str]:
    """Return slices of a few cases, and a sentence that says how they were chosen."""
    keys = {case.id: CaseKeys(case) for case in state.cases}
    labels = [label for label in keys if label in state.findings and can_show(storage, keys[label])]
    scores = {label: score for label in labels if (score := _mean_dice(state.findings[label])) is not None}
    if len(scores) > SHOWN_CASES:
        ranked = sorted(scores, key=lambda label: (scores[label], label))
        middle = len(ranked) // 2
        chosen = {
            **dict.fromkeys(ranked[:2], "among the worst Dice"),
            **dict.fromkeys(ranked[middle - 1 : middle + 1], "about the median Dice"),
            **dict.fromkeys(ranked[-2:], "among the best Dice"),
        }
        how = "Shown: the two worst, middle and best cases by mean Dice of the network against the expert."
    else:
        chosen = {label: f"{state.findings[label].source}'s outline" for label in labels[:SHOWN_CASES]}
        how = f"Shown: the first {len(chosen)} of {len(labels)} cases, by name."
    notes = {label: f"{why}, {scores[label]:.2f}" if label in scores else why for label, why in chosen.items()}
    return [draw_case(storage, keys[label], note=note) for label, note in notes.items()], how


def _mean_dice(finding: Finding) -> float | None:
    known = [value for value in (finding.dice or {}).values() if value is not None]
    return sum(known) / len(known) if known else None


def _segmentation_pictures(findings: dict[str, Finding]) -> list[Picture]:
    if not findings:
        return []
    rows = [findings[label] for label in sorted(findings)]
    sources = Counter(finding.source for finding in rows)
    made_by = ", ".join(f"{count} by the {source}" for source, count in sorted(sources.items()))
    volumes = {str(region): np.array([f.volumes_ml.get(region, np.nan) for f in rows]) for region in _REGIONS}
    pictures = [
        draw_by_region(
            "volumes",
            volumes,
            title="Volume of tumour regions",
            label="Volume, ml",
            caption=f"Volumes in {len(rows)} patients ({made_by}); a region that is absent counts as 0.",
            limits=None,
        )
    ]
    compared = [f for f in rows if f.dice is not None]
    if compared:
        dice = {
            str(region): np.array([np.nan if (d := (f.dice or {}).get(region)) is None else d for f in compared])
            for region in _REGIONS
        }
        pictures.insert(
            0,
            draw_by_region(
                "dice",
                dice,
                title="Network against expert",
                label="Dice",
                caption="Dice coefficient, one dot a patient; a region that neither outlined is left out.",
                limits=(0.0, 1.03),
            ),
        )
    return pictures
