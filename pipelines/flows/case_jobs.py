"""Cases as Jobs of a cluster: a chunk of cases a job, through Prefect's work pool (`pipelines.flows.jobs`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from pydantic import BaseModel

from pipelines.chunks import make_chunk, take_outcomes, write_chunk
from pipelines.flows.jobs import JobHandle, JobResult, JobSpec, submit, wait
from pipelines.ledger import Step
from pipelines.outcomes import CaseOutcome, case_outcome
from services.shared.contracts import CaseRef
from services.shared.errors import ServiceFault, Unavailable
from services.shared.settings import ServiceName, settings
from services.shared.storage import Storage

Launch = Callable[[JobSpec], str | None]
"""Runs a job to its end; returns what went wrong where it did not end well, and raises where it could not start."""

SERVER_DELAYS_S = (5.0, 60.0, 300.0)
"""Seconds before Prefect's server is asked again for a job when it did not answer."""

_log = logging.getLogger("gliaflow.case_jobs")


def run_job(spec: JobSpec) -> str | None:
    """Submit a job to the work pool and wait for its end.

    Raises
    ------
    JobNotStarted, NotFound, InvalidValue
        Where it does not start, or the work pool does not take it.
    Unavailable
        Where Prefect's server does not answer, or somebody cancelled the job.
    """
    result = _wait_patiently(submit(spec))
    if result.outcome == "cancelled":
        raise Unavailable("a job was cancelled", step=spec.name, got=result.message, remedy="run the step again")
    return None if result.well else f"{result.outcome}: {result.message}"


def _wait_patiently(handle: JobHandle) -> JobResult:
    """Wait for a job's end, also where Prefect's server is away for a while: the job goes on without it."""
    delays = iter(SERVER_DELAYS_S)
    while True:
        try:
            return wait(handle, progress=_log.info)
        except Unavailable as error:
            delay = next(delays, None)
            if delay is None:
                raise
            _log.warning("%s: %s; asked again in %g s", handle.name, error.detail, delay)
            time.sleep(delay)


class JobTreatment:
    """Computes the cases of a step in jobs.

    A job that ends without outcomes (out of memory, its node gone) is tried again as two halves, so that a case that
    ends its job at last stands alone and is quarantined alone. What was finished is not computed again.

    Parameters
    ----------
    storage
        Where chunks and outcomes stand; the jobs' storage is the same.
    step, call, request
        As for :func:`pipelines.flows.fanout.treat_cases`.
    launch
        Runs one job.
    """

    def __init__(
        self,
        storage: Storage,
        step: Step,
        call: tuple[ServiceName, str],
        request: Callable[[CaseRef], BaseModel],
        launch: Launch = run_job,
    ) -> None:
        self.slots = settings().workers
        self._storage = storage
        self._step = step
        self._call = call
        self._request = request
        self._launch = launch

    def batch_size(self, total: int) -> int:
        """Return how many cases a job takes: fewer than the settings allow where there are jobs enough for all."""
        return max(1, min(settings().cases_per_job, -(-total // self.slots)))

    def outcomes(self, cases: Sequence[CaseRef]) -> Iterator[CaseOutcome]:
        """Yield the outcomes of some cases, in their order."""
        fault = self._attempt(cases)
        if isinstance(fault, list):
            yield from fault
        elif len(cases) > 1:
            _log.warning("%s: a job of %d cases ended (%s); tried again as two", self._step, len(cases), fault)
            middle = len(cases) // 2
            yield from self.outcomes(cases[:middle])
            yield from self.outcomes(cases[middle:])
        else:
            _log.warning("%s, %s: its job ended (%s); tried again", cases[0], self._step, fault)
            again = self._attempt(cases)
            yield from again if isinstance(again, list) else [self._given_up(cases[0], again)]

    def _attempt(self, cases: Sequence[CaseRef]) -> list[CaseOutcome] | str:
        """Run one job and return its outcomes, or why there are none."""
        key = write_chunk(
            self._storage, make_chunk(self._step, self._call, cases, [self._request(case) for case in cases])
        )
        fault = self._launch(job_of(self._step, self._call[0], key))
        return take_outcomes(self._storage, key) or fault or "it wrote no outcomes: is its storage the same?"

    def _given_up(self, case: CaseRef, fault: str) -> CaseOutcome:
        error = ServiceFault(
            "the job of this case ended twice before the case was finished",
            got=fault,
            remedy="raise GLIAFLOW_JOB_MEMORY if it ran out of memory; the job's log tells more",
        )
        return case_outcome(case, self._step, error)


def job_of(step: Step, service: ServiceName, key: str) -> JobSpec:
    """Return the job that computes a chunk, with the resources that the settings give it."""
    chosen = settings()
    return JobSpec(
        arguments=("treat", key),
        name=f"gliaflow-{step}",
        cpu=str(chosen.job_cores),
        memory=chosen.job_memory,
        gpus=chosen.job_gpus if service == "segmentation" else 0,
        env={
            "GLIAFLOW_RUNNER": "process",
            "GLIAFLOW_WORKERS": str(chosen.job_cores),
            f"GLIAFLOW_{service.upper()}_URL": "",  # the chart names the service's address: the job computes by itself
        },
    )
