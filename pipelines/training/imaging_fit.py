"""Fit one imaging network: batches that depend on (seed, epoch) alone, the best epoch by the tuning patients.

A training that was killed goes on after its last whole epoch and ends in the same weights. Under ``torchrun`` each
process takes its share of every batch; the loss is that of the whole batch, so that risk sets are not cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from torch import nn

from pipelines.modelling.validation import derive_seed
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.imaging_data import (
    STEP,
    ImagingOutcome,
    InputStore,
    Rows,
    check_outcome,
    flip_at_random,
    order_batches,
    split_tuning,
)
from pipelines.training.imaging_parameters import ImagingTrainParameters
from pipelines.training.objective import Objective
from pipelines.training.processes import open_fabric
from pipelines.training.quiet import deterministic_restored, quiet_lightning
from services.model_serving.embedding import load_trunk, read_weights
from services.model_serving.imaging import read_output
from services.model_serving.networks.grade import GradeAndRisk
from services.model_serving.networks.residual import PooledNetwork
from services.model_serving.networks.specification import build_network
from services.shared.contracts import CaseRef, Contract
from services.shared.device import is_out_of_memory
from services.shared.errors import GliaflowError, InvalidValue
from services.shared.manifest import fingerprint, package_versions

Array = npt.NDArray[np.float64]


class ImagingEpoch(Contract):
    """One row of ``training.csv``; losses are means over patients, the tuning loss that of all tuning patients."""

    epoch: int
    training_loss: float
    tuning_loss: float | None


Report = Callable[[ImagingEpoch], None]


@dataclass(frozen=True)
class ImagingFit:
    """A trained network.

    Parameters
    ----------
    network
        With the weights of the best epoch, in evaluation mode.
    history
        Every epoch that was run.
    best_epoch
        The first with the smallest tuning loss; the last where nobody tuned.
    batch
        Patients of a batch, after what memory allowed.
    notes
        What did not go as the parameters said.
    """

    network: PooledNetwork
    history: tuple[ImagingEpoch, ...]
    best_epoch: int
    batch: int
    notes: tuple[str, ...]


def fit_network(
    store: InputStore,
    cases: ListOf[CaseRef],
    outcome: ImagingOutcome,
    *,
    parameters: ImagingTrainParameters,
    seed: int,
    folder: str,
    start_seed: int | None = None,
    report: Report = lambda _: None,
) -> ImagingFit:
    """Return a network trained on some patients.

    Parameters
    ----------
    folder
        Key of the folder whose checkpoint of this very training is gone on with.
    start_seed
        Decides the first weights; by default ``seed`` does.
    report
        Called after each epoch, on the first process only.

    Raises
    ------
    InvalidValue
        Where the loss stops being finite, or memory does not hold two patients.
    """
    store.fill(cases)
    learn, tune = split_tuning(outcome.strata, fraction=parameters.tuning_fraction, seed=derive_seed(seed, 0))
    check_outcome(outcome.take(learn), [cases[int(row)] for row in learn], store.spec.task)
    first = derive_seed(seed, 1) if start_seed is None else start_seed
    job = _Job(store, tuple(cases), outcome, learn, tune, parameters, seed, first, folder, report)
    batch, notes = min(parameters.batch, max(len(cases), 2)), list[str]()
    while True:
        try:
            return _fit(job, batch, tuple(notes))
        except GliaflowError:
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch <= 2:
                raise InvalidValue(
                    "memory does not hold a batch of two patients",
                    step=STEP,
                    field="batch",
                    expected="memory for two inputs and their gradients",
                    got=str(error).splitlines()[0][:160],
                    remedy="set 'recompute', or take a smaller width or input",
                ) from None
        smaller = max(batch // 2, 2)
        notes.append(f"out of memory with {batch} patients a batch: trained with {smaller}")
        batch = smaller


def predict_cases(
    network: nn.Module, store: InputStore, cases: ListOf[CaseRef], *, batch: int
) -> tuple[Array | None, Array | None]:
    """Return the probabilities of the positive class and the risks, as far as the network says them, (patients,)."""
    return read_output(_outputs(network.eval(), store, cases, batch))


def pool_cases(network: PooledNetwork, store: InputStore, cases: ListOf[CaseRef], *, batch: int) -> Array:
    """Return the features of a network's last average pool, (patients, features)."""
    network.eval()
    device = next(network.parameters()).device
    parts = [cases[start : start + batch] for start in range(0, len(cases), batch)]
    with torch.inference_mode():
        found = [network.embed(store.read(part).to(device)).double().cpu().numpy() for part in parts]
    return np.concatenate(found)


@dataclass(frozen=True)
class _Job:
    """One training: its patients, those who are learnt from and those who choose the epoch, and how."""

    store: InputStore
    cases: tuple[CaseRef, ...]
    outcome: ImagingOutcome
    learn: Rows
    tune: Rows
    parameters: ImagingTrainParameters
    seed: int
    start_seed: int
    folder: str
    report: Report

    def identity(self, batch: int) -> str:
        """Return the hash of everything that decides the weights."""
        return fingerprint(
            STEP,
            self.store.spec.model_dump(mode="json"),
            [self.store.key(case) for case in self.cases],
            self.outcome.describe(),
            self.learn.tolist(),
            self.parameters.model_dump(mode="json"),
            self.seed,
            self.start_seed,
            batch,
            package_versions("torch", "monai", "lightning"),
        )


def _fit(job: _Job, batch: int, notes: tuple[str, ...]) -> ImagingFit:
    store, cases, parameters, tune = job.store, job.cases, job.parameters, job.tune
    checkpoint = Checkpoint(store.storage, job.folder, job.identity(batch))
    objective = Objective(job.outcome, job.learn, parameters)
    with quiet_lightning(), deterministic_restored():
        fabric = open_fabric()
        torch.use_deterministic_algorithms(mode=True, warn_only=fabric.device.type == "cuda")
        network = _start(store, parameters, job.start_seed)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        state = checkpoint.read(torch.device("cpu"))
        history: list[ImagingEpoch] = []
        best: dict[str, torch.Tensor] = {}
        if state is not None:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
            history = [ImagingEpoch.model_validate(row) for row in state["history"]]
            best = state["best"]
        fabric.barrier()
        # The module and the optimiser stay the ones above; what setup returns only wraps them.
        wrapped, stepper = fabric.setup(network, optimiser)
        while len(history) < parameters.epochs and not _is_over(history, parameters.patience):
            epoch = len(history)
            loss = _run_epoch(fabric, wrapped, stepper, store, cases, objective, parameters, batch, (job.seed, epoch))
            tuning = None
            if len(tune):
                # Running statistics differ between processes: the first one's count.
                measured = _tuning_loss(network, store, cases, objective, tune, batch) if fabric.is_global_zero else 0.0
                tuning = float(fabric.broadcast(measured))
            history.append(ImagingEpoch(epoch=epoch + 1, training_loss=loss, tuning_loss=tuning))
            if _best_epoch(history) == epoch + 1:
                best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            if fabric.is_global_zero:
                checkpoint.write(
                    {
                        "network": network.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "history": [row.model_dump() for row in history],
                        "best": best,
                    }
                )
                job.report(history[-1])
        fabric.barrier()
        if fabric.is_global_zero:
            checkpoint.remove()
    network.load_state_dict(best)
    return ImagingFit(network.eval(), tuple(history), _best_epoch(history), batch, notes)


def _start(store: InputStore, parameters: ImagingTrainParameters, seed: int) -> PooledNetwork:
    """Return the network at its start: random weights of this seed, its trunk's given ones where there are such."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(store.spec)
    if parameters.start is not None:
        load_trunk(network.trunk, read_weights(store.storage, parameters.start), name=parameters.start)
    network.trunk.recompute = parameters.recompute
    form = torch.channels_last if len(store.spec.size) == 2 else torch.channels_last_3d
    return network.to(memory_format=form)  # type: ignore[call-overload,no-any-return]


def _run_epoch(
    fabric: Fabric,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    store: InputStore,
    cases: ListOf[CaseRef],
    objective: Objective,
    parameters: ImagingTrainParameters,
    batch: int,
    seed: tuple[int, int],
) -> float:
    """Run one epoch and return its mean loss a patient."""
    network.train()
    balanced = parameters.imbalance == "sampler"
    outcome = objective.outcome.take(objective.learn)
    groups = outcome.classes if balanced and outcome.classes is not None else outcome.strata
    total, count = 0.0, 0
    for drawn in order_batches(groups, batch=batch, balanced=balanced, seed=(derive_seed(seed[0], 2), seed[1])):
        rows = objective.learn[drawn]
        # Processes take equal shares: a rest waits for another epoch.
        rows = rows[: max(len(rows) // fabric.world_size, 1) * fabric.world_size]
        shares = [rows[rank :: fabric.world_size] for rank in range(fabric.world_size)]
        mine = shares[fabric.global_rank]
        inputs = store.read([cases[row] for row in mine])
        if parameters.flips:
            inputs = flip_at_random(inputs, seeds=[(derive_seed(*seed, 3), int(row)) for row in mine])
        output = _gathered(fabric, network(inputs.to(fabric.device)))
        loss = objective.loss(output, np.concatenate(shares))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InvalidValue(
                "the loss is not finite any more",
                step=STEP,
                field="learning_rate",
                expected="a finite loss",
                got=f"{value} in epoch {seed[1] + 1} at {parameters.learning_rate:g}",
                remedy="train with a lower learning rate",
            )
        optimiser.zero_grad()
        fabric.backward(loss)
        optimiser.step()
        total, count = total + value * len(rows), count + len(rows)
    return total / count


def _gathered(fabric: Fabric, output: Any) -> Any:
    """Return the outputs of all processes' shares, one after another; gradients go back to each."""
    if fabric.world_size == 1:
        return output
    gathered: Any = fabric.all_gather(output, sync_grads=True)
    if isinstance(output, GradeAndRisk):
        return GradeAndRisk(*(part.flatten(0, 1) for part in gathered))
    return gathered.flatten(0, 1)


def _tuning_loss(
    network: nn.Module, store: InputStore, cases: ListOf[CaseRef], objective: Objective, tune: Rows, batch: int
) -> float:
    output = _outputs(network.eval(), store, [cases[row] for row in tune], batch)
    return float(objective.loss(output, tune))


def _outputs(network: nn.Module, store: InputStore, cases: ListOf[CaseRef], batch: int) -> Any:
    device = next(network.parameters()).device
    parts = [cases[start : start + batch] for start in range(0, len(cases), batch)]
    with torch.inference_mode():
        found = [network(store.read(part).to(device)) for part in parts]
    if isinstance(found[0], GradeAndRisk):
        return GradeAndRisk(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    return torch.cat(found)


def _best_epoch(history: ListOf[ImagingEpoch]) -> int:
    """Return the first epoch with the smallest tuning loss; the last where nobody tuned."""
    known = [row for row in history if row.tuning_loss is not None]
    if not known:
        return len(history)
    return min(known, key=lambda row: (row.tuning_loss, row.epoch)).epoch


def _is_over(history: ListOf[ImagingEpoch], patience: int) -> bool:
    return bool(history) and history[-1].tuning_loss is not None and len(history) - _best_epoch(history) >= patience


def network_state(fit: ImagingFit) -> dict[str, torch.Tensor]:
    """Return a trained network's weights, contiguous, on the processor."""
    return {name: value.detach().cpu().contiguous() for name, value in fit.network.state_dict().items()}
