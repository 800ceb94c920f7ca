from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from services.shared.errors import InvalidValue
from services.survival_analytics.multiplicity import adjust_p_values

many_p = st.lists(st.floats(0, 1), min_size=2, max_size=20)


@pytest.mark.parametrize("method", ["BH", "BY"])
@given(p=many_p)
def test_false_discovery_rate_equals_scipy(method: str, p: list[float]) -> None:
    peer = false_discovery_control(p, method=method.lower())
    assert adjust_p_values(p, method=method) == pytest.approx(peer, abs=1e-12)


@given(p=many_p)
def test_family_wise_methods_by_definition(p: list[float]) -> None:
    m, order = len(p), np.argsort(p)
    holm, hochberg = np.empty(m), np.empty(m)
    for rank, k in enumerate(order):
        holm[k] = min(1, max((m - j) * p[order[j]] for j in range(rank + 1)))
        hochberg[k] = min(1, *((m - j) * p[order[j]] for j in range(rank, m)))
    assert adjust_p_values(p, method="holm") == pytest.approx(holm, abs=1e-12)
    assert adjust_p_values(p, method="hochberg") == pytest.approx(hochberg, abs=1e-12)
    assert adjust_p_values(p, method="bonferroni") == pytest.approx(np.minimum(1, m * np.array(p)), abs=1e-12)


def test_order_is_kept_and_none_changes_nothing() -> None:
    p = [0.3, 0.01, 0.04]
    assert adjust_p_values(p, method="none").tolist() == p
    assert np.argsort(adjust_p_values(p)).tolist() == np.argsort(p).tolist()


@pytest.mark.parametrize("p", [[1.2], [-0.1, 0.2], [float("nan")]])
def test_bad_p_values(p: list[float]) -> None:
    with pytest.raises(InvalidValue):
        adjust_p_values(p)
