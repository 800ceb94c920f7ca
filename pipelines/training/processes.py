"""Where a training runs: one device, or the processes that ``torchrun`` started on this machine."""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from services.shared.device import choose_device


def open_fabric() -> Fabric:
    """Return where a training runs, launched; on a GPU it computes in bfloat16 where that is safe."""
    device = choose_device()
    launched = TorchElasticEnvironment.detect()
    one = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=process_count() if launched else one,
        strategy="ddp" if launched else "auto",
        precision="bf16-mixed" if device.type == "cuda" else "32-true",
    )
    fabric.launch()
    return fabric


def process_count() -> int:
    """Return how many processes train: those that ``torchrun`` started, else one."""
    return TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else 1


def is_first_process() -> bool:
    """Return whether this process is the one that writes: the first, or the only one."""
    return not TorchElasticEnvironment.detect() or TorchElasticEnvironment().global_rank() == 0


def wait_for_all() -> None:
    """Wait until every process that ``torchrun`` started has come here; nothing without such."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
