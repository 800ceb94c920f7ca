from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.survival_analytics.ticks import pretty_ticks

# Values of R's pretty().
CASES = [
    ((0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ((-24, 68, 10), [-30, -20, -10, 0, 10, 20, 30, 40, 50, 60, 70]),
    ((0.085, 2.288, 10), [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.4]),
    ((10, 99, 10), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
    ((0, 172.3, 10), [0, 20, 40, 60, 80, 100, 120, 140, 160, 180]),
]


@pytest.mark.parametrize(("call", "expected"), CASES)
def test_equals_r(call: tuple[float, float, int], expected: list[float]) -> None:
    low, high, count = call
    assert pretty_ticks(low, high, count=count).tolist() == expected


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(3, 12))
def test_ticks_cover_the_range(low: float, width: float, count: int) -> None:
    ticks = pretty_ticks(low, low + width, count=count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + width - 1e-6 * step
    assert 2 <= ticks.size <= 3 * count
