from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_censored

from services.shared.errors import GliaflowError, InvalidValue, TooFewCases
from services.survival_analytics.concordance import concordance, somers_d, strict_concordance, truncated_concordance
from services.survival_analytics.concordance_comparison import compare_concordance

rows_of_patients = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=30
)


def count_by_hand(time: np.ndarray, event: np.ndarray, score: np.ndarray) -> tuple[int, int, int]:
    concordant = discordant = tied = 0
    for i in np.flatnonzero(event):
        for j in range(time.size):
            if time[j] > time[i] or (time[j] == time[i] and event[j] == 0):
                concordant += score[i] > score[j]
                discordant += score[i] < score[j]
                tied += score[i] == score[j]
    return concordant, discordant, tied


@settings(max_examples=100, deadline=None)
@given(rows_of_patients)
def test_counts_by_hand(rows: list[tuple[int, int, int]]) -> None:
    time, event, score = (np.array(column) for column in zip(*rows, strict=True))
    expected = count_by_hand(time, event, score)
    try:
        found = concordance(time, event, score=score)
    except TooFewCases:
        assert sum(expected) == 0
        return
    assert (found.concordant, found.discordant, found.tied_score) == expected
    assert found.influence.sum() == pytest.approx(0, abs=1e-12)
    d = somers_d(time, event, score=score)
    assert d.concordance == pytest.approx(found.estimate)


def test_equals_peers(tied_patients: pd.DataFrame) -> None:
    time, event, score = tied_patients["months"], tied_patients["died"], tied_patients["signature"].round()
    ours = concordance(time, event, score=score).estimate
    assert ours == pytest.approx(concordance_index(time, -score, event), rel=1e-12)
    assert ours == pytest.approx(concordance_index_censored(event == 1, time, score)[0], rel=1e-12)


def test_standard_error_matches_the_bootstrap(patients: pd.DataFrame) -> None:
    time, event, score = (patients[c].to_numpy() for c in ("months", "died", "signature"))
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(200):
        rows = rng.integers(0, len(time), len(time))
        samples.append(concordance(time[rows], event[rows], score=score[rows]).estimate)
    assert concordance(time, event, score=score).standard_error == pytest.approx(np.std(samples), rel=0.2)


def test_reversed_score_gives_the_complement(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["signature"]
    for weighting in ("harrell", "uno"):
        up = concordance(time, event, score=score, weighting=weighting)
        down = concordance(time, event, score=-score, weighting=weighting)
        assert up.estimate + down.estimate == pytest.approx(1)
        assert up.standard_error == pytest.approx(down.standard_error)


def test_uno_without_censoring_is_harrell(patients: pd.DataFrame) -> None:
    time, score = patients["months"], patients["signature"]
    event = np.ones(len(time))
    plain, uno = (concordance(time, event, score=score, weighting=w).estimate for w in ("harrell", "uno"))
    assert uno == pytest.approx(plain, rel=1e-12)


def test_strata_compare_within_only(patients: pd.DataFrame) -> None:
    time, event, score, strata = (patients[c] for c in ("months", "died", "signature", "grade"))
    whole = concordance(time, event, score=score, strata=strata)
    parts = [concordance(time[strata == g], event[strata == g], score=score[strata == g]) for g in (2, 3, 4)]
    assert whole.concordant == sum(part.concordant for part in parts)
    assert whole.strata_counts.shape == (3, 5)


def test_horizon_leaves_out_later_events(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["signature"]
    short = concordance(time, event, score=score, horizon=24.0)
    cut = concordance(time.clip(upper=24.001), np.where(time > 24, 0, event), score=score)
    assert short.concordant == cut.concordant
    assert 0.5 < truncated_concordance(time, event, score=score, horizon=24.0) < 1


def test_constant_score_is_one_half_with_a_notice(patients: pd.DataFrame) -> None:
    result = concordance(patients["months"], patients["died"], score=np.zeros(len(patients)))
    assert result.estimate == 0.5
    assert result.notices[0].name == "constant_score"


@pytest.mark.parametrize(
    "call",
    [
        lambda t, e: concordance(t, e, score=[1.0, float("nan"), 2.0]),
        lambda t, e: concordance(t, e, score=[1.0, 2.0]),
        lambda t, e: concordance(t, e, score=[1.0, 2.0, 3.0], weighting="other"),
        lambda t, e: compare_concordance(t, e, first=[1, 2, 3], second=[3, 2, 1], method="other"),
    ],
)
def test_bad_input(call) -> None:
    with pytest.raises(InvalidValue):
        call([1.0, 2.0, 3.0], [1, 1, 0])


def test_perfect_order_has_no_noether_variance() -> None:
    with pytest.raises(GliaflowError, match="variance"):
        strict_concordance([1, 2, 3, 4], [1, 1, 1, 1], score=[4, 3, 2, 1])
