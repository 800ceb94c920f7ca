"""Who dropped out where: each step's quarantined cases, kept beside its outputs and left out of later steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Literal, cast

from services.shared.cohort import Cohort
from services.shared.contracts import CaseRef
from services.shared.errors import Problem
from services.shared.storage import Storage

Step = Literal["prepare", "diffusion", "segment", "extract", "deep", "explain"]
STEPS: tuple[Step, ...] = ("prepare", "segment", "extract")
"""Steps that every case goes through; a case that one of them quarantines is in no study."""
_FOLDERS: dict[Step, str] = {
    "prepare": "derivatives/preprocessed",
    "diffusion": "derivatives/preprocessed",
    "segment": "derivatives/segmentation",
    "extract": "features",
    "deep": "features",
    "explain": "derivatives/explanations",
}


def quarantine_key(cohort: str, step: Step) -> str:
    """Key of a step's list of quarantined cases."""
    name = "quarantine" if step in STEPS else f"quarantine_{step}"
    return f"{_FOLDERS[step]}/{cohort}/{name}.json"


def update_quarantine(storage: Storage, step: Step, outcomes: Mapping[CaseRef, Problem | None]) -> None:
    """Enter what became of some cases into a step's ledger; cases that are not named keep what they had."""
    by_cohort: dict[str, dict[str, Problem | None]] = {}
    for case, problem in outcomes.items():
        by_cohort.setdefault(case.cohort, {})[case.id] = problem
    for cohort, fresh in by_cohort.items():
        rows = {**read_quarantine(storage, cohort, step), **fresh}
        kept = {label: problem for label, problem in rows.items() if problem is not None}
        storage.write_text(quarantine_key(cohort, step), json.dumps(kept, indent=2, sort_keys=True) + "\n")


def read_quarantine(storage: Storage, cohort: str, step: Step) -> dict[str, Problem]:
    """Return a step's quarantined cases by case label; a step that has not run has none."""
    key = quarantine_key(cohort, step)
    if not storage.exists(key):
        return {}
    return cast(dict[str, Problem], json.loads(storage.read_text(key)))


def usable_cases(
    storage: Storage, cohort: Cohort, *, steps: Iterable[Step], only: Iterable[str] | None = None
) -> list[CaseRef]:
    """Return the cases that none of ``steps`` has quarantined and whose label is in ``only`` (None: all)."""
    dropped = {label for step in steps for label in read_quarantine(storage, cohort.name, step)}
    wanted = None if only is None else {label.removeprefix("sub-") for label in only}
    return [case for case in cohort.cases if case.id not in dropped and (wanted is None or case.id in wanted)]
