from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidValue
from services.survival_analytics.reclassification import reclassify, reclassify_survival


def test_categories_by_hand() -> None:
    y = [1, 1, 1, 0, 0, 0, 0]
    old = [0.1, 0.3, 0.6, 0.1, 0.3, 0.6, 0.6]
    new = [0.3, 0.6, 0.3, 0.1, 0.1, 0.3, 0.7]
    result = reclassify(y, old, new=new, cuts=[0.2, 0.5])
    assert (result.up_cases, result.down_cases) == pytest.approx((2 / 3, 1 / 3))
    assert (result.up_controls, result.down_controls) == pytest.approx((0, 0.5))
    assert result.nri.estimate == pytest.approx(1 / 3 + 0.5)
    assert result.table_cases.tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    change = np.array(new) - old
    assert result.idi.estimate == pytest.approx(change[:3].mean() - change[3:].mean())


def test_cut_belongs_to_the_upper_category() -> None:
    result = reclassify([1, 0, 1, 0], [0.19, 0.2, 0.1, 0.1], new=[0.2, 0.2, 0.1, 0.1], cuts=[0.2])
    assert result.up_cases == 0.5
    assert result.up_controls == 0


def test_minimum_change() -> None:
    y, old, new = [1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5], [0.52, 0.7, 0.48, 0.3]
    assert reclassify(y, old, new=new).nri.estimate == 2
    assert reclassify(y, old, new=new, minimum_change=0.1).nri.estimate == 1


def test_same_model_changes_nothing() -> None:
    result = reclassify([1, 0, 1, 0], [0.1, 0.2, 0.3, 0.4], new=[0.1, 0.2, 0.3, 0.4])
    assert result.nri.estimate == 0
    assert result.nri.p_value == 1
    assert result.notices[0].name == "no_change"


@pytest.mark.parametrize("method", ["km", "ipw"])
def test_survival_without_censoring_is_binary(patients: pd.DataFrame, method: str) -> None:
    rng = np.random.default_rng(2)
    old, new = rng.random(len(patients)), rng.random(len(patients))
    dead = (patients["months"] <= 24).astype(int)
    binary = reclassify(dead, old, new=new, cuts=[0.3, 0.6])
    survival = reclassify_survival(
        patients["months"], np.ones(len(patients)), old=old, new=new, at=24.0, cuts=[0.3, 0.6], method=method
    )
    assert survival.nri == pytest.approx(binary.nri.estimate)
    assert survival.up_cases == pytest.approx(binary.up_cases)


def test_bootstrap_limits_repeat_and_enclose(patients: pd.DataFrame) -> None:
    rng = np.random.default_rng(2)
    options = {"old": rng.random(len(patients)), "new": rng.random(len(patients)), "at": 24.0, "replicates": 60}
    a, b = (reclassify_survival(patients["months"], patients["died"], **options, seed=4) for _ in range(2))
    assert a.lower.tolist() == b.lower.tolist()
    assert (a.lower <= a.estimates).all()
    assert (a.estimates <= a.upper).all()


@pytest.mark.parametrize("cuts", [[], [0.5, 0.2], [0.0, 0.5], [1.0]])
def test_bad_cuts(cuts: list[float]) -> None:
    with pytest.raises(InvalidValue):
        reclassify([0, 1], [0.1, 0.2], new=[0.2, 0.3], cuts=cuts)


def test_unknown_method(patients: pd.DataFrame) -> None:
    p = np.full(len(patients), 0.5)
    with pytest.raises(InvalidValue):
        reclassify_survival(patients["months"], patients["died"], old=p, new=p, at=24.0, method="magic")
