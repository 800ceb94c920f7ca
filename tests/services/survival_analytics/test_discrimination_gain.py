"""Gain in discrimination by a time."""

from __future__ import annotations

import pandas as pd
import pytest

from services.shared.errors import TooFewCases
from services.survival_analytics.discrimination_gain import survival_discrimination_gain


def test_gain_of_an_informative_covariate(patients: pd.DataFrame) -> None:
    gain = survival_discrimination_gain(
        patients, "months", event="died", old=["age"], new=["age", "signature", "grade"], at=24.0
    )
    assert gain.idi > 0.05
    assert gain.half_nri > 0
    with pytest.raises(TooFewCases):
        survival_discrimination_gain(patients, "months", event="died", old=["age"], new=["grade"], at=1e4)
