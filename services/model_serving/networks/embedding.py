"""A thousand deep features of a region's slice: the ResNet-34 of Quant Imaging Med Surg 2024, 23-807."""

from __future__ import annotations

import torch
from torch import nn

from services.model_serving.networks.residual import ResidualTrunk

INPUT_SHAPE = (3, 224, 224)
"""The region cut out of its largest slice, enlarged bilinearly, the same in each channel."""
FEATURES = 1000


class EmbeddingNetwork(nn.Module):
    """ResNet-34 with its classifier of 1,000 outputs, whose values are the features. Input (batch, 3, 224, 224)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(34, dimensions=2, channels=INPUT_SHAPE[0])
        self.head = nn.Linear(self.trunk.features, FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return deep features, (batch, 1000)."""
        features: torch.Tensor = self.head(self.trunk(x))
        return features
