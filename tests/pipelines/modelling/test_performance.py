from __future__ import annotations

import numpy as np
import pytest

from pipelines.modelling.performance import bootstrap_auc, bootstrap_limits
from pipelines.modelling.validation import rank_auc


def test_each_resample_has_the_auc_of_its_patients():
    rng = np.random.default_rng(0)
    outcome = np.arange(30) % 2
    scores = np.vstack([rng.integers(0, 6, 30) + outcome, rng.normal(size=30)]).astype(float)
    areas = bootstrap_auc(outcome, scores, resamples=50, seed=4)
    drawn = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), 50)
    assert areas.shape == (50, 2)
    for counts, row in zip(drawn, areas, strict=True):
        again = np.repeat(np.arange(30), counts)
        for area, score in zip(row, scores, strict=True):
            assert area == pytest.approx(rank_auc(outcome[again], score[again]), abs=1e-12)


def test_resamples_of_one_class_are_left_out():
    outcome = np.array([1, 0, 0, 0])
    areas = bootstrap_auc(outcome, np.array([[0.9, 0.1, 0.2, 0.3]]), resamples=200, seed=0)
    assert 100 < len(areas) < 200
    assert (areas == 1).all()


def test_limits_surround_the_estimate_and_are_absent_without_resamples():
    rng = np.random.default_rng(1)
    outcome = np.arange(80) % 2
    scores = rng.normal(size=(1, 80)) + outcome
    low, high = bootstrap_limits(outcome, scores, resamples=500, seed=0)[0]
    assert 0.5 < low < rank_auc(outcome, scores[0]) < high < 1
    assert np.isnan(bootstrap_limits(outcome, scores, resamples=0, seed=0)).all()
