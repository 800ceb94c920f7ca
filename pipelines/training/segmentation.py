"""Train the segmentation network on prepared cases that an expert has segmented (Front Oncol 2022, 969907).

Dice plus cross-entropy, learning rate halved after epochs without improvement, one case a step. Cases for tuning are
set aside by patient; the weights with the best Dice on them are kept.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from typing import Annotated, Literal

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from monai.losses.dice import DiceCELoss
from pydantic import Field
from torch.utils.data import DataLoader

from pipelines.training.quiet import deterministic_restored, quiet_lightning
from pipelines.training.segmentation_cases import (
    PreparedCase,
    TrainingCrops,
    read_cases,
    split_for_tuning,
    voxel_size_mm,
)
from services.segmentation.contracts import DEFAULT_MODEL
from services.segmentation.inference import Predictor, predict_probabilities
from services.segmentation.network import Architecture, NetworkSpec, build_network, channels_last
from services.segmentation.regions import region_dice
from services.segmentation.weights import card_key, read_card, save_network, weights_key
from services.shared.cohort import CaseKeys, Region
from services.shared.contracts import CaseRef, Contract, Key
from services.shared.device import choose_device, torch_threads
from services.shared.errors import InvalidValue, NotFound
from services.shared.manifest import run_step
from services.shared.storage import Storage

STEP = "train segmentation"
VERSION = "1"
_CHOOSING_REGIONS = (Region.TC, Region.WT, Region.ET)
_TINY = 1e-7
_BACKGROUND_WEIGHT = 0.1


class TrainParameters(Contract):
    """How the network is trained; the defaults suit a dozen cases with 3 mm voxels and minutes on a processor.

    The paper: width 64, 200 epochs, learning rate 5e-4, patience 10, 1 mm voxels.
    """

    architecture: Architecture = Field(
        "recombination-unet-3d", description="residual-unet-3d is several times faster in use, at 3 levels"
    )
    width: Annotated[int, Field(ge=2, le=256)] = Field(16, description="Kernels of a convolution at full size")
    levels: Annotated[int, Field(ge=1, le=6)] = Field(4, description="Times that the network halves its size")
    normalisation: Literal["batch", "instance"] = "batch"
    epochs: Annotated[int, Field(ge=1)] = Field(40, description="Passes over the cases")
    batch_size: Annotated[int, Field(ge=1)] = Field(1, description="Crops a step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-3, description="Of Adam, at the start")
    schedule: Literal["cosine", "plateau"] = Field(
        "plateau", description="Learning rate: down to 0 along a cosine, or halved without improvement as in the paper"
    )
    patience: Annotated[int, Field(ge=0)] = Field(5, description="Epochs without improvement before it is halved")
    tuning_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.17, description="Share of cases to tune on")
    drop_sequence: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of crops that lose sequences at random; then a case may lack any but its last"
    )
    patch_voxels: Annotated[int, Field(ge=8)] = Field(48, description="Longest side of a training crop, voxels")
    memory_mb: Annotated[int, Field(ge=64)] = Field(2048, description="Memory for the network's features in tuning")


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


class EpochFigures(Contract):
    """One row of ``training.csv``. Dice is the mean over tuning cases; none where no case has the region."""

    epoch: int
    learning_rate: float
    training_loss: float
    tuning_loss: float
    tuning_dice_mean: float
    tuning_dice: dict[Region, float | None]

    def row(self) -> dict[str, float | int | None]:
        """Return the figures as one flat row."""
        flat = self.model_dump(exclude={"tuning_dice"})
        return flat | {f"tuning_dice_{region}": value for region, value in self.tuning_dice.items()}


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
) -> TrainResult:
    """Train a network and write it below ``model``, whole or not at all; do nothing where it is up to date.

    Parameters
    ----------
    cases
        Prepared cases with an expert segmentation.
    seed
        Decides the split, the first weights, the order and the variation of cases. On a processor the same seed,
        cases and number of threads give the same weights.
    threads
        Processor cores; none leaves torch's setting as it is.
    progress
        Called after each epoch with its figures and the number of epochs.

    Raises
    ------
    TooFewCases, DuplicateId
        Where there are fewer than two cases, or one is named twice.
    MissingSequence, NotFound, InvalidMask, InvalidVolume, SpaceMismatch, UnreadableFile
        Where a case cannot be used; the error names it.
    InvalidValue
        Where the loss stops being finite.
    """
    learn, tune = split_for_tuning(cases, tuning_fraction=parameters.tuning_fraction, seed=seed)
    device = choose_device()

    def compute() -> list[str]:
        spec = NetworkSpec(
            architecture=parameters.architecture,
            width=parameters.width,
            levels=parameters.levels,
            normalisation=parameters.normalisation,
            optional=NetworkSpec().channels if parameters.drop_sequence else (),
            voxel_mm=voxel_size_mm(storage, [*learn, *tune]),
        )
        with torch_threads(threads or torch.get_num_threads()):
            run = _fit(
                spec,
                read_cases(storage, learn, spec),
                read_cases(storage, tune, spec),
                parameters=parameters,
                seed=seed,
                device=device,
                progress=progress,
            )
        return _write(storage, model, spec, run, parameters=parameters, counts=(len(learn), len(tune)), seed=seed)

    manifest, cached = run_step(
        storage,
        f"{model}/manifest.json",
        step=STEP,
        step_version=VERSION,
        case=None,
        inputs=_input_keys(storage, [*learn, *tune]),
        parameters=parameters.model_dump(mode="json") | {"seed": seed},
        packages=["lightning", "monai", "numpy", "torch"],
        compute=compute,
        device=str(device),
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


def _write(
    storage: Storage,
    model: str,
    spec: NetworkSpec,
    run: _Training,
    *,
    parameters: TrainParameters,
    counts: tuple[int, int],
    seed: int,
) -> list[str]:
    best = run.best
    training: dict[str, float | int | str] = {
        "cases": counts[0],
        "tuning_cases": counts[1],
        "epochs": parameters.epochs,
        "best_epoch": best.epoch,
        "tuning_dice_mean": best.tuning_dice_mean,
        "seed": seed,
    }
    save_network(storage, model, spec, run.best_weights, training=training)
    table = pd.DataFrame([figures.row() for figures in run.history])
    storage.write_text(f"{model}/training.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    metrics = {
        "best_epoch": best.epoch,
        "training_cases": counts[0],
        "tuning_cases": counts[1],
        "tuning_dice_mean": best.tuning_dice_mean,
        "tuning_dice": best.tuning_dice,
    }
    storage.write_text(f"{model}/metrics.json", json.dumps(metrics, indent=2) + "\n")
    return [card_key(model), weights_key(model), f"{model}/training.csv", f"{model}/metrics.json"]


def _fit(
    spec: NetworkSpec,
    learn: ListOf[PreparedCase],
    tune: ListOf[PreparedCase],
    *,
    parameters: TrainParameters,
    seed: int,
    device: torch.device,
    progress: Progress | None,
) -> _Training:
    with isolate_rng(), quiet_lightning(), deterministic_restored(), tempfile.TemporaryDirectory() as folder:
        lightning.seed_everything(seed, verbose=False)
        crops = TrainingCrops(
            learn, spec, patch_voxels=parameters.patch_voxels, drop_sequence=parameters.drop_sequence, seed=seed
        )
        order = torch.Generator().manual_seed(seed)
        run = _Training(spec, tune, parameters=parameters, progress=progress)
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            max_epochs=parameters.epochs,
            deterministic="warn" if device.type == "cuda" else True,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(run, DataLoader(crops, batch_size=parameters.batch_size, shuffle=True, generator=order))
    return run


class _Training(lightning.LightningModule):
    """One training: loss and optimiser, and after each epoch the figures on the tuning cases."""

    def __init__(
        self,
        spec: NetworkSpec,
        tune: ListOf[PreparedCase],
        *,
        parameters: TrainParameters,
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self.network = channels_last(build_network(spec))
        # Smoothing by a voxel keeps a class that a case does not have from ruling the Dice of a batch of one; the
        # weights keep cross-entropy from being about background alone, so that core and enhancing part come apart.
        self.loss = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            smooth_nr=1,
            smooth_dr=1,
            weight=torch.tensor([_BACKGROUND_WEIGHT] + [1.0] * (len(spec.classes) - 1)),
        )
        self.history: list[EpochFigures] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        self._spec = spec
        self._tune = tune
        self._plan = parameters
        self._progress = progress
        self._losses: list[float] = []
        self._step_schedule: Callable[[float], None] = lambda _: None

    @property
    def best(self) -> EpochFigures:
        """The first epoch with the best mean Dice on the tuning cases."""
        return max(self.history, key=lambda figures: (figures.tuning_dice_mean, -figures.epoch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam; the scheduler is stepped by hand, after tuning."""
        optimiser = torch.optim.Adam(self.network.parameters(), lr=self._plan.learning_rate)
        if self._plan.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=self._plan.patience)
            self._step_schedule = plateau.step
        else:
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self._plan.epochs)
            self._step_schedule = lambda _: cosine.step()
        return optimiser

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of one crop."""
        inputs = batch["inputs"].contiguous(memory_format=torch.channels_last_3d)
        loss: torch.Tensor = self.loss(self.network(inputs), batch["classes"])
        if not torch.isfinite(loss):
            raise InvalidValue(
                "the loss is not finite any more",
                step=STEP,
                field="learning_rate",
                expected="a finite loss",
                got=f"{float(loss)} in epoch {self.current_epoch + 1} at {self._plan.learning_rate:g}",
                remedy="train with a lower learning rate",
            )
        self._losses.append(float(loss.detach()))
        return loss

    def on_train_epoch_end(self) -> None:
        """Measure the tuning cases, keep the weights if they are the best so far, and report."""
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        tuning_loss, agreement = self._tuning_figures()
        choosing = [value for region in _CHOOSING_REGIONS if (value := agreement[region]) is not None]
        figures = EpochFigures(
            epoch=self.current_epoch + 1,
            learning_rate=rate,
            training_loss=float(np.mean(self._losses)),
            tuning_loss=tuning_loss,
            tuning_dice_mean=float(np.mean(choosing)),
            tuning_dice=agreement,
        )
        self.history.append(figures)
        if self.best is figures:
            self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self._losses.clear()
        self._step_schedule(tuning_loss)
        if self._progress is not None:
            self._progress(figures, self._plan.epochs)

    def _tuning_figures(self) -> tuple[float, dict[Region, float | None]]:
        """Return the mean loss over tuning cases and the mean Dice of each region where a case has it."""
        values = np.array(self._spec.classes, dtype=np.uint8)
        predictor = Predictor(self._spec, self.network.eval(), self.device, sha256="")
        losses, found = [], []
        for case in self._tune:
            probabilities = predict_probabilities(predictor, case.inputs, memory_mb=self._plan.memory_mb).probabilities
            logits = torch.from_numpy(np.log(np.maximum(probabilities, _TINY)))[None]
            losses.append(float(self.loss(logits, torch.from_numpy(case.classes)[None, None])))
            labels = np.where(case.brain, values[probabilities.argmax(axis=0)], 0)
            found.append(region_dice(labels, values[case.classes]))
        self.network.train()
        return float(np.mean(losses)), {region: _mean([each[region] for each in found]) for region in Region}


def _mean(values: ListOf[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
