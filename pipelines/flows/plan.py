"""What a retraining would do now, found out without changing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.flows.retraining_steps import look, targets_of, workspace_of
from pipelines.flows.version_inputs import training_cases
from pipelines.parameters import read_section
from pipelines.promotion.lock import read_lease, utc_now
from pipelines.promotion.parameters import RetrainParameters
from pipelines.promotion.record import unfinished_run
from pipelines.versioning.repository import Repository, StagePlan
from services.model_serving import registry
from services.shared.errors import GliaflowError, Problem


@dataclass(frozen=True)
class RetrainPlan:
    """What a retraining would start from and do.

    Parameters
    ----------
    unfinished, done
        Run that it would go on with, and that run's finished steps.
    labelled, new
        Patients with an outcome that are not held out, and those of them that are new.
    drift, importing
        A sentence each.
    stages
        What ``dvc repro`` would run, and why.
    obstacles
        What would stop it at once.
    """

    model: str
    champion: str
    unfinished: str | None
    done: tuple[str, ...]
    labelled: int
    new: int
    drift: str
    importing: str
    stages: tuple[StagePlan, ...]
    obstacles: tuple[Problem, ...]


def plan_retraining(params: Path | None = None, folder: Path | None = None) -> RetrainPlan:
    """Return what a retraining would do now; nothing is fetched, imported or computed.

    Raises
    ------
    NotFound, InvalidValue
        Where there is no repository, or no model to keep fresh.
    """
    repository = Repository.open(folder)
    path = params or repository.root / "params.yaml"
    parameters = read_section(path, "retrain", RetrainParameters)
    storage = workspace_of(repository)
    champion = registry.resolve(storage, f"{parameters.model}/{registry.CHAMPION}")
    found = look(storage, repository, parameters, champion, path)
    run = unfinished_run(storage, parameters.model)
    moved = found.drift.drifted
    source = parameters.new_cases
    obstacles: list[Problem] = []
    if run is None:
        try:
            repository.require_clean()
            training_cases(storage, champion)
        except GliaflowError as error:
            obstacles.append(error.to_problem())
    lease = read_lease(storage)
    return RetrainPlan(
        model=champion.model,
        champion=champion.version,
        unfinished=None if run is None else run.id,
        done=() if run is None else tuple(record.step for record in run.steps),
        labelled=found.labelled,
        new=found.new,
        drift=f"{len(moved)} features drifted" if found.drift.features else "too few new patients to look for drift",
        importing="nothing is imported" if source is None else f"imports {source.importer} from {source.source}",
        stages=repository.plan(targets_of(storage, parameters, champion)),
        obstacles=(
            *obstacles,
            *(
                [
                    GliaflowError(
                        "a retraining, promotion or rollback is running",
                        step="lock",
                        got=lease.owner,
                        remedy="wait for it",
                    ).to_problem()
                ]
                if lease is not None and lease.is_held(utc_now())
                else []
            ),
        ),
    )
