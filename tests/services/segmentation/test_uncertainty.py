from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from scipy.stats import spearmanr

from services.segmentation.network import CLASSES
from services.segmentation.regions import region_dice
from services.segmentation.uncertainty import entropy, expected_dice, mutual_information
from services.shared.cohort import Region

VALUES = np.array(CLASSES, dtype=np.uint8)


def draw(sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class probabilities around a ball of tumour, and a truth drawn from them voxel by voxel."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, 20),) * 3, indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    centres = np.array([1.2, 0.1, 0.6, 0.35])  # radius at which background, core, oedema and enhancing are likeliest
    logits = -sharpness * (radius - centres[:, None, None, None]) ** 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    drawn = (rng.random(radius.shape) > probabilities.cumsum(axis=0)[:-1]).sum(axis=0)
    return probabilities.astype(np.float32), VALUES[drawn]


def test_entropy_is_scipys_and_zero_where_certain() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 50).T.astype(np.float32)
    np.testing.assert_allclose(entropy(probabilities), scipy_entropy(probabilities), atol=1e-6)
    np.testing.assert_array_equal(entropy(np.eye(4, dtype=np.float32)), 0)


def test_mutual_information_by_hand() -> None:
    views = np.array([[[1.0, 0.5], [0.0, 0.5]], [[0.0, 0.5], [1.0, 0.5]]], dtype=np.float32)  # view × class × voxel
    mean_entropy = np.mean([entropy(view) for view in views], axis=0)
    information = mutual_information(views.mean(axis=0), mean_entropy)
    np.testing.assert_allclose(information, [np.log(2), 0], atol=1e-6)  # sure but apart; unsure alike


def test_expected_dice_by_hand() -> None:
    probabilities = np.zeros((4, 1, 1, 3), dtype=np.float32)
    probabilities[3, 0, 0] = [0.9, 0.6, 0.3]  # enhancing
    probabilities[0] = 1 - probabilities[3]
    labels = np.array([[[4, 4, 0]]], dtype=np.uint8)
    found = expected_dice(probabilities, labels, np.ones((1, 1, 3), dtype=bool), classes=CLASSES)
    assert found[Region.ET] == found[Region.WT] == pytest.approx(2 * 1.5 / (2 + 1.8), abs=1e-4)
    assert found[Region.ED] is None


@pytest.mark.parametrize("sharpness", [4, 12, 60])
def test_expected_dice_is_the_mean_over_truths_drawn_from_the_probabilities(sharpness: float) -> None:
    probabilities, _ = draw(sharpness, 0)
    labels = VALUES[probabilities.argmax(axis=0)]
    found = expected_dice(probabilities, labels, np.ones(labels.shape, dtype=bool), classes=CLASSES)
    dice = [region_dice(labels, draw(sharpness, seed)[1]) for seed in range(20)]
    for region in Region:
        assert found[region] == pytest.approx(np.mean([each[region] for each in dice]), abs=0.02)


def test_expected_dice_ranks_cases_as_their_true_dice_does() -> None:
    expected, true = [], []
    for seed, sharpness in enumerate(np.geomspace(3, 80, 15)):
        probabilities, truth = draw(float(sharpness), seed)
        labels = VALUES[probabilities.argmax(axis=0)]
        inside = np.ones(labels.shape, dtype=bool)
        expected.append(expected_dice(probabilities, labels, inside, classes=CLASSES)[Region.WT])
        true.append(region_dice(labels, truth)[Region.WT])
    assert spearmanr(expected, true).statistic > 0.9
