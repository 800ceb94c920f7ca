"""Grade from a tumour patch, and LGG survival from one slice: the networks of Front Oncol 2022, 969907."""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import nn

from services.model_serving.networks.residual import WIDTH, PooledNetwork, ResidualTrunk

PATCH_SHAPE = (3, 96, 128, 96)
"""T1, T1c, T2 about the tumour's centre; first axis across, second front to back, third upward."""
SLICE_SHAPE = (3, 240, 240)
"""T1, T2, T1c of the slice with the largest tumour area."""


class GradeNetwork(PooledNetwork):
    """3D ResNet-18 with squeeze-and-excitation after the fourth residual block and two fully connected layers.

    Input (batch, 3, x, y, z), output logits of LGG and HGG, (batch, 2).

    Parameters
    ----------
    excitation
        Whether the squeeze-and-excitation block is there (the paper's ablation leaves it out).
    hidden
        Width of the first fully connected layer, which the paper does not state.
    channels, width
        The paper's, where they are not given; see :class:`services.model_serving.networks.residual.ResidualTrunk`.
    """

    def __init__(
        self, *, excitation: bool = True, hidden: int = 128, channels: int = PATCH_SHAPE[0], width: int = WIDTH
    ) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(18, dimensions=3, channels=channels, width=width)
        self.excitation = ChannelSELayer(3, self.trunk.features, r=16) if excitation else nn.Identity()
        self.head = nn.Sequential(nn.Linear(self.trunk.features, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the recalibrated feature maps, (batch, 512, …)."""
        found: torch.Tensor = self.excitation(self.trunk.maps(x))
        return found

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the 512 deep features of the average pool, (batch, 512)."""
        return self.maps(x).flatten(2).mean(dim=2)

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.head(features)
        return logits


class GradeAndRisk(NamedTuple):
    """What the dual-task network says: logits of grade II and III (batch, 2), survival risk (batch,), features."""

    grade_logits: torch.Tensor
    risk: torch.Tensor
    features: torch.Tensor


class GradeSurvivalNetwork(PooledNetwork):
    """2D ResNet-18 with two tasks that share its weights: grade II or III, which guides the regression of survival.

    Input (batch, 3, 240, 240). The survival head sees the 512 features and the probability of grade III.

    Parameters
    ----------
    channels, width
        The paper's, where they are not given; see :class:`services.model_serving.networks.residual.ResidualTrunk`.
    """

    def __init__(self, *, channels: int = SLICE_SHAPE[0], width: int = WIDTH) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(18, dimensions=2, channels=channels, width=width)
        self.grade = nn.Linear(self.trunk.features, 2)
        self.survival = nn.Linear(self.trunk.features + 1, 1)

    def answer(self, features: torch.Tensor) -> GradeAndRisk:
        """Return both tasks' outputs and the features."""
        logits = self.grade(features)
        guided = torch.cat([features, logits.softmax(dim=1)[:, 1:]], dim=1)
        return GradeAndRisk(logits, self.survival(guided).squeeze(1), features)
