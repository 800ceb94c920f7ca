"""What earlier steps left in storage about a cohort, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.ledger import STEPS, Step, read_quarantine
from services.preprocessing.contracts import Quality
from services.segmentation.contracts import Finding
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, Cohort, participants_key, read_cohort
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound, Problem
from services.shared.manifest import Manifest, read_manifest
from services.shared.storage import Storage


class Phantom(BaseModel):
    """How a simulated cohort was made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seed: int
    null: bool
    parameters: dict[str, object]
    effects: dict[str, object]


@dataclass(frozen=True)
class CohortState:
    """What is known of a cohort's cases.

    Parameters
    ----------
    name
        The cohort's name.
    everyone, members
        All patients and those of the studies; None where the studies took a table of features instead of images.
    quarantine
        Problem by case label of each step.
    quality, findings, manifests
        By case label: quality of the prepared images, what the segmentation says, and (by step) who made the files.
    phantom
        How the cohort was made, where it is simulated.
    """

    name: str
    everyone: Cohort | None
    members: Cohort | None
    quarantine: dict[Step, dict[str, Problem]]
    quality: dict[str, Quality]
    findings: dict[str, Finding]
    manifests: dict[Step, dict[str, Manifest]]
    phantom: Phantom | None

    @property
    def cases(self) -> tuple[CaseRef, ...]:
        """Cases of the studies, sorted."""
        return self.members.cases if self.members else ()


def read_state(storage: Storage, cohort: str) -> CohortState:
    """Read what is known of a cohort.

    Raises
    ------
    NotFound
        Where there is neither a cohort nor a study of this name.
    """
    has_images = storage.exists(participants_key(cohort))
    if not has_images and not storage.folders(f"studies/{cohort}"):
        read_cohort(storage, cohort)
    everyone = read_cohort(storage, cohort) if has_images else None
    members = everyone.subset("study") if everyone else None
    keys = {case.id: CaseKeys(case) for case in (members.cases if members else ())}
    quality = {label: _read(storage, k.quality, Quality) for label, k in keys.items()}
    findings = {label: _read(storage, finding_key(k), Finding) for label, k in keys.items()}
    manifests: dict[Step, dict[str, Manifest]] = {}
    for step in STEPS:
        found = {label: read_manifest(storage, k.manifest(step)) for label, k in keys.items()}
        manifests[step] = {label: manifest for label, manifest in found.items() if manifest is not None}
    phantom_key = f"raw/{cohort}/phantom.json"
    return CohortState(
        name=cohort,
        everyone=everyone,
        members=members,
        quarantine={step: read_quarantine(storage, cohort, step) for step in STEPS},
        quality={label: q for label, q in quality.items() if q is not None},
        findings={label: f for label, f in findings.items() if f is not None},
        manifests=manifests,
        phantom=_read(storage, phantom_key, Phantom),
    )


def _read[Kind: BaseModel](storage: Storage, key: str, kind: type[Kind]) -> Kind | None:
    """Return a file's content, or None where there is none or it says that the case is quarantined."""
    if not storage.exists(key):
        return None
    try:
        return kind.model_validate_json(storage.read_bytes(key))
    except ValidationError:
        return None
