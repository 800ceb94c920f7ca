"""What earlier steps left in storage about a cohort, read and checked."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.ledger import STEPS, Step, read_quarantine
from services.model_serving.package import DESCRIPTION, Estimate, PackageDescription
from services.preprocessing.contracts import Quality
from services.segmentation.contracts import Finding
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, Cohort, participants_key, read_cohort
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound, Problem, UnreadableFile
from services.shared.manifest import Manifest, read_manifest
from services.shared.storage import Storage

STUDY_TABLES = ("predictions", "folds", "roc", "calibration", "permuted", "comparison", "features")

Kind = TypeVar("Kind", bound=BaseModel)


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


@dataclass(frozen=True)
class StudyOutputs:
    """What one study wrote.

    Parameters
    ----------
    metrics
        Flat figures; ``<name>_low`` and ``<name>_high`` are 95 % limits.
    tables
        Its CSV files by name, see :data:`STUDY_TABLES`.
    flow, parameters
        Patients in and out, and what the study was told.
    model
        Description of the model fitted to all patients.
    package_sha256
        Hash of that description, which is the version of the model.
    """

    name: str
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    flow: dict[str, object]
    parameters: dict[str, object]
    model: PackageDescription
    package_sha256: str

    def estimate(self, name: str) -> Estimate | None:
        """Return a figure with its limits, or None where the study did not compute it."""
        if name not in self.metrics:
            return None
        low, high = (self.metrics.get(f"{name}_{end}") for end in ("low", "high"))
        return Estimate(value=self.metrics[name], low=low, high=high)

    @property
    def classes(self) -> tuple[str, str]:
        """Negative and positive class."""
        return self.model.classes


def read_studies(storage: Storage, cohort: str, names: Sequence[str] | None = None) -> tuple[StudyOutputs, ...]:
    """Read the studies of a cohort.

    Parameters
    ----------
    names
        Which; None means every finished one.

    Raises
    ------
    NotFound
        Where a named study has not run on the cohort.
    """
    finished = [name for name in storage.folders(f"studies/{cohort}") if storage.exists(_metrics_key(cohort, name))]
    missing = [name for name in names or () if name not in finished]
    if missing:
        raise NotFound(
            "the study has not run on this cohort",
            step="report",
            field="studies",
            expected=", ".join(finished) or "a finished study",
            got=", ".join(missing),
            remedy=f"run 'gliaflow study {missing[0]}' first",
        )
    return tuple(_read_study(storage, cohort, name) for name in sorted(set(names if names is not None else finished)))


def _metrics_key(cohort: str, study: str) -> str:
    return f"studies/{cohort}/{study}/metrics.json"


def _read_study(storage: Storage, cohort: str, name: str) -> StudyOutputs:
    folder = f"studies/{cohort}/{name}"
    key = f"{folder}/model/{DESCRIPTION}"
    model = _read(storage, key, PackageDescription)
    if model is None:
        raise NotFound("the study has no model", step="report", field=key, remedy=f"run 'gliaflow study {name}' again")
    return StudyOutputs(
        name=name,
        metrics=json.loads(storage.read_text(f"{folder}/metrics.json")),
        tables={table: _read_table(storage, f"{folder}/{table}.csv") for table in STUDY_TABLES},
        flow=json.loads(storage.read_text(f"{folder}/flow.json")),
        parameters=json.loads(storage.read_text(f"{folder}/parameters.json")),
        model=model,
        package_sha256=storage.sha256(key),
    )


def _read_table(storage: Storage, key: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(storage.read_text(key)), dtype={"case_id": str})


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


def _read(storage: Storage, key: str, kind: type[Kind]) -> Kind | None:
    """Return a file's content, or None where there is none or it says that the case is quarantined."""
    if not storage.exists(key):
        return None
    content = storage.read_bytes(key)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        if b'"quarantined"' in content:
            return None
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableFile(
            "a file of an earlier step cannot be read",
            step="report",
            field=key,
            expected=kind.__name__,
            got=f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}",
            remedy="run the step that wrote it again",
        ) from None
