"""Comparisons of two scores' concordances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import TooFewCases, TooLarge
from services.survival_analytics.concordance_comparison import compare_concordance, compare_separation


def test_comparisons_agree_in_large(patients: pd.DataFrame) -> None:
    time, event = patients["months"], patients["died"]
    a, b = patients["signature"] + 0.02 * patients["age"], patients["age"]
    jackknife = compare_concordance(time, event, first=a, second=b)
    u = compare_concordance(time, event, first=a, second=b, method="u-statistic")
    assert jackknife.difference == pytest.approx(u.difference, rel=1e-9)
    assert jackknife.standard_error == pytest.approx(u.standard_error, rel=0.05)
    assert compare_concordance(time, event, first=a, second=b, method="noether").p_value < 0.05
    swapped = compare_concordance(time, event, first=b, second=a)
    assert swapped.difference == pytest.approx(-jackknife.difference)
    assert compare_separation(time, event, first=a, second=b).first == pytest.approx(jackknife.first)


def test_same_order_has_no_comparison(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["signature"]
    with pytest.raises(TooFewCases, match="order every pair alike"):
        compare_concordance(time, event, first=score, second=2 * score)


def test_quadratic_methods_refuse_large_tables() -> None:
    n = 50_001
    time = np.arange(1.0, n + 1)
    with pytest.raises(TooLarge):
        compare_concordance(time, np.ones(n), first=time, second=-time, method="u-statistic")
