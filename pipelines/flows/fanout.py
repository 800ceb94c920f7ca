"""One task per case: the fan-out that every flow over cases shares.

A Prefect thread task per case waits for work that runs in worker processes of this machine, each of which keeps its
services (their weights, their atlas) resident. Where a service has a URL, the task calls it over HTTP instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task
from pydantic import BaseModel, ConfigDict

from pipelines.clients import connect
from pipelines.ledger import Step, update_quarantine
from pipelines.workers import start_workers
from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, Problem, ServiceFault, Unavailable
from services.shared.settings import ServiceName, bound_threads, settings
from services.shared.storage import Storage

Progress = Callable[[int, int, str], None]


class CaseOutcome(BaseModel):
    """What became of one case in one step: a result, or the problem it is quarantined with."""

    model_config = ConfigDict(frozen=True)

    case: CaseRef
    step: str
    result: dict[str, object] | None = None
    problem: Problem | None = None

    @property
    def cached(self) -> bool:
        """Whether the outputs were already there."""
        return bool(self.result and self.result.get("cached"))


def case_runner() -> TaskRunner[PrefectFuture[BaseModel]]:
    """Return what runs the tasks of a flow: as many threads as there are workers, each waiting for one case."""
    return cast("TaskRunner[PrefectFuture[BaseModel]]", ThreadPoolTaskRunner(max_workers=settings().workers))


@lru_cache(maxsize=1)
def _pool(root: str, workers: int) -> ProcessPoolExecutor:  # noqa: ARG001 - workers read the root when they start
    bound_threads(max(1, (os.cpu_count() or 1) // workers))
    return start_workers(workers)


@lru_cache(maxsize=8)
def _resident(name: ServiceName) -> object:
    return connect(name)


def _call(name: ServiceName, method: str, request: BaseModel) -> BaseModel:
    return cast(BaseModel, getattr(_resident(name), method)(request))


def _is_transient(_: Task[..., object], __: TaskRun, state: State[object]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, Unavailable)


@task(
    name="case",
    task_run_name="{step}-{label}",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=_is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _run_case(step: str, label: str, name: ServiceName, method: str, request: BaseModel) -> BaseModel:
    if settings().service_url(name) is not None or settings().runner == "thread":
        return _call(name, method, request)
    pool = _pool(settings().storage_root, settings().workers)
    try:
        return pool.submit(_call, name, method, request).result()
    except BrokenProcessPool as error:
        _pool.cache_clear()
        raise Unavailable(
            "a worker process was ended from outside",
            case=label,
            step=step,
            got="out of memory, most likely",
            remedy="the case is tried again; lower GLIAFLOW_WORKERS if it recurs",
        ) from error


def treat_cases(
    storage: Storage,
    cases: Iterable[CaseRef],
    *,
    step: Step,
    call: tuple[ServiceName, str],
    request: Callable[[CaseRef], BaseModel],
    progress: Progress | None = None,
) -> list[CaseOutcome]:
    """Call one endpoint for every case of a cohort, inside a flow, and keep the ledger of the step.

    A case that fails is quarantined with its problem; the others go on. The outcomes come in the order of the cases.

    Parameters
    ----------
    storage
        Where the ledger stands.
    cases
        The cases, of one cohort.
    step
        The step that the ledger names.
    call
        Service and endpoint.
    request
        Makes a case's request.
    progress
        Called with the number of finished cases, their total, and the label of the last one.
    """
    waiting: dict[PrefectFuture[BaseModel], CaseRef] = {
        _run_case.submit(step, case.id, *call, request(case)): case for case in cases
    }
    outcomes: dict[CaseRef, CaseOutcome] = {}
    for done, future in enumerate(as_completed(list(waiting)), start=1):
        case = waiting[future]
        outcomes[case] = _outcome(case, step, future.result(raise_on_failure=False))
        if progress is not None:
            progress(done, len(waiting), case.id)
    update_quarantine(storage, step, {case: outcome.problem for case, outcome in outcomes.items()})
    return [outcomes[case] for case in waiting.values()]


def _outcome(case: CaseRef, step: str, answer: object) -> CaseOutcome:
    if isinstance(answer, BaseModel):
        return CaseOutcome(case=case, step=step, result=answer.model_dump(mode="json"))
    if isinstance(answer, GliaflowError):
        return CaseOutcome(case=case, step=step, problem=answer.with_context(case=str(case), step=step).to_problem())
    fault = ServiceFault(
        f"{type(answer).__name__}: {answer}",
        case=str(case),
        step=step,
        remedy="this is a fault of the software: report it with this line",
    )
    return CaseOutcome(case=case, step=step, problem=fault.to_problem())
