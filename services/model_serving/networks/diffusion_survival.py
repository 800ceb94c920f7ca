"""Risk of death from diffusion maps: the ResNet-34 of EBioMedicine 2021, 103583, section 2.3."""

from __future__ import annotations

import torch
from torch import nn

from services.model_serving.networks.residual import WIDTH, PooledNetwork, ResidualTrunk

MAPS = ("FA", "MD", "AD", "RD")
SLICES = 4
CROPS = len(MAPS) * SLICES


class DiffusionSurvivalNetwork(PooledNetwork):
    """The 16 crops of a patient (4 slices of each of 4 maps) are one sample: 16 channels of one image.

    Input (batch, 16, height, width), map by map, slices of a map from below upward; output log risk, (batch,).

    Parameters
    ----------
    channels, width
        The paper's, where they are not given; see :class:`services.model_serving.networks.residual.ResidualTrunk`.
    """

    def __init__(self, *, channels: int = CROPS, width: int = WIDTH) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(34, dimensions=2, channels=channels, width=width)
        self.head = nn.Linear(self.trunk.features, 1, bias=False)

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """Return log risks; only their differences mean something, so the head has no bias."""
        risk: torch.Tensor = self.head(features)
        return risk.squeeze(1)
