"""Write what is known of a cohort as one self-contained page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined

from pipelines.ledger import STEPS
from pipelines.reporting.figures import Stage, draw_by_region, draw_flow
from pipelines.reporting.gallery import OUTLINES, can_show, draw_case
from pipelines.reporting.methods import banners, facts, limits, method_tables
from pipelines.reporting.picture import Picture
from pipelines.reporting.sources import CohortState, StudyOutputs, read_state, read_studies
from pipelines.reporting.study_section import StudySummary, glance_notes, glance_table, study_section, summarise
from pipelines.reporting.tables import characteristics_table, leavers_table, quality_table
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
    page = render(storage, state, outputs)
    key = report_key(cohort)
    storage.write_text(key, page)
    return ReportPaths(key, storage.url(key))


def summary_table(storage: Storage, cohort: str, studies: Sequence[str] | None = None) -> tuple[StudySummary, ...]:
    """Return one line a study, for the terminal.

    Raises
    ------
    NotFound
        Where a named study has not run on the cohort.
    """
    return tuple(summarise(study) for study in read_studies(storage, cohort, studies))


def render(storage: Storage, state: CohortState, outputs: Sequence[StudyOutputs]) -> str:
    """Return the page."""
    folder = files("pipelines.reporting")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        (folder / "report.html").read_text("utf-8")
    )
    summaries = tuple(summarise(study) for study in outputs)
    gallery, gallery_note = _gallery(storage, state)
    return (
        template.render(
            cohort=state.name,
            css=(folder / "report.css").read_text("utf-8"),
            banners=banners(state),
            facts=facts(state, outputs),
            glance=glance_table(summaries),
            glance_notes=glance_notes(summaries, state.phantom),
            flow=_flow(state, outputs),
            leavers=leavers_table(state.quarantine),
            characteristics=characteristics_table(state.members.participants) if state.members else None,
            gallery=gallery,
            gallery_note=gallery_note,
            outlines=OUTLINES,
            quality=quality_table(state.quality) if state.quality else None,
            segmentation_pictures=_segmentation_pictures(state.findings),
            studies=[study_section(study, state.phantom) for study in outputs],
            limits=limits(state, outputs),
            methods=method_tables(state, outputs),
        )
        + "\n"
    )


def _flow(state: CohortState, outputs: Sequence[StudyOutputs]) -> Picture:
    branches = []
    for study in outputs:
        excluded = study.flow.get("patients_excluded")
        reasons = Counter(
            str(reason)
            for label, reason in (excluded.items() if isinstance(excluded, dict) else ())
            if not any(label in dropped for dropped in state.quarantine.values())
        )
        unlabelled = study.flow.get("patients_without_outcome")
        if isinstance(unlabelled, list) and unlabelled:
            reasons["outcome is missing"] += len(unlabelled)
        branches.append((study.name, round(study.metrics["patients"]), tuple(reasons.most_common())))
    return draw_flow(_stages(state, outputs), branches)


def _stages(state: CohortState, outputs: Sequence[StudyOutputs]) -> list[Stage]:
    if state.everyone is None or state.members is None:
        given = [study.flow.get("patients_given") for study in outputs]
        return [Stage("In the table of features", max((n for n in given if isinstance(n, int)), default=0))]
    members = {case.id for case in state.members.cases}
    others = len(state.everyone.cases) - len(members)
    stages = [
        Stage(
            "In the clinical table",
            len(state.everyone.cases),
            ((("train the segmentation network", others),) if others else ()),
        ),
    ]
    remaining, reasons = set(members), Counter[str]()
    for step in STEPS:
        for label, problem in sorted(state.quarantine[step].items()):
            if label in remaining:
                reasons[f"{step}: {problem.get('detail', 'unknown')}"] += 1
                remaining.discard(label)
    extracted = remaining & set(state.manifests["extract"])
    if len(remaining) > len(extracted):
        reasons["not treated by every step yet"] += len(remaining) - len(extracted)
    stages.append(Stage("For the studies", len(members), tuple(reasons.most_common())))
    stages.append(Stage("With features", len(extracted)))
    return stages


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
