"""Ferroptosis-gene risk group from four sequences: the 3D ResNet-50 of Front Neurosci 2022, 1082867, section 2.6."""

from __future__ import annotations

import torch
from torch import nn

from services.model_serving.networks.residual import WIDTH, PooledNetwork, ResidualTrunk

INPUT_SHAPE = (4, 96, 96, 96)
"""T1, T1c, T2, FLAIR, cut by the mask of the tumour core or the whole tumour."""


class RiskGroupNetwork(PooledNetwork):
    """Input (batch, 4, 96, 96, 96), output logits of low and high risk, (batch, 2).

    Parameters
    ----------
    channels, width
        The paper's, where they are not given; see :class:`services.model_serving.networks.residual.ResidualTrunk`.
    """

    def __init__(self, *, channels: int = INPUT_SHAPE[0], width: int = WIDTH) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(50, dimensions=3, channels=channels, width=width)
        self.head = nn.Linear(self.trunk.features, 2)

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.head(features)
        return logits
