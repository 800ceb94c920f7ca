from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter

from services.shared.errors import InvalidValue
from services.survival_analytics.kaplan_meier import estimate_survival, restricted_mean, reverse_survival_median


def test_equals_lifelines(tied_patients: pd.DataFrame) -> None:
    time, event = tied_patients["months"], tied_patients["died"]
    curve = estimate_survival(time, event)
    peer = KaplanMeierFitter().fit(time, event)
    assert curve.survival == pytest.approx(peer.survival_function_at_times(curve.time).to_numpy(), rel=1e-12)
    limits = peer.confidence_interval_.loc[curve.time].to_numpy()
    known = ~np.isnan(curve.lower)
    assert curve.lower[known] == pytest.approx(limits[known, 0], rel=1e-9)


def test_worked_by_hand() -> None:
    # Times 6 (two patients, one event), 7 (event), 10 (censored).
    curve = estimate_survival([6, 6, 7, 10], [1, 0, 1, 0], confidence="plain")
    assert curve.survival.tolist() == [0.75, 0.375, 0.375]
    assert curve.at_risk.tolist() == [4, 2, 1]
    # Greenwood: 1/(4·3) and 1/(2·1).
    assert curve.standard_error_log == pytest.approx(np.sqrt([1 / 12, 1 / 12 + 1 / 2, 1 / 12 + 1 / 2]))


def test_median_is_midpoint_of_a_flat_stretch_at_one_half() -> None:
    assert estimate_survival([1, 2, 3, 4], [1, 1, 1, 1]).median == 2.5
    assert estimate_survival([1, 2, 3], [1, 1, 1]).median == 2.0


def test_median_that_is_not_reached_is_nan() -> None:
    assert np.isnan(estimate_survival([1, 2, 3, 4], [1, 0, 0, 0]).median)


def test_curve_without_events_says_so() -> None:
    curve = estimate_survival([1, 2], [0, 0])
    assert curve.survival.tolist() == [1, 1]
    assert [notice.name for notice in curve.notices] == ["no_events"]


def test_limits_beyond_zero_survival_are_announced() -> None:
    curve = estimate_survival([1, 2], [1, 1])
    assert np.isnan(curve.lower[-1])
    assert "limits_undefined" in [notice.name for notice in curve.notices]


def test_table_at_times_extends_the_last_value() -> None:
    table = estimate_survival([1, 2, 3], [1, 0, 1]).at([0, 1, 2.5, 9])
    assert table.at_risk.tolist() == [3, 3, 1, 0]
    assert table.survival == pytest.approx([1, 2 / 3, 2 / 3, 0])


def test_restricted_mean_is_the_area() -> None:
    # S = 1 to 1, then 1/2 to 3: area to 2 is 1.5.
    assert restricted_mean([1, 3], [1, 0], horizon=2.0).mean == pytest.approx(1.5)
    assert restricted_mean([1, 3], [1, 0], horizon=5.0).mean == pytest.approx(3.0)


def test_reverse_median_swaps_events_and_censoring(patients: pd.DataFrame) -> None:
    follow_up = reverse_survival_median(patients["months"], patients["died"])
    assert follow_up == estimate_survival(patients["months"], 1 - patients["died"]).median


@pytest.mark.parametrize("confidence", ["arcsin", ""])
def test_unknown_confidence(confidence: str) -> None:
    with pytest.raises(InvalidValue, match="log-log"):
        estimate_survival([1, 2], [1, 0], confidence=confidence)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=40))
def test_curve_falls_and_limits_enclose_it(rows: list[tuple[int, int]]) -> None:
    time, event = zip(*rows, strict=True)
    for confidence in ("log-log", "log", "plain"):
        curve = estimate_survival(time, event, confidence=confidence)
        assert (np.diff(curve.survival) <= 1e-15).all()
        assert curve.events.sum() + curve.censored.sum() == len(rows)
        known = ~np.isnan(curve.lower)
        assert (curve.lower[known] <= curve.survival[known] + 1e-12).all()
        assert (curve.upper[known] >= curve.survival[known] - 1e-12).all()


def test_import_stays_light() -> None:
    code = "import sys, services.survival_analytics.kaplan_meier; print([m for m in HEAVY if m in sys.modules])"
    heavy = ["numba", "sklearn", "lifelines", "matplotlib", "bentoml", "scipy.stats"]
    out = subprocess.run([sys.executable, "-c", f"HEAVY = {heavy}\n{code}"], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
