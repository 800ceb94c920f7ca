"""What earlier steps left in storage about a cohort, read and checked."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.datasets.release import import_key
from pipelines.ledger import STEPS, Step, read_quarantine
from pipelines.reporting.published import PAPERS, Paper
from services.model_serving.package import DESCRIPTION, Estimate, PackageDescription
from services.preprocessing.contracts import Quality
from services.segmentation.contracts import Finding
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, Cohort, participants_key, read_cohort
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound, Problem, UnreadableFile
from services.shared.manifest import Manifest, read_manifest
from services.shared.storage import Storage

StudyKind = Literal["classification", "survival"]
STUDY_TABLES: Mapping[StudyKind, tuple[str, ...]] = {
    "classification": ("predictions", "folds", "roc", "calibration", "permuted", "comparison", "features"),
    "survival": ("predictions", "features"),
}
"""Tables that every study of a kind writes; it may write more."""

Kind = TypeVar("Kind", bound=BaseModel)


class Phantom(BaseModel):
    """How a simulated cohort was made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seed: int
    null: bool
    parameters: dict[str, object]
    effects: dict[str, object]


class ReleaseStatement(BaseModel):
    """What an importer said about the release that became the cohort."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    importer: str
    patients: int
    scale: dict[str, str] = {}
    dropped: dict[str, str] = {}
    counted: dict[str, int] = {}
    sources: dict[str, str] = {}
    licence: str = ""


class StudyStatement(BaseModel):
    """What kind of study wrote a folder."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: StudyKind = "classification"


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
    release
        What its importer said, where it is a publisher's release.
    imaged
        Whether its cases have folders of images; a cohort of tables has none.
    """

    name: str
    everyone: Cohort | None
    members: Cohort | None
    quarantine: dict[Step, dict[str, Problem]]
    quality: dict[str, Quality]
    findings: dict[str, Finding]
    manifests: dict[Step, dict[str, Manifest]]
    phantom: Phantom | None
    release: ReleaseStatement | None = None
    imaged: bool = True

    @property
    def cases(self) -> tuple[CaseRef, ...]:
        """Cases of the studies, sorted."""
        return self.members.cases if self.members else ()


@dataclass(frozen=True)
class StudyOutputs:
    """What one study wrote.

    Parameters
    ----------
    kind
        Whether it tells classes apart or orders survival.
    metrics
        Flat figures; ``<name>_low`` and ``<name>_high`` are 95 % limits.
    tables
        Its CSV files by name: at least those of :data:`STUDY_TABLES`.
    flow, parameters
        Patients in and out, and what the study was told.
    model
        Description of the model fitted to all patients.
    package_sha256
        Hash of that description, which is the version of the model.
    documents
        Its further JSON files by name.
    """

    name: str
    kind: StudyKind
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    flow: dict[str, object]
    parameters: dict[str, object]
    model: PackageDescription
    package_sha256: str
    documents: dict[str, str] = field(default_factory=dict)

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

    @property
    def paper(self) -> Paper | None:
        """The paper that the study follows."""
        return PAPERS.get(self.name)

    @property
    def parts(self) -> tuple[str, ...]:
        """Groups of patients that a survival study has figures of: ``train``, ``cv``, ``validation_<cohort>`` …"""
        named = (name.removesuffix("_patients") for name in self.metrics if name.endswith("_patients"))
        found = [part for part in named if f"{part}_c_index" in self.metrics and part != "permuted"]
        return tuple(sorted(found, key=lambda part: ({"train": 0, "cv": 1}.get(part, 2), part)))

    @property
    def patients(self) -> int:
        """How many patients the study learnt from."""
        return round(self.metrics["patients" if self.kind == "classification" else "train_patients"])


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
    stated = _read(storage, f"{folder}/study.json", StudyStatement)
    kind = stated.kind if stated is not None else "classification"
    written = {key.rpartition("/")[2] for key in storage.files(folder) if key.count("/") == folder.count("/") + 1}
    tables = {file.removesuffix(".csv") for file in written if file.endswith(".csv")} | set(STUDY_TABLES[kind])
    documents = {file for file in written if file.endswith(".json")} - _OWN_FILES
    return StudyOutputs(
        name=name,
        kind=kind,
        metrics=json.loads(storage.read_text(f"{folder}/metrics.json")),
        tables={table: _read_table(storage, f"{folder}/{table}.csv") for table in sorted(tables)},
        documents={file.removesuffix(".json"): storage.read_text(f"{folder}/{file}") for file in sorted(documents)},
        flow=json.loads(storage.read_text(f"{folder}/flow.json")),
        parameters=json.loads(storage.read_text(f"{folder}/parameters.json")),
        model=model,
        package_sha256=storage.sha256(key),
    )


_OWN_FILES = frozenset({"metrics.json", "flow.json", "parameters.json", "study.json"})


def _read_table(storage: Storage, key: str) -> pd.DataFrame:
    text = storage.read_text(key)
    return pd.read_csv(io.StringIO(text), dtype={"case_id": str}) if text.strip() else pd.DataFrame()


def read_state(storage: Storage, cohort: str) -> CohortState:
    """Read what is known of a cohort.

    Raises
    ------
    NotFound
        Where there is neither a cohort nor a study of this name.
    """
    listed = storage.exists(participants_key(cohort))
    if not listed and not storage.folders(f"studies/{cohort}"):
        read_cohort(storage, cohort)
    everyone = read_cohort(storage, cohort) if listed else None
    members = everyone.subset("study") if everyone else None
    release = _read(storage, import_key(cohort), ReleaseStatement)
    imaged = any(folder.startswith("sub-") for folder in storage.folders(f"raw/{cohort}"))
    pictured = members.cases if members is not None and imaged else ()
    keys = {case.id: CaseKeys(case) for case in pictured}
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
        release=release,
        imaged=imaged,
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
