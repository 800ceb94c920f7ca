"""Fit one segmentation network: crops that follow from (seed, epoch), the best epoch by the tuning cases.

A training that was killed goes on after its last whole epoch and ends in the same weights. Under ``torchrun`` each
process takes its share of every batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as ListOf
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import nn
from torch.utils.data import DataLoader

from pipelines.modelling.validation import derive_seed
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.processes import open_fabric
from pipelines.training.quiet import deterministic_restored, quiet_lightning
from pipelines.training.segmentation_crops import CaseStore, TrainingCrops
from pipelines.training.segmentation_parameters import TrainParameters
from services.segmentation.inference import Predictor, predict_probabilities
from services.segmentation.network import NetworkSpec, build_network, channels_last
from services.segmentation.regions import region_dice
from services.shared.cohort import Region
from services.shared.contracts import Contract
from services.shared.device import is_out_of_memory
from services.shared.errors import InvalidValue

STEP = "train segmentation"
_CHOOSING_REGIONS = (Region.TC, Region.WT, Region.ET)
_TINY = 1e-7


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


@dataclass(frozen=True)
class SegmentationFit:
    """What came of a training: every epoch's figures, and the weights of the best one on the processor."""

    history: tuple[EpochFigures, ...]
    weights: dict[str, torch.Tensor]

    @property
    def best(self) -> EpochFigures:
        """The first epoch with the best mean Dice on the tuning cases."""
        return best_epoch(self.history)


def best_epoch(history: ListOf[EpochFigures]) -> EpochFigures:
    """Return the first epoch with the best mean Dice on the tuning cases."""
    return max(history, key=lambda figures: (figures.tuning_dice_mean, -figures.epoch))


def fit_segmentation(
    spec: NetworkSpec,
    learn: CaseStore,
    tune: CaseStore,
    *,
    parameters: TrainParameters,
    seed: int,
    checkpoint: Checkpoint,
    report: Callable[[EpochFigures], None],
) -> SegmentationFit:
    """Return a trained network's weights; a checkpoint of this very training is gone on with.

    Parameters
    ----------
    report
        Called after each epoch, on the first process only.

    Raises
    ------
    InvalidValue
        Where the loss stops being finite, memory does not hold a step, or a batch has fewer crops than there are
        processes.
    """
    try:
        with quiet_lightning(), deterministic_restored():
            return _Training(spec, learn, tune, parameters=parameters, seed=seed).run(checkpoint, report)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InvalidValue(
            "memory does not hold one step of the training",
            step=STEP,
            field="batch_size",
            expected="memory for the crops of a step and their gradients",
            got=str(error).splitlines()[0][:160],
            remedy="set 'recompute', or take fewer crops a step, a smaller patch or a smaller width",
        ) from None
    except InvalidValue:
        checkpoint.remove()  # going on would end in the same place
        raise


class _Training:
    """One training: network, loss, optimiser and schedule, and where they run."""

    def __init__(
        self, spec: NetworkSpec, learn: CaseStore, tune: CaseStore, *, parameters: TrainParameters, seed: int
    ) -> None:
        self.spec, self.learn, self.tune, self.plan, self.seed = spec, learn, tune, parameters, seed
        self.fabric = open_fabric()
        torch.use_deterministic_algorithms(mode=True, warn_only=self.fabric.device.type == "cuda")
        if parameters.batch_size < self.fabric.world_size:
            raise InvalidValue(
                "a batch has fewer crops than there are processes",
                step=STEP,
                field="batch_size",
                expected=f"{self.fabric.world_size} or more",
                got=parameters.batch_size,
                remedy="raise 'batch_size', or start fewer processes",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = channels_last(build_network(spec))
        self.network.recompute = parameters.recompute
        # Smoothing by a voxel keeps a class that a case does not have from ruling the Dice of a batch of one; the
        # weights keep cross-entropy from being about background alone, so that core and enhancing part come apart.
        self.loss = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            smooth_nr=1,
            smooth_dr=1,
            weight=torch.tensor([parameters.background_weight] + [1.0] * (len(spec.classes) - 1)),
        ).to(self.fabric.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=parameters.learning_rate)
        self.schedule: torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau = (
            torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimiser, factor=0.5, patience=parameters.patience)
            if parameters.schedule == "plateau"
            else torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, parameters.epochs)
        )
        self.history: list[EpochFigures] = []
        self.best: dict[str, torch.Tensor] = {}

    def run(self, checkpoint: Checkpoint, report: Callable[[EpochFigures], None]) -> SegmentationFit:
        """Run what is left of the training."""
        fabric = self.fabric
        self._go_on(checkpoint)
        fabric.barrier()
        # Network and optimiser stay the ones above; what setup returns only wraps them.
        wrapped, stepper = fabric.setup(self.network, self.optimiser)
        while len(self.history) < self.plan.epochs and not self._is_over():
            epoch = len(self.history) + 1
            rate = float(self.optimiser.param_groups[0]["lr"])
            training_loss = self._run_epoch(wrapped, stepper, epoch)
            # Running statistics differ between processes: the first one's count.
            measured = self._measure(epoch, rate, training_loss) if fabric.is_global_zero else ""
            figures = EpochFigures.model_validate_json(fabric.broadcast(measured))
            self.history.append(figures)
            if best_epoch(self.history) is figures:
                self.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.schedule.step(figures.tuning_loss)
            else:
                self.schedule.step()
            if fabric.is_global_zero:
                checkpoint.write(self._state())
                report(figures)
        fabric.barrier()
        if fabric.is_global_zero:
            checkpoint.remove()
        return SegmentationFit(tuple(self.history), self.best)

    def _state(self) -> dict[str, object]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [figures.model_dump(mode="json") for figures in self.history],
            "best": self.best,
        }

    def _go_on(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.read(torch.device("cpu"))
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.history = [EpochFigures.model_validate(row) for row in state["history"]]
            self.best = state["best"]

    def _is_over(self) -> bool:
        if self.plan.stop_after is None or not self.history:
            return False
        return len(self.history) - best_epoch(self.history).epoch >= self.plan.stop_after

    def _run_epoch(self, network: nn.Module, optimiser: torch.optim.Optimizer, epoch: int) -> float:
        """Run one epoch and return its mean loss a crop."""
        network.train()
        total, count = 0.0, 0
        for inputs, classes, size in self._batches(epoch):
            logits = network(inputs).float()
            # Crop by crop: then a batch that processes share has the loss that one process gives it.
            loss = torch.stack([self.loss(logits[i : i + 1], classes[i : i + 1]) for i in range(len(logits))]).mean()
            value = self._mean_over_processes(loss)
            if not math.isfinite(value):
                raise InvalidValue(
                    "the loss is not finite any more",
                    step=STEP,
                    field="learning_rate",
                    expected="a finite loss",
                    got=f"{value} in epoch {epoch} at {self.plan.learning_rate:g}",
                    remedy="train with a lower learning rate",
                )
            optimiser.zero_grad()
            self.fabric.backward(loss)
            optimiser.step()
            total, count = total + value * size, count + size
        return total / count

    def _mean_over_processes(self, loss: torch.Tensor) -> float:
        mean = self.fabric.all_reduce(loss.detach(), reduce_op="mean")
        assert isinstance(mean, torch.Tensor)
        return float(mean)

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Yield this process's share of each batch, inputs and classes, and how many crops the whole batch has."""
        fabric, plan = self.fabric, self.plan
        crops = TrainingCrops(
            self.learn,
            self.spec,
            patch_voxels=plan.patch_voxels,
            crops_per_case=plan.crops_per_case,
            drop_sequence=plan.drop_sequence,
            seed=derive_seed(self.seed, 1),
            epoch=epoch,
        )
        order = np.random.default_rng(derive_seed(self.seed, 2, epoch)).permutation(len(crops)).tolist()
        batches = [order[start : start + plan.batch_size] for start in range(0, len(order), plan.batch_size)]
        # Processes take equal shares: a rest waits for another epoch.
        whole = [rows[: len(rows) // fabric.world_size * fabric.world_size] for rows in batches]
        shares = [rows[fabric.global_rank :: fabric.world_size] for rows in whole if rows]
        cuda = fabric.device.type == "cuda"
        own = torch.Generator().manual_seed(derive_seed(self.seed, 3, epoch))  # leaves torch's own as it was
        loader = DataLoader(crops, batch_sampler=shares, num_workers=plan.loaders, pin_memory=cuda, generator=own)
        for batch in loader:
            inputs = batch["inputs"].to(fabric.device, non_blocking=cuda)
            classes = batch["classes"].to(fabric.device, non_blocking=cuda)
            yield inputs.contiguous(memory_format=torch.channels_last_3d), classes, len(inputs) * fabric.world_size

    def _measure(self, epoch: int, rate: float, training_loss: float) -> str:
        """Return an epoch's figures as JSON: mean loss over tuning cases, mean Dice of each region that cases have."""
        values = np.array(self.spec.classes, dtype=np.uint8)
        predictor = Predictor(self.spec, self.network.eval(), self.fabric.device, sha256="")
        losses, found = [], []
        for number in range(len(self.tune)):
            case = self.tune[number]
            probabilities = predict_probabilities(
                predictor, np.asarray(case.inputs), memory_mb=self.plan.memory_mb
            ).probabilities
            logits = torch.from_numpy(np.log(np.maximum(probabilities, _TINY)))[None].to(self.fabric.device)
            classes = torch.from_numpy(case.classes.astype(np.int64))[None, None].to(self.fabric.device)
            losses.append(float(self.loss(logits, classes)))
            labels = np.where(case.brain, values[probabilities.argmax(axis=0)], 0)
            found.append(region_dice(labels, values[case.classes]))
        agreement = {region: _mean([each[region] for each in found]) for region in Region}
        choosing = [value for region in _CHOOSING_REGIONS if (value := agreement[region]) is not None]
        return EpochFigures(
            epoch=epoch,
            learning_rate=rate,
            training_loss=training_loss,
            tuning_loss=float(np.mean(losses)),
            tuning_dice_mean=float(np.mean(choosing)),
            tuning_dice=agreement,
        ).model_dump_json()


def _mean(values: ListOf[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
