"""From prepared volumes to labels, with a network that stays loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from services.segmentation.contracts import SegmentParameters
from services.segmentation.network import (
    NetworkSpec,
    RecombinationUNet,
    ResidualUNet,
    channels_last,
    fold_normalisation,
)
from services.segmentation.regions import absorb_small_enhancing, fill_holes, remove_small_components
from services.segmentation.uncertainty import Floats, entropy, expected_dice, mutual_information
from services.segmentation.weights import load_network, verified_sha256
from services.shared.cohort import Region, Sequence
from services.shared.device import choose_device, is_out_of_memory, torch_threads
from services.shared.errors import InvalidMask, InvalidVolume, MissingSequence, TooLarge
from services.shared.storage import Storage
from services.shared.volume import require_same_grid, resample

_CLIP = 5.0  # standard deviations; a few hot vessels or residual skull must not set a case's scale
_SPACING_TOLERANCE = 0.01
_LIVE_FEATURES = 6  # feature maps of full size held at once while the finest level runs
_COARSE_SHARE = 0.25  # of those features, what the next level takes: an eighth, in the residual U-Net twice as wide
_LEAST_PLANES = 16
_SLAB_OVERLAP = 8
_WINDOW_OVERLAP = 0.5
_WINDOWS_AT_ONCE = 4  # on a GPU, which small windows do not fill
_MOST_RESIDENT = 2

Box = tuple[slice, slice, slice]
Reading = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Predictor:
    """A loaded network, the device it lives on and the hash of its weights."""

    spec: NetworkSpec
    network: nn.Module
    device: torch.device
    sha256: str


@dataclass(frozen=True)
class Prediction:
    """What a network says of one input.

    Attributes
    ----------
    probabilities : float32, classes × z × y × x
        Mean over the mirrored inputs, where there are such.
    view_entropy : float32, z × y × x
        Mean over mirrored inputs of each one's entropy, nats; None without them.
    in_windows : bool
        The input did not fit into memory at once.
    notes
        What was out of the ordinary.
    """

    probabilities: Floats
    view_entropy: Floats | None
    in_windows: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Segmented:
    """One case's labels (0, 1, 2, 4; uint8), uncertainty on the same grid where it was asked for, and what was met."""

    labels: sitk.Image
    entropy: sitk.Image | None
    mutual_information: sitk.Image | None
    expected_dice: dict[Region, float | None]
    missing_sequences: tuple[Sequence, ...]
    in_windows: bool
    notes: tuple[str, ...]


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
        ready = channels_last(fold_normalisation(network)).to(device)
        _resident[place] = Predictor(card.spec, ready, device, card.weights_sha256)
    return _resident[place]


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
    images: Mapping[Sequence, sitk.Image],
    brain: sitk.Image,
    channels: tuple[Sequence, ...],
    *,
    optional: tuple[Sequence, ...] = (),
) -> tuple[npt.NDArray[np.float32], Box]:
    """Return what the network reads: channels × z × y × x inside the brain's box, and that box.

    Each channel has mean 0 and standard deviation 1 inside the brain, is cut at ±5, and is 0 outside; so a network
    does not depend on how prepared volumes were scaled. A channel that is missing or constant is 0. Training reads
    its cases through the same function.

    Raises
    ------
    MissingSequence
        Where a channel that is not optional has no image, or none has one.
    SpaceMismatch
        Where an image does not lie on the brain mask's grid.
    InvalidVolume
        Where an image has a value inside the brain that is not finite.
    InvalidMask
        Where the brain mask is empty.
    """
    missing = [channel for channel in channels if channel not in images]
    if not set(missing) <= set(optional) or len(missing) == len(channels):
        raise MissingSequence(
            "the network needs a sequence that is not there",
            expected=", ".join(channel for channel in channels if channel not in optional) or "at least one sequence",
            got="without " + ", ".join(missing),
            remedy="add the sequence, give an expert segmentation, or train a network with 'drop_sequence'",
        )
    mask = sitk.GetArrayViewFromImage(brain) > 0
    box = brain_box(mask)
    inside = mask[box]
    stacked = np.zeros((len(channels), *inside.shape), dtype=np.float32)
    for index, channel in enumerate(channels):
        if channel in missing:
            continue
        require_same_grid(images[channel], brain, name=str(channel), reference_name="the brain mask")
        values = sitk.GetArrayViewFromImage(images[channel])[box][inside].astype(np.float64)
        if not np.isfinite(values).all():
            raise InvalidVolume(
                "the volume holds NaN or infinite values inside the brain",
                field=str(channel),
                expected="finite values",
                got=f"{int(np.count_nonzero(~np.isfinite(values)))} of {values.size} voxels",
                remedy="prepare the case again",
            )
        spread = float(values.std())
        scaled = (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
        stacked[index][inside] = np.clip(scaled, -_CLIP, _CLIP)
    return stacked, box


def predict_labels(
    predictor: Predictor, images: Mapping[Sequence, sitk.Image], brain: sitk.Image, parameters: SegmentParameters
) -> Segmented:
    """Segment one case.

    Parameters
    ----------
    images, brain
        Prepared volumes and brain mask on one grid. Where its voxels are not as large as those that the network was
        trained on, volumes go to the network's voxel size and class probabilities come back.

    Returns
    -------
    Segmented
        On the grid of ``brain``.
    """
    spec = predictor.spec
    missing = tuple(channel for channel in spec.channels if channel not in images)
    voxels_fit = all(abs(s / spec.voxel_mm - 1) <= _SPACING_TOLERANCE for s in brain.GetSpacing())
    grid = brain if voxels_fit else _grid_of_voxels(brain, spec.voxel_mm)
    if not voxels_fit:
        images = {name: resample(image, grid) for name, image in images.items()}
    mask = brain if voxels_fit else resample(brain, grid, interpolator=sitk.sitkNearestNeighbor)
    inputs, box = stack_channels(images, mask, spec.channels, optional=spec.optional)
    constant = [c for c, plane in zip(spec.channels, inputs, strict=True) if c not in missing and not plane.any()]
    with torch_threads(parameters.threads):
        found = predict_probabilities(
            predictor, inputs, memory_mb=parameters.memory_mb, test_time_flips=parameters.test_time_flips
        )
    probabilities, view_entropy = found.probabilities, found.view_entropy
    if not voxels_fit:
        whole = brain_box(sitk.GetArrayViewFromImage(brain) > 0)
        probabilities = _carry(probabilities, box, grid, brain, whole)
        view_entropy = None if view_entropy is None else _carry(view_entropy[None], box, grid, brain, whole)[0]
        box = whole
    inside = sitk.GetArrayViewFromImage(brain)[box] > 0
    best = np.array(spec.classes, dtype=np.uint8)[probabilities.argmax(axis=0)] * inside
    labels = _post_process(best, brain.GetSpacing(), parameters)

    def map_of(values: Floats) -> sitk.Image:
        return _lay_back(values * inside, box, brain)

    return Segmented(
        labels=_lay_back(labels, box, brain),
        entropy=map_of(entropy(probabilities)) if parameters.uncertainty else None,
        mutual_information=map_of(mutual_information(probabilities, view_entropy))
        if parameters.uncertainty and view_entropy is not None
        else None,
        expected_dice=expected_dice(probabilities, labels, inside, classes=spec.classes),
        missing_sequences=missing,
        in_windows=found.in_windows,
        notes=(*found.notes, *(f"{channel} is constant inside the brain and says nothing" for channel in constant)),
    )


def predict_probabilities(
    predictor: Predictor, inputs: npt.NDArray[np.float32], *, memory_mb: int, test_time_flips: bool = False
) -> Prediction:
    """Return class probabilities for inputs (channels, z, y, x) of any size.

    Parameters
    ----------
    memory_mb
        One pass where the features fit. Else, and where memory runs out all the same, the finest level is computed
        slab by slab, which changes nothing; a network with instance normalisation reads windows of half overlap that
        are blended with Gaussian weights.
    test_time_flips
        Take the mean over the eight ways to mirror the input along its axes.

    Raises
    ------
    TooLarge
        Where memory runs out in windows too.
    """
    size = inputs.shape[1:]
    padding = [(0, 0)] + [(0, -n % predictor.spec.multiple) for n in size]
    batch = torch.from_numpy(np.pad(inputs, padding))[None].to(predictor.device)
    windows = in_windows(predictor, tuple(batch.shape[2:]), memory_mb=memory_mb)
    fits = windows is None
    read = windows or predictor.network
    notes: tuple[str, ...] = ()
    total, entropies = torch.zeros(()), torch.zeros(())
    views = list(product((False, True), repeat=3)) if test_time_flips else [(False, False, False)]
    # A GPU multiplies in bfloat16 where that is safe; softmax and everything after it stay in float32.
    half = torch.autocast("cuda", torch.bfloat16, enabled=predictor.device.type == "cuda")
    with torch.inference_mode(), half:
        for view in views:
            axes = [axis + 2 for axis, mirrored in enumerate(view) if mirrored]
            flipped = batch.flip(axes).contiguous(memory_format=torch.channels_last_3d)
            try:
                logits = _read_or_none(read, flipped)
                if logits is None and fits:
                    notes = ("memory ran out in one pass: segmented in windows",)
                    fits = False
                    read = in_windows(predictor, tuple(batch.shape[2:]), memory_mb=0) or read
                    logits = _read_or_none(read, flipped)
            finally:
                del flipped
            if logits is None:
                raise TooLarge(
                    "there is not enough memory to segment the case",
                    expected="memory for one window",
                    got=f"a brain of {' × '.join(map(str, size))} voxels, network of width {predictor.spec.width}",
                    remedy="segment fewer cases at a time, or on a machine with more memory",
                )
            single = logits.float().softmax(dim=1).flip(axes)[0]
            del logits
            total = total.to(single.device) + single
            if test_time_flips:
                entropies = entropies.to(single.device) + torch.special.entr(single).sum(dim=0)
    crop = (..., slice(size[0]), slice(size[1]), slice(size[2]))
    return Prediction(
        probabilities=np.ascontiguousarray((total / len(views)).cpu().numpy()[crop]),
        view_entropy=(entropies / len(views)).cpu().numpy()[crop] if test_time_flips else None,
        in_windows=not fits,
        notes=notes,
    )


def in_windows(predictor: Predictor, size: tuple[int, ...], *, memory_mb: int) -> Reading | None:
    """Return what reads an input of a size part by part within a memory budget, or None where one pass fits."""
    spec, network = predictor.spec, predictor.network
    voxels = (memory_mb << 20) / (4 * _LIVE_FEATURES * spec.width)
    if int(np.prod(size)) <= voxels:
        return None
    if isinstance(network, ResidualUNet | RecombinationUNet) and network.has_slabs:
        left = voxels / (size[1] * size[2]) - _COARSE_SHARE * size[0] - _SLAB_OVERLAP
        planes = max(int(left) // 2 * 2, _LEAST_PLANES)
        return lambda batch: network.forward_in_slabs(batch, planes=planes)
    at_once = _WINDOWS_AT_ONCE if predictor.device.type == "cuda" else 1
    side = max(int((voxels / at_once) ** (1 / 3)) // spec.multiple, _LEAST_PLANES // spec.multiple, 1) * spec.multiple
    window = tuple(min(side, n) for n in size)

    def read(batch: torch.Tensor) -> torch.Tensor:
        blended = sliding_window_inference(
            batch, window, sw_batch_size=at_once, predictor=network, overlap=_WINDOW_OVERLAP, mode="gaussian"
        )
        assert isinstance(blended, torch.Tensor)
        return blended

    return read


def _read_or_none(read: Reading, batch: torch.Tensor) -> torch.Tensor | None:
    """Return logits, or None where memory ran out."""
    try:
        return read(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _post_process(
    labels: npt.NDArray[np.uint8], spacing_mm: tuple[float, ...], parameters: SegmentParameters
) -> npt.NDArray[np.uint8]:
    labels = remove_small_components(labels, spacing_mm, min_component_mm3=parameters.min_component_mm3)
    if parameters.fill_holes:
        labels = fill_holes(labels)
    return absorb_small_enhancing(labels, spacing_mm, min_enhancing_mm3=parameters.min_enhancing_mm3)


def _grid_of_voxels(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Return an empty volume over the extent of ``image`` with cubic voxels."""
    size = [max(round(n * s / voxel_mm), 2) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing([voxel_mm] * 3)
    grid.SetDirection(image.GetDirection())
    first = [(voxel_mm / s - 1) / 2 for s in image.GetSpacing()]  # outer corners of both grids meet
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    return grid


def _lay_back(values: npt.NDArray[np.generic], box: Box, grid: sitk.Image) -> sitk.Image:
    """Return a box's values on its grid, 0 elsewhere."""
    whole = np.zeros(grid.GetSize()[::-1], dtype=values.dtype)
    whole[box] = values
    image = sitk.GetImageFromArray(whole)
    image.CopyInformation(grid)
    return image


def _carry(planes: Floats, box: Box, grid: sitk.Image, target: sitk.Image, target_box: Box) -> Floats:
    """Return planes (n, z, y, x) inside a box of ``grid`` on a box of ``target``; beyond, the first is class 0."""
    moved = np.empty((len(planes), *(part.stop - part.start for part in target_box)), dtype=np.float32)
    background = len(planes) > 1
    for index, plane in enumerate(planes):
        outside = 1.0 if background and index == 0 else 0.0
        image = _lay_back(plane - outside, box, grid)
        moved[index] = sitk.GetArrayViewFromImage(resample(image, target))[target_box] + outside
    return moved
