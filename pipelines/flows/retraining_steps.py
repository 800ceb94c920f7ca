"""The steps of a retraining, each of which may be done again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.datasets.release import MATRICES, matrix_key
from pipelines.flows.new_cases import import_new_cases
from pipelines.flows.promote import bring_to_service, serves_badly, watch
from pipelines.flows.version_inputs import cohort_of, drift_since, held_out_patients, labelled_cases, training_cases
from pipelines.promotion.comparison import compare_versions
from pipelines.promotion.findings import (
    Checked,
    Committed,
    Compared,
    Done,
    Imported,
    Promoted,
    Reproduced,
    RolledOut,
    Watched,
)
from pipelines.promotion.gate import Check, Decision, judge_challenger
from pipelines.promotion.lock import Lock
from pipelines.promotion.parameters import RetrainParameters
from pipelines.promotion.record import Outcome, Recorder, list_runs
from pipelines.rollout.contract import Rollout
from pipelines.versioning.repository import Repository
from pipelines.versioning.tables import require_schema
from services.feature_store.tables import radiomics_key
from services.model_serving import registry
from services.model_serving.package import DESCRIPTION
from services.model_serving.registry import Registered
from services.shared.cohort import participants_key
from services.shared.errors import ChangedFile, GliaflowError, InvalidValue, NotFound
from services.shared.storage import Storage, open_storage

Progress = Callable[[int, int, str], None]
LOCK_FILE = "dvc.lock"


@dataclass(frozen=True)
class Retraining:
    """One run: where it works, what it is told, and what it has done."""

    storage: Storage
    repository: Repository
    parameters: RetrainParameters
    params: Path | None
    place: Rollout
    recorder: Recorder
    lock: Lock
    progress: Progress

    @property
    def champion(self) -> Registered:
        """The version that was champion when the run began."""
        return Registered(self.parameters.model, self.recorder.run.champion)

    @property
    def cohort(self) -> str:
        """The cohort that the model learns from."""
        return cohort_of(registry.load(self.storage, self.champion))

    @property
    def targets(self) -> tuple[str, ...]:
        """The DVC stages to reproduce."""
        return targets_of(self.storage, self.parameters, self.champion)


def targets_of(storage: Storage, parameters: RetrainParameters, champion: Registered) -> tuple[str, ...]:
    """Return the DVC stages that make a model: those of the parameters, else the one that has its study's name."""
    return parameters.targets or (registry.load(storage, champion).description.study,)


def workspace_of(repository: Repository) -> Storage:
    """Return the storage of this process, which must be the repository's.

    Raises
    ------
    InvalidValue
        Where the settings name another one: DVC would version one and the services use the other.
    """
    storage = open_storage()
    if storage.root != repository.storage.root:
        raise InvalidValue(
            "retraining works on the repository's own workspace",
            step="retrain",
            field="GLIAFLOW_STORAGE_ROOT",
            expected=repository.storage.root,
            got=storage.root,
            remedy="unset it and run at the top of the repository, or set it to the expected folder",
        )
    return storage


def inputs_of(work: Retraining) -> list[str]:
    """Return the keys of what a comparison rests on: both packages, the clinical table and the features."""
    made = work.recorder.run.result("reproduce")
    versions = [work.champion, *([Registered(work.champion.model, str(made["challenger"]))] if made else [])]
    tables = [participants_key(work.cohort), radiomics_key(work.cohort)]
    tables += [matrix_key(work.cohort, matrix) for matrix in MATRICES]
    return [*(f"{entry.folder}/{DESCRIPTION}" for entry in versions), *tables]


def require_same_tree(work: Retraining) -> None:
    """Check that an unfinished run goes on in the tree that it began in."""
    run = work.recorder.run
    done = run.result("commit") or run.result("check")
    if done is None or work.repository.revision() == done["revision"]:
        return
    made = run.result("reproduce")
    # Ended between the commit and its record: then the last commit holds what this run made.
    if run.result("commit") is None and made is not None and made["lock_sha256"] == _lock_sha256(work.repository):
        work.repository.require_clean()
        return
    raise ChangedFile(
        "the code has changed since the unfinished run began",
        step="retrain",
        field=run.id,
        expected=str(done["revision"])[:12],
        got=work.repository.revision()[:12],
        remedy="check that revision out and run again, or begin another run with 'gliaflow retrain --anew'",
    )


def check(work: Retraining) -> Checked:
    """Check that the run can start, and look at what there is to retrain for."""
    work.repository.require_clean()
    training_cases(work.storage, work.champion)  # without them nobody could be held out: told before hours of work
    return look(work.storage, work.repository, work.parameters, work.champion, work.params)


def look(
    storage: Storage, repository: Repository, parameters: RetrainParameters, champion: Registered, params: Path | None
) -> Checked:
    """Return what there is to retrain for: patients with an outcome, how many are new, and whether features drifted."""
    package = registry.load(storage, champion)
    labelled = len(labelled_cases(storage, package, params))
    finished = [run for run in list_runs(storage, parameters.model) if run.outcome not in (None, "abandoned")]
    last = finished[-1].result("reproduce") if finished else None
    known = int(str(last["labelled"])) if last else package.description.training.patients
    return Checked(
        revision=repository.revision(),
        labelled=labelled,
        new=max(0, labelled - known),
        drift=drift_since(storage, champion, parameters.drift, params),
    )


def pull(work: Retraining) -> Done:
    """Bring the data of the checked-out version into the workspace."""
    work.repository.pull(work.progress)
    return Done()


def import_cases(work: Retraining) -> Imported:
    """Import new cases into the model's cohort."""
    found = import_new_cases(
        work.storage,
        work.cohort,
        work.parameters.new_cases,
        allow_schema_change=work.parameters.allow_schema_change,
    )
    if found.importer is not None:
        work.repository.keep(work.cohort)  # the version of raw/, so that no stage makes it anew in its old state
    return found


def reproduce(work: Retraining) -> Reproduced:
    """Run the stages whose inputs changed, and find the version that came out."""
    start = work.recorder.run.result("check")
    if start is not None:  # whatever way cases came in by
        require_schema(work.repository, str(start["revision"]), allow_change=work.parameters.allow_schema_change)
    stages = work.repository.reproduce(work.targets, work.progress)
    versions = registry.list_versions(work.storage, work.parameters.model)
    package = registry.load(work.storage, work.champion)
    return Reproduced(
        stages=stages,
        challenger=_came_out(work, versions),
        labelled=len(labelled_cases(work.storage, package, work.params)),
        lock_sha256=_lock_sha256(work.repository),
    )


def _came_out(work: Retraining, versions: list[Registered]) -> str:
    """Return the version that the study's package is registered as; a model that came out before keeps its version."""
    study = registry.load(work.storage, work.champion).description.study
    folder = f"studies/{work.cohort}/{study}/model/package.json"
    digest = work.storage.sha256(folder)[:12]
    found = [entry.version for entry in versions if entry.version.endswith(f"-{digest}")]
    if not found:
        raise NotFound(
            "the study's package is not registered",
            step="reproduce",
            field=folder,
            expected=f"a version of {work.parameters.model} that ends in {digest}",
            got=", ".join(entry.version for entry in versions),
            remedy="name the model that the stages register in 'retrain.model', or the right 'retrain.targets'",
        )
    return found[0]


def compare(work: Retraining, challenger: Registered) -> Compared:
    """Compare what came out with the champion on patients from whom neither has learnt."""
    if challenger == work.champion:
        return Compared(comparison=None)
    patients = held_out_patients(
        work.storage,
        work.champion,
        challenger,
        horizon_months=work.parameters.horizon_months,
    )
    return Compared(
        comparison=compare_versions(patients, champion=work.champion.version, challenger=challenger.version)
    )


def decide(work: Retraining, challenger: Registered, compared: Compared) -> Decision:
    """Ask the gate."""
    if compared.comparison is None:
        return Decision(
            promote=False,
            checks=(
                Check(name="another model", passed=False, expected="a version other than the champion", got="the same"),
            ),
        )
    return judge_challenger(
        compared.comparison,
        registry.load(work.storage, work.champion).description,
        registry.load(work.storage, challenger).description,
        thresholds=work.parameters.gate,
        earlier=(_not_taken_back(work, challenger),),
    )


def _not_taken_back(work: Retraining, challenger: Registered) -> Check:
    """Return whether the version was never taken out of service: a run does not undo what a person or a trial did."""
    took = [
        f"rolled back from on {change.at:%Y-%m-%d}: {change.reason}"
        for change in registry.history(work.storage, challenger.model)
        if change.action == "rolled back" and change.previous == challenger.version
    ]
    for run in list_runs(work.storage, challenger.model):
        made = run.result("reproduce")
        if run.outcome == "rolled back" and made is not None and made["challenger"] == challenger.version:
            took.append(f"did not serve well in run {run.id}")
    return Check(
        name="never taken out of service",
        passed=not took,
        expected="a version that was not rolled back from; 'gliaflow promote' is the way back for one that was",
        got="; ".join(took) or "none",
    )


def push(work: Retraining) -> Done:
    """Send data and models to the remote."""
    work.repository.push(work.progress)
    return Done()


def commit(work: Retraining, challenger: Registered) -> Committed:
    """Commit the hashes of what the run made."""
    run = work.recorder.run
    made = [stage.name for stage in work.repository.stages() if stage.name.endswith(".dvc")]
    message = f"Retrained {challenger.model}: {challenger.version}\n\nRun {run.id}, {run.trigger}."
    return Committed(revision=work.repository.commit(message, [LOCK_FILE, *made]))


def tag(work: Retraining, challenger: Registered, decision: Decision) -> Done:
    """Name the revision after the version, so that it can be rebuilt."""
    work.repository.tag(f"model/{challenger.model}/{challenger.version}", f"Passed the gate: {decision.reason}")
    return Done()


def register(work: Retraining, challenger: Registered) -> Done:
    """Make the version its model's challenger."""
    registry.challenge(work.storage, challenger)
    return Done()


def roll_out(work: Retraining, challenger: Registered) -> RolledOut:
    """Bring the challenger to service, on trial."""
    before = work.place.current()
    if before == challenger.version:  # asked for before this step was ended half-way
        before = work.champion.version
    bring_to_service(work.place, challenger, work.parameters.serving)
    return RolledOut(version=challenger.version, before=before)


def watch_trial(work: Retraining, challenger: Registered) -> Watched:
    """Watch the challenger serve; bad figures are an error."""
    found = watch(work.place, work.parameters.serving)
    if found.faults:
        raise serves_badly(challenger, found)
    return found


def go_back(work: Retraining, error: GliaflowError) -> None:
    """Let what served before serve again, and close the run."""
    work.place.undo()
    registry.dismiss(work.storage, work.parameters.model)
    outcome: Outcome = "rolled back"
    work.recorder.finish(outcome, error.detail, problem=error.to_problem())


def promote(work: Retraining, challenger: Registered, reason: str) -> Promoted:
    """Make the challenger champion."""
    registry.promote(work.storage, challenger, reason=reason, run=work.recorder.run.id, at=work.recorder.run.began)
    return Promoted(champion=challenger.version, reason=reason)


def _lock_sha256(repository: Repository) -> str:
    path = repository.root / LOCK_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
