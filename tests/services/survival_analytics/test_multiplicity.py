from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from services.shared.errors import InvalidValue
from services.survival_analytics.multiplicity import adjust_p_values

PEERS = {"BH": "fdr_bh", "BY": "fdr_by", "holm": "holm", "hochberg": "simes-hochberg", "bonferroni": "bonferroni"}


@pytest.mark.parametrize("method", PEERS)
@given(p=st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_equals_statsmodels(method: str, p: list[float]) -> None:
    assert adjust_p_values(p, method=method) == pytest.approx(multipletests(p, method=PEERS[method])[1], abs=1e-12)


def test_order_is_kept_and_none_changes_nothing() -> None:
    p = [0.3, 0.01, 0.04]
    assert adjust_p_values(p, method="none").tolist() == p
    assert np.argsort(adjust_p_values(p)).tolist() == np.argsort(p).tolist()


@pytest.mark.parametrize("p", [[1.2], [-0.1, 0.2], [float("nan")]])
def test_bad_p_values(p: list[float]) -> None:
    with pytest.raises(InvalidValue):
        adjust_p_values(p)
