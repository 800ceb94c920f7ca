"""Deployments on a Prefect server: retraining on a cron, and a watch that starts it on new cases or on drift."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkPool
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from pipelines.flows.retrain import retrain
from pipelines.flows.watch import RETRAIN, watch_for_reasons
from pipelines.versioning.repository import Repository
from services.shared.errors import InvalidValue, NotFound

NAME = RETRAIN.partition("/")[2]


@dataclass(frozen=True)
class Schedule:
    """When a repository's model is retrained.

    Parameters
    ----------
    cron
        Five fields; None: never by the clock.
    timezone
        In which the cron is meant.
    new_cases, drift
        Which reasons start a retraining between.
    min_new_cases
        How many new labelled cases are a reason; None leaves it to the parameters.
    every
        How often reasons are looked for.
    """

    cron: str | None
    timezone: str
    new_cases: bool
    drift: bool
    every: timedelta
    min_new_cases: int | None = None


def create_deployments(folder: Path, schedule: Schedule, *, work_pool: str, params: Path | None = None) -> list[str]:
    """Create or renew the deployments on the server that ``PREFECT_API_URL`` names, and return their names.

    A worker of the pool must run where the repository is: ``prefect worker start --pool NAME``.

    Raises
    ------
    InvalidValue
        Where no server is named, or the cron is none.
    NotFound
        Where the server has no such work pool.
    """
    if PREFECT_API_URL.value() is None:
        raise InvalidValue(
            "no Prefect server is named, and a schedule without one would never come due",
            step="schedule",
            field="PREFECT_API_URL",
            expected="such as http://127.0.0.1:4200/api",
            remedy="run 'prefect server start' and set it; 'docker compose' and the charts bring a server along",
        )
    repository = Repository.open(folder)
    pool = _read_pool(work_pool)
    given: dict[str, object] = {
        "folder": str(repository.root),
        "params": None if params is None else str(params.resolve()),
    }
    # A process worker starts in a folder of its own; in a container the image's working folder is the repository.
    variables = {"working_dir": str(repository.root)} if pool.type == "process" else {}
    try:
        clock = [] if schedule.cron is None else [Cron(schedule.cron, timezone=schedule.timezone)]
    except ValueError as error:
        raise InvalidValue(
            "the schedule is not a cron", step="schedule", field="--cron", expected="such as '0 3 * * 1'", got=error
        ) from error
    made = [
        RunnerDeployment.from_flow(
            retrain,
            name=NAME,
            schedules=clock,
            parameters={**given, "trigger": "by the clock" if clock else "by hand"},
            concurrency_limit=1,
            work_pool_name=work_pool,
            job_variables=variables,
            entrypoint_type=EntrypointType.MODULE_PATH,
            description="Retrain the model, compare, promote or go back.",
            enforce_parameter_schema=False,
        )
    ]
    if schedule.new_cases or schedule.drift:
        made.append(
            RunnerDeployment.from_flow(
                watch_for_reasons,
                name=NAME,
                schedules=[Interval(schedule.every)],
                parameters={
                    **given,
                    "new_cases": schedule.new_cases,
                    "min_new_cases": schedule.min_new_cases,
                    "drift": schedule.drift,
                },
                work_pool_name=work_pool,
                job_variables=variables,
                entrypoint_type=EntrypointType.MODULE_PATH,
                description="Look for new labelled cases and for drift.",
                enforce_parameter_schema=False,
            )
        )
    for deployment in made:
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in made]


def _read_pool(name: str) -> WorkPool:
    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(name)
        except ObjectNotFound:
            known = ", ".join(pool.name for pool in client.read_work_pools())
            raise NotFound(
                "the Prefect server has no such work pool",
                step="schedule",
                field="--work-pool",
                expected=known or "a work pool; there is none",
                got=name,
                remedy=f"run 'prefect work-pool create {name} --type process'",
            ) from None
