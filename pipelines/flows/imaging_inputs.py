"""Whom an imaging network learns from: patients whose images it can see and whose outcome is known."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pipelines.ledger import Step, read_quarantine, usable_cases
from pipelines.studies.imaging_outcome import class_outcome, read_outcome
from pipelines.training import imaging_data
from pipelines.training.imaging_data import ImagingOutcome
from pipelines.training.imaging_parameters import ImagingTraining
from services.model_serving.networks.specification import Architecture, ImagingSpec
from services.shared.cohort import read_cohort
from services.shared.contracts import CaseRef
from services.shared.errors import TooFewCases
from services.shared.storage import Storage


@dataclass(frozen=True)
class ImagingPatients:
    """Patients that a network learns from, sorted by id, with their outcomes; and why others are left out, by case."""

    spec: ImagingSpec
    cases: tuple[CaseRef, ...]
    outcome: ImagingOutcome
    left_out: dict[str, str]


def imaging_patients(
    storage: Storage, cohort: str, architecture: Architecture, training: ImagingTraining
) -> ImagingPatients:
    """Return the patients of a cohort that a network can learn from.

    Raises
    ------
    TooFewCases
        Where there is none.
    """
    wanted = class_outcome(architecture, training.outcome)
    spec = training.spec(architecture, classes=None if wanted is None else wanted.classes)
    members = read_cohort(storage, cohort).subset("study")
    steps: tuple[Step, ...] = ("prepare", "segment") if spec.source == "prepared" else ()
    steps += ("diffusion",) if spec.maps else ()
    left_out = {
        f"{cohort}/sub-{label}": f"{step}: {problem['title']}"
        for step in steps
        for label, problem in read_quarantine(storage, cohort, step).items()
    }
    cases = usable_cases(storage, members, steps=steps)
    ids = pd.Index([case.id for case in cases], name="case_id")
    outcome, reasons = read_outcome(members.participants, ids, architecture, training.outcome)
    left_out |= {f"{cohort}/sub-{label}": reason for label, reason in reasons.items()}
    known = [case for case in cases if case.id not in reasons]
    usable, unseen = imaging_data.usable_cases(storage, known, spec)
    left_out |= unseen
    chosen = sorted(usable, key=lambda case: case.id)
    if not chosen:
        first = next(iter(left_out.items()), ("", "the cohort has no patient"))
        raise TooFewCases(
            "no patient of the cohort can be learnt from",
            case=cohort,
            step=imaging_data.STEP,
            expected="images, a tumour and an outcome",
            got=f"{len(left_out)} left out, first {': '.join(first)}",
            remedy="run 'gliaflow prepare' and 'gliaflow segment' first, and check the clinical table",
        )
    rows = ids.get_indexer(pd.Index([case.id for case in chosen]))
    return ImagingPatients(spec, tuple(chosen), outcome.take(rows), dict(sorted(left_out.items())))
