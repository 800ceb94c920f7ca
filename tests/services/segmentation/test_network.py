from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import nn

from services.segmentation.network import (
    RECOMBINATION_UNET,
    RESIDUAL_UNET,
    Architecture,
    NetworkSpec,
    RecombinationBlock,
    RecombinationUNet,
    ResidualUNet,
    build_network,
    class_indices,
    fold_normalisation,
)
from services.shared.errors import InvalidValue

PAPER = NetworkSpec(architecture=RECOMBINATION_UNET, width=64, levels=4)


def narrow(**given: object) -> NetworkSpec:
    return PAPER.model_copy(update={"width": 4, **given})


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
    network = build_network(PAPER.model_copy(update={"width": width}))
    assert sum(p.numel() for p in network.parameters()) == expected_parameters(width)


def test_the_papers_network_is_as_described() -> None:
    spec = PAPER
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
    network = build_network(narrow(normalisation="instance"))
    assert sum(isinstance(m, nn.InstanceNorm3d) for m in network.modules()) == 8


@pytest.mark.parametrize("spec", [narrow(), NetworkSpec(width=4)], ids=lambda spec: spec.architecture)
def test_output_has_the_inputs_size_and_four_classes(spec: NetworkSpec) -> None:
    network = build_network(spec).eval()
    with torch.no_grad():
        logits = network(torch.randn(1, 4, 16, 32, 48))
    assert logits.shape == (1, 4, 16, 32, 48)
    torch.testing.assert_close(logits.softmax(dim=1).sum(dim=1), torch.ones(1, 16, 32, 48))


def test_every_level_is_used() -> None:
    torch.manual_seed(0)
    network = build_network(narrow(width=16, levels=3))
    network(torch.randn(1, 4, 16, 16, 16)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # The bias of a convolution before normalisation is subtracted again.
    assert [name for name in idle if not name.endswith("0.conv.bias")] == []


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(InvalidValue) as caught:
        build_network(NetworkSpec(architecture="transformer"))
    assert caught.value.got == "transformer"
    assert caught.value.expected == "residual-unet-3d or recombination-unet-3d"


def test_labels_become_positions_among_classes() -> None:
    labels = torch.tensor([0, 1, 2, 4], dtype=torch.uint8)
    assert class_indices(labels, NetworkSpec().classes).tolist() == [0, 1, 2, 3]


def settled(**given: object) -> ResidualUNet | RecombinationUNet:
    """Return a network, a residual U-Net by default, with running statistics of a trained one, not 0 and 1."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec.model_validate({"width": 4, "levels": 2, **given}))
    assert isinstance(network, ResidualUNet | RecombinationUNet)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return network.eval()


def expected_residual_parameters(width: int) -> int:
    """Count by hand: convolutions of 27 without bias, scale and shift a channel, transposed ones of 8 with bias."""

    def convolution(channels_in: int, channels_out: int) -> int:
        return 27 * channels_in * channels_out + 2 * channels_out

    total = convolution(4, width) + width * 4 + 4
    for fine, coarse in ((width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)):
        total += convolution(fine, coarse) + 2 * convolution(coarse, coarse)
        total += 8 * coarse * fine + fine + 2 * convolution(fine, fine)
    return total


def test_the_default_is_the_residual_unet_with_as_many_parameters_as_counted_by_hand() -> None:
    network = build_network(NetworkSpec())
    assert isinstance(network, ResidualUNet)
    assert sum(p.numel() for p in network.parameters()) == expected_residual_parameters(16) == 1_831_572


@pytest.mark.parametrize("architecture", [RESIDUAL_UNET, RECOMBINATION_UNET])
@pytest.mark.parametrize(("depth", "planes"), [(24, 8), (24, 10), (20, 16), (12, 64), (16, 2)])
def test_slabs_give_the_logits_of_one_pass(architecture: Architecture, depth: int, planes: int) -> None:
    network = settled(architecture=architecture, levels=2)
    inputs = torch.randn(1, 4, depth, 12, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network.forward_in_slabs(inputs, planes=planes), network(inputs), rtol=0, atol=1e-5)


def test_a_voxel_reaches_no_farther_than_its_convolutions() -> None:
    """With random weights every path carries something: what changes is what can."""
    levels = 2
    network = settled(levels=levels)
    reach = 1 + sum(2 ** (level - 1) * 2 + 2 * 2**level + 2 * 2 ** (level - 1) for level in range(1, levels + 1))
    inputs = torch.zeros(1, 4, 96, 8, 8)
    moved = inputs.clone()
    moved[:, :, 48] = 5
    with torch.inference_mode():
        change = (network(inputs) - network(moved)).abs().amax(dim=(0, 1, 3, 4))
    reached = torch.nonzero(change).flatten()
    assert 10 < int(reached.max()) - 48 <= reach
    assert 10 < 48 - int(reached.min()) <= reach


def test_folded_normalisation_changes_nothing() -> None:
    network = settled()
    inputs = torch.randn(1, 4, 8, 16, 12)
    with torch.inference_mode():
        before = network(inputs)
        folded = fold_normalisation(network)
        assert not any(isinstance(part, nn.BatchNorm3d) for part in folded.modules())
        torch.testing.assert_close(folded(inputs), before, rtol=0, atol=1e-5)


def test_optional_sequences_are_channels() -> None:
    with pytest.raises(ValueError, match="among the channels"):
        NetworkSpec(channels=("T1w", "T1c"), optional=("FLAIR",))
