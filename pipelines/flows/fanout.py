"""The fan-out that every flow over cases shares: a bounded number of cases at a time, their outcomes kept as they come.

A Prefect thread task waits for a case that a runner computes elsewhere (`pipelines.runners`). A large cohort's task is
a batch of cases, so that a flow run has hundreds of task runs and not a million. Its cases still come out one by one.
On Kubernetes a batch is a job (`pipelines.flows.case_jobs`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event
from typing import Protocol, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel

from pipelines.ledger import Step, update_quarantine
from pipelines.outcomes import CaseOutcome, Outcomes
from pipelines.runners import CaseRunner, choose_runner, treat_case
from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, Problem, Unavailable
from services.shared.settings import ServiceName, settings
from services.shared.storage import Storage

Progress = Callable[[int, int, str], None]
TaskFuture = PrefectFuture[State[None]]

MIN_TASKS = 256
"""Up to so many cases each is a task of its own. A task run costs memory and database rows that a cohort must not."""
TASKS_PER_SLOT = 8
"""Batches for each case that is computed at a time, so that the last ones leave few slots idle."""
LEDGER_S = 10.0
"""Seconds between two entries into the ledger: what a run that is killed can forget."""
UNAVAILABLE_IN_A_ROW = 10
"""So many cases (and two for each slot) that nobody answered for, and the run stops: it is not the cases' fault."""


def case_runner() -> TaskRunner[PrefectFuture[object]]:
    """Return what runs the tasks of a flow: threads, as many as there are batches in flight."""
    return cast("TaskRunner[PrefectFuture[object]]", ThreadPoolTaskRunner())


class Treatment(Protocol):
    """How batches of cases are computed."""

    @property
    def slots(self) -> int:
        """Batches at a time."""
        ...

    def batch_size(self, total: int) -> int:
        """Return how many of so many cases make a batch."""
        ...

    def outcomes(self, cases: Sequence[CaseRef]) -> Iterator[CaseOutcome]:
        """Yield the outcomes of a batch in its order, each as soon as it is there."""
        ...


class _OneByOne:
    """Computes the cases of a batch one after the other, where a runner does."""

    def __init__(
        self, runner: CaseRunner, step: Step, call: tuple[ServiceName, str], request: Callable[[CaseRef], BaseModel]
    ) -> None:
        self.slots = runner.slots
        self._treat: Callable[[CaseRef], CaseOutcome] = lambda case: treat_case(runner, case, step, call, request(case))

    def batch_size(self, total: int) -> int:
        return max(1, -(-total // max(MIN_TASKS, TASKS_PER_SLOT * self.slots)))

    def outcomes(self, cases: Sequence[CaseRef]) -> Iterator[CaseOutcome]:
        return map(self._treat, cases)


class _Batch:
    """Some cases of a fan-out, and where their outcomes go. No dataclass: Prefect would look into its fields."""

    def __init__(self, start: int, cases: Sequence[CaseRef], treatment: Treatment, arrivals: _Arrivals) -> None:
        self.start = start
        self.cases = cases
        self.treatment = treatment
        self.arrivals = arrivals

    @property
    def label(self) -> str:
        first, last = self.cases[0].id, self.cases[-1].id
        return first if first == last else f"{first}…{last}"


class _Arrivals:
    """What threads hand to the flow: outcomes with their positions, and tasks that are done."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[tuple[int, CaseOutcome] | TaskFuture] = SimpleQueue()
        self.stopped = Event()


@task(name="cases", task_run_name="{step}-{label}", cache_policy=NO_CACHE, persist_result=False)
def _treat_batch(step: str, label: str, batch: _Batch) -> State[None]:  # noqa: ARG001 - they name the run
    problems: list[str] = []
    for position, outcome in enumerate(batch.treatment.outcomes(batch.cases), start=batch.start):
        if outcome.problem is not None:
            problems.append(f"{outcome.case.id}: {outcome.problem['title']}")
        batch.arrivals.queue.put((position, outcome))
        if batch.arrivals.stopped.is_set():
            break
    if problems:
        return Completed(name="Quarantined", message="; ".join(problems))
    return Completed()


def treat_cases(
    storage: Storage,
    cases: Iterable[CaseRef],
    *,
    step: Step,
    call: tuple[ServiceName, str],
    request: Callable[[CaseRef], BaseModel],
    progress: Progress | None = None,
) -> Outcomes:
    """Call one endpoint for every case of a cohort, inside a flow, and keep the ledger of the step.

    A case that fails is quarantined with its problem; the others go on. A case whose worker was killed is tried again.
    The outcomes come in the order of the cases; none of them stays in memory.

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

    Raises
    ------
    Unavailable
        Where case after case found nobody who answers. What was finished stays; a second run goes on from there.
    """
    treated = list(cases)
    outcomes = Outcomes(len(treated))
    treatment = _choose_treatment(storage, step, call, request)
    arrivals = _Arrivals()
    ledger = _LedgerEntries(storage, step)
    patience = max(UNAVAILABLE_IN_A_ROW, 2 * treatment.slots)
    unavailable = 0
    try:
        for done, (position, outcome) in enumerate(_each_outcome(step, treated, treatment, arrivals), start=1):
            outcomes.enter(position, outcome)
            ledger.enter(outcome)
            if progress is not None:
                progress(done, len(treated), outcome.case.id)
            unavailable = unavailable + 1 if _nobody_answered(outcome.problem) else 0
            if unavailable >= patience and outcome.problem is not None:
                raise GliaflowError.from_problem(outcome.problem)
    finally:
        arrivals.stopped.set()
        ledger.write()
    return outcomes


def _choose_treatment(
    storage: Storage, step: Step, call: tuple[ServiceName, str], request: Callable[[CaseRef], BaseModel]
) -> Treatment:
    if settings().runner == "kubernetes" and settings().service_url(call[0]) is None:
        from pipelines.flows.case_jobs import JobTreatment  # the Kubernetes client takes a second to import

        return JobTreatment(storage, step, call, request)
    return _OneByOne(choose_runner(call[0]), step, call, request)


def _each_outcome(
    step: Step, cases: Sequence[CaseRef], treatment: Treatment, arrivals: _Arrivals
) -> Iterator[tuple[int, CaseOutcome]]:
    """Yield each case's position and outcome as they come, with no more batches under way than there are slots."""
    size = treatment.batch_size(len(cases))
    starts = iter(range(0, len(cases), size))
    running = 0
    while True:
        while running < treatment.slots and (start := next(starts, None)) is not None:
            batch = _Batch(start, cases[start : start + size], treatment, arrivals)
            _treat_batch.submit(step, batch.label, batch).add_done_callback(arrivals.queue.put)
            running += 1
        if running == 0:
            return
        arrival = arrivals.queue.get()
        if isinstance(arrival, PrefectFuture):
            running -= 1
            arrival.result()
        else:
            yield arrival


class _LedgerEntries:
    """Problems on their way into the ledger, written every few seconds."""

    def __init__(self, storage: Storage, step: Step) -> None:
        self._storage = storage
        self._step = step
        self._entries: dict[CaseRef, Problem | None] = {}
        self._written = time.monotonic()

    def enter(self, outcome: CaseOutcome) -> None:
        self._entries[outcome.case] = outcome.problem
        if time.monotonic() - self._written > LEDGER_S:
            self.write()

    def write(self) -> None:
        update_quarantine(self._storage, self._step, self._entries)
        self._entries = {}
        self._written = time.monotonic()


def _nobody_answered(problem: Problem | None) -> bool:
    return problem is not None and isinstance(GliaflowError.from_problem(problem), Unavailable)
