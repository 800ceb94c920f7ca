"""Train the network that outlines the FLAIR abnormality on slices, and judge it on patients that it never saw.

Patient-wise cross-validation, then one network of all patients, all with the same schedule: there is nothing to tune,
so no patient is set aside for tuning. Every epoch draws its order and its variation from (seed, epoch) alone: a
training that was killed goes on after its last whole epoch and ends in the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListOf
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from pipelines.training.live import live_figures
from pipelines.training.processes import is_first_process, wait_for_all
from pipelines.training.slice_data import SliceStore, fill_store, patient_folds, slice_inputs, usable_cases
from pipelines.training.slice_fit import SliceSchedule, fit_slices
from pipelines.training.slice_judgement import judge_network, write_figures
from services.segmentation.contracts import DEFAULT_ABNORMALITY_MODEL
from services.segmentation.slice_network import SliceNetworkSpec
from services.shared.contracts import CaseRef, Contract, Key
from services.shared.device import choose_device, torch_threads
from services.shared.manifest import Manifest, run_step
from services.shared.storage import Storage
from services.shared.trained_network import card_key, read_card, save_network, weights_key

STEP = "train FLAIR abnormality"
VERSION = "1"

Progress = Callable[[int, int, str], None]


class SliceTrainParameters(Contract):
    """How the slice network is trained; the defaults take an hour or two of two processor cores for 80 patients."""

    width: Annotated[int, Field(ge=8, le=128, multiple_of=8)] = Field(16, description="Kernels of the first level")
    side: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = Field(128, description="Side of a slice, pixels")
    epochs: Annotated[int, Field(ge=1)] = Field(30, description="Passes over the slices")
    batch: Annotated[int, Field(ge=1)] = Field(16, description="Slices of a step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(3e-3, description="Largest rate of the one-cycle schedule")
    drop_sequence: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="How often T1 or T1c is left out of a slice, so that the network can do without"
    )
    folds: Annotated[int, Field(ge=0, le=20)] = Field(5, description="Of the cross-validation by patient; 0: none")


class SliceTrainResult(Contract):
    """What came of a training. Dice and HD95 are of patients that the judged networks had not seen."""

    model: Key
    cached: bool
    cases: int
    left_out: dict[str, str] = Field(description="Reason by case")
    dice_mean: float | None
    dice_median: float | None
    hd95_mm_median: float | None
    weights_sha256: str
    device: str
    seconds: float


def train_slices(
    storage: Storage,
    cases: ListOf[CaseRef],
    *,
    parameters: SliceTrainParameters,
    seed: int,
    model: str = DEFAULT_ABNORMALITY_MODEL,
    threads: int = 1,
    progress: Progress | None = None,
    live: Path | None = None,
) -> SliceTrainResult:
    """Cross-validate by patient, train on all of them, and write network and figures below ``model``.

    Parameters
    ----------
    cases
        Imported cases; those without FLAIR or without a filled mask are left out and named.
    seed
        Decides folds, first weights, order and variation. On a processor the same seed, cases and number of threads
        give the same weights, whether or not the training was interrupted.
    threads
        Processor cores.
    progress
        Called with epochs done and in all, over every fold, and what is being done.
    live
        Folder that DVCLive writes each epoch's loss to while the training runs, each network in its own.

    Raises
    ------
    TooFewCases
        Where there are fewer usable patients than folds, or fewer than two.
    InvalidValue
        Where the loss stops being finite.
    """
    usable, left_out = usable_cases(storage, cases, folds=max(parameters.folds, 2))
    spec = SliceNetworkSpec(width=parameters.width, side=parameters.side)
    fold = patient_folds(len(usable), folds=parameters.folds, seed=seed) if parameters.folds else np.array([])
    count = _EpochCounter(progress, epochs=parameters.epochs, trainings=parameters.folds + 1)
    with SliceStore(spec) as store, torch_threads(threads):
        filled = False

        def fill() -> SliceStore:
            nonlocal filled
            if not filled:
                fill_store(store, storage, usable)
                filled = True
            return store

        def train(folder: str, its: ListOf[CaseRef], number: int, name: str) -> tuple[Manifest, bool]:
            told, place = count.step(number), live and live / name
            return _train_network(storage, fill, folder, its, parameters, seed=seed, report=told, live=place)

        tables = []
        for k in range(parameters.folds):
            folder = f"{model}/folds/{k + 1}"
            train(folder, [case for case, its in zip(usable, fold, strict=True) if its != k], k, f"fold_{k + 1}")
            unseen = [case for case, its in zip(usable, fold, strict=True) if its == k]
            tables.append(judge_network(storage, folder, unseen))
        manifest, cached = train(model, usable, parameters.folds, "final")
    figures = write_figures(storage, model, tables)
    return SliceTrainResult(
        model=model,
        cached=cached,
        cases=len(usable),
        left_out=left_out,
        weights_sha256=read_card(storage, model, SliceNetworkSpec).weights_sha256,
        device=manifest.device,
        seconds=manifest.seconds,
        **{name: figures.get(name) for name in ("dice_mean", "dice_median", "hd95_mm_median")},
    )


class _EpochCounter:
    """Counts epochs over all trainings; one that is up to date is counted as a whole."""

    def __init__(self, progress: Progress | None, *, epochs: int, trainings: int) -> None:
        self._progress, self._epochs, self._total = progress, epochs, epochs * trainings

    def step(self, training: int) -> Callable[[int, float], None]:
        def report(epoch: int, loss: float) -> None:
            if self._progress is not None:
                done = training * self._epochs + epoch
                self._progress(done, self._total, f"loss {loss:.3f}")

        return report


def _schedule(parameters: SliceTrainParameters) -> SliceSchedule:
    return SliceSchedule(
        epochs=parameters.epochs,
        batch=parameters.batch,
        learning_rate=parameters.learning_rate,
        drop_sequence=parameters.drop_sequence,
    )


def _train_network(
    storage: Storage,
    fill: Callable[[], SliceStore],
    folder: str,
    cases: ListOf[CaseRef],
    parameters: SliceTrainParameters,
    *,
    seed: int,
    report: Callable[[int, float], None],
    live: Path | None,
) -> tuple[Manifest, bool]:
    """Train a network of some cases and write it below a folder; do nothing where it is up to date."""

    def compute() -> list[str]:
        store = fill()
        with live_figures(live) as log:

            def tell(epoch: int, loss: float) -> None:
                log(epoch, {"training_loss": loss})
                report(epoch, loss)

            state = fit_slices(storage, store, cases, folder, schedule=_schedule(parameters), seed=seed, report=tell)
        if is_first_process():
            training: dict[str, float | int | str] = {"cases": len(cases), "epochs": parameters.epochs, "seed": seed}
            save_network(storage, folder, store.spec, state, training=training)
        wait_for_all()
        return [card_key(folder), weights_key(folder)]

    return run_step(
        storage,
        f"{folder}/manifest.json",
        step=STEP,
        step_version=VERSION,
        case=None,
        inputs=[key for case in cases for key in slice_inputs(storage, case)],
        parameters=parameters.model_dump(mode="json", exclude={"folds"}) | {"seed": seed},
        packages=["lightning", "monai", "numpy", "torch"],
        compute=compute,
        device=str(choose_device()),
    )
