"""Two classes from one slice: a 2D ResNet-18 for cohorts that have slices and an outline, but no whole volumes."""

from __future__ import annotations

import torch
from torch import nn

from services.model_serving.networks.residual import WIDTH, PooledNetwork, ResidualTrunk


class SliceClassifier(PooledNetwork):
    """Input (batch, channels, height, width), output logits of the negative and the positive class, (batch, 2)."""

    def __init__(self, *, channels: int = 3, width: int = WIDTH) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(18, dimensions=2, channels=channels, width=width)
        self.head = nn.Linear(self.trunk.features, 2)

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.head(features)
        return logits
