"""Keep a model fresh: new data in, a challenger out, and the champion's place for it only if it earns it.

``dvc pull`` → import new cases → ``dvc repro`` → compare with the champion on held-out patients → gate → ``dvc push``,
commit, tag → register → roll out → watch → promote, or go back. Each step is written down once it is done, so that a
run that was ended anywhere goes on there; one runs at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from pipelines.datasets.release import MATRICES, matrix_key
from pipelines.flows.new_cases import import_new_cases
from pipelines.flows.promote import bring_to_service, place_of, serves_badly, watch
from pipelines.flows.version_inputs import cohort_of, drift_since, held_out_patients, labelled_cases, training_cases
from pipelines.parameters import read_section, read_value
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
from pipelines.promotion.lock import Lock, hold_lock, utc_now
from pipelines.promotion.parameters import RetrainParameters
from pipelines.promotion.record import (
    STEPS,
    Outcome,
    Recorder,
    Result,
    Run,
    Step,
    list_runs,
    run_id,
    unfinished_run,
    write_run_manifest,
)
from pipelines.reporting.retraining import write_retraining_report
from pipelines.rollout.contract import Rollout
from pipelines.versioning.repository import Repository
from services.feature_store.tables import radiomics_key
from services.model_serving import registry
from services.model_serving.package import DESCRIPTION
from services.model_serving.registry import Registered
from services.shared.cohort import participants_key
from services.shared.errors import ChangedFile, GliaflowError, InvalidValue, NotFound, Unavailable
from services.shared.storage import Storage, open_storage

Progress = Callable[[int, int, str], None]
RETRY_DELAYS_S = (2.0, 10.0, 60.0)
"""Before a step is tried again, where what it needs did not answer."""

LOCK_FILE = "dvc.lock"


@dataclass(frozen=True)
class Retraining:
    """One run: where it works, what it is told, and what it has done."""

    storage: Storage
    repository: Repository
    parameters: RetrainParameters
    params: Path | None
    seed: int
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

    def do(self, step: Step, compute: Callable[[], Result], kind: type[Result]) -> Result:
        """Do a step as a task, unless it is done."""
        self.lock.confirm()
        self.progress(STEPS.index(step), len(STEPS), step)
        run = _do.with_options(name=step, retries=len(RETRY_DELAYS_S), retry_delay_seconds=list(RETRY_DELAYS_S))
        found: Result = run(self.recorder, step, compute, kind)
        return found


def _is_transient(_: Task[..., object], __: TaskRun, state: State[object]) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unavailable)


@task(retry_condition_fn=_is_transient, cache_policy=NO_CACHE, persist_result=False)
def _do(recorder: Recorder, step: Step, compute: Callable[[], Result], kind: type[Result]) -> Result:
    return recorder.do(step, compute, kind)


@flow(name="retrain", validate_parameters=False)
def retrain(
    params: str | None = None,
    folder: str | None = None,
    trigger: str = "by hand",
    *,
    anew: bool = False,
    now: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Retrain a model where its inputs changed, and promote what came out if it passes the gate and serves well.

    Parameters
    ----------
    params
        Parameter file, whose section ``retrain`` says what to do; None takes the repository's ``params.yaml``.
    folder
        A folder in the repository; None takes the working folder.
    trigger
        What started the run, for its record.
    anew
        Close an unfinished run and begin another one, instead of going on.
    now
        ISO 8601 moment to work with in place of the clock's.
    progress
        Called with steps done, steps in all, and the step.

    Returns
    -------
    Run
        What was done and how it ended.

    Raises
    ------
    Locked
        Where a retraining, promotion or rollback runs.
    GliaflowError
        What stopped a step: the tree is dirty, a remote does not answer, columns changed, … Nothing is promoted then,
        and the next run goes on with that step.
    """
    clock = utc_now if now is None else _fixed(now)
    repository = Repository.open(None if folder is None else Path(folder))
    path = Path(params) if params is not None else repository.root / "params.yaml"
    parameters = read_section(path, "retrain", RetrainParameters)
    storage = workspace_of(repository)
    with hold_lock(storage, f"retraining of {parameters.model}", clock=clock) as lock:
        run = _begin(storage, parameters.model, trigger, clock, anew=anew)
        work = Retraining(
            storage,
            repository,
            parameters,
            path,
            read_value(path, "seed", default=0),
            place_of(storage, parameters.model, parameters),
            Recorder(storage, run, clock=clock),
            lock,
            progress or (lambda *_: None),
        )
        work.recorder.begin()
        try:
            _retrain(work)
        finally:
            page = write_retraining_report(storage, work.recorder.run)
        write_run_manifest(
            storage,
            work.recorder.run,
            parameters=parameters,
            inputs=_read_by(work),
            outputs=[page, f"{work.recorder.run.folder}/run.json"],
        )
        return work.recorder.run


def targets_of(storage: Storage, parameters: RetrainParameters, champion: Registered) -> tuple[str, ...]:
    """Return the DVC stages that make a model: those of the parameters, else the one that has its study's name."""
    return parameters.targets or (registry.load(storage, champion).description.study,)


def _read_by(work: Retraining) -> list[str]:
    """Return the keys of what a comparison rests on: both packages, the clinical table and the features."""
    made = work.recorder.run.result("reproduce")
    versions = [work.champion, *([Registered(work.champion.model, str(made["challenger"]))] if made else [])]
    tables = [participants_key(work.cohort), radiomics_key(work.cohort)]
    tables += [matrix_key(work.cohort, matrix) for matrix in MATRICES]
    return [*(f"{entry.folder}/{DESCRIPTION}" for entry in versions), *tables]


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


def _fixed(now: str) -> Callable[[], datetime]:
    moment = datetime.fromisoformat(now)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return lambda: moment


def _begin(storage: Storage, model: str, trigger: str, clock: Callable[[], datetime], *, anew: bool) -> Run:
    unfinished = unfinished_run(storage, model)
    if unfinished is not None and not anew:
        return unfinished
    if unfinished is not None:
        registry.end_trial(storage, model)
        registry.dismiss(storage, model)
        Recorder(storage, unfinished, clock=clock).finish("abandoned", "another run was begun in its place")
    champion = registry.champion(storage, model)
    if champion is None:
        raise NotFound(
            "there is no model to keep fresh",
            step="retrain",
            field="retrain.model",
            expected=", ".join(registry.list_models(storage)) or "a registered model; there is none",
            got=model,
            remedy="run 'gliaflow study' first: the first version of a model is its champion",
        )
    began = clock()
    return Run(id=run_id(model, began), model=model, began=began, trigger=trigger, champion=champion)


def _retrain(work: Retraining) -> None:
    _require_same_tree(work)
    checked = work.do("check", lambda: _check(work), Checked)
    work.do("pull", lambda: _pull(work), Done)
    work.do("import", lambda: _import(work), Imported)
    made = work.do("reproduce", lambda: _reproduce(work), Reproduced)
    challenger = Registered(work.parameters.model, made.challenger)
    compared = work.do("compare", lambda: _compare(work, challenger), Compared)
    decision = work.do("decide", lambda: _decide(work, challenger, compared), Decision)
    work.do("push", lambda: _push(work), Done)
    work.do("commit", lambda: _commit(work, challenger), Committed)
    if compared.comparison is None:
        ran = f"{len(made.stages)} stages ran" if made.stages else "no stage had to run"
        work.recorder.finish("unchanged", f"{ran}, {checked.new} new patients: the champion came out again")
    elif not decision.promote:
        work.recorder.finish("kept", decision.reason)
    else:
        work.do("tag", lambda: _tag(work, challenger, decision), Done)
        work.do("register", lambda: _register(work, challenger), Done)
        _serve(work, challenger, decision)


def _require_same_tree(work: Retraining) -> None:
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


def _check(work: Retraining) -> Checked:
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
    last = finished[-1].result("check") if finished else None
    known = int(str(last["labelled"])) if last else package.description.training.patients
    return Checked(
        revision=repository.revision(),
        labelled=labelled,
        new=max(0, labelled - known),
        drift=drift_since(storage, champion, parameters.drift),
    )


def _pull(work: Retraining) -> Done:
    work.repository.pull(work.progress)
    return Done()


def _import(work: Retraining) -> Imported:
    found = import_new_cases(
        work.storage,
        work.cohort,
        work.parameters.new_cases,
        allow_schema_change=work.parameters.allow_schema_change,
    )
    if found.importer is not None:
        # What was imported becomes the version of raw/, so that no stage makes it anew in its old state.
        raw = f"{work.repository.storage.root}/raw/{work.cohort}"
        made = [
            stage.name
            for stage in work.repository.stages()
            if any(str(work.repository.root / path) == raw for path in stage.paths)
        ]
        if made:
            work.repository.save(made)
    return found


def _reproduce(work: Retraining) -> Reproduced:
    stages = work.repository.reproduce(work.targets, work.progress)
    versions = registry.list_versions(work.storage, work.parameters.model)
    return Reproduced(stages=stages, challenger=_came_out(work, versions), lock_sha256=_lock_sha256(work.repository))


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


def _compare(work: Retraining, challenger: Registered) -> Compared:
    if challenger == work.champion:
        return Compared(comparison=None)
    patients = held_out_patients(
        work.storage,
        work.champion,
        challenger,
        horizon_months=work.parameters.horizon_months,
        seed=work.seed,
    )
    return Compared(
        comparison=compare_versions(patients, champion=work.champion.version, challenger=challenger.version)
    )


def _decide(work: Retraining, challenger: Registered, compared: Compared) -> Decision:
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
    )


def _push(work: Retraining) -> Done:
    work.repository.push(work.progress)
    return Done()


def _commit(work: Retraining, challenger: Registered) -> Committed:
    run = work.recorder.run
    made = [stage.name for stage in work.repository.stages() if stage.name.endswith(".dvc")]
    message = f"Retrained {challenger.model}: {challenger.version}\n\nRun {run.id}, {run.trigger}."
    return Committed(revision=work.repository.commit(message, [LOCK_FILE, *made]))


def _tag(work: Retraining, challenger: Registered, decision: Decision) -> Done:
    work.repository.tag(f"model/{challenger.model}/{challenger.version}", f"Passed the gate: {decision.reason}")
    return Done()


def _register(work: Retraining, challenger: Registered) -> Done:
    registry.challenge(work.storage, challenger)
    return Done()


def _serve(work: Retraining, challenger: Registered, decision: Decision) -> None:
    """Roll the challenger out, watch it, and promote it or go back."""
    try:
        work.do("roll out", lambda: _roll_out(work, challenger), RolledOut)
        watched = work.do("watch", lambda: _watch(work, challenger), Watched)
    except GliaflowError as error:
        _go_back(work, error)
        return
    told = f"{decision.reason}; served {watched.figures.requests} requests"
    work.do("promote", lambda: _promote(work, challenger, told), Promoted)
    work.recorder.finish("promoted", told)


def _roll_out(work: Retraining, challenger: Registered) -> RolledOut:
    before = work.place.current()
    bring_to_service(work.place, challenger, work.parameters.serving)
    return RolledOut(version=challenger.version, before=before)


def _watch(work: Retraining, challenger: Registered) -> Watched:
    found = watch(work.place, work.parameters.serving)
    if found.faults:
        raise serves_badly(challenger, found)
    return found


def _go_back(work: Retraining, error: GliaflowError) -> None:
    work.place.undo()
    registry.dismiss(work.storage, work.parameters.model)
    outcome: Outcome = "rolled back"
    work.recorder.finish(outcome, error.detail, problem=error.to_problem())


def _promote(work: Retraining, challenger: Registered, reason: str) -> Promoted:
    registry.promote(work.storage, challenger, reason=reason, run=work.recorder.run.id, at=work.recorder.run.began)
    return Promoted(champion=challenger.version, reason=reason)


def _lock_sha256(repository: Repository) -> str:
    path = repository.root / LOCK_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
