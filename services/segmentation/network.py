"""The 3D U-Net of Front Oncol 2022, 969907: recombination blocks with squeeze-and-excitation.

Context path: ``levels`` recombination blocks, each followed by max-pooling. Localisation path: as many transposed
convolutions, each joined with the features of its level and followed by a recombination block. A 1×1×1 convolution
gives one logit a class; softmax over them is the segmentation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from pydantic import Field
from torch import nn

from services.shared.cohort import SEQUENCES, Label, Sequence
from services.shared.contracts import Contract
from services.shared.errors import InvalidValue

RECOMBINATION_UNET = "recombination-unet-3d"
CLASSES: tuple[Label, ...] = tuple(Label)


class NetworkSpec(Contract):
    """Everything that says what a segmentation network is, as data that stands beside its weights.

    The paper's network is the default. ``instance`` normalises each case by itself instead.
    """

    architecture: str = RECOMBINATION_UNET
    width: Annotated[int, Field(ge=2, le=256)] = 64
    levels: Annotated[int, Field(ge=1, le=6)] = 4
    normalisation: Literal["batch", "instance"] = "batch"
    channels: tuple[Sequence, ...] = SEQUENCES
    classes: tuple[Label, ...] = CLASSES
    voxel_mm: Annotated[float, Field(gt=0)] = 1.0

    @property
    def multiple(self) -> int:
        """Return what each side of an input, in voxels, must be a multiple of."""
        return int(2**self.levels)


def build_network(spec: NetworkSpec) -> RecombinationUNet:
    """Return an untrained network.

    Raises
    ------
    InvalidValue
        Where the architecture is not one that this version knows.
    """
    if spec.architecture != RECOMBINATION_UNET:
        raise InvalidValue(
            "the network's architecture is not known",
            field="architecture",
            expected=RECOMBINATION_UNET,
            got=spec.architecture,
            remedy="train the network with this version, or install the version that made it",
        )
    return RecombinationUNet(spec)


class RecombinationBlock(nn.Sequential):
    """Convolution 1×1×1, normalisation, ReLU, convolution 3×3×3, squeeze-and-excitation."""

    def __init__(self, channels_in: int, channels_out: int, *, normalisation: str) -> None:
        norm = (normalisation, {"affine": True})
        super().__init__(
            Convolution(3, channels_in, channels_out, kernel_size=1, norm=norm, act="relu"),
            nn.Conv3d(channels_out, channels_out, kernel_size=3, padding=1),
            ChannelSELayer(3, channels_out),
        )


class RecombinationUNet(nn.Module):
    """The network. Input (batch, channels, z, y, x), output logits (batch, classes, z, y, x).

    Parameters
    ----------
    spec
        Its ``width`` is the number of kernels of every convolution, on every level, as in the paper.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        width = spec.width

        def block(channels_in: int) -> RecombinationBlock:
            return RecombinationBlock(channels_in, width, normalisation=spec.normalisation)

        self.context = nn.ModuleList(block(width if level else len(spec.channels)) for level in range(spec.levels))
        self.pool = nn.MaxPool3d(2)
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(width, width, kernel_size=2, stride=2) for _ in range(spec.levels)
        )
        self.localisation = nn.ModuleList(block(2 * width) for _ in range(spec.levels))
        self.head = nn.Conv3d(width, len(spec.classes), kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits; sides must be multiples of ``2 ** levels``."""
        skips: list[torch.Tensor] = []
        for block in self.context:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        for upsample, block in zip(self.upsample, self.localisation, strict=True):
            x = block(torch.cat([skips.pop(), upsample(x)], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits


def class_indices(labels: torch.Tensor, classes: tuple[Label, ...]) -> torch.Tensor:
    """Return labels (0, 1, 2, 4) as positions in ``classes``, int64."""
    table = torch.zeros(max(classes) + 1, dtype=torch.int64)
    for index, label in enumerate(classes):
        table[label] = index
    return table[labels.long()]
