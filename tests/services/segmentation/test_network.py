from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import nn

from services.segmentation.network import NetworkSpec, RecombinationBlock, build_network, class_indices
from services.shared.errors import InvalidValue


def expected_parameters(width: int, *, levels: int = 4, channels: int = 4, classes: int = 4) -> int:
    """Count by hand: convolutions with bias, one scale and shift a normalised channel, two layers of excitation."""
    half = width // 2

    def block(channels_in: int) -> int:
        point = channels_in * width + width + 2 * width
        space = 27 * width * width + width
        excitation = width * half + half + half * width + width
        return point + space + excitation

    context = block(channels) + (levels - 1) * block(width)
    localisation = levels * (block(2 * width) + 8 * width * width + width)
    return context + localisation + width * classes + classes


@pytest.mark.parametrize("width", [8, 64])
def test_the_papers_network_has_as_many_parameters_as_counted_by_hand(width: int) -> None:
    network = build_network(NetworkSpec(width=width))
    assert sum(p.numel() for p in network.parameters()) == expected_parameters(width)


def test_the_default_is_the_papers_network() -> None:
    spec = NetworkSpec()
    network = build_network(spec)
    blocks = [m for m in network.modules() if isinstance(m, RecombinationBlock)]
    assert (spec.width, spec.levels, spec.multiple) == (64, 4, 16)
    assert len(blocks) == 8
    for block in blocks:
        point, space, excitation = block
        kinds = [type(m) for m in point.modules() if not list(m.children())]
        assert kinds == [nn.Conv3d, nn.BatchNorm3d, nn.ReLU]
        assert (point.conv.kernel_size, space.kernel_size) == ((1, 1, 1), (3, 3, 3))
        assert isinstance(excitation, ChannelSELayer)
    ups = [m for m in network.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert [(m.kernel_size, m.stride) for m in ups] == [((2, 2, 2), (2, 2, 2))] * 4


def test_instance_normalisation_can_be_chosen() -> None:
    network = build_network(NetworkSpec(width=4, normalisation="instance"))
    assert sum(isinstance(m, nn.InstanceNorm3d) for m in network.modules()) == 8


def test_output_has_the_inputs_size_and_four_classes() -> None:
    network = build_network(NetworkSpec(width=4)).eval()
    with torch.no_grad():
        logits = network(torch.randn(1, 4, 16, 32, 48))
    assert logits.shape == (1, 4, 16, 32, 48)
    torch.testing.assert_close(logits.softmax(dim=1).sum(dim=1), torch.ones(1, 16, 32, 48))


def test_every_level_is_used() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSpec(width=16, levels=3))
    network(torch.randn(1, 4, 16, 16, 16)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # The bias of a convolution before normalisation is subtracted again.
    assert [name for name in idle if not name.endswith("0.conv.bias")] == []


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(InvalidValue) as caught:
        build_network(NetworkSpec(architecture="transformer"))
    assert caught.value.got == "transformer"
    assert caught.value.expected == "recombination-unet-3d"


def test_labels_become_positions_among_classes() -> None:
    labels = torch.tensor([0, 1, 2, 4], dtype=torch.uint8)
    assert class_indices(labels, NetworkSpec().classes).tolist() == [0, 1, 2, 3]
