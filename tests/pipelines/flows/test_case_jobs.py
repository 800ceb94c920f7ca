"""Cases as jobs: chunks go through storage, and `gliaflow treat` computes them in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipelines.chunks import Chunk, make_chunk, take_outcomes, treat_chunk, write_chunk
from pipelines.flows.case_jobs import JobTreatment, job_of
from pipelines.flows.jobs import JobSpec
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.shared.cohort import CaseKeys
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage
from tests.pipelines.flows.test_fanout import write_case

CALL = ("segmentation", "segment")
EXPERT = SegmentParameters(source="expert")


def request(case: CaseRef) -> SegmentRequest:
    return SegmentRequest(case=case, parameters=EXPERT)


class Jobs:
    """Runs each job's command line in a process, as its pod would.

    With a poison case a job that holds it is ended, and the others are computed in this process.
    """

    def __init__(self, storage: Storage, poison: str | None = None) -> None:
        self.storage = storage
        self.poison = poison
        self.sizes: list[int] = []

    def __call__(self, spec: JobSpec) -> str | None:
        chunk = Chunk.model_validate_json(self.storage.read_text(spec.arguments[1]))
        self.sizes.append(len(chunk.cases))
        if self.poison in {case.id for case in chunk.cases}:
            return "failed: OOMKilled"
        if self.poison is not None:
            treat_chunk(self.storage, spec.arguments[1])
            return None
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *spec.arguments],
            env={**os.environ, **spec.env, "GLIAFLOW_RUNNER": "thread"},
            capture_output=True,
            text=True,
        )
        return None if done.returncode == 0 else done.stderr


def treatment(storage: Storage, jobs: Jobs) -> JobTreatment:
    return JobTreatment(storage, "segment", CALL, request, launch=jobs)


def test_job_computes_its_cases(storage: Storage) -> None:
    cases = [write_case(storage, "a"), write_case(storage, "b", labels=(9,))]
    jobs = Jobs(storage)
    outcomes = list(treatment(storage, jobs).outcomes(cases))
    assert [outcome.case for outcome in outcomes] == cases
    assert outcomes[0].result is not None
    assert outcomes[1].problem is not None
    assert outcomes[1].problem["type"] == "urn:gliaflow:InvalidMask"
    assert storage.exists(CaseKeys(cases[0]).segmentation)
    assert jobs.sizes == [2]
    assert storage.files("jobs") == []
    assert storage.files("derivatives/segmentation/c", "quarantine.json") == []


def test_case_that_ends_its_job_is_quarantined_alone(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_RUNNER", "thread")
    settings.cache_clear()
    cases = [write_case(storage, label) for label in ("a", "b", "c")]
    jobs = Jobs(storage, poison="b")
    outcomes = list(treatment(storage, jobs).outcomes(cases))
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    assert outcomes[1].problem is not None
    assert outcomes[1].problem["type"] == "urn:gliaflow:ServiceFault"
    assert outcomes[1].problem["got"] == "failed: OOMKilled"
    assert jobs.sizes == [3, 1, 2, 1, 1, 1]  # all; a; b and c; b, and once more; c
    assert storage.files("jobs") == []


def test_job_that_cannot_start_stops_the_run(storage: Storage) -> None:
    def refuse(spec: JobSpec) -> str | None:
        raise NotFound("there is no such work pool")

    with pytest.raises(NotFound):
        list(JobTreatment(storage, "segment", CALL, request, launch=refuse).outcomes([write_case(storage, "a")]))


def test_batches_fill_the_jobs_that_run_at_a_time(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_WORKERS", "4")
    monkeypatch.setenv("GLIAFLOW_CASES_PER_JOB", "20")
    settings.cache_clear()
    sizes = [treatment(storage, Jobs(storage)).batch_size(total) for total in (1, 10, 80, 100_000)]
    assert sizes == [1, 3, 20, 20]


def test_job_has_the_resources_of_the_settings(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CORES", "8"), ("MEMORY", "32Gi"), ("GPUS", "1")):
        monkeypatch.setenv(f"GLIAFLOW_JOB_{name}", value)
    settings.cache_clear()
    spec = job_of("segment", "segmentation", "jobs/segment/x.json")
    assert (spec.cpu, spec.memory, spec.gpus) == ("8", "32Gi", 1)
    assert spec.env == {"GLIAFLOW_RUNNER": "process", "GLIAFLOW_WORKERS": "8", "GLIAFLOW_SEGMENTATION_URL": ""}
    assert job_of("prepare", "preprocessing", "jobs/prepare/x.json").gpus == 0


def test_chunk_of_another_version_is_told(storage: Storage) -> None:
    key = write_chunk(storage, make_chunk("segment", CALL, [], []))
    storage.write_text(key, storage.read_text(key).replace('"endpoint":"segment"', '"endpoint":"gone"'))
    with pytest.raises(InvalidValue, match="cannot be read"):
        treat_chunk(storage, key)
    assert take_outcomes(storage, key) is None
