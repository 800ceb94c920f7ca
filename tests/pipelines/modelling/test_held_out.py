from __future__ import annotations

import pandas as pd
import pytest

from pipelines.modelling.held_out import REASON, held_out_cases, is_held_out
from pipelines.modelling.survival_study import StudyCohort

IDS = [f"TCGA06{i:04d}" for i in range(2000)]


def test_the_share_is_met_and_a_larger_one_holds_the_same_and_more() -> None:
    fifth, third = set(held_out_cases(IDS, 0.2)), set(held_out_cases(IDS, 1 / 3))
    assert len(fifth) == pytest.approx(400, abs=60)
    assert len(third) == pytest.approx(667, abs=70)
    assert fifth < third
    assert held_out_cases(IDS, 0.0) == {}
    assert held_out_cases(reversed(IDS), 0.2) == held_out_cases(IDS, 0.2)


def test_who_is_held_out_never_changes() -> None:
    # Written once: another answer would put patients that versions were judged on into training.
    assert [i for i in range(40) if is_held_out(f"p{i:03d}", 0.2)] == [2, 9, 14, 36]


def test_features_of_held_out_patients_do_not_reach_a_study() -> None:
    features = pd.DataFrame({"f": range(2000)}, index=pd.Index(IDS, name="case_id"), dtype=float)
    clinical = pd.DataFrame({"os_months": 5.0, "event": 1}, index=features.index)
    left = StudyCohort("c", features, clinical, "").without_held_out(0.2)
    assert not set(left.features.index) & set(held_out_cases(IDS, 0.2))
    data = left.data()
    assert len(data.ids) == len(left.features)
    dropped = data.flow["patients_excluded"]
    assert isinstance(dropped, dict)
    assert dropped == held_out_cases(IDS, 0.2)
    assert set(dropped.values()) == {REASON}
