"""Train the network that outlines the FLAIR abnormality on slices, and judge it on patients that it never saw.

Patient-wise cross-validation, then one network of all patients, all with the same schedule: there is nothing to tune,
so no patient is set aside for tuning. Every epoch draws its order and its variation from (seed, epoch) alone: a
training that was killed goes on after its last whole epoch and ends in the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from pipelines.training.live import live_figures
from pipelines.training.processes import is_first_process, wait_for_all
from pipelines.training.slice_data import SliceStore, fill_store, patient_folds, usable_cases
from pipelines.training.slice_fit import SliceSchedule, fit_slices
from services.segmentation.abnormality import SEQUENCES, hausdorff_95, read_mask, read_sequences
from services.segmentation.contracts import DEFAULT_ABNORMALITY_MODEL
from services.segmentation.regions import dice
from services.segmentation.slice_network import (
    SliceNetworkSpec,
    build_slice_network,
    slice_probabilities,
    stack_slices,
)
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef, Contract, Key
from services.shared.device import choose_device, torch_threads
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.trained_network import card_key, load_network, read_card, save_network, weights_key

STEP = "train FLAIR abnormality"
VERSION = "1"
THRESHOLD = 0.5

Progress = Callable[[int, int, str], None]


class SliceTrainParameters(Contract):
    """How the slice network is trained; the defaults take an hour or two of two processor cores for 80 patients."""

    width: Annotated[int, Field(ge=4, le=128)] = Field(16, description="Kernels of the first level")
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

        for k in range(parameters.folds):
            train = [case for case, its in zip(usable, fold, strict=True) if its != k]
            test = [case for case, its in zip(usable, fold, strict=True) if its == k]
            place = live and live / f"fold_{k + 1}"
            _train_fold(storage, fill, f"{model}/folds/{k + 1}", train, test, parameters, seed, count.step(k), place)
        inputs = [key for case in usable for key in _inputs(storage, case)]
        inputs += [f"{model}/folds/{k + 1}/cases.csv" for k in range(parameters.folds)]
        manifest, cached = run_step(
            storage,
            f"{model}/manifest.json",
            step=STEP,
            step_version=VERSION,
            case=None,
            inputs=inputs,
            parameters=parameters.model_dump(mode="json") | {"seed": seed},
            packages=["lightning", "monai", "numpy", "torch"],
            compute=lambda: _write_final(
                storage, fill(), model, usable, parameters, seed, count.step(parameters.folds), live and live / "final"
            ),
            device=str(choose_device()),
        )
    metrics = json.loads(storage.read_text(f"{model}/metrics.json"))
    return SliceTrainResult(
        model=model,
        cached=cached,
        cases=len(usable),
        left_out=left_out,
        weights_sha256=read_card(storage, model, SliceNetworkSpec).weights_sha256,
        device=manifest.device,
        seconds=manifest.seconds,
        **{name: metrics.get(name) for name in ("dice_mean", "dice_median", "hd95_mm_median")},
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


def _inputs(storage: Storage, case: CaseRef) -> list[str]:
    keys = CaseKeys(case)
    images = [keys.raw_image(sequence) for sequence in SEQUENCES if storage.exists(keys.raw_image(sequence))]
    return [*images, keys.raw_segmentation]


def _schedule(parameters: SliceTrainParameters) -> SliceSchedule:
    return SliceSchedule(
        epochs=parameters.epochs,
        batch=parameters.batch,
        learning_rate=parameters.learning_rate,
        drop_sequence=parameters.drop_sequence,
    )


def _train_fold(
    storage: Storage,
    fill: Callable[[], SliceStore],
    folder: str,
    train: ListOf[CaseRef],
    test: ListOf[CaseRef],
    parameters: SliceTrainParameters,
    seed: int,
    report: Callable[[int, float], None],
    live: Path | None,
) -> None:
    """Train without a fold's patients and judge its network on them."""

    def compute() -> list[str]:
        store = fill()
        state = _fit(storage, store, train, folder, parameters, seed, report, live)
        if is_first_process():
            training: dict[str, float | int | str] = {"cases": len(train), "epochs": parameters.epochs, "seed": seed}
            save_network(storage, folder, store.spec, state, training=training)
            rows = [judge_case(storage, folder, case) for case in test]
            table = pd.DataFrame(rows).to_csv(index=False, float_format="%.10g", lineterminator="\n")
            storage.write_text(f"{folder}/cases.csv", table)
        wait_for_all()
        return [card_key(folder), weights_key(folder), f"{folder}/cases.csv"]

    run_step(
        storage,
        f"{folder}/manifest.json",
        step=f"{STEP}, fold",
        step_version=VERSION,
        case=None,
        inputs=[key for case in (*train, *test) for key in _inputs(storage, case)],
        parameters=parameters.model_dump(mode="json") | {"seed": seed, "held_out": [str(case) for case in test]},
        packages=["lightning", "monai", "numpy", "torch"],
        compute=compute,
        device=str(choose_device()),
    )


def _fit(
    storage: Storage,
    store: SliceStore,
    cases: ListOf[CaseRef],
    folder: str,
    parameters: SliceTrainParameters,
    seed: int,
    report: Callable[[int, float], None],
    live: Path | None,
) -> dict[str, torch.Tensor]:
    """Return the weights of a network of some cases, its figures told and logged on the way."""
    with live_figures(live) as log:

        def tell(epoch: int, loss: float) -> None:
            log(epoch, {"training_loss": loss})
            report(epoch, loss)

        return fit_slices(storage, store, cases, folder, schedule=_schedule(parameters), seed=seed, report=tell)


def judge_case(storage: Storage, model: str, case: CaseRef) -> dict[str, object]:
    """Return Dice and HD95 of a network on one case with a mask, as the service would outline it."""
    card, network = load_network(storage, model, SliceNetworkSpec, build_slice_network)
    keys = CaseKeys(case)
    volumes, flair = read_sequences(storage, keys)
    device = choose_device()
    found = slice_probabilities(
        network.to(device), stack_slices(volumes, card.spec), volumes[Sequence.FLAIR].shape[1:], device=device
    )
    mask, reference = found >= THRESHOLD, read_mask(storage, keys, flair)
    if reference is None:
        raise AssertionError("a case without a mask was set aside for judging")
    return {
        "case_id": case.id,
        "slices": len(mask),
        "dice": dice(mask, reference),
        "hd95_mm": hausdorff_95(mask, reference, flair.GetSpacing()),
    }


def _write_final(
    storage: Storage,
    store: SliceStore,
    model: str,
    cases: ListOf[CaseRef],
    parameters: SliceTrainParameters,
    seed: int,
    report: Callable[[int, float], None],
    live: Path | None,
) -> list[str]:
    state = _fit(storage, store, cases, model, parameters, seed, report, live)
    tables = []
    for k in range(parameters.folds):
        with storage.local(f"{model}/folds/{k + 1}/cases.csv") as path:
            tables.append(pd.read_csv(path, dtype={"case_id": str}).assign(fold=k + 1))
    metrics: dict[str, float | int] = {"cases": len(cases), "slices": store.slices(cases)}
    outputs = [card_key(model), weights_key(model), f"{model}/metrics.json"]
    if tables:
        table = pd.concat(tables, ignore_index=True)
        metrics |= {
            "dice_mean": float(table["dice"].mean()),
            "dice_median": float(table["dice"].median()),
            "hd95_mm_mean": float(table["hd95_mm"].mean()),
            "hd95_mm_median": float(table["hd95_mm"].median()),
            "cases_without_overlap": int((table["dice"] == 0).sum()),
        }
        outputs.append(f"{model}/cross_validation.csv")
    training: dict[str, float | int | str] = {"cases": len(cases), "epochs": parameters.epochs, "seed": seed}
    training |= {name: value for name, value in metrics.items() if name.startswith("dice")}
    if is_first_process():
        save_network(storage, model, store.spec, state, training=training)
        storage.write_text(f"{model}/metrics.json", json.dumps(metrics, indent=2) + "\n")
        if tables:
            text = table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
            storage.write_text(f"{model}/cross_validation.csv", text)
    wait_for_all()
    return outputs
