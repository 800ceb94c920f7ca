"""The part of the segmentation benchmark that needs a GPU: ours beside what a user would otherwise run on the chip.

Ours: the brain's box, bfloat16, channels last, compiled with CUDA graphs, labels made on the chip.
Peers: the same network in float32 without compilation, and MONAI's DynUNet with sliding windows and eight mirrored
inputs, which is how nnU-Net infers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.dynunet import DynUNet
from torch import nn
from torch.nn import functional

from services.segmentation.network import CLASSES, NetworkSpec, build_network, channels_last, fold_normalisation
from services.segmentation.regions import region_dice
from services.segmentation.weights import load_network
from services.shared.storage import Storage

WINDOW = (128, 128, 128)
CROP = (2, 4, 128, 128, 128)
DEVICE = "cuda"
REPEATS = 10
MATRIX_SIDE = 8192

Run = Callable[[], object]


def seconds_of(run: Run, *, repeats: int = REPEATS) -> float:
    """Return the mean seconds of a call after two that warm up."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def matrix_rate() -> float:
    """Return the chip's measured rate of bfloat16 matrix products, operations a second."""
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * MATRIX_SIDE**3 / seconds_of(lambda: a @ b)


def operations_of(network: nn.Module, batch: torch.Tensor) -> int:
    """Return the operations of one pass, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(batch)
    return int(counter.get_total_flops())


def compiled(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what labels a batch of one shape: bfloat16, channels last, CUDA graphs."""
    ready = torch.compile(channels_last(network.to(DEVICE, torch.bfloat16)), mode="reduce-overhead")

    def label(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = ready(batch.to(DEVICE, torch.bfloat16).contiguous(memory_format=torch.channels_last_3d))
            return logits.argmax(dim=1).to(torch.uint8).cpu()

    return label


def dynunet() -> nn.Module:
    """Return a DynUNet of nnU-Net's usual plan for four channels at 1 mm."""
    strides = [1, 2, 2, 2, 2, 2]
    return DynUNet(3, 4, len(CLASSES), [3] * 6, strides, strides[1:], norm_name="instance").to(DEVICE).eval()


def least_dice(labels: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the lowest Dice of the four regions of two batches of class positions."""
    values = np.array(CLASSES, dtype=np.uint8)
    found = region_dice(values[labels[0].numpy()], values[reference[0].numpy()])
    return min((value for value in found.values() if value is not None), default=1.0)


def training_rate(*, fast: bool) -> float:
    """Return training crops of 128³ a second: bfloat16, channels last and compiled, or float32 as it comes."""
    network: nn.Module = build_network(NetworkSpec()).to(DEVICE).train()
    inputs = torch.randn(CROP, device=DEVICE)
    classes = torch.randint(len(CLASSES), (CROP[0], *CROP[2:]), device=DEVICE)
    if fast:
        network, inputs = channels_last(network), inputs.contiguous(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.Adam(network.parameters(), fused=fast)
    forward = torch.compile(network) if fast else network

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=fast):
            loss = functional.cross_entropy(forward(inputs).float(), classes)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return CROP[0] / seconds_of(step)


def windows(network: nn.Module, batch: torch.Tensor, *, at_once: int, mirrored: bool) -> torch.Tensor:
    """Return labels from windows of half overlap, several at once; with mirrored inputs their mean."""
    views = ([], [2], [3], [4], [2, 3], [2, 4], [3, 4], [2, 3, 4]) if mirrored else ([],)
    total = torch.zeros((), device=batch.device)
    with torch.inference_mode():
        for axes in views:
            logits = sliding_window_inference(batch.flip(axes), WINDOW, at_once, network, overlap=0.5, mode="gaussian")
            assert isinstance(logits, torch.Tensor)
            total = total + logits.float().softmax(dim=1).flip(axes)
    return total.argmax(dim=1).to(torch.uint8).cpu()


def gpu_lines(
    storage: Storage, models: list[str], inputs: npt.NDArray[np.float32], whole_size: tuple[int, ...]
) -> list[str]:
    """Return the page's lines on the GPU, or one that says that there is none.

    Parameters
    ----------
    inputs
        What the networks read of the brain's box (channels × z × y × x).
    whole_size
        Of the volume that the box was cut from, which the peer reads (z, y, x).
    """
    if not torch.cuda.is_available():
        return ["No GPU was found: its part of the benchmark was skipped."]
    z, y, x = (-n % 16 for n in inputs.shape[1:])
    batch = functional.pad(torch.from_numpy(inputs)[None], (0, x, 0, y, 0, z))
    whole = torch.zeros((1, len(inputs), *whole_size), device=DEVICE)
    peak = matrix_rate()
    told = (
        f"{torch.cuda.get_device_name()}, {peak / 1e12:.0f} Tflop/s measured on bfloat16 matrices. The phantom's brain "
        f"box has {' × '.join(map(str, batch.shape[2:]))} voxels, transfers included."
    )
    lines = [
        told,
        "",
        "| | ms a case | cases a minute | of the matrix rate | Dice with float32 |",
        "| --- | --- | --- | --- | --- |",
    ]

    for model in models:
        lines += network_rows(storage, model, batch, whole, peak)
    peer = dynunet()
    seconds = seconds_of(lambda: windows(peer, whole, at_once=2, mirrored=True), repeats=2)
    lines.append(row("MONAI DynUNet, whole volume in windows of 128³, 8 mirrored inputs, float32", seconds))
    told = (
        f"Training residual-unet-3d, crops of 128³ a second: {training_rate(fast=True):.1f} in bfloat16, channels last "
        f"and compiled; {training_rate(fast=False):.1f} in float32 as it comes."
    )
    return [*lines, "", told]


def row(name: str, seconds: float, *, of_rate: float | None = None, dice: float | None = None) -> str:
    share = "" if of_rate is None else f"{of_rate:.1%}"
    same = "" if dice is None else f"{dice:.4f}"
    return f"| {name} | {1000 * seconds:.1f} | {60 / seconds:.0f} | {share} | {same} |"


def network_rows(storage: Storage, model: str, batch: torch.Tensor, whole: torch.Tensor, peak: float) -> list[str]:
    """Return one network's rows: as it comes, at its best, and in windows."""
    card, network = load_network(storage, model)
    name = card.spec.architecture
    network.to(DEVICE)
    operations = operations_of(network, batch.to(DEVICE))

    def eager() -> torch.Tensor:
        with torch.inference_mode():
            labels: torch.Tensor = network(batch.to(DEVICE)).argmax(dim=1).to(torch.uint8).cpu()
        return labels

    reference, plain = eager(), seconds_of(eager)
    fast = compiled(fold_normalisation(network))
    dice, quick = least_dice(fast(batch), reference), seconds_of(lambda: fast(batch))
    half = whole.to(torch.bfloat16)
    in_windows = seconds_of(lambda: windows(network, half, at_once=4, mirrored=False), repeats=2)
    return [
        row(f"{name}, float32, not compiled", plain, of_rate=operations / plain / peak),
        row(f"{name}, bfloat16, channels last, CUDA graphs", quick, of_rate=operations / quick / peak, dice=dice),
        row(f"{name}, whole volume in windows of 128³, four at once, bfloat16", in_windows),
    ]
