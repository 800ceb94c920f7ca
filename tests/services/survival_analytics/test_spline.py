from __future__ import annotations

import numpy as np
import pytest

from services.survival_analytics.spline import fmm_spline, interpolate_sorted


def test_spline_reproduces_a_cubic() -> None:
    x = np.array([0.0, 0.7, 1.1, 2.0, 3.5])
    at = np.linspace(0, 3.5, 40)

    def cubic(v: np.ndarray) -> np.ndarray:
        return 2 - v + 0.5 * v**2 - 0.3 * v**3

    assert fmm_spline(x, cubic(x), at) == pytest.approx(cubic(at), abs=1e-10)


def test_interpolation_averages_ties_and_stops_at_the_ends() -> None:
    y = interpolate_sorted(
        np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 1.0, 3.0, 4.0]), np.array([0.5, 1.5, 2.0, 3.0])
    )
    assert np.isnan(y[0])
    assert y[1:].tolist() == [1.0, 2.0, 4.0]
