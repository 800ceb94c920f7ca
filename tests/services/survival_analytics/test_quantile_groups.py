from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.quantile_groups import cut_at_quantiles, group_evenly, interval_labels


def test_equals_pandas() -> None:
    x = np.random.default_rng(0).normal(size=101)
    assert cut_at_quantiles(x, 5, step="here").codes.tolist() == pd.qcut(x, 5, labels=False).tolist()


def test_tied_quantiles_leave_fewer_groups() -> None:
    x = np.array([0.0] * 30 + [1.0, 2.0, 3.0])
    groups = cut_at_quantiles(x, 10, step="here")
    assert len(groups.labels) < 10
    assert groups.codes.max() == len(groups.labels) - 1


def test_labels_take_the_digits_that_they_need() -> None:
    assert interval_labels(np.array([0.12341, 0.12349, 1.0])) == ("[0.1234,0.1235]", "(0.1235,1]")


def test_even_groups_keep_ties_together() -> None:
    groups = group_evenly(np.array([1.0, 1, 1, 1, 2, 3, 4, 5]), 4, step="here")
    assert groups.codes[:4].tolist() == [0, 0, 0, 0]
    assert np.bincount(groups.codes).tolist() == [4, 2, 2]


def test_bad_input() -> None:
    with pytest.raises(TooFewCases):
        cut_at_quantiles(np.ones(5), 3, step="here")
    with pytest.raises(InvalidValue):
        cut_at_quantiles(np.arange(5.0), 1, step="here")
