from __future__ import annotations

import numpy as np
import pytest

from services.segmentation.regions import (
    absorb_small_enhancing,
    dice,
    fill_holes,
    region_dice,
    region_volumes_ml,
    remove_small_components,
)
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


def ball(radius: float, label: int, labels: np.ndarray | None = None) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(21) - 10,) * 3, indexing="ij")
    result = np.zeros((21, 21, 21), dtype=np.uint8) if labels is None else labels.copy()
    result[sum(axis**2 for axis in axes) < radius**2] = label
    return result


def test_cavities_become_core_inside_core_and_oedema_elsewhere() -> None:
    inside_core = ball(2, 0, ball(5, 4, ball(8, 2)))
    assert set(np.unique(fill_holes(inside_core)[9:12, 9:12, 9:12])) == {1}
    inside_oedema = ball(3, 0, ball(8, 2))
    np.testing.assert_array_equal(fill_holes(inside_oedema), ball(8, 2))
    open_to_the_outside = inside_oedema.copy()
    open_to_the_outside[:, 10, 10] = 0
    np.testing.assert_array_equal(fill_holes(open_to_the_outside), open_to_the_outside)


def test_little_enhancing_tumour_becomes_core() -> None:
    labels = ball(2, 4, ball(8, 2))
    volume_mm3 = float((labels == 4).sum())
    kept = absorb_small_enhancing(labels, (1, 1, 1), min_enhancing_mm3=volume_mm3)
    np.testing.assert_array_equal(kept, labels)
    absorbed = absorb_small_enhancing(labels, (1, 1, 1), min_enhancing_mm3=volume_mm3 + 1)
    np.testing.assert_array_equal(absorbed, ball(2, 1, ball(8, 2)))


def test_nothing_is_filled_without_a_tumour() -> None:
    empty = np.zeros((3, 3, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fill_holes(empty), empty)
