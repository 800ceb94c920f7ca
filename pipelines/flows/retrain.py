"""Keep a model fresh: new data in, a challenger out, and the champion's place for it only if it earns it.

``dvc pull`` → import new cases → ``dvc repro`` → compare with the champion on held-out patients → gate → ``dvc push``,
commit, tag → register → roll out → watch → promote, or go back. Each step is written down once it is done, so that a
run that was ended anywhere goes on there; one runs at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from pipelines.flows import retraining_steps as steps
from pipelines.flows.promote import place_of
from pipelines.flows.retraining_steps import Progress, Retraining, workspace_of
from pipelines.parameters import read_section
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
from pipelines.promotion.gate import Decision
from pipelines.promotion.lock import hold_lock, utc_now
from pipelines.promotion.parameters import RetrainParameters
from pipelines.promotion.record import STEPS, Recorder, Result, Run, Step, run_id, unfinished_run, write_run_manifest
from pipelines.reporting.retraining import write_retraining_report
from pipelines.versioning.repository import Repository
from services.model_serving import registry
from services.model_serving.registry import Registered
from services.shared.errors import GliaflowError, NotFound, Unavailable
from services.shared.storage import Storage

RETRY_DELAYS_S = (2.0, 10.0, 60.0)
"""Before a step is tried again, where what it needs did not answer."""


def _is_transient(_: Task[..., object], __: TaskRun, state: State[object]) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unavailable)


@task(retry_condition_fn=_is_transient, cache_policy=NO_CACHE, persist_result=False)
def _do(recorder: Recorder, step: Step, compute: Callable[[], Result], kind: type[Result]) -> Result:
    return recorder.do(step, compute, kind)


def do(work: Retraining, step: Step, compute: Callable[[], Result], kind: type[Result]) -> Result:
    """Do a step as a task, unless it is done."""
    work.lock.confirm()
    work.progress(STEPS.index(step), len(STEPS), step)
    run = _do.with_options(name=step, retries=len(RETRY_DELAYS_S), retry_delay_seconds=list(RETRY_DELAYS_S))
    found: Result = run(work.recorder, step, compute, kind)
    return found


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
            inputs=steps.inputs_of(work),
            outputs=[page, f"{work.recorder.run.folder}/run.json"],
        )
        return work.recorder.run


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
    steps.require_same_tree(work)
    checked = do(work, "check", lambda: steps.check(work), Checked)
    do(work, "pull", lambda: steps.pull(work), Done)
    do(work, "import", lambda: steps.import_cases(work), Imported)
    made = do(work, "reproduce", lambda: steps.reproduce(work), Reproduced)
    challenger = Registered(work.parameters.model, made.challenger)
    compared = do(work, "compare", lambda: steps.compare(work, challenger), Compared)
    decision = do(work, "decide", lambda: steps.decide(work, challenger, compared), Decision)
    do(work, "push", lambda: steps.push(work), Done)
    do(work, "commit", lambda: steps.commit(work, challenger), Committed)
    if compared.comparison is None:
        ran = f"{len(made.stages)} stages ran" if made.stages else "no stage had to run"
        work.recorder.finish("unchanged", f"{ran}, {checked.new} new patients: the champion came out again")
    elif not decision.promote:
        work.recorder.finish("kept", decision.reason)
    else:
        do(work, "tag", lambda: steps.tag(work, challenger, decision), Done)
        do(work, "register", lambda: steps.register(work, challenger), Done)
        _serve(work, challenger, decision)


def _serve(work: Retraining, challenger: Registered, decision: Decision) -> None:
    """Roll the challenger out, watch it, and promote it or go back."""
    try:
        do(work, "roll out", lambda: steps.roll_out(work, challenger), RolledOut)
        do(work, "watch", lambda: steps.watch_trial(work, challenger), Watched)
    except GliaflowError as error:
        steps.go_back(work, error)
        return
    do(work, "promote", lambda: steps.promote(work, challenger, decision.reason), Promoted)
    work.recorder.finish("promoted", f"{decision.reason} and served well")
