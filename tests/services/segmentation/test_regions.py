from __future__ import annotations

import numpy as np
import pytest

from services.segmentation.regions import dice, region_dice, region_volumes_ml, remove_small_components
from services.shared.cohort import Region


def labels_of(*counts: tuple[int, int]) -> np.ndarray:
    """Return a column of labels: (label, voxels), …"""
    flat = np.concatenate([np.full(n, label, dtype=np.uint8) for label, n in counts])
    return flat.reshape(-1, 1, 1)


def test_volumes_by_hand() -> None:
    labels = labels_of((0, 50), (1, 10), (2, 20), (4, 5))
    volumes = region_volumes_ml(labels, (2.0, 2.0, 2.5))
    assert volumes == {Region.TC: 0.15, Region.WT: 0.35, Region.ET: 0.05, Region.ED: 0.2}


def test_dice_by_hand() -> None:
    a, b = labels_of((1, 4), (2, 4), (0, 2)), labels_of((1, 2), (2, 4), (0, 4))
    agreement = region_dice(a, b)
    assert agreement[Region.TC] == pytest.approx(2 * 2 / (4 + 2))
    assert agreement[Region.WT] == pytest.approx(2 * 6 / (8 + 6))
    assert agreement[Region.ED] == pytest.approx(2 * 2 / (4 + 4))
    assert agreement[Region.ET] is None


def test_dice_is_none_where_both_are_empty_and_zero_where_one_is() -> None:
    empty, full = np.zeros(4, bool), np.ones(4, bool)
    assert dice(empty, empty) is None
    assert dice(empty, full) == 0.0
    assert dice(full, full) == 1.0


def test_small_components_are_removed_by_volume_and_corners_connect() -> None:
    labels = np.zeros((8, 8, 8), dtype=np.uint8)
    labels[0, 0, 0], labels[1, 1, 1] = 2, 4  # one part of 2 voxels, joined at a corner
    labels[5, 5, 5] = 1
    kept = remove_small_components(labels, (1.0, 2.0, 2.0), min_component_mm3=8.0)
    assert kept[0, 0, 0] == 2
    assert kept[1, 1, 1] == 4
    assert kept[5, 5, 5] == 0
    assert labels[5, 5, 5] == 1
    np.testing.assert_array_equal(remove_small_components(labels, (1.0, 2.0, 2.0), min_component_mm3=0), labels)


def test_no_tumour_stays_no_tumour() -> None:
    labels = np.zeros((3, 3, 3), dtype=np.uint8)
    assert not remove_small_components(labels, (1, 1, 1), min_component_mm3=10).any()
    assert region_volumes_ml(labels, (1, 1, 1)) == dict.fromkeys(Region, 0.0)
