"""Open expression and clinical tables of the Genomic Data Commons through its REST interface.

``/files`` and ``/cases`` are asked with filters, page by page in a fixed order; ``/data/<file_id>`` sends one file,
whose size and MD5 ``/files`` states (GDC API User's Guide: Search and Retrieval; Downloading Files).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field

from pipelines.fetch.connection import Connection, shown
from pipelines.fetch.download import Remote, write_whole
from pipelines.fetch.plan import FetchedFile, Plan, RemoteFile, Selection, Statement, described, read_rows
from pipelines.fetch.star_counts import Sample, write_matrices
from services.shared.errors import NotFound, Unavailable

_PAGE = 500
_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_BARCODE = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_EXPRESSION_FIELDS = (
    "file_id",
    "file_size",
    "md5sum",
    "access",
    "cases.submitter_id",
    "cases.project.project_id",
    "cases.samples.submitter_id",
    "cases.samples.sample_type",
    "associated_entities.entity_submitter_id",
)
CLINICAL_TABLE = "clinical.tsv"
_EXPAND = "demographic,diagnoses,follow_ups,project"
_Row = TypeVar("_Row", bound=BaseModel)


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Sample(_Lenient):
    submitter_id: str = Field(pattern=_BARCODE)
    sample_type: str = ""


class _Project(_Lenient):
    project_id: str


class _Case(_Lenient):
    submitter_id: str = Field(pattern=_BARCODE)
    project: _Project
    samples: list[_Sample] = Field(min_length=1)


class _Entity(_Lenient):
    entity_submitter_id: str = Field(pattern=_BARCODE)


class FileRow(_Lenient):
    """The fields of ``/files`` that are needed."""

    file_id: str = Field(pattern=_UUID)
    file_size: int = Field(ge=0)
    md5sum: str = Field(pattern="^[0-9a-fA-F]{32}$")
    access: str
    cases: list[_Case] = Field(min_length=1)
    associated_entities: list[_Entity] = []

    @property
    def sample(self) -> Sample:
        """Return which sample of which patient the file is about."""
        case = self.cases[0]
        sample = case.samples[0]
        aliquots = sorted(entity.entity_submitter_id for entity in self.associated_entities)
        return Sample(
            sample=sample.submitter_id,
            patient=case.submitter_id,
            project=case.project.project_id,
            sample_type=sample.sample_type,
            aliquot=aliquots[0] if aliquots else "",
            file=f"star_counts/{self.file_id}.tsv",
        )


class _Pagination(_Lenient):
    total: int = Field(ge=0)


class _Data(_Lenient):
    hits: list[dict[str, object]]
    pagination: _Pagination


class _Reply(_Lenient):
    data: _Data


def all_of(**values: str | Sequence[str]) -> dict[str, object]:
    """Return a GDC filter: every field (``__`` for the dots of its name) has one of its values.

    >>> all_of(files__access="open")["content"][0]["content"]
    {'field': 'files.access', 'value': ['open']}
    """
    return {
        "op": "and",
        "content": [
            {
                "op": "in",
                "content": {
                    "field": name.replace("__", "."),
                    "value": [value] if isinstance(value, str) else list(value),
                },
            }
            for name, value in values.items()
        ],
    }


def plan_expression(connection: Connection, base_url: str, selection: Selection, *, projects: Sequence[str]) -> Plan:
    """List the open STAR gene counts of projects; the matrices are assembled once all are there.

    Raises
    ------
    NotFound
        Where the GDC lists none.
    """
    base = base_url.rstrip("/")
    question = {
        "filters": all_of(
            cases__project__project_id=projects,
            files__data_category="Transcriptome Profiling",
            files__data_type="Gene Expression Quantification",
            files__analysis__workflow_type="STAR - Counts",
            files__access="open",
        ),
        "fields": ",".join(_EXPRESSION_FIELDS),
        "format": "JSON",
        "sort": "file_id:asc",
    }
    hits, asked = _ask_all(connection, f"{base}/files", question)
    rows = read_rows(hits, FileRow, f"{base}/files")
    if not rows:
        raise _nothing(projects)
    left_out = {row.file_id: "controlled access" for row in rows if row.access != "open"}
    left_out |= {row.file_id: "belongs to several patients" for row in rows if len(row.cases) > 1}
    kept = [row for row in rows if row.file_id not in left_out]
    patients = selection.of([row.cases[0].submitter_id for row in kept])
    chosen = [row for row in kept if row.cases[0].submitter_id in patients]
    samples, repeated = _one_file_a_sample([row.sample for row in chosen])
    left_out |= {Path(sample.file).stem: "another aliquot of the sample was taken" for sample in repeated}
    taken = {sample.file for sample in samples}
    units = [
        RemoteFile(row.sample.file, Remote(f"{base}/data/{row.file_id}", row.file_size, row.md5sum.lower()))
        for row in chosen
        if row.sample.file in taken
    ]
    return Plan(
        units=tuple(sorted(units, key=lambda unit: unit.path)),
        asked=asked,
        left_out=left_out,
        counted={
            "patients": len(patients),
            "patients_listed": len({row.cases[0].submitter_id for row in kept}),
            "files_listed": len(rows),
            "samples": len(samples),
        },
        derive=partial(write_matrices, samples=samples),
    )


def _one_file_a_sample(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Keep, of several aliquots of a sample, the one whose barcode sorts last (the rule of Broad's GDAC Firehose)."""
    last: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda each: (each.aliquot, each.file)):
        last[sample.sample] = sample
    kept = sorted(last.values(), key=lambda each: each.sample)
    return kept, [sample for sample in samples if sample not in kept]


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
    hits, asked = _ask_all(connection, f"{base}/cases", question)
    known = [str(hit.get("submitter_id", "")) for hit in hits]
    if not known:
        raise _nothing(projects)
    patients = selection.of(known)
    unit = ClinicalTable(base, tuple(projects), tuple(sorted(patients)) if len(patients) < len(known) else ())
    return Plan(units=(unit,), asked=asked, counted={"patients": len(patients), "patients_listed": len(known)})


@dataclass(frozen=True)
class ClinicalTable:
    """One row a patient, flattened from ``/cases``: names as the GDC's, e.g. ``demographic.days_to_death``.

    Of several diagnoses the primary one is taken (``diagnosis_is_primary_disease``, else the first by ``submitter_id``)
    and counted in ``diagnoses.count``; of several follow-ups the last day (``follow_ups.days_to_follow_up``).
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
        hits, _ = _ask_all(connection, f"{self.base}/cases", question)
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
    days = [day for each in follow_ups if isinstance(day := each.get("days_to_follow_up"), int | float)]
    if days:
        row["follow_ups.days_to_follow_up"] = f"{max(days):g}"
    return row


def _objects(value: object) -> list[dict[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _scalars(record: dict[str, object], prefix: str) -> dict[str, str]:
    return {
        prefix + name: " ".join(str(value).split())
        for name, value in record.items()
        if isinstance(value, str | int | float)
    }


def _ask_all(connection: Connection, url: str, question: Mapping[str, object]) -> tuple[list[dict[str, object]], str]:
    """Return the hits of every page, and when the first was given."""
    hits: list[dict[str, object]] = []
    asked, total = "", None
    while total is None or len(hits) < total:
        answer = connection.ask(url, body={**question, "size": _PAGE, "from": len(hits)})
        (reply,) = read_rows([answer.value], _Reply, url)
        asked = asked or answer.date
        page = reply.data.hits
        if (total is not None and reply.data.pagination.total != total) or (
            not page and len(hits) < reply.data.pagination.total
        ):
            raise Unavailable(
                "the publisher's list changed while it was read",
                step="fetch",
                field=shown(url),
                expected=f"{total} entries",
                got=f"{reply.data.pagination.total}",
                remedy="run the same command again",
            )
        total = reply.data.pagination.total
        hits += page
    return hits, asked


def _nothing(projects: Sequence[str]) -> NotFound:
    return NotFound(
        "the GDC lists nothing open for these projects",
        step="fetch",
        field="project",
        got=", ".join(projects),
        remedy="see https://portal.gdc.cancer.gov for what there is",
    )
