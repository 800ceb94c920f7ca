"""Fit a slice network: Dice plus cross-entropy, one cycle of the learning rate, slices varied at random."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import asdict, dataclass

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from pipelines.modelling.validation import derive_seed
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.processes import is_first_process, process_count, wait_for_all
from pipelines.training.quiet import deterministic_restored, quiet_lightning
from pipelines.training.slice_data import SliceStore
from services.segmentation.slice_network import REQUIRED, build_slice_network
from services.shared.contracts import CaseRef
from services.shared.device import choose_device
from services.shared.errors import InvalidValue
from services.shared.manifest import fingerprint
from services.shared.storage import Storage

_WARM_UP = 0.15
_WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class SliceSchedule:
    """How long and how fast a network learns."""

    epochs: int
    batch: int
    learning_rate: float
    drop_sequence: float


def fit_slices(
    storage: Storage,
    store: SliceStore,
    cases: ListOf[CaseRef],
    folder: str,
    *,
    schedule: SliceSchedule,
    seed: int,
    report: Callable[[int, float], None],
) -> dict[str, torch.Tensor]:
    """Return the weights of a network trained on some cases; a checkpoint in ``folder`` of the same training goes on.

    Parameters
    ----------
    report
        Called after each epoch with its number and mean loss.

    Raises
    ------
    InvalidValue
        Where the loss stops being finite, or a batch cannot be shared evenly by the processes.
    """
    if schedule.batch % process_count():
        raise InvalidValue(
            "a batch cannot be shared evenly",
            step="train FLAIR abnormality",
            field="batch",
            expected=f"a multiple of {process_count()} processes",
            got=schedule.batch,
            remedy="change 'batch', or start another number of processes",
        )
    rows = store.rows(cases)
    identity = fingerprint("slices", asdict(schedule), seed, store.spec.model_dump(mode="json"), store.sha256(rows))
    checkpoint = Checkpoint(storage, folder, identity)
    device = choose_device()
    with isolate_rng(), quiet_lightning(), deterministic_restored(), tempfile.TemporaryDirectory() as scratch:
        lightning.seed_everything(seed, verbose=False)
        run = _SliceTraining(store, rows, schedule=schedule, seed=seed)
        processes = process_count()
        one = [device.index or 0] if device.type == "cuda" else 1
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=one if processes == 1 else processes,
            strategy="auto" if processes == 1 else "ddp",
            use_distributed_sampler=False,
            precision="bf16-mixed" if device.type == "cuda" else "32-true",
            max_epochs=schedule.epochs,
            deterministic="warn" if device.type == "cuda" else True,
            reload_dataloaders_every_n_epochs=1,
            default_root_dir=scratch,
            callbacks=[_AfterEpoch(checkpoint, report)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with checkpoint.found() as path:
            trainer.fit(run, ckpt_path=path, weights_only=True)
    wait_for_all()
    if is_first_process():
        checkpoint.remove()
    return {name: value.detach().cpu() for name, value in run.network.state_dict().items()}


def vary(
    inputs: torch.Tensor, masks: torch.Tensor, *, drop: float, keep: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slices turned, scaled, shifted and mirrored, of other contrast and noise, some without a sequence.

    Parameters
    ----------
    inputs, masks
        Shape (slices, channels, side, side) and (slices, 1, side, side).
    drop
        How often a channel other than ``keep`` becomes 0.
    """
    n, channels = inputs.shape[:2]

    def uniform(*shape: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(shape, generator=rng) * (high - low) + low

    turn = uniform(n, low=-0.35, high=0.35)  # radians
    scale = uniform(n, low=-0.2, high=0.2).exp()
    mirror = torch.where(uniform(n, low=0, high=1) < 0.5, -1.0, 1.0)
    move = torch.zeros(n, 2, 3)
    move[:, 0, 0] = turn.cos() * scale * mirror
    move[:, 0, 1] = -turn.sin() * scale
    move[:, 1, 0] = turn.sin() * scale * mirror
    move[:, 1, 1] = turn.cos() * scale
    move[:, :, 2] = uniform(n, 2, low=-0.075, high=0.075)
    grid = functional.affine_grid(move, list(inputs.shape), align_corners=False)
    inputs = functional.grid_sample(inputs, grid, align_corners=False, padding_mode="border")
    masks = functional.grid_sample(masks, grid, align_corners=False)
    absent = (inputs == 0).flatten(2).all(dim=2)[..., None, None]
    inputs = inputs * uniform(n, channels, 1, 1, low=-0.25, high=0.25).exp()
    inputs = inputs + uniform(n, channels, 1, 1, low=-0.25, high=0.25)
    noise = torch.randn(inputs.shape, generator=rng) * uniform(n, 1, 1, 1, low=0, high=0.1)
    dropped = uniform(n, channels, 1, 1, low=0, high=1) < drop
    dropped[:, keep] = False
    return torch.where(dropped | absent, 0.0, inputs + noise), masks


def dice_and_cross_entropy(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the mean over slices of 1 - soft Dice (smoothed by a pixel), plus binary cross-entropy."""
    chance = logits.sigmoid()
    overlap = (chance * masks).sum(dim=(1, 2, 3))
    size = chance.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3))
    soft = 1 - (2 * overlap + 1) / (size + 1)
    return soft.mean() + functional.binary_cross_entropy_with_logits(logits, masks)


class _Rows(Dataset[npt.NDArray[np.int64]]):
    """Batches of slice numbers in an order of this epoch's own."""

    def __init__(self, rows: npt.NDArray[np.int64], *, batch: int, seed: tuple[int, int]) -> None:
        order = np.random.default_rng(seed).permutation(rows)
        whole = max(len(order) // batch, 1)  # a rest that is smaller than a batch waits for the next epoch
        self._batches = [order[i * batch : (i + 1) * batch] for i in range(whole)]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> npt.NDArray[np.int64]:
        return self._batches[index]


class _SliceTraining(lightning.LightningModule):
    """One training: loss, optimiser, and batches that depend on (seed, epoch) alone."""

    def __init__(self, store: SliceStore, rows: npt.NDArray[np.int64], *, schedule: SliceSchedule, seed: int) -> None:
        super().__init__()
        # A tenth of a step is saved where weights lie as the slices do.
        self.network = build_slice_network(store.spec)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.losses: list[float] = []
        self._store, self._rows, self._schedule, self._seed = store, rows, schedule, seed
        self._keep = store.spec.channels.index(REQUIRED)

    def train_dataloader(self) -> DataLoader[npt.NDArray[np.int64]]:
        """Return this epoch's batches."""
        self.losses.clear()
        rows = _Rows(self._rows, batch=self._schedule.batch, seed=(self._seed, self.current_epoch))
        return DataLoader(rows, batch_size=None, collate_fn=lambda batch: batch)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and a learning rate that rises, then falls to nothing."""
        steps = max(len(self._rows) // self._schedule.batch, 1) * self._schedule.epochs
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=_WEIGHT_DECAY)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self._schedule.learning_rate, total_steps=max(steps, 2), pct_start=_WARM_UP
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def training_step(self, batch: npt.NDArray[np.int64], index: int) -> torch.Tensor:
        """Return the loss of one batch of varied slices."""
        rng = torch.Generator().manual_seed(derive_seed(self._seed, self.current_epoch, index))
        inputs, masks = self._store.take(np.asarray(batch))
        inputs, masks = vary(inputs, masks, drop=self._schedule.drop_sequence, keep=self._keep, rng=rng)
        # Every process varies the whole batch and takes its share: together they learn what one alone would.
        share = slice(self.global_rank, None, self.trainer.world_size)
        inputs, masks = inputs[share], masks[share]
        inputs = inputs.to(self.device).contiguous(memory_format=torch.channels_last)
        loss = dice_and_cross_entropy(self.network(inputs).float(), masks.to(self.device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InvalidValue(
                "the loss is not finite any more",
                step="train FLAIR abnormality",
                field="learning_rate",
                expected="a finite loss",
                got=f"{value} in epoch {self.current_epoch + 1} at {self._schedule.learning_rate:g}",
                remedy="train with a lower learning rate",
            )
        self.losses.append(value)
        return loss


class _AfterEpoch(lightning.Callback):
    """After each epoch: keep the state, then report."""

    def __init__(self, checkpoint: Checkpoint, report: Callable[[int, float], None]) -> None:
        self._checkpoint, self._report = checkpoint, report

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the state of the epoch that has ended."""
        if not isinstance(pl_module, _SliceTraining):
            raise TypeError("this callback serves slice trainings")
        if trainer.is_global_zero:
            self._checkpoint.keep(trainer.save_checkpoint)
            self._report(trainer.current_epoch + 1, float(np.mean(pl_module.losses)))
        else:
            trainer.save_checkpoint(trainer.default_root_dir)  # writes nothing: all processes must take part
