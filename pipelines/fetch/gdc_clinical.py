"""The clinical table of the Genomic Data Commons, as its publisher words it and in our terms.

``clinical.tsv`` holds what ``/cases`` tells, one row a patient. ``participants.tsv`` is made of it and is what
``gliaflow import … --participants`` takes: months are days / 30.4375; the follow-up of the dead ends at
``demographic.days_to_death``, that of the living at the last day that any diagnosis or follow-up states.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pandas as pd

from pipelines.datasets.codings import months_of_days
from pipelines.fetch.connection import Connection
from pipelines.fetch.download import write_whole
from pipelines.fetch.gdc_search import all_of, nothing_open, search
from pipelines.fetch.plan import FetchedFile, Plan, Selection, Statement, described
from services.shared.contracts import case_label
from services.shared.errors import DuplicateId

CLINICAL_TABLE, PARTICIPANTS = "clinical.tsv", "participants.tsv"
_EXPAND = "demographic,diagnoses,follow_ups,project"
_LAST_DAYS = ("diagnoses.days_to_last_follow_up", "follow_ups.days_to_follow_up")
_DAYS_A_YEAR = 365.25
_WORDED = {
    "sex": "demographic.gender",
    "grade": "diagnoses.tumor_grade",
    "histology": "diagnoses.primary_diagnosis",
    "project": "project.project_id",
}
_NUMBERS = (
    "demographic.days_to_death",
    "demographic.age_at_index",
    "diagnoses.age_at_diagnosis",
    *_LAST_DAYS,
)


def plan_clinical(connection: Connection, base_url: str, selection: Selection, *, projects: Sequence[str]) -> Plan:
    """Plan the clinical table of projects.

    Raises
    ------
    NotFound
        Where the GDC lists no patient.
    """
    base = base_url.rstrip("/")
    question = {
        "filters": all_of(project__project_id=projects),
        "fields": "submitter_id",
        "format": "JSON",
        "sort": "submitter_id:asc",
    }
    hits, asked = search(connection, f"{base}/cases", question)
    known = [str(hit.get("submitter_id", "")) for hit in hits]
    if not known:
        raise nothing_open(projects)
    patients = selection.of(known)
    unit = ClinicalTable(base, tuple(projects), tuple(sorted(patients)) if len(patients) < len(known) else ())
    return Plan(
        units=(unit,),
        asked=asked,
        counted={"patients": len(patients), "patients_listed": len(known)},
        derive=_write_participants,
    )


@dataclass(frozen=True)
class ClinicalTable:
    """One row a patient, flattened from ``/cases``: names as the GDC's, e.g. ``demographic.days_to_death``.

    Of several diagnoses the primary one is taken (``diagnosis_is_primary_disease``, else the first by ``submitter_id``)
    and counted in ``diagnoses.count``; of days of last follow-up, the last that any diagnosis or follow-up states.
    """

    base: str
    projects: tuple[str, ...]
    patients: tuple[str, ...]
    path: str = CLINICAL_TABLE
    size: int = 0

    @property
    def url(self) -> str:
        """Return the question as an address."""
        return str(httpx.URL(f"{self.base}/cases", params={"filters": json.dumps(self._filters()), "expand": _EXPAND}))

    def _filters(self) -> dict[str, object]:
        if self.patients:
            return all_of(project__project_id=self.projects, submitter_id=self.patients)
        return all_of(project__project_id=self.projects)

    def find(self, out: Path, earlier: Statement | None) -> FetchedFile | None:
        """Return the table where an earlier fetch of the same question left it."""
        if earlier is None or not (out / self.path).is_file():
            return None
        found = described(out, self.path, url=self.url)
        return found if earlier.file(self.path) == found else None

    def fetch(
        self, connection: Connection, out: Path, *, largest_bytes: int | None, progress: Callable[[int], None]
    ) -> tuple[FetchedFile, tuple[str, ...]]:
        """Ask for every patient and write the table."""
        del largest_bytes
        question = {"filters": self._filters(), "expand": _EXPAND, "format": "JSON", "sort": "submitter_id:asc"}
        hits, _ = search(connection, f"{self.base}/cases", question)
        content = clinical_table(hits).encode()
        write_whole(out / self.path, content)
        progress(len(content))
        return described(out, self.path, url=self.url), ()


def clinical_table(hits: Sequence[dict[str, object]]) -> str:
    """Return ``/cases`` as tab-separated text: one row a patient by ``submitter_id``, columns in alphabetical order."""
    rows = sorted((_flat_case(hit) for hit in hits), key=lambda row: row["submitter_id"])
    columns = ["submitter_id", *sorted({name for row in rows for name in row} - {"submitter_id"})]
    lines = ["\t".join(columns), *("\t".join(row.get(name, "") for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"


def _flat_case(hit: dict[str, object]) -> dict[str, str]:
    diagnoses, follow_ups = _objects(hit.get("diagnoses")), _objects(hit.get("follow_ups"))
    row = _scalars(hit, "") | {"submitter_id": str(hit.get("submitter_id", ""))}
    for part in ("project", "demographic"):
        row |= _scalars((_objects([hit.get(part)]) or [{}])[0], f"{part}.")
    if diagnoses:
        first = min(
            diagnoses,
            key=lambda each: (
                str(each.get("diagnosis_is_primary_disease", "")).lower() != "true",
                str(each.get("submitter_id", "")),
            ),
        )
        row |= _scalars(first, "diagnoses.")
    row["diagnoses.count"] = str(len(diagnoses))
    for name, records in zip(_LAST_DAYS, (diagnoses, follow_ups), strict=True):
        days = [day for each in records if isinstance(day := each.get(name.partition(".")[2]), int | float)]
        if days:
            row[name] = f"{max(days):g}"
    return row


def _objects(value: object) -> list[dict[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _scalars(record: dict[str, object], prefix: str) -> dict[str, str]:
    return {
        prefix + name: " ".join(str(value).split())
        for name, value in record.items()
        if isinstance(value, str | int | float)
    }


def participants_table(clinical: pd.DataFrame) -> pd.DataFrame:
    """Return a clinical table of the GDC (:func:`clinical_table`, all text) in our terms, empty where unknown.

    Columns of :data:`services.shared.cohort.PARTICIPANT_COLUMNS` beside ``project``, ``grade`` and ``histology`` as the
    GDC words them. Follow-up is given only where vital status and its day are both known and the day is not negative.

    Raises
    ------
    DuplicateId
        Where a patient stands twice.
    """
    ids = clinical["submitter_id"]
    if ids.duplicated().any():
        raise DuplicateId("the publisher lists a patient twice", step="fetch", case=str(ids[ids.duplicated()].iloc[0]))
    table = clinical.reindex(columns=[*_WORDED.values(), *_NUMBERS, "demographic.vital_status"]).astype("string")
    number = {name: pd.to_numeric(table[name], errors="coerce") for name in _NUMBERS}
    event = table["demographic.vital_status"].str.lower().map({"dead": 1, "alive": 0}).astype("Int64")
    last = pd.concat([number[name] for name in _LAST_DAYS], axis=1).max(axis=1)
    days = number["demographic.days_to_death"].where(event == 1, last.where(event == 0))
    days = days.where(days >= 0)
    age = number["diagnoses.age_at_diagnosis"] / _DAYS_A_YEAR
    found = pd.DataFrame(
        {
            "participant_id": "sub-" + ids.map(case_label),
            "source_id": ids,
            "age_years": age.fillna(number["demographic.age_at_index"]),
            "sex": table["demographic.gender"].str.lower().map({"female": "F", "male": "M"}),
            **{name: table[column] for name, column in _WORDED.items() if name != "sex"},
            "os_months": months_of_days(days),
            "event": event.where(days.notna()),
        }
    )
    return found.replace({"Not Reported": None, "not reported": None, "Unknown": None, "unknown": None})


def _write_participants(out: Path) -> list[str]:
    clinical = pd.read_csv(out / CLINICAL_TABLE, sep="\t", dtype=str, keep_default_na=False, na_values=[""])
    text = participants_table(clinical).to_csv(sep="\t", index=False, lineterminator="\n")
    write_whole(out / PARTICIPANTS, text.encode())
    return [PARTICIPANTS]
