"""Steps of gliaflow as Jobs of a cluster: submitted through Prefect's Kubernetes work pool, waited for with reasons.

A job runs ``gliaflow STEP …`` in a pod of the work pool's template (``charts/gliaflow``), so it reads and writes the
same storage with the same manifests as on a laptop. Prefect's worker makes the Job; who waits asks Prefect how it
goes, and the cluster why it does not.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, cast
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled
from pydantic import Field, StringConstraints

from pipelines.cluster.connection import Cluster, NotAllowed, connect_cluster
from pipelines.cluster.jobs import delete_job, trouble_of_job
from pipelines.cluster.pods import Trouble
from services.shared.contracts import Contract
from services.shared.errors import GliaflowError, InvalidValue, NotFound, ServiceFault, Unavailable
from services.shared.settings import settings

FLOW = "gliaflow-job"
_TAIL = 12

Progress = Callable[[str], None]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class JobNotStarted(GliaflowError):
    """A job did not start within its time, or cannot; it was taken back."""

    status = 503
    title = "Job did not start"


class JobSpec(Contract):
    """What to run, and what it needs; the fields beside ``arguments`` are the job variables of the chart's template.

    Attributes
    ----------
    arguments
        Command line of gliaflow, for example ``("train", "--cohort", "phantom")``.
    gpus
        How many GPUs, or MIG slices where the chart names one.
    cpu, memory
        Requests and limits in Kubernetes' notation; the chart's defaults where None.
    role
        ``promoter`` where the job rolls models out itself.
    deadline_seconds
        Seconds after which the cluster ends the job, waiting included.
    """

    arguments: tuple[str, ...] = Field(min_length=1)
    name: Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")] = "gliaflow"
    gpus: int = Field(0, ge=0)
    cpu: Quantity | None = None
    memory: Quantity | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)
    runtime_class: str | None = None
    image: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    role: Literal["job", "promoter"] = "job"
    deadline_seconds: int = Field(86400, ge=1)

    def variables(self) -> dict[str, object]:
        """Return the job variables that differ from the template's defaults."""
        made: dict[str, object] = {"name": self.name, "role": self.role, "deadline_seconds": self.deadline_seconds}
        for what, value in (("cpu", self.cpu), ("memory", self.memory)):
            if value is not None:
                made |= {f"{what}_request": value, f"{what}_limit": value}
        optional = {
            "gpus": self.gpus,
            "node_selector": self.node_selector,
            "runtime_class": self.runtime_class,
            "image": self.image,
            "env": self.env,
        }
        return made | {name: value for name, value in optional.items() if value}


class JobHandle(Contract):
    """A submitted job: what a later process needs to wait for it."""

    flow_run: UUID
    name: str


class JobResult(Contract):
    """How a job ended."""

    outcome: Literal["completed", "failed", "crashed", "cancelled"]
    message: str
    seconds: float

    @property
    def well(self) -> bool:
        """Whether it did what it was to do."""
        return self.outcome == "completed"


@flow(name=FLOW, flow_run_name="{name}", validate_parameters=False)
def run_step(arguments: list[str], name: str) -> None:  # noqa: ARG001 - the run's name
    """Run ``gliaflow`` with some arguments in a process of its own; its output is this process's.

    Raises
    ------
    ServiceFault
        Where it ends with another exit code than 0, with the end of its output.
    """
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    tail: deque[str] = deque(maxlen=_TAIL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            tail.append(line.rstrip())
    if process.returncode:
        raise ServiceFault(
            f"exit code {process.returncode}",
            step=arguments[0],
            got="\n".join(tail),
            remedy="correct what the last lines name, and submit it again: what is done is not done twice",
        )


def submit(spec: JobSpec, *, key: str | None = None) -> JobHandle:
    """Submit a job to the work pool of the settings (``GLIAFLOW_WORK_POOL``); returns at once.

    Parameters
    ----------
    spec
        What to run.
    key
        The same key again gives the same job, so that who was killed after submitting finds it.

    Raises
    ------
    NotFound
        Where the work pool does not exist.
    InvalidValue
        Where the pool's template does not take a job variable.
    Unavailable
        Where Prefect's server does not answer.
    """
    pool = settings().work_pool
    with _explained("submit a job"), get_client(sync_client=True) as prefect:
        try:
            prefect.read_work_pool(pool)
        except ObjectNotFound as error:
            raise NotFound(
                "there is no such work pool",
                field="GLIAFLOW_WORK_POOL",
                expected="a pool of type kubernetes",
                got=pool,
                remedy="install the chart with worker.enabled, whose worker makes it",
            ) from error
        prefect.create_deployment(
            flow_id=prefect.create_flow(run_step),
            name=pool,
            work_pool_name=pool,
            entrypoint=f"{__name__}.{run_step.fn.__name__}",
            # The image holds the code. Without a step of its own, Prefect would copy the folder that it starts in.
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": "."}}],
        )
        run = cast(
            FlowRun,
            run_deployment(
                f"{FLOW}/{pool}",
                parameters={"arguments": list(spec.arguments), "name": spec.name},
                job_variables=spec.variables(),
                idempotency_key=key,
                timeout=0,
                as_subflow=False,
            ),
        )
    return JobHandle(flow_run=run.id, name=spec.name)


def wait(
    handle: JobHandle,
    *,
    pending_seconds: float = 1800.0,
    poll_seconds: float = 5.0,
    progress: Progress | None = None,
    cluster: Cluster | None = None,
) -> JobResult:
    """Wait until a job has ended.

    Parameters
    ----------
    pending_seconds
        How long it may take to start: a GPU node may need minutes to come.
    progress
        Called with a sentence whenever something changed, with the reason while it is Pending.
    cluster
        Where to read why it is Pending; the settings' cluster where None. Where that cannot be read, the reason is
        not told, and it is told that it is not.

    Raises
    ------
    JobNotStarted
        Where it does not start in time, or cannot start. The job is taken back, and the error says why: no GPU node,
        a quota, an image that cannot be pulled, no worker.
    """
    say = _Once(progress)
    place = cluster or _reachable_cluster(say)
    started = time.monotonic()
    trouble: Trouble | None = None
    while True:
        with _explained(f"ask for job {handle.name}"), get_client(sync_client=True) as prefect:
            run = prefect.read_flow_run(handle.flow_run)
            state = run.state
            if state is not None and state.is_final():
                return _result(run)
            waits = state is None or state.is_scheduled() or state.is_pending()
            if waits:
                trouble = _trouble(prefect, run, place, say)
        say(f"{handle.name}: {trouble if waits and trouble else (state.name if state else 'unknown')}")
        late = time.monotonic() - started > pending_seconds
        if waits and (late or (trouble is not None and trouble.hopeless)):
            raise _taken_back(run, trouble, seconds=time.monotonic() - started, place=place, say=say)
        time.sleep(poll_seconds)


def _trouble(prefect: SyncPrefectClient, run: FlowRun, place: Cluster | None, say: _Once) -> Trouble | None:
    """Return why a job has not started."""
    job = _job_of(run)
    if job is None:
        pool = prefect.read_work_pool(run.work_pool_name or settings().work_pool)
        if pool.status is not None and pool.status.value != "READY":
            return Trouble(
                reason="no worker",
                message=f"no worker of pool {pool.name} is there to take it",
                remedy="look after the worker's Deployment: kubectl get deployments",
            )
        return None
    if place is None:
        return None
    try:
        return trouble_of_job(place, job)
    except (NotAllowed, Unavailable) as error:
        say(f"why job {job} waits cannot be read: {error}")
        return None


def _taken_back(
    run: FlowRun, trouble: Trouble | None, *, seconds: float, place: Cluster | None, say: _Once
) -> JobNotStarted:
    """Cancel a job that has not started, delete what the worker made of it, and return the error that says why.

    Prefect's worker deletes a Job only while it is submitting it, so the one who waits does it here.
    """
    said = str(trouble or "it did not start in time")
    with _explained(f"cancel job {run.name}"), get_client(sync_client=True) as prefect:
        prefect.set_flow_run_state(run.id, Cancelled(message=said), force=True)
    left, job = "", _job_of(run)
    if job is not None:
        try:
            if place is None:
                raise InvalidValue("the cluster cannot be reached from here")
            delete_job(place, job)
        except (InvalidValue, NotAllowed, Unavailable) as error:
            say(f"job {job} could not be deleted: {error}")
            left = f"; its Job is still there: kubectl delete job {job}"
    return JobNotStarted(
        f"the job has not started after {seconds:.0f} s and was cancelled{left}",
        step=run.name,
        expected="a running pod",
        got=trouble or "no reason is known",
        remedy=trouble.remedy if trouble else "kubectl describe job and pod tell more",
    )


def _job_of(run: FlowRun) -> str | None:
    """Return the name of the Job that the worker made of a run, or None where it has not yet."""
    return run.infrastructure_pid.rpartition(":")[2] if run.infrastructure_pid else None


def _result(run: FlowRun) -> JobResult:
    state = run.state
    if state is None:  # pragma: no cover - a final run has a state
        raise ServiceFault("Prefect tells no state", field=str(run.id))
    outcomes: dict[StateType, Literal["completed", "failed", "crashed", "cancelled"]] = {
        StateType.COMPLETED: "completed",
        StateType.FAILED: "failed",
        StateType.CANCELLED: "cancelled",
    }
    return JobResult(
        outcome=outcomes.get(state.type, "crashed"),
        message=state.message or "",
        seconds=run.total_run_time.total_seconds(),
    )


class _Once:
    """Says a sentence when it is another than the last."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last = ""

    def __call__(self, text: str) -> None:
        if self._progress is not None and text != self._last:
            self._last = text
            self._progress(text)


def _reachable_cluster(say: _Once) -> Cluster | None:
    try:
        return connect_cluster()
    except InvalidValue as error:
        say(f"why a job waits cannot be read here: {error.detail}")
        return None


@contextmanager
def _explained(action: str) -> Iterator[None]:
    """Turn what Prefect's server answers inside the block into our errors."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        refused = error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR
        kind = InvalidValue if refused else Unavailable
        raise kind(
            f"Prefect refuses: cannot {action}",
            field="job variables",
            got=error.response.text[:500],
            remedy="bring the work pool's template up to date (charts/README.md), or correct the value",
        ) from error
    except httpx.TransportError as error:
        raise Unavailable(
            f"Prefect's server did not answer: cannot {action}",
            field="PREFECT_API_URL",
            got=type(error).__name__,
            remedy="start it, or correct PREFECT_API_URL",
        ) from error
