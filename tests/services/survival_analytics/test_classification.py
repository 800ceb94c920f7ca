"""Thresholds and classification tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from services.survival_analytics.classification import best_threshold, classify


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 120)
    return y, np.round(rng.normal(size=120) + y, 1), np.round(rng.normal(size=120) + 0.5 * y, 1)


def test_youden_is_the_best_of_all_thresholds(data: tuple) -> None:
    y, x, _ = data
    best = best_threshold(y, x)
    every = [classify(y, x, threshold=t).youden for t in np.unique(x)]
    assert best.rows[0].youden == pytest.approx(max(every))
    corner = best_threshold(y, x, criterion="closest-topleft").rows[0]
    assert corner.distance_to_corner <= best.rows[0].distance_to_corner


def test_tied_optima_are_all_returned() -> None:
    rows = best_threshold([0, 1, 0, 1], [1, 2, 3, 4]).rows
    assert [row.threshold for row in rows] == [1.5, 3.5]


def test_classification_table_by_hand() -> None:
    table = classify([1, 1, 1, 0, 0], [0.9, 0.6, 0.2, 0.7, 0.1], threshold=0.6)
    assert (table.true_positives, table.false_positives, table.true_negatives, table.false_negatives) == (2, 1, 1, 1)
    assert table.accuracy == 0.6
    assert table.f1 == pytest.approx(2 / 3)
    exact = binomtest(2, 3).proportion_ci(method="exact")
    assert (table.sensitivity_lower, table.sensitivity_upper) == pytest.approx((exact.low, exact.high))


def test_rates_that_do_not_exist_are_announced() -> None:
    table = classify([1, 0], [0.1, 0.2], threshold=5.0)
    assert np.isnan(table.positive_predictive_value)
    assert [notice.name for notice in table.notices] == ["no_positives"]
