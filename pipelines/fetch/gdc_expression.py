"""Open RNA-seq of the Genomic Data Commons: one file of STAR gene counts a sample, assembled to matrices.

``/files`` lists the files with size and MD5; ``/data/<file_id>`` sends one (GDC API User's Guide: Search and Retrieval;
Downloading Files).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipelines.fetch.connection import Connection
from pipelines.fetch.download import Remote
from pipelines.fetch.gdc_search import all_of, nothing_open, search
from pipelines.fetch.plan import Plan, RemoteFile, Selection, read_rows
from pipelines.fetch.star_counts import Sample, write_matrices

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
    hits, asked = search(connection, f"{base}/files", question)
    rows = read_rows(hits, FileRow, f"{base}/files")
    if not rows:
        raise nothing_open(projects)
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
