"""Where one case is computed: in this process, in worker processes of this machine, or on Dask workers.

Whatever the runner, a case ends with one outcome: what a passing fault stopped is tried again, and the rest is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol, cast

from pydantic import BaseModel

from pipelines.clients import connect
from pipelines.ledger import Step
from pipelines.outcomes import CaseOutcome, case_outcome
from pipelines.workers import WorkerLanes
from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, Unavailable
from services.shared.processors import available_processors
from services.shared.settings import ServiceName, Settings, bound_threads, settings

RETRY_DELAYS_S = (1.0, 5.0)
"""Seconds before a case is tried again after a passing fault; after the last one the fault is its outcome."""

_log = logging.getLogger("gliaflow.runners")


class CaseRunner(Protocol):
    """What calls a service's endpoint for one case, somewhere."""

    @property
    def slots(self) -> int:
        """Cases that it computes at a time."""
        ...

    def call(self, service: ServiceName, endpoint: str, request: BaseModel) -> BaseModel:
        """Return the endpoint's result, or raise its exception; `Unavailable` where another try may succeed."""
        ...

    def close(self) -> None:
        """End what it keeps."""


class ThreadRunner:
    """Computes in threads of this process, or waits in them for a service that answers over HTTP."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def call(self, service: ServiceName, endpoint: str, request: BaseModel) -> BaseModel:
        """Return the endpoint's result."""
        return call_service(service, endpoint, request)

    def close(self) -> None:
        """Nothing is kept."""


class ProcessRunner:
    """Computes in resident worker processes of this machine, which share its processors."""

    def __init__(self, slots: int) -> None:
        bound_threads(max(1, available_processors() // slots))
        self.slots = slots
        self.lanes = WorkerLanes(slots)

    def call(self, service: ServiceName, endpoint: str, request: BaseModel) -> BaseModel:
        """Return the endpoint's result."""
        return self.lanes.call(call_service, service, endpoint, request)

    def close(self) -> None:
        """End the worker processes."""
        self.lanes.close()


@lru_cache(maxsize=8)
def _resident(service: ServiceName) -> object:
    return connect(service)


def call_service(service: ServiceName, endpoint: str, request: BaseModel) -> BaseModel:
    """Call a service that stays resident in the process that runs this, with its weights and its atlas."""
    return cast(BaseModel, getattr(_resident(service), endpoint)(request))


_kept: dict[tuple[object, ...], CaseRunner] = {}


def choose_runner(service: ServiceName) -> CaseRunner:
    """Return what computes the cases of a service, by the settings; a service with an address does it itself.

    Workers stay for the next step, until the settings name others.
    """
    chosen = settings()
    if chosen.runner != "dask" or chosen.service_url(service) is not None:
        return local_runner(service)
    return _keep((chosen.storage_root, chosen.dask_scheduler, chosen.workers), lambda: _dask_runner(chosen))


def local_runner(service: ServiceName) -> CaseRunner:
    """Return what computes the cases of a service on this machine: threads, or else worker processes."""
    chosen = settings()
    if chosen.runner == "thread" or chosen.service_url(service) is not None:
        return ThreadRunner(chosen.workers)
    return _keep((chosen.storage_root, chosen.workers), lambda: ProcessRunner(chosen.workers))


def _keep(key: tuple[object, ...], start: Callable[[], CaseRunner]) -> CaseRunner:
    if key not in _kept:
        close_runners()
        _kept[key] = start()
    return _kept[key]


def close_runners() -> None:
    """End the workers that stayed."""
    while _kept:
        _, runner = _kept.popitem()
        runner.close()


def _dask_runner(chosen: Settings) -> CaseRunner:
    from pipelines.dask_runner import DaskRunner

    all_of_them = chosen.dask_scheduler is not None and "workers" not in chosen.model_fields_set
    return DaskRunner(chosen.dask_scheduler, None if all_of_them else chosen.workers)


def treat_case(
    runner: CaseRunner, case: CaseRef, step: Step, call: tuple[ServiceName, str], request: BaseModel
) -> CaseOutcome:
    """Compute one case, again after each passing fault, and return what became of it.

    Parameters
    ----------
    runner
        Where it is computed.
    case
        The case.
    step
        The step that the outcome names.
    call
        Service and endpoint.
    request
        The case's request.
    """
    delays = iter(RETRY_DELAYS_S)
    while True:
        try:
            return case_outcome(case, step, runner.call(*call, request))
        except Unavailable as error:
            delay = next(delays, None)
            if delay is None:
                return case_outcome(case, step, error)
            _log.warning("%s, %s: %s; tried again in %g s", case, step, error.detail, delay)
            time.sleep(delay)
        except GliaflowError as error:
            return case_outcome(case, step, error)
        except Exception as error:  # noqa: BLE001 - one case's fault must not end the others
            _log.error("%s, %s: a fault of the software", case, step, exc_info=error)
            return case_outcome(case, step, error)
