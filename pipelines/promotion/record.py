"""What a retraining has done: ``retraining/<run>/run.json``, written anew after each step.

A step that stands there is done and is not done again: a run that was ended between two steps goes on after the last
one. Steps are idempotent, so that one that was ended half-way may be repeated.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Literal, TypeVar, get_args

from pydantic import Field, ValidationError

from services.shared.contracts import Contract
from services.shared.errors import GliaflowError, Problem, UnreadableFile
from services.shared.manifest import Manifest, package_versions
from services.shared.storage import Storage

ROOT = "retraining"
Outcome = Literal["promoted", "kept", "unchanged", "rolled back", "abandoned"]
"""Kept: the gate refused the challenger. Unchanged: there is none, because the same model came out."""

Step = Literal[
    "check", "pull", "import", "reproduce", "compare", "decide", "push", "commit", "tag",
    "register", "roll out", "watch", "promote",
]  # fmt: skip
STEPS: tuple[Step, ...] = get_args(Step)
_RUN = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9_-]+$")

Result = TypeVar("Result", bound=Contract)


class StepRecord(Contract):
    """A finished step and what it found."""

    step: Step
    finished: datetime
    seconds: float
    result: dict[str, object]


class Run(Contract):
    """A retraining so far."""

    id: str
    model: str
    began: datetime
    trigger: str
    champion: str = Field(description="Version that was champion when the run began")
    steps: tuple[StepRecord, ...] = ()
    outcome: Outcome | None = Field(None, description="None while the run is unfinished")
    reason: str | None = None
    problem: Problem | None = Field(None, description="What stopped the run last; it goes on once that is put right")

    @property
    def folder(self) -> str:
        """Where everything about the run stands."""
        return f"{ROOT}/{self.id}"

    def result(self, step: Step) -> dict[str, object] | None:
        """Return what a step found, or None where it is not done."""
        return next((record.result for record in self.steps if record.step == step), None)


def run_id(model: str, began: datetime) -> str:
    """Return the name of a run: its moment, to the second, and its model."""
    return f"{began:%Y%m%dT%H%M%SZ}-{model}"


def list_runs(storage: Storage, model: str | None = None) -> tuple[Run, ...]:
    """Return the recorded runs, oldest first.

    Raises
    ------
    UnreadableFile
        Where a record cannot be read.
    """
    runs = [read_run(storage, name) for name in storage.folders(ROOT) if _RUN.match(name)]
    return tuple(run for run in runs if run is not None and model in (None, run.model))


def read_run(storage: Storage, name: str) -> Run | None:
    """Return a run's record, or None where it has none yet."""
    key = f"{ROOT}/{name}/run.json"
    if not storage.exists(key):
        return None
    try:
        return Run.model_validate_json(storage.read_bytes(key))
    except ValidationError as error:
        raise UnreadableFile(
            "the record of a retraining cannot be read",
            step="retrain",
            field=key,
            expected="a record of this release",
            got=str(error.errors(include_input=False, include_url=False)[0]["msg"]),
            remedy="remove the folder of that run; what it made stays",
        ) from None


def unfinished_run(storage: Storage, model: str) -> Run | None:
    """Return the newest run of a model if it is not finished."""
    runs = list_runs(storage, model)
    return runs[-1] if runs and runs[-1].outcome is None else None


def write_run_manifest(
    storage: Storage, run: Run, *, parameters: Contract, inputs: Iterable[str], outputs: Iterable[str]
) -> str:
    """Write the manifest of a finished run, as every step has one, and return its key.

    Parameters
    ----------
    parameters
        What the run was told.
    inputs, outputs
        Storage keys of what it read and wrote; those that are not there are left out.
    """

    def hashes(keys: Iterable[str]) -> dict[str, str]:
        return {key: storage.sha256(key) for key in sorted(keys) if storage.exists(key)}

    checked = run.result("commit") or run.result("check") or {}
    manifest = Manifest(
        step="retrain",
        version="1",
        parameters=parameters.model_dump(mode="json"),
        packages=package_versions("dvc", "gliaflow", "numpy", "prefect", "scikit-learn", "scipy"),
        inputs=hashes(inputs),
        outputs=hashes(outputs),
        seconds=round(sum(record.seconds for record in run.steps), 3),
        notes=[f"{run.outcome}: {run.reason}", f"revision {checked.get('revision', 'unknown')}"],
    )
    key = f"{run.folder}/manifest.json"
    storage.write_text(key, manifest.model_dump_json(indent=2) + "\n")
    return key


class Recorder:
    """Does the steps of a run, each once, and writes down what they found."""

    def __init__(self, storage: Storage, run: Run, *, clock: Callable[[], datetime]) -> None:
        self._storage, self.run, self._clock = storage, run, clock

    def begin(self) -> None:
        """Write the run down."""
        self._write()

    def do(self, step: Step, compute: Callable[[], Result], kind: type[Result]) -> Result:
        """Return what a step finds, from the record where the step is done.

        Raises
        ------
        GliaflowError
            What the step raises; the record names it, and the run can go on from here.
        """
        known = self.run.result(step)
        if known is not None:
            return kind.model_validate(known)
        started = time.perf_counter()
        try:
            found = compute()
        except GliaflowError as error:
            error.with_context(step=step)
            self._write(problem=error.to_problem())
            raise
        record = StepRecord(
            step=step,
            finished=self._clock(),
            seconds=round(time.perf_counter() - started, 3),
            result=found.model_dump(mode="json"),
        )
        self._write(steps=(*self.run.steps, record), problem=None)
        return found

    def finish(self, outcome: Outcome, reason: str, *, problem: Problem | None = None) -> None:
        """Close the run."""
        self._write(outcome=outcome, reason=reason, problem=problem)

    def _write(self, **changes: object) -> None:
        self.run = self.run.model_copy(update=changes)
        self._storage.write_text(f"{self.run.folder}/run.json", self.run.model_dump_json(indent=2) + "\n")
