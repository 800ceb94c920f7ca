from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from services.model_serving.explanation import class_activation, draw_overlay, highlighted, means_inside
from services.shared.errors import InvalidValue


class Small(nn.Module):
    def __init__(self, dimensions: int) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.maps = nn.Sequential(
            conv(1, 8, 3, padding=1, stride=2), nn.ReLU(), conv(8, 16, 3, padding=1, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(16, 2)
        self.idle = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(x).flatten(2).mean(2))


def blobs(dimensions: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noise with a bright blob that says nothing, half of it with a dark one that decides; where; the class."""
    rng = np.random.default_rng(seed)
    side = 32 if dimensions == 2 else 20
    values = rng.normal(0, 0.3, (count, *(side,) * dimensions))
    where = np.zeros(values.shape, dtype=bool)
    for n in range(0, count, 2):
        corner = rng.integers(2, side - 8, dimensions)
        where[(n, *(slice(int(c), int(c) + 6) for c in corner))] = True
        beside = rng.integers(2, side - 8, dimensions)
        for each in (n, n + 1):
            values[(each, *(slice(int(c), int(c) + 6) for c in beside))] += 3
    values[where] -= 3
    classes = np.arange(count) % 2 == 0
    return torch.tensor(values[:, None], dtype=torch.float32), torch.tensor(where), torch.tensor(classes).long()


def trained(dimensions: int) -> Small:
    torch.manual_seed(0)
    network = Small(dimensions)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    x, _, y = blobs(dimensions, 64, seed=1)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    return network.eval().requires_grad_(requires_grad=False)


def positive(output: torch.Tensor) -> torch.Tensor:
    return output[:, 1]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_map_hits_what_decides_and_a_random_network_does_not(dimensions) -> None:
    x, where, y = blobs(dimensions, 40, seed=2)
    network = trained(dimensions)
    assert (network(x).argmax(1) == y).float().mean() > 0.95
    found = class_activation(network, x, layer=network.maps, target=positive)
    assert found.shape == x[:, 0].shape
    with_blob = y.numpy() == 1
    peak = found.reshape(len(found), -1).argmax(1)
    hit = where.numpy().reshape(len(found), -1)[np.arange(len(found)), peak][with_blob]
    assert hit.mean() >= 0.9
    assert found[with_blob].max(axis=tuple(range(1, found.ndim))) == pytest.approx(1.0)
    torch.manual_seed(5)
    random = Small(dimensions).eval()
    other = class_activation(random, x, layer=random.maps, target=positive)
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found[with_blob], other[with_blob], strict=True)]
    assert np.nanmean(alike) < 0.5


def test_it_is_the_class_activation_map_of_a_linear_head() -> None:
    """Zhou 2016: the head's weights applied to the maps, up to scale, where the average pool feeds one layer."""
    network = trained(2)
    x, _, _ = blobs(2, 4, seed=3)
    found = class_activation(network, x, layer=network.maps, target=positive)
    plain = torch.relu(torch.einsum("bkyx,k->byx", network.maps(x), network.head.weight[1]))[:, None]
    plain = nn.functional.interpolate(plain, size=x.shape[2:], mode="bilinear")[:, 0]
    for one, other in zip(found, plain.numpy(), strict=True):
        assert one == pytest.approx(other / other.max() if other.max() > 0 else other, abs=1e-5)


def test_nothing_speaks_for_an_output_that_is_constant() -> None:
    network = trained(2)
    x, _, _ = blobs(2, 2, seed=3)
    found = class_activation(network, x, layer=network.maps, target=lambda out: 0 * out[:, 0])
    assert not found.any()
    assert not highlighted(found).any()
    assert means_inside(highlighted(found), {"FA": found}) == {"FA": None}


def test_a_layer_that_takes_no_part_is_refused() -> None:
    network = trained(2)
    x, _, _ = blobs(2, 2, seed=3)
    with pytest.raises(InvalidValue, match="takes no part"):
        class_activation(network, x, layer=network.idle, target=positive)


def test_means_inside_the_highlighted_region() -> None:
    activation = np.array([[0.1, 0.6], [1.0, 0.4]], dtype=np.float32)
    region = highlighted(activation)
    assert region.tolist() == [[False, True], [True, False]]
    assert means_inside(region, {"MD": np.array([[1.0, 2.0], [4.0, 8.0]], dtype=np.float32)}) == {"MD": 3.0}


def test_overlay_is_grey_where_nothing_speaks_and_warm_where_something_does() -> None:
    image = np.tile(np.linspace(0, 1, 20, dtype=np.float32), (10, 1))
    activation = np.zeros_like(image)
    activation[:5] = 1
    pixels = np.asarray(Image.open(io.BytesIO(draw_overlay(image, activation))))
    assert pixels.shape == (240, 480, 3)
    assert (pixels[200, :, 0] == pixels[200, :, 2]).all()
    assert (pixels[48, :, 0].astype(int) - pixels[48, :, 2] >= 150).all()


def test_overlay_outlines_the_tumour() -> None:
    image, mask = np.zeros((20, 20), np.float32), np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    pixels = np.asarray(Image.open(io.BytesIO(draw_overlay(image, image, outline=mask)))).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0]) > 100
    assert blue.any()
    rows = np.flatnonzero(blue.any(axis=1)) / 24
    assert (rows.min(), rows.max()) == pytest.approx((5, 15), abs=0.5)
    assert not blue[240, 240]
    assert 0.02 < blue.mean() < 0.2
