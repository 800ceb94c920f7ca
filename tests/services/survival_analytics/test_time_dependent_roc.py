from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import cumulative_dynamic_auc

from services.shared.errors import InvalidValue, TooFewCases
from services.survival_analytics.conditional_roc import conditional_roc
from services.survival_analytics.roc import auc
from services.survival_analytics.time_dependent_roc import compare_time_dependent_auc, time_dependent_auc, weighted_roc


def test_without_censoring_it_is_the_plain_auc(patients: pd.DataFrame) -> None:
    time, score = patients["months"], patients["signature"]
    event = np.ones(len(time))
    for rule, dead in (("before", time < 24), ("at-or-before", time <= 24)):
        found = time_dependent_auc(time, event, score=score, times=24.0, case_rule=rule)
        keep = dead | (time > 24)
        assert found.estimate[0] == pytest.approx(auc(dead[keep].astype(int), score[keep]).estimate, rel=1e-12)


def test_equals_scikit_survival(patients: pd.DataFrame) -> None:
    time, event, score = (patients[c].to_numpy() for c in ("months", "died", "signature"))
    y = np.array(list(zip(event == 1, time, strict=True)), dtype=[("event", bool), ("time", float)])
    times = [11.97, 30.03, 47.91]
    peer, _ = cumulative_dynamic_auc(y, y, score, times)
    ours = time_dependent_auc(time, event, score=score, times=times, case_rule="at-or-before")
    # scikit-survival takes G at the event time, not just before it.
    assert ours.estimate == pytest.approx(peer, abs=2e-3)


@pytest.mark.parametrize("rule", ["before", "at-or-before"])
def test_standard_error_matches_the_bootstrap(patients: pd.DataFrame, rule: str) -> None:
    time, event, score = (patients[c].to_numpy() for c in ("months", "died", "signature"))
    rng = np.random.default_rng(1)
    samples = []
    for _ in range(150):
        rows = rng.integers(0, time.size, time.size)
        found = time_dependent_auc(time[rows], event[rows], score=score[rows], times=24.0, case_rule=rule)
        samples.append(found.estimate[0])
    found = time_dependent_auc(time, event, score=score, times=24.0, case_rule=rule)
    assert found.standard_error[0] == pytest.approx(np.std(samples), rel=0.25)


def test_rules_agree_between_event_times(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["signature"]
    a, b = (time_dependent_auc(time, event, score=score, times=23.999, case_rule=r) for r in ("before", "at-or-before"))
    assert a.estimate == pytest.approx(b.estimate, rel=1e-12)
    assert a.standard_error == pytest.approx(b.standard_error, rel=0.02)


def test_curve_encloses_the_area(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["signature"]
    curve = weighted_roc(time, event, score=score, at=24.0)
    area = time_dependent_auc(time, event, score=score, times=24.0).estimate[0]
    assert curve.area == pytest.approx(area, rel=1e-12)
    assert (np.diff(curve.sensitivity) >= -1e-12).all()
    assert curve.sensitivity[-1] == pytest.approx(1)


def test_comparison_of_correlated_scores(patients: pd.DataFrame) -> None:
    time, event = patients["months"], patients["died"]
    a, b = (time_dependent_auc(time, event, score=patients[c], times=[12, 24]) for c in ("signature", "age"))
    test = compare_time_dependent_auc(a, b)
    assert test.difference == pytest.approx(a.estimate - b.estimate)
    assert compare_time_dependent_auc(a, a).p_values.tolist() == [1.0, 1.0]
    with pytest.raises(InvalidValue):
        compare_time_dependent_auc(a, time_dependent_auc(time, event, score=patients["age"], times=12))


def test_time_outside_follow_up(patients: pd.DataFrame) -> None:
    with pytest.raises(TooFewCases, match="no case or no control"):
        time_dependent_auc(patients["months"], patients["died"], score=patients["age"], times=1000.0)


def test_unknown_rule_and_method(patients: pd.DataFrame) -> None:
    columns = {"time": patients["months"], "event": patients["died"], "score": patients["age"]}
    with pytest.raises(InvalidValue):
        time_dependent_auc(**columns, times=24.0, case_rule="sometimes")
    with pytest.raises(InvalidValue):
        conditional_roc(**columns, at=24.0, method="guess")
