"""Every network has the shapes and the size that its paper's description gives."""

from __future__ import annotations

import pytest
import torch

from services.model_serving.networks.diffusion_survival import CROPS, DiffusionSurvivalNetwork
from services.model_serving.networks.embedding import EmbeddingNetwork
from services.model_serving.networks.grade import GradeNetwork, GradeSurvivalNetwork
from services.model_serving.networks.residual import ResidualTrunk
from services.model_serving.networks.risk_group import RiskGroupNetwork


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def ask(network: torch.nn.Module, *shape: int):
    torch.manual_seed(0)
    with torch.inference_mode():
        return network.eval()(torch.randn(*shape))


def basic(width_in: int, width: int, kernel: int, *, projected: bool) -> int:
    """Weights of a basic block: two convolutions, two normalisations, and the projection with its own."""
    found = kernel * width * (width_in + width) + 4 * width
    return found + (width_in * width + 2 * width if projected else 0)


def bottleneck(width_in: int, width: int, kernel: int, *, projected: bool) -> int:
    wide = 4 * width
    found = width_in * width + kernel * width * width + width * wide + 2 * (2 * width + wide)
    return found + (width_in * wide + 2 * wide if projected else 0)


def trunk_size(block, layers, *, channels: int, dimensions: int, expansion: int) -> int:
    """Weights by the published table (He 2016, Table 1), counted by hand for any dimension."""
    found = 64 * channels * 7**dimensions + 2 * 64
    width_in = 64
    for stage, (width, blocks) in enumerate(zip((64, 128, 256, 512), layers, strict=True)):
        for number in range(blocks):
            projected = number == 0 and (stage > 0 or expansion > 1)
            found += block(width_in, width, 3**dimensions, projected=projected)
            width_in = width * expansion
    return found


def test_the_2d_trunks_have_the_published_number_of_parameters():
    with_classifier = count(EmbeddingNetwork())
    assert with_classifier == 21_797_672  # ResNet-34 for ImageNet
    assert count(ResidualTrunk(18, dimensions=2, channels=3)) + 512 * 1000 + 1000 == 11_689_512


def test_risk_group_network_is_a_3d_resnet_50():
    network = RiskGroupNetwork()
    wanted = trunk_size(bottleneck, (3, 4, 6, 3), channels=4, dimensions=3, expansion=4) + 2048 * 2 + 2
    assert count(network) == wanted
    assert ask(network, 1, 4, 96, 96, 96).shape == (1, 2)
    assert [len(getattr(network.trunk.body, f"layer{n}")) for n in range(1, 5)] == [3, 4, 6, 3]
    with torch.inference_mode():
        assert network.trunk.maps(torch.zeros(1, 4, 96, 96, 96)).shape == (1, 2048, 3, 3, 3)


@pytest.mark.parametrize("excitation", [True, False])
def test_grade_network_gives_512_features_and_two_classes(excitation):
    network = GradeNetwork(excitation=excitation)
    trunk = trunk_size(basic, (2, 2, 2, 2), channels=3, dimensions=3, expansion=1)
    squeeze = (512 * 32 + 32) + (32 * 512 + 512) if excitation else 0
    assert count(network) == trunk + squeeze + 512 * 128 + 128 + 128 * 2 + 2
    assert ask(network, 1, 3, 96, 128, 96).shape == (1, 2)
    with torch.inference_mode():
        assert network.embed(torch.zeros(1, 3, 96, 128, 96)).shape == (1, 512)


def test_dual_task_network_shares_its_trunk_and_grade_guides_survival():
    network = GradeSurvivalNetwork()
    trunk = trunk_size(basic, (2, 2, 2, 2), channels=3, dimensions=2, expansion=1)
    assert count(network) == trunk + (512 * 2 + 2) + (513 + 1)
    found = ask(network, 2, 3, 240, 240)
    assert found.grade_logits.shape == (2, 2)
    assert found.risk.shape == (2,)
    assert found.features.shape == (2, 512)
    network.train()
    network(torch.randn(2, 3, 64, 64)).risk.sum().backward()
    assert network.grade.weight.grad.abs().sum() > 0  # survival alone teaches the grade head


def test_diffusion_network_takes_16_crops_of_any_size_as_one_sample():
    network = DiffusionSurvivalNetwork()
    trunk = trunk_size(basic, (3, 4, 6, 3), channels=16, dimensions=2, expansion=1)
    assert count(network) == trunk + 512
    assert ask(network, 3, CROPS, 96, 80).shape == (3,)


def test_embedding_network_gives_a_thousand_features():
    assert ask(EmbeddingNetwork(), 2, 3, 224, 224).shape == (2, 1000)
