from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.cutpoint import (
    maximally_selected_rank,
    median_cutpoint,
    minimum_p,
    two_cuts,
)
from services.survival_analytics.log_rank import compare_survival


def test_each_chi_square_is_a_log_rank_test(tied_patients: pd.DataFrame) -> None:
    time, event, score = tied_patients["months"], tied_patients["died"], tied_patients["age"]
    found = minimum_p(time, event, score=score)
    for cut, chi_square in list(zip(found.cuts, found.chi_squares, strict=True))[::6]:
        peer = compare_survival(time, event, group=(score > cut).astype(int))
        assert chi_square == pytest.approx(peer.chi_square, rel=1e-9)
    assert found.p_uncorrected < found.p_corrected


def test_two_cuts_are_three_group_tests(tied_patients: pd.DataFrame) -> None:
    time, event, score = tied_patients["months"], tied_patients["died"], tied_patients["age"]
    found = two_cuts(time, event, score=score)
    group = (score > found.lower).astype(int) + (score > found.upper)
    assert found.chi_square == pytest.approx(compare_survival(time, event, group=group).chi_square, rel=1e-9)
    assert np.bincount(group).min() >= 0.1 * len(score)
    assert found.chi_square == found.chi_squares.max()


def test_planted_cut_is_found() -> None:
    rng = np.random.default_rng(3)
    score = rng.uniform(0, 1, 400)
    time = rng.exponential(np.where(score > 0.6, 1.0, 6.0))
    for search in (maximally_selected_rank, minimum_p):
        assert search(time, np.ones(400), score=score).cut == pytest.approx(0.6, abs=0.05)


def test_corrected_p_values_under_the_null() -> None:
    rng = np.random.default_rng(6)
    corrected, uncorrected = [], []
    for _ in range(60):
        time, score = rng.exponential(size=60), rng.normal(size=60)
        found = minimum_p(time, np.ones(60), score=score)
        corrected.append(found.p_corrected)
        uncorrected.append(found.p_uncorrected)
    assert np.mean(np.array(uncorrected) < 0.05) > 0.15
    assert np.mean(np.array(corrected) < 0.05) < 0.15


def test_permutation_bound_is_close_to_a_permutation_test() -> None:
    rng = np.random.default_rng(9)
    time, event = rng.exponential(size=40), rng.integers(0, 2, 40)
    score = rng.normal(size=40) - 0.8 * time
    found = maximally_selected_rank(time, event, score=score)
    hits = sum(
        maximally_selected_rank(time, event, score=rng.permutation(score)).statistic >= found.statistic
        for _ in range(300)
    )
    assert found.p_hothorn_lausen == pytest.approx(hits / 300, abs=0.08)
    assert found.p_value <= 1


def test_permutation_p_values_repeat_with_their_seed(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["age"]
    runs = [minimum_p(time, event, score=score, permutations=40, seed=2).p_permutation for _ in range(2)]
    assert runs[0] == runs[1] >= 1 / 41
    assert np.isnan(minimum_p(time, event, score=score).p_permutation)
    assert 0 < two_cuts(time, event, score=score, permutations=20).p_permutation <= 1


def test_large_table_has_no_permutation_bound(patients: pd.DataFrame) -> None:
    found = maximally_selected_rank(patients["months"], patients["died"], score=patients["age"])
    assert np.isnan(found.p_hothorn_lausen)
    assert found.notices[0].name == "no_exact_p"


def test_median() -> None:
    assert median_cutpoint([3.0, 1.0, 2.0]) == 2.0


def test_bad_input() -> None:
    with pytest.raises(InvalidValue):
        minimum_p([1, 2], [1, 1], score=[1, 2], min_proportion=0.6)
    for search in (maximally_selected_rank, minimum_p, two_cuts):
        with pytest.raises(TooFewCases):
            search([1, 2, 3, 4], [1, 1, 0, 1], score=[5, 5, 5, 5])
