"""Specifications are data: they say the input, refuse what no network can see, and build the papers' networks."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from services.model_serving.networks.grade import GradeAndRisk
from services.model_serving.networks.residual import ResidualTrunk
from services.model_serving.networks.specification import PAPER_SPECS, ImagingSpec, build_network, feature_layer
from services.shared.cohort import Sequence


def tiny(architecture: str, **changes) -> ImagingSpec:
    size = (32, 32, 32) if architecture in ("risk_group", "grade") else (48, 48)
    return PAPER_SPECS[architecture].model_copy(update={"width": 4, "size": size, **changes})


def test_the_papers_inputs():
    shapes = {name: spec.input_shape for name, spec in PAPER_SPECS.items()}
    assert shapes["risk_group"] == (4, 96, 96, 96)
    assert shapes["grade"] == (3, 96, 128, 96)
    assert shapes["grade_survival"] == (3, 240, 240)
    assert shapes["diffusion_survival"] == (16, 96, 96)
    assert {name: spec.task for name, spec in PAPER_SPECS.items()} == {
        "risk_group": "classes",
        "grade": "classes",
        "grade_survival": "both",
        "diffusion_survival": "survival",
        "slice_classifier": "classes",
    }


@pytest.mark.parametrize("architecture", sorted(PAPER_SPECS))
def test_every_specification_builds_a_network_that_takes_its_input(architecture):
    spec = tiny(architecture)
    network = build_network(spec).eval()
    with torch.inference_mode():
        found = network(torch.randn(2, *spec.input_shape))
    if spec.task == "both":
        assert isinstance(found, GradeAndRisk)
    else:
        assert found.shape == ((2, 2) if spec.task == "classes" else (2,))
    assert ImagingSpec.model_validate_json(spec.model_dump_json()) == spec
    assert isinstance(feature_layer(network), torch.nn.Module)
    found = []
    handle = feature_layer(network, spec.size).register_forward_hook(lambda _m, _g, maps: found.append(maps))
    with torch.inference_mode():
        network(torch.randn(1, *spec.input_shape))
    handle.remove()
    assert min(found[0].shape[2:]) >= 3
    assert feature_layer(network, (96, 128, 96)) is feature_layer(network)


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("grade", {"view": "slice"}, "cannot look"),
        ("grade", {"size": (96, 96)}, "expected 3"),
        ("grade_survival", {"size": (240, 240, 16)}, "expected 2"),
        ("grade", {"sequences": ()}, "needs a sequence"),
        ("grade", {"maps": ("FA",)}, "in sections"),
        ("grade", {"sequences": (Sequence.T1, Sequence.T1)}, "named twice"),
        ("grade", {"voxel_mm": None}, "voxel size"),
        ("grade", {"classes": ("LGG", "LGG")}, "one name"),
        ("grade", {"size": (96, 96, 8)}, "greater than or equal to 16"),
    ],
)
def test_what_no_network_can_see_is_refused(architecture, changes, words):
    values = PAPER_SPECS[architecture].model_dump() | changes
    with pytest.raises(ValidationError, match=words):
        ImagingSpec.model_validate(values)


def test_recomputing_blocks_changes_neither_gradients_nor_running_means():
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        trunk = ResidualTrunk(18, dimensions=2, channels=2, width=4)
        trunk.recompute = recompute
        inputs = torch.randn(3, 2, 48, 48)
        trunk(inputs).square().sum().backward()
        state = {name: value.clone() for name, value in trunk.state_dict().items()}
        found.append((state, {name: p.grad.clone() for name, p in trunk.named_parameters()}))
    for plain, again in zip(*found, strict=True):
        assert plain.keys() == again.keys()
        for name in plain:
            assert torch.allclose(plain[name].float(), again[name].float(), atol=1e-6), name
