"""Simulated patients for the tests of this service."""

from __future__ import annotations

import pandas as pd
import pytest

from services.survival_analytics.simulated_patients import simulate_patients


@pytest.fixture(scope="session")
def patients() -> pd.DataFrame:
    return simulate_patients(240, seed=3)


@pytest.fixture(scope="session")
def tied_patients() -> pd.DataFrame:
    """Follow-up rounded to half-years: many tied times, events tied with censorings."""
    frame = simulate_patients(160, seed=4)
    return frame.assign(months=(frame["months"] / 6).round().clip(lower=1) * 6)
