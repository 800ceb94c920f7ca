"""Where torch computes, and on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.shared.errors import InvalidValue
from services.shared.settings import ServiceName, settings

if TYPE_CHECKING:
    import torch

TORCH_SERVICES: frozenset[ServiceName] = frozenset({"segmentation", "model_serving"})


def choose_device() -> torch.device:
    """Return the torch device that the settings name; ``auto`` is the first GPU, or else the processor.

    Raises
    ------
    InvalidValue
        Where the settings name what is no device, or a GPU that torch cannot use.
    """
    import torch

    name = settings().device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValue(
            "this is not the name of a device", field="GLIAFLOW_DEVICE", expected="auto, cpu, cuda or cuda:1", got=name
        ) from error
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "processors only"
        raise InvalidValue(
            "torch cannot use this GPU",
            field="GLIAFLOW_DEVICE",
            expected=name,
            got=f"torch {torch.__version__} for {built} sees {gpus} GPUs",
            remedy="give the process a GPU, its driver and torch for CUDA, or set GLIAFLOW_DEVICE=auto",
        )
    return device


@dataclass(frozen=True)
class Compute:
    """Where a service computes: ``torch`` and ``cuda`` are the versions installed, where it needs them."""

    device: str
    torch: str | None = None
    cuda: str | None = None


def where_computed(service: ServiceName) -> Compute:
    """Return where a service computes, by the settings and what the machine has."""
    if service not in TORCH_SERVICES:
        return Compute("cpu")
    import torch

    return Compute(str(choose_device()), torch.__version__, torch.version.cuda)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Bound torch's threads while the block lasts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in main memory."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
