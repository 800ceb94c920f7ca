"""A network of axial slices that outlines where FLAIR is abnormal, whatever the slices' spacing.

Lower-grade gliomas rarely enhance: the published reference (Buda et al., Comput Biol Med 2019) segments the FLAIR
abnormality of single slices of T1, FLAIR and T1c. Slices are read at a coarse side, for which half a minute of a
processor core is an epoch of a thousand of them; probabilities come back to the slices' own grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.segresnet import SegResNet
from pydantic import Field
from torch import nn
from torch.nn import functional

from services.shared.cohort import Sequence
from services.shared.contracts import Contract
from services.shared.errors import InvalidVolume, MissingSequence

REQUIRED = Sequence.FLAIR
_HEAD_SHARE = 0.08  # of a sequence's bright end; below it is air
_CLIP = 4.0

Volume = npt.NDArray[np.float32]


class SliceNetworkSpec(Contract):
    """Everything that says what a slice network is, as data that stands beside its weights.

    Channels other than FLAIR may be missing: the network has learnt with and without them.
    """

    architecture: Literal["slice-segresnet-2d"] = "slice-segresnet-2d"
    width: Annotated[int, Field(ge=8, le=128, multiple_of=8)] = 16
    side: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = 128
    channels: tuple[Sequence, ...] = (Sequence.T1, Sequence.FLAIR, Sequence.T1C)


def build_slice_network(spec: SliceNetworkSpec) -> SegResNet:
    """Return an untrained network: input (slices, channels, side, side), output logits (slices, 1, side, side)."""
    return SegResNet(
        spatial_dims=2,
        init_filters=spec.width,
        in_channels=len(spec.channels),
        out_channels=1,
        blocks_down=(1, 2, 2, 2),
        blocks_up=(1, 1, 1),
    )


def stack_slices(volumes: Mapping[Sequence, Volume], spec: SliceNetworkSpec) -> torch.Tensor:
    """Return what the network reads, (slices, channels, side, side).

    Each sequence has mean 0 and standard deviation 1 over the head of the whole stack (voxels above 8 % of its bright
    end in any sequence), is cut at ±4, padded to a square and brought to the network's side. A sequence that is not
    there is 0 throughout.

    Parameters
    ----------
    volumes
        Slices × rows × columns of one shape.

    Raises
    ------
    MissingSequence
        Where FLAIR is not there.
    InvalidVolume
        Where sequences differ in shape, hold NaN, or are constant.
    """
    if REQUIRED not in volumes:
        raise MissingSequence(
            "the outline of the FLAIR abnormality needs FLAIR",
            expected=str(REQUIRED),
            got=", ".join(map(str, volumes)) or "no sequence",
            remedy="add the sequence",
        )
    shape = volumes[REQUIRED].shape
    for sequence, values in volumes.items():
        _check(sequence, values, shape)
    present = {sequence: volumes[sequence] for sequence in spec.channels if sequence in volumes}
    head = np.zeros(shape, dtype=bool)
    for values in present.values():
        head |= values > _HEAD_SHARE * np.percentile(values, 99.5)
    stacked = np.zeros((shape[0], len(spec.channels), *shape[1:]), dtype=np.float32)
    for index, sequence in enumerate(spec.channels):
        if sequence in present:
            values = present[sequence]
            inside = values[head]
            stacked[:, index] = np.clip((values - inside.mean()) / inside.std(), -_CLIP, _CLIP)
    return _resized(_squared(torch.from_numpy(stacked)), spec.side)


def stack_masks(mask: npt.NDArray[np.bool_], spec: SliceNetworkSpec) -> torch.Tensor:
    """Return a mask (slices, rows, columns) as the network learns it: (slices, 1, side, side), shares of a pixel."""
    return _resized(_squared(torch.from_numpy(mask[:, None].astype(np.float32))), spec.side)


def slice_probabilities(
    network: nn.Module, inputs: torch.Tensor, shape: tuple[int, ...], *, device: torch.device, batch: int = 16
) -> Volume:
    """Return the probability that FLAIR is abnormal, slices × rows × columns, as the mean over a left-right flip.

    Parameters
    ----------
    inputs
        From :func:`stack_slices`.
    shape
        Rows and columns of the slices as they came.
    """
    found = []
    with torch.inference_mode():
        for part in torch.split(inputs, batch):
            x = part.to(device).contiguous(memory_format=torch.channels_last)
            logits = (network(x) + network(x.flip(3)).flip(3)) / 2
            found.append(logits.float().cpu())
    side = max(shape)
    large = functional.interpolate(torch.cat(found), size=(side, side), mode="bilinear", align_corners=False)
    top, left = ((side - n) // 2 for n in shape)
    result: Volume = large.sigmoid()[:, 0, top : top + shape[0], left : left + shape[1]].numpy()
    return result


def _check(sequence: Sequence, values: Volume, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise InvalidVolume("sequences differ in shape", field=str(sequence), expected=shape, got=values.shape)
    spread = float(values.std())
    if not np.isfinite(spread) or spread == 0.0:
        raise InvalidVolume(
            "a sequence is constant" if spread == 0.0 else "a sequence holds NaN or infinite values",
            field=str(sequence),
            expected="finite intensities that differ",
            got=f"standard deviation {spread:g}",
            remedy="export the image again, or leave the sequence out",
        )


def _squared(x: torch.Tensor) -> torch.Tensor:
    rows, columns = x.shape[2:]
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    return functional.pad(x, (left, side - columns - left, top, side - rows - top))


def _resized(x: torch.Tensor, side: int) -> torch.Tensor:
    return functional.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
