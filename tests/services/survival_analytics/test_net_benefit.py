from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidValue
from services.survival_analytics.net_benefit import (
    clinical_impact,
    decision_curves,
    survival_clinical_impact,
    survival_decision_curves,
)


def test_net_benefit_by_hand() -> None:
    curves = decision_curves([1, 1, 0, 0], {"m": [0.9, 0.4, 0.4, 0.1]}, thresholds=[0.4, 0.5])
    # At 0.4: two true and one false positive; at 0.5 one true positive.
    assert curves["m"].net_benefit == pytest.approx([2 / 4 - 1 / 4 * (0.4 / 0.6), 1 / 4])
    assert curves["all"].net_benefit == pytest.approx([0.5 - 0.5 * 0.4 / 0.6, 0.0])
    assert curves["none"].net_benefit.tolist() == [0, 0]


def test_perfect_model_reaches_the_event_rate() -> None:
    curves = decision_curves([1, 0, 1, 0], {"m": [1.0, 0.0, 1.0, 0.0]})
    assert curves["m"].net_benefit == pytest.approx(np.full(99, 0.5))
    assert curves.to_frame()["standardised_net_benefit"].max() == pytest.approx(1)


def test_survival_without_censoring_is_binary(patients: pd.DataFrame) -> None:
    risk = np.random.default_rng(0).random(len(patients))
    dead = (patients["months"] <= 24).astype(int)
    binary = decision_curves(dead, {"m": risk})
    survival = survival_decision_curves(
        patients["months"], np.ones(len(patients)), models={"m": risk}, at=24.0, extend=True
    )
    assert survival["m"].net_benefit == pytest.approx(binary["m"].net_benefit, abs=1e-12)
    impact = survival_clinical_impact(patients["months"], np.ones(len(patients)), risk=risk, at=24.0)
    peer = clinical_impact(dead, risk, strictly_above=False)
    assert impact.high_risk == pytest.approx(peer.high_risk)
    assert impact.high_risk_with_event == pytest.approx(peer.high_risk_with_event)


def test_short_follow_up_is_announced(patients: pd.DataFrame) -> None:
    risk = np.where(patients["months"] < 20, 0.9, 0.1)
    curves = survival_decision_curves(patients["months"], patients["died"], models={"m": risk}, at=24.0)
    assert np.isnan(curves["m"].net_benefit[50])
    assert curves.notices[0].name == "short_follow_up"


def test_impact_counts_per_population() -> None:
    impact = clinical_impact([1, 0, 1, 0], [0.9, 0.8, 0.2, 0.1], thresholds=[0.5], population=100)
    assert impact.high_risk.tolist() == [50]
    assert impact.high_risk_with_event.tolist() == [25]
    at = clinical_impact([1, 0], [0.5, 0.1], thresholds=[0.5])
    assert at.high_risk.tolist() == [0]


@pytest.mark.parametrize("thresholds", [[0.0], [1.0], [0.5, float("nan")]])
def test_bad_thresholds(thresholds: list[float]) -> None:
    with pytest.raises(InvalidValue):
        decision_curves([0, 1], {"m": [0.1, 0.9]}, thresholds=thresholds)


def test_unknown_strategy() -> None:
    with pytest.raises(InvalidValue, match="all, none, m"):
        decision_curves([0, 1], {"m": [0.1, 0.9]})["x"]
