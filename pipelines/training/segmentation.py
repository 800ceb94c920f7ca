"""Train the segmentation network on prepared cases that an expert has segmented (Front Oncol 2022, 969907).

Dice plus cross-entropy, learning rate halved after epochs without improvement, one case a step. Cases for tuning are
set aside by patient; the weights with the best Dice on them are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from collections.abc import Sequence as ListOf
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from pipelines.training.checkpoint import Checkpoint
from pipelines.training.live import live_figures
from pipelines.training.processes import is_first_process, wait_for_all
from pipelines.training.segmentation_cases import read_case, split_for_tuning, voxel_size_mm
from pipelines.training.segmentation_crops import CaseStore
from pipelines.training.segmentation_fit import STEP, EpochFigures, SegmentationFit, fit_segmentation
from pipelines.training.segmentation_parameters import TrainParameters
from services.segmentation.contracts import DEFAULT_MODEL
from services.segmentation.network import NetworkSpec
from services.segmentation.weights import card_key, read_card, save_network, weights_key
from services.shared.cohort import CaseKeys, Region
from services.shared.contracts import CaseRef, Contract, Key
from services.shared.device import choose_device, torch_threads
from services.shared.errors import NotFound
from services.shared.manifest import fingerprint, package_versions, run_step
from services.shared.storage import Storage

VERSION = "2"
_PACKAGES = ("lightning", "monai", "numpy", "torch")

__all__ = ["EpochFigures", "TrainParameters", "TrainResult", "train_segmentation"]


class TrainResult(Contract):
    """What came of a training."""

    model: Key
    cached: bool
    training_cases: int
    tuning_cases: int
    best_epoch: int
    tuning_dice: dict[Region, float | None]
    weights_sha256: str
    device: str
    seconds: float


Progress = Callable[[EpochFigures, int], None]


def train_segmentation(
    storage: Storage,
    cases: ListOf[CaseRef],
    *,
    parameters: TrainParameters,
    seed: int,
    model: str = DEFAULT_MODEL,
    threads: int | None = None,
    progress: Progress | None = None,
    live: Path | None = None,
) -> TrainResult:
    """Train a network and write it below ``model``, whole or not at all; do nothing where it is up to date.

    Parameters
    ----------
    cases
        Prepared cases with an expert segmentation.
    seed
        Decides the split, the first weights, the order and the variation of cases. On a processor the same seed,
        cases and number of threads give the same weights, whether or not the training was interrupted.
    threads
        Processor cores; none leaves torch's setting as it is.
    progress
        Called after each epoch with its figures and the number of epochs.
    live
        Folder that DVCLive writes each epoch's figures to while the training runs.

    Raises
    ------
    TooFewCases, DuplicateId
        Where there are fewer than two cases, or one is named twice.
    MissingSequence, NotFound, InvalidMask, InvalidVolume, SpaceMismatch, UnreadableFile
        Where a case cannot be used; the error names it.
    InvalidValue
        Where the loss stops being finite, or memory does not hold a step.
    """
    learn, tune = split_for_tuning(cases, tuning_fraction=parameters.tuning_fraction, seed=seed)
    inputs = _input_keys(storage, [*learn, *tune])
    settled = parameters.model_dump(mode="json", exclude={"loaders"}) | {"seed": seed}

    def compute() -> list[str]:
        spec = NetworkSpec(
            architecture=parameters.architecture,
            width=parameters.width,
            levels=parameters.levels,
            normalisation=parameters.normalisation,
            optional=NetworkSpec().channels if parameters.drop_sequence else (),
            voxel_mm=voxel_size_mm(storage, [*learn, *tune]),
        )
        identity = fingerprint(
            STEP, VERSION, settled, package_versions(*_PACKAGES), {key: storage.sha256(key) for key in inputs}
        )
        checkpoint = Checkpoint(storage, model, identity)
        with (
            torch_threads(threads or torch.get_num_threads()),
            _read_all(storage, learn, spec) as learn_store,
            _read_all(storage, tune, spec) as tune_store,
            live_figures(live, go_on=checkpoint.exists()) as log,
        ):

            def report(figures: EpochFigures) -> None:
                known = {name: value for name, value in figures.row().items() if value is not None}
                log(int(known.pop("epoch")), known)
                if progress is not None:
                    progress(figures, parameters.epochs)

            fit = fit_segmentation(
                spec,
                learn_store,
                tune_store,
                parameters=parameters,
                seed=seed,
                checkpoint=checkpoint,
                report=report,
            )
        if is_first_process():
            _write(storage, model, spec, fit, counts=(len(learn), len(tune)), seed=seed)
        wait_for_all()
        return _output_keys(model)

    manifest, cached = run_step(
        storage,
        f"{model}/manifest.json",
        step=STEP,
        step_version=VERSION,
        case=None,
        inputs=inputs,
        parameters=settled,
        packages=_PACKAGES,
        compute=compute,
        device=str(choose_device()),
    )
    metrics = json.loads(storage.read_text(f"{model}/metrics.json"))
    return TrainResult(
        model=model,
        cached=cached,
        training_cases=len(learn),
        tuning_cases=len(tune),
        best_epoch=metrics["best_epoch"],
        tuning_dice=metrics["tuning_dice"],
        weights_sha256=read_card(storage, model).weights_sha256,
        device=manifest.device,
        seconds=manifest.seconds,
    )


def _input_keys(storage: Storage, cases: ListOf[CaseRef]) -> list[str]:
    found = []
    for case in cases:
        keys = CaseKeys(case)
        wanted = [
            keys.brain_mask,
            *(keys.preprocessed_image(channel) for channel in NetworkSpec().channels),
            keys.preprocessed_segmentation,
        ]
        for key in wanted:
            if not storage.exists(key):
                raise NotFound(
                    "a case to train on lacks a file",
                    case=str(case),
                    step=STEP,
                    field=key,
                    expected="four prepared volumes, a brain mask and an expert segmentation",
                    remedy="prepare the case, or leave it out of training",
                )
        found += wanted
    return found


@contextmanager
def _read_all(storage: Storage, cases: ListOf[CaseRef], spec: NetworkSpec) -> Iterator[CaseStore]:
    """Yield a store of some cases, read one after another."""
    with CaseStore() as store:
        for case in cases:
            store.append(read_case(storage, case, spec))
        yield store


def _output_keys(model: str) -> list[str]:
    return [card_key(model), weights_key(model), f"{model}/training.csv", f"{model}/metrics.json"]


def _write(
    storage: Storage, model: str, spec: NetworkSpec, fit: SegmentationFit, *, counts: tuple[int, int], seed: int
) -> None:
    best = fit.best
    training: dict[str, float | int | str] = {
        "cases": counts[0],
        "tuning_cases": counts[1],
        "epochs": len(fit.history),
        "best_epoch": best.epoch,
        "tuning_dice_mean": best.tuning_dice_mean,
        "seed": seed,
    }
    save_network(storage, model, spec, fit.weights, training=training)
    table = pd.DataFrame([figures.row() for figures in fit.history])
    storage.write_text(f"{model}/training.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    metrics = {
        "best_epoch": best.epoch,
        "training_cases": counts[0],
        "tuning_cases": counts[1],
        "tuning_dice_mean": best.tuning_dice_mean,
        "tuning_dice": best.tuning_dice,
    }
    storage.write_text(f"{model}/metrics.json", json.dumps(metrics, indent=2) + "\n")
