from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines.statistics import multivariate_logrank_test

from services.shared.errors import InvalidValue, OneClass
from services.survival_analytics.log_rank import compare_pairs, compare_survival


def test_equals_lifelines(tied_patients: pd.DataFrame) -> None:
    time, event, group = tied_patients["months"], tied_patients["died"], tied_patients["grade"]
    ours = compare_survival(time, event, group=group)
    peer = multivariate_logrank_test(time, group, event)
    assert ours.chi_square == pytest.approx(peer.test_statistic, rel=1e-9)
    assert ours.p_value == pytest.approx(peer.p_value, rel=1e-7)


def test_observed_and_expected_add_up(patients: pd.DataFrame) -> None:
    test = compare_survival(patients["months"], patients["died"], group=patients["grade"])
    assert test.observed.sum() == pytest.approx(patients["died"].sum())
    assert test.expected.sum() == pytest.approx(patients["died"].sum())
    assert test.variance.sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-9)


def test_one_stratum_is_no_stratum(patients: pd.DataFrame) -> None:
    time, event, group = patients["months"], patients["died"], patients["idh_mutant"]
    plain = compare_survival(time, event, group=group)
    one = compare_survival(time, event, group=group, strata=np.zeros(len(time)))
    assert one.chi_square == pytest.approx(plain.chi_square, rel=1e-12)


def test_rho_changes_the_weight(patients: pd.DataFrame) -> None:
    time, event, group = patients["months"], patients["died"], patients["idh_mutant"]
    early = compare_survival(time, event, group=group, rho=1.0)
    assert early.observed.sum() < patients["died"].sum()
    assert early.chi_square != pytest.approx(compare_survival(time, event, group=group).chi_square)


def test_pairs_are_two_group_tests(patients: pd.DataFrame) -> None:
    time, event, grade = patients["months"], patients["died"], patients["grade"]
    pairs = compare_pairs(time, event, group=grade, adjustment="bonferroni")
    assert list(zip(pairs.first, pairs.second, strict=True)) == [("2", "3"), ("2", "4"), ("3", "4")]
    rows = grade != 4
    alone = compare_survival(time[rows], event[rows], group=grade[rows])
    assert pairs.p_value[0] == pytest.approx(alone.p_value, rel=1e-12)
    assert pairs.adjusted == pytest.approx(np.minimum(1, 3 * pairs.p_value))


def test_a_single_group_is_refused() -> None:
    with pytest.raises(OneClass):
        compare_survival([1, 2], [1, 1], group=["a", "a"])


def test_group_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidValue, match="group"):
        compare_survival([1, 2], [1, 1], group=["a", "b", "b"])
