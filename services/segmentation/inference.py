"""From four prepared volumes to labels, with a network that stays loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from services.segmentation.network import NetworkSpec
from services.segmentation.regions import remove_small_components
from services.segmentation.weights import load_network, verified_sha256
from services.shared.cohort import Sequence
from services.shared.errors import InvalidMask, MissingSequence
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import require_same_grid, resample

_CLIP = 5.0  # standard deviations; a few hot vessels or residual skull must not set a case's scale
_SPACING_TOLERANCE = 0.01
_LIVE_FEATURES = 8  # feature maps of full size held at once while the finest level runs
_WINDOW_OVERLAP = 0.5
_MOST_RESIDENT = 2

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Predictor:
    """A loaded network, the device it lives on and the hash of its weights."""

    spec: NetworkSpec
    network: nn.Module
    device: torch.device
    sha256: str


_resident: dict[tuple[str, str, str], Predictor] = {}


def load_predictor(storage: Storage, model: str) -> Predictor:
    """Return a model's predictor, loaded once in this process for each version of its weights.

    Raises
    ------
    NotFound, ChangedFile, UnreadableFile, InvalidValue
        As :func:`~services.segmentation.weights.load_network`.
    """
    place = (storage.root, model, verified_sha256(storage, model))
    if place not in _resident:
        card, network = load_network(storage, model)
        device = choose_device()
        if len(_resident) >= _MOST_RESIDENT:
            _resident.clear()
        _resident[place] = Predictor(card.spec, network.to(device), device, card.weights_sha256)
    return _resident[place]


def choose_device() -> torch.device:
    """Return the torch device that the settings name; ``auto`` is the first GPU, or else the processor."""
    name = settings().device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Bound torch's threads while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def brain_box(brain: npt.NDArray[np.bool_]) -> Box:
    """Return the smallest box around a brain mask.

    Raises
    ------
    InvalidMask
        Where the mask is empty.
    """
    if not brain.any():
        raise InvalidMask(
            "the brain mask is empty",
            expected="at least one voxel of brain",
            got="none",
            remedy="look at the case's qc.json and prepare it again",
        )
    box = []
    for axis in range(3):
        inside = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return box[0], box[1], box[2]


def stack_channels(
    images: Mapping[Sequence, sitk.Image], brain: sitk.Image, channels: tuple[Sequence, ...]
) -> tuple[npt.NDArray[np.float32], Box]:
    """Return what the network reads: channels × z × y × x inside the brain's box, and that box.

    Each channel has mean 0 and standard deviation 1 inside the brain, is cut at ±5, and is 0 outside; so a network
    does not depend on how prepared volumes were scaled. Training reads its cases through the same function.

    Raises
    ------
    MissingSequence
        Where a channel has no image.
    SpaceMismatch
        Where an image does not lie on the brain mask's grid.
    InvalidMask
        Where the brain mask is empty.
    """
    missing = [channel for channel in channels if channel not in images]
    if missing:
        raise MissingSequence(
            "the network needs a sequence that is not there",
            expected=", ".join(channels),
            got="without " + ", ".join(missing),
            remedy="add the sequence, or give an expert segmentation",
        )
    mask = sitk.GetArrayViewFromImage(brain) > 0
    box = brain_box(mask)
    inside = mask[box]
    stacked = np.zeros((len(channels), *inside.shape), dtype=np.float32)
    for index, channel in enumerate(channels):
        require_same_grid(images[channel], brain, name=str(channel), reference_name="the brain mask")
        values = sitk.GetArrayViewFromImage(images[channel])[box][inside].astype(np.float64)
        spread = float(values.std())
        scaled = (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
        stacked[index][inside] = np.clip(scaled, -_CLIP, _CLIP)
    return stacked, box


def predict_labels(
    predictor: Predictor,
    images: Mapping[Sequence, sitk.Image],
    brain: sitk.Image,
    *,
    min_component_mm3: float,
    memory_mb: int,
    threads: int,
) -> sitk.Image:
    """Segment one case.

    Parameters
    ----------
    images, brain
        Prepared volumes and brain mask on one grid. Where its voxels are not as large as those that the network was
        trained on, volumes go to the network's voxel size and class probabilities come back.
    min_component_mm3
        Connected parts smaller than this are removed.
    memory_mb
        One pass where the features fit; else windows, blended with Gaussian weights.

    Returns
    -------
    SimpleITK.Image
        Labels 0, 1, 2, 4 (uint8) on the grid of ``brain``.
    """
    spec = predictor.spec
    voxels_fit = all(abs(s / spec.voxel_mm - 1) <= _SPACING_TOLERANCE for s in brain.GetSpacing())
    grid = brain if voxels_fit else _grid_of_voxels(brain, spec.voxel_mm)
    if not voxels_fit:
        images = {name: resample(image, grid) for name, image in images.items()}
    mask = brain if voxels_fit else resample(brain, grid, interpolator=sitk.sitkNearestNeighbor)
    inputs, box = stack_channels(images, mask, spec.channels)
    with torch_threads(threads):
        probabilities = predict_probabilities(predictor, inputs, memory_mb=memory_mb)
    best = _labels_on_grid(probabilities, box, grid, None if voxels_fit else brain, spec)
    best[sitk.GetArrayViewFromImage(brain) == 0] = 0
    labels = sitk.GetImageFromArray(
        remove_small_components(best, brain.GetSpacing(), min_component_mm3=min_component_mm3)
    )
    labels.CopyInformation(brain)
    return labels


def predict_probabilities(
    predictor: Predictor, inputs: npt.NDArray[np.float32], *, memory_mb: int
) -> npt.NDArray[np.float32]:
    """Return class probabilities (classes, z, y, x) for inputs (channels, z, y, x) of any size."""
    multiple = predictor.spec.multiple
    size = inputs.shape[1:]
    padding = [(0, 0)] + [(0, -n % multiple) for n in size]
    batch = torch.from_numpy(np.pad(inputs, padding))[None].to(predictor.device)
    window = window_size(batch.shape[2:], predictor.spec, memory_mb=memory_mb)
    with torch.inference_mode():
        if window is None:
            probabilities = predictor.network(batch).softmax(dim=1)
        else:
            probabilities = sliding_window_inference(
                batch,
                window,
                sw_batch_size=1,
                predictor=lambda patch: predictor.network(patch).softmax(dim=1),
                overlap=_WINDOW_OVERLAP,
                mode="gaussian",
            )
    result: npt.NDArray[np.float32] = probabilities[0].cpu().numpy()
    return result[:, : size[0], : size[1], : size[2]]


def window_size(size: tuple[int, ...], spec: NetworkSpec, *, memory_mb: int) -> tuple[int, ...] | None:
    """Return the window that fits a memory budget, or None where the whole volume does."""
    voxels = (memory_mb << 20) // (4 * _LIVE_FEATURES * spec.width)
    if int(np.prod(size)) <= voxels:
        return None
    side = max(int(voxels ** (1 / 3)) // spec.multiple, 1) * spec.multiple
    return tuple(min(side, n) for n in size)


def _grid_of_voxels(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Return an empty volume over the extent of ``image`` with cubic voxels."""
    size = [max(round(n * s / voxel_mm), 2) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([voxel_mm] * 3)
    grid.SetDirection(image.GetDirection())
    first = [(voxel_mm / s - 1) / 2 for s in image.GetSpacing()]  # outer corners of both grids meet
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    return grid


def _labels_on_grid(
    probabilities: npt.NDArray[np.float32], box: Box, grid: sitk.Image, target: sitk.Image | None, spec: NetworkSpec
) -> npt.NDArray[np.uint8]:
    """Return labels of the most probable class on ``grid``, or on ``target`` through resampled probabilities."""
    values = np.array(spec.classes, dtype=np.uint8)
    if target is None:
        labels = np.zeros(grid.GetSize()[::-1], dtype=np.uint8)
        labels[box] = values[probabilities.argmax(axis=0)]
        return labels
    whole = np.zeros((len(values), *grid.GetSize()[::-1]), dtype=np.float32)
    whole[0] = 1.0
    whole[(slice(None), *box)] = probabilities
    moved = []
    for plane in whole:
        image = sitk.GetImageFromArray(plane)
        image.CopyInformation(grid)
        moved.append(sitk.GetArrayFromImage(resample(image, target)))
    best: npt.NDArray[np.uint8] = values[np.argmax(moved, axis=0)]
    return best
