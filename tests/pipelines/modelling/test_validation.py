from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.modelling.validation import derive_seed, make_splits, pool, rank_auc, stratified_folds


@pytest.mark.parametrize(("negatives", "positives", "folds"), [(20, 20, 5), (65, 102, 5), (13, 7, 3), (9, 4, 10)])
def test_folds_hold_both_classes_in_proportion(negatives, positives, folds):
    outcome = np.r_[np.zeros(negatives, dtype=int), np.ones(positives, dtype=int)]
    fold = stratified_folds(outcome, folds=folds, seed=1)
    expected = min(folds, negatives, positives)
    assert sorted(set(fold)) == list(range(expected))
    for value in (0, 1):
        sizes = np.bincount(fold[outcome == value], minlength=expected)
        assert sizes.max() - sizes.min() <= 1
        assert sizes.min() >= 1
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1


def test_splits_cover_every_patient_once_a_repeat():
    outcome = np.arange(31) % 2
    splits = make_splits(outcome, folds=4, repeats=3, seed=2)
    assert len(splits) == 12
    for repeat in range(3):
        tests = np.concatenate([s.test for s in splits if s.repeat == repeat])
        assert sorted(tests) == list(range(31))
    for split in splits:
        assert not set(split.train) & set(split.test)
        assert len(split.train) + len(split.test) == 31
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(splits[:4], splits[4:8], strict=True))


def test_seeds_differ_by_path_and_stay():
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert len({derive_seed(1), derive_seed(1, 0, 1), derive_seed(1, 1, 0), derive_seed(2, 0, 1)}) == 4


def test_auc_by_ranks_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    outcome = np.arange(40) % 2
    scores = rng.integers(0, 8, 40).astype(float) + outcome
    assert rank_auc(outcome, scores) == pytest.approx(roc_auc_score(outcome, scores), abs=1e-12)


def test_pooling_averages_the_repeats():
    from types import SimpleNamespace as Fake

    def result(test, chance, threshold):
        return Fake(
            split=Fake(test=np.array(test)),
            probabilities=np.array(chance),
            fit=Fake(model=Fake(threshold=threshold)),
        )

    chance, margin = pool([result([0, 1], [0.2, 0.8], 0.5), result([1, 0], [0.6, 0.4], 0.3)], 2)
    np.testing.assert_allclose(chance, [0.3, 0.7])
    np.testing.assert_allclose(margin, [(-0.3 + 0.1) / 2, (0.3 + 0.3) / 2])
