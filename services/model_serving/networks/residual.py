"""Residual networks in two and three dimensions (He et al., CVPR 2016), as the four studies use them.

The trunk is MONAI's, with the stem of the original (7-wide convolution of stride 2, max-pooling) and projection
shortcuts of 1-wide convolution and batch normalisation. Its names are those of the usual ImageNet weights, so these
can be loaded where a user has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from monai.networks.nets.resnet import ResNet
from torch import nn

from services.shared.recomputation import recomputed

if TYPE_CHECKING:
    from services.model_serving.networks.grade import GradeAndRisk

Depth = Literal[18, 34, 50]

_LAYERS: dict[Depth, tuple[str, list[int]]] = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
}
WIDTH = 64
"""Feature maps of the first block in He et al.; each later one doubles them."""


def trunk_features(depth: Depth, width: int = WIDTH) -> int:
    """Return how many features the average pool of a network gives."""
    return width * (32 if depth == 50 else 8)


class ResidualTrunk(nn.Module):
    """A residual network up to its last feature maps, and their average.

    Parameters
    ----------
    depth
        Layers with weights, the last of which (the classifier) is not part of the trunk.
    dimensions
        2 for images, 3 for volumes.
    channels
        Channels of the input.
    width
        Feature maps of the first block; fewer than 64 make a small network of the same shape.

    Attributes
    ----------
    recompute
        Whether training keeps only the ends of each block and computes the rest again for the gradient: less memory,
        a third more time, the same result.
    """

    def __init__(self, depth: Depth, *, dimensions: Literal[2, 3], channels: int, width: int = WIDTH) -> None:
        super().__init__()
        block, layers = _LAYERS[depth]
        self.body = ResNet(
            block,
            layers,
            [width, 2 * width, 4 * width, 8 * width],
            spatial_dims=dimensions,
            n_input_channels=channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            bias_downsample=False,
            feed_forward=False,
        )
        self.features = trunk_features(depth, width)
        self.recompute = False

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps, shape (batch, features, …), 1/32 of the input's sides."""
        body = self.body
        x = body.maxpool(body.act(body.bn1(body.conv1(x))))
        for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = recomputed(layer, x) if self.recompute and self.training else layer(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the average of each feature map, shape (batch, features)."""
        return self.maps(x).flatten(2).mean(dim=2)


class PooledNetwork(nn.Module):
    """A network whose answer comes from the features of its last average pool alone.

    Attributes
    ----------
    trunk
        What makes the features.
    """

    trunk: ResidualTrunk

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of the last average pool, (batch, features)."""
        features: torch.Tensor = self.trunk(x)
        return features

    def answer(self, features: torch.Tensor) -> torch.Tensor | GradeAndRisk:
        """Return what the network says of patients with these features."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor | GradeAndRisk:
        """Return what the network says of patients."""
        return self.answer(self.embed(x))
