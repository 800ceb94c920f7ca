"""The networks of segmentation: which one a specification says, and their parts.

``residual-unet-3d`` is the fast one: every output voxel depends on a bounded neighbourhood. ``recombination-unet-3d``
is the network of Front Oncol 2022, 969907. With batch normalisation both give the same answer in one pass and in slabs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Literal, TypeVar, cast

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from pydantic import Field, model_validator
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from services.shared.cohort import SEQUENCES, Label, Sequence
from services.shared.contracts import Contract
from services.shared.errors import InvalidValue
from services.shared.recomputation import recomputed

Architecture = Literal["residual-unet-3d", "recombination-unet-3d"]
RESIDUAL_UNET: Architecture = "residual-unet-3d"
RECOMBINATION_UNET: Architecture = "recombination-unet-3d"
CLASSES: tuple[Label, ...] = tuple(Label)
_REDUCING_HALO = 2  # planes of input that the first reduction reads beyond a slab
_DECODING_HALO = 4  # planes beyond a slab that the stem and the finest residual block read, made even
_RECOMBINING_HALO = 2  # planes beyond a slab that the finest two recombination blocks read
_MOST_WIDENING = 8

Normalisation = Literal["batch", "instance"]


class NetworkSpec(Contract):
    """Everything that says what a segmentation network is, as data that stands beside its weights.

    ``instance`` normalises each case by itself; then an output depends on the whole input. ``optional`` names channels
    that were left out at random in training, so that a case may lack them.
    """

    architecture: str = RESIDUAL_UNET
    width: Annotated[int, Field(ge=2, le=256)] = 16
    levels: Annotated[int, Field(ge=1, le=6)] = 3
    normalisation: Normalisation = "batch"
    channels: tuple[Sequence, ...] = SEQUENCES
    optional: tuple[Sequence, ...] = ()
    classes: tuple[Label, ...] = CLASSES
    voxel_mm: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _optional_are_channels(self) -> NetworkSpec:
        if not set(self.optional) <= set(self.channels):
            raise ValueError("optional sequences must be among the channels")
        return self

    @property
    def multiple(self) -> int:
        """Return what each side of an input, in voxels, must be a multiple of."""
        return int(2**self.levels)


def build_network(spec: NetworkSpec) -> ResidualUNet | RecombinationUNet:
    """Return an untrained network.

    Raises
    ------
    InvalidValue
        Where the architecture is not one that this version knows.
    """
    if spec.architecture == RESIDUAL_UNET:
        return ResidualUNet(spec)
    if spec.architecture == RECOMBINATION_UNET:
        return RecombinationUNet(spec)
    raise InvalidValue(
        "the network's architecture is not known",
        field="architecture",
        expected=f"{RESIDUAL_UNET} or {RECOMBINATION_UNET}",
        got=spec.architecture,
        remedy="train the network with this version, or install the version that made it",
    )


class NormalisedConvolution(nn.Module):
    """Convolution 3×3×3 without bias, then normalisation."""

    def __init__(self, channels_in: int, channels_out: int, *, normalisation: Normalisation, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm: nn.Module = (
            nn.BatchNorm3d(channels_out) if normalisation == "batch" else nn.InstanceNorm3d(channels_out, affine=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return normalised features."""
        features: torch.Tensor = self.norm(self.conv(x))
        return features


class ResidualBlock(nn.Module):
    """Two normalised convolutions whose result is added to what came in (He et al., CVPR 2016)."""

    def __init__(self, width: int, *, normalisation: Normalisation) -> None:
        super().__init__()
        self.first = NormalisedConvolution(width, width, normalisation=normalisation)
        self.second = NormalisedConvolution(width, width, normalisation=normalisation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the input's size."""
        return torch.relu_(self.second(torch.relu_(self.first(x))).add_(x))


class ResidualUNet(nn.Module):
    """A 3D U-Net of residual blocks. Input (batch, channels, z, y, x), output logits (batch, classes, z, y, x).

    A strided convolution leads down, a transposed one up, where the level's features are added. Width doubles with
    each level, eight times at most. With batch normalisation a voxel's output depends on a bounded neighbourhood.

    Attributes
    ----------
    recompute
        Whether training computes the inside of each block again for the gradient, to save memory.
    has_slabs
        Whether ``forward_in_slabs`` gives the logits of one pass; instance normalisation looks at the whole input.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.levels = spec.levels
        self.recompute = False
        self.has_slabs = spec.normalisation == "batch"
        widths = [spec.width * min(2**level, _MOST_WIDENING) for level in range(spec.levels + 1)]
        kind = spec.normalisation
        self.stem = NormalisedConvolution(len(spec.channels), widths[0], normalisation=kind)
        self.reduce = nn.ModuleList(
            NormalisedConvolution(fine, coarse, normalisation=kind, stride=2) for fine, coarse in pairwise(widths)
        )
        self.encode = nn.ModuleList(ResidualBlock(width, normalisation=kind) for width in widths[1:])
        self.expand = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.decode = nn.ModuleList(ResidualBlock(width, normalisation=kind) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], len(spec.classes), kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits; sides must be multiples of ``2 ** levels``."""
        fine = self._enter(x)
        return self._leave(fine, self._below(torch.relu_(self.reduce[0](fine)), level=1))

    def forward_in_slabs(self, x: torch.Tensor, *, planes: int) -> torch.Tensor:
        """Return the same logits with a fraction of the memory: the finest level is computed slab by slab.

        Parameters
        ----------
        planes
            Planes of a slab; a multiple of 2. Slabs overlap by what the finest convolutions read; coarser levels,
            an eighth of the voxels, are computed whole.
        """
        depth = x.shape[2]
        coarse: torch.Tensor | None = None
        for start, stop in _slabs(depth, planes):
            low, high = max(start - _REDUCING_HALO, 0), min(stop + _REDUCING_HALO, depth)
            part = torch.relu_(self.reduce[0](self._enter(x[:, :, low:high])))
            if coarse is None:
                coarse = part.new_empty((*part.shape[:2], depth // 2, *part.shape[3:]))
                coarse = coarse.to(memory_format=torch.channels_last_3d)
            coarse[:, :, start // 2 : stop // 2] = part[:, :, (start - low) // 2 : (stop - low) // 2]
        assert coarse is not None
        coarse = self._below(coarse, level=1)
        logits = x.new_empty((x.shape[0], self.head.out_channels, *x.shape[2:]))
        for start, stop in _slabs(depth, planes):
            low, high = max(start - _DECODING_HALO, 0), min(stop + _DECODING_HALO, depth)
            part = self._leave(self._enter(x[:, :, low:high]), coarse[:, :, low // 2 : high // 2])
            logits[:, :, start:stop] = part[:, :, start - low : stop - low]
        return logits

    def _enter(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.stem(x))

    def _below(self, x: torch.Tensor, *, level: int) -> torch.Tensor:
        """Return the features of a level below the finest, coarser ones joined in."""
        x = self._through(self.encode[level - 1], x)
        if level == self.levels:
            return x
        coarse = self._below(torch.relu_(self.reduce[level](x)), level=level + 1)
        return self._through(self.decode[level], self.expand[level](coarse).add_(x))

    def _through(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = recomputed(block, x) if self.recompute and self.training else block(x)
        return features

    def _leave(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self._through(self.decode[0], self.expand[0](coarse).add_(fine)))
        return logits


def _slabs(depth: int, planes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, depth, planes):
        yield start, min(start + planes, depth)


Network = TypeVar("Network", bound=nn.Module)


def channels_last(network: Network) -> Network:
    """Return the network with its weights laid out channels last, the fastest layout."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def fold_normalisation(network: nn.Module) -> nn.Module:
    """Return the network with batch normalisation folded into the convolutions before it, for inference alone."""
    for part in network.modules():
        if isinstance(part, NormalisedConvolution) and isinstance(part.norm, nn.BatchNorm3d):
            part.conv = fuse_conv_bn_eval(part.conv.eval(), part.norm.eval())
            part.norm = nn.Identity()
    return network


class RecombinationBlock(nn.Sequential):
    """Convolution 1×1×1, normalisation, ReLU, convolution 3×3×3, squeeze-and-excitation."""

    def __init__(self, channels_in: int, channels_out: int, *, normalisation: Normalisation) -> None:
        norm = (normalisation, {"affine": True})
        super().__init__(
            Convolution(3, channels_in, channels_out, kernel_size=1, norm=norm, act="relu"),
            nn.Conv3d(channels_out, channels_out, kernel_size=3, padding=1),
            ChannelSELayer(3, channels_out),
        )

    def before_excitation(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features that squeeze-and-excitation weighs, which depend on their neighbourhood alone."""
        features: torch.Tensor = self[1](self[0](x))
        return features

    def excitation(self, mean: torch.Tensor) -> torch.Tensor:
        """Return the weight of each feature, for its mean over the whole input; shape (batch, channels, 1, 1, 1)."""
        weights: torch.Tensor = cast(ChannelSELayer, self[2]).fc(mean)
        return weights[:, :, None, None, None]


class RecombinationUNet(nn.Module):
    """The paper's network. Input (batch, channels, z, y, x), output logits (batch, classes, z, y, x).

    Context path: ``levels`` recombination blocks, each followed by max-pooling. Localisation path: as many transposed
    convolutions, each joined with the features of its level and followed by a recombination block. A 1×1×1
    convolution gives one logit a class; softmax over them is the segmentation.

    Parameters
    ----------
    spec
        Its ``width`` is the number of kernels of every convolution, on every level; the paper's is 64, on 4 levels.

    Attributes
    ----------
    recompute
        Whether training computes the inside of each block again for the gradient, to save memory.
    has_slabs
        Whether ``forward_in_slabs`` gives the logits of one pass; instance normalisation looks at the whole input.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.recompute = False
        self.has_slabs = spec.normalisation == "batch"
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
        fine = self._through(self.context[0], x)
        coarse = self._below(self.pool(fine))
        joined = torch.cat([fine, self.upsample[-1](coarse)], dim=1)
        logits: torch.Tensor = self.head(self._through(self.localisation[-1], joined))
        return logits

    def forward_in_slabs(self, x: torch.Tensor, *, planes: int) -> torch.Tensor:
        """Return the same logits with a fraction of the memory: the finest level is computed slab by slab.

        Squeeze-and-excitation weighs a block's features by their means over the whole input. Each of the finest two
        blocks therefore goes over the slabs twice: once for the means, once for what is made of the weighted features.

        Parameters
        ----------
        planes
            Planes of a slab; a multiple of 2. Slabs overlap by what the finest convolutions read; coarser levels,
            an eighth of the voxels, are computed whole.
        """
        first, last = cast(RecombinationBlock, self.context[0]), cast(RecombinationBlock, self.localisation[-1])

        def each(features: Callable[[int, int], torch.Tensor]) -> Iterator[tuple[int, int, torch.Tensor]]:
            for start, stop in _slabs(x.shape[2], planes):
                low = max(start - _RECOMBINING_HALO, 0)
                part = features(low, min(stop + _RECOMBINING_HALO, x.shape[2]))
                yield start, stop, part[:, :, start - low : stop - low]

        def weights(block: RecombinationBlock, features: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
            total = torch.stack([part.sum(dim=(2, 3, 4), dtype=torch.float32) for _, _, part in each(features)])
            return block.excitation(total.sum(dim=0) / x[0, 0].numel())

        def entering(low: int, high: int) -> torch.Tensor:
            return first.before_excitation(x[:, :, low:high])

        entry = weights(first, entering)
        coarse = torch.cat([self.pool(part * entry) for _, _, part in each(entering)], dim=2)
        coarse = self._below(coarse.contiguous(memory_format=torch.channels_last_3d))

        def leaving(low: int, high: int) -> torch.Tensor:
            raised = self.upsample[-1](coarse[:, :, low // 2 : high // 2])
            return last.before_excitation(torch.cat([entering(low, high) * entry, raised], dim=1))

        exit_ = weights(last, leaving)
        logits = x.new_empty((x.shape[0], self.head.out_channels, *x.shape[2:]))
        for start, stop, part in each(leaving):
            logits[:, :, start:stop] = self.head(part * exit_)
        return logits

    def _below(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of the level below the finest, coarser ones joined in."""
        skips: list[torch.Tensor] = []
        for block in self.context[1:]:
            x = self._through(block, x)
            skips.append(x)
            x = self.pool(x)
        for upsample, block in zip(self.upsample[:-1], self.localisation[:-1], strict=True):
            x = self._through(block, torch.cat([skips.pop(), upsample(x)], dim=1))
        return x

    def _through(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = recomputed(block, x) if self.recompute and self.training else block(x)
        return features


def class_indices(labels: torch.Tensor, classes: tuple[Label, ...]) -> torch.Tensor:
    """Return labels (0, 1, 2, 4) as positions in ``classes``, int64."""
    table = torch.zeros(max(classes) + 1, dtype=torch.int64)
    for index, label in enumerate(classes):
        table[label] = index
    return table[labels.long()]
