"""Drift is seen where it is planted, and rarely where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from pipelines.promotion.drift import DriftThresholds, measure_drift, population_stability_index, split_cases
from services.model_serving.package import case_hash

LIMITS = DriftThresholds()


def table(n: int, seed: int, *, shift: float = 0.0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(n, 20))
    values[:, 3] += shift
    return pd.DataFrame(values, columns=[f"f{i:02d}" for i in range(20)])


def test_a_shifted_feature_is_named_and_no_other() -> None:
    found = measure_drift(table(120, 1), table(40, 2, shift=2.0), thresholds=LIMITS)
    assert found.drifted == ("f03",)
    one = found.features[3]
    a, b = table(120, 1)["f03"], table(40, 2, shift=2.0)["f03"]
    assert one.p_value == pytest.approx(ks_2samp(a, b).pvalue)
    assert one.p_adjusted == pytest.approx(min(1.0, 20 * one.p_value))
    assert one.psi > 1


def test_without_drift_few_patients_do_not_cry_wolf() -> None:
    alarms = 0
    for seed in range(100):
        found = measure_drift(table(80, 1000 + seed), table(15, seed), thresholds=LIMITS)
        assert max(one.psi for one in found.features) > LIMITS.min_psi  # the index alone would, each time
        alarms += bool(found.drifted)
    assert alarms <= 5  # family-wise level 0.01: 1 expected


def test_values_that_vanish_are_drift_too() -> None:
    now = table(40, 2)
    now.loc[:24, "f07"] = np.nan
    assert measure_drift(table(120, 1), now, thresholds=LIMITS).drifted == ("f07",)
    gone = table(40, 2).assign(f07=np.nan)
    assert measure_drift(table(120, 1), gone, thresholds=LIMITS).drifted == ("f07",)


def test_too_few_new_patients_are_not_judged() -> None:
    found = measure_drift(table(120, 1), table(9, 2, shift=9.0), thresholds=LIMITS)
    assert (found.new_patients, found.features, found.drifted) == (9, (), ())


def test_stability_index_by_hand() -> None:
    reference, new = np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    p, q = np.array([2.5, 2.5, 0.5]) / 5.5, np.array([0.5, 4.5, 0.5]) / 5.5
    expected = float(np.sum((q - p) * np.log(q / p)))
    assert population_stability_index(reference, new, bins=2) == pytest.approx(expected)


def test_patients_are_told_apart_by_the_hashes_beside_the_package() -> None:
    training = frozenset(map(case_hash, ("p1", "p3")))
    assert split_cases(["p3", "p2", "p1"], training) == (["p1", "p3"], ["p2"])
