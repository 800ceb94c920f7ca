from __future__ import annotations

import pandas as pd

from pipelines.reporting.classification import StudySummary, judge
from pipelines.reporting.sources import Phantom
from pipelines.reporting.tables import characteristics_table, format_estimate, leavers_table
from services.model_serving.package import Estimate


def test_estimates_are_printed_with_their_interval() -> None:
    assert format_estimate(Estimate(value=0.9, low=0.81, high=1.0)) == "0.900 [0.810–1.000]"
    assert format_estimate(Estimate(value=0.9)) == "0.900"
    assert format_estimate(None) == "–"


def test_characteristics_count_patients_and_gaps() -> None:
    frame = pd.DataFrame({"age_years": [40, 50, 60, None], "sex": ["F", "M", "M", None], "event": [1, 0, 1, 1]})
    rows = {row[0]: row[1:] for row in characteristics_table(frame).rows}
    assert rows["Age, years: median (quartiles)"] == ("50.0 (45.0–55.0)", "1")
    assert rows["Sex"] == ("F: 1 (33%), M: 2 (67%)", "1")
    assert rows["Death observed"] == ("no: 1 (25%), yes: 3 (75%)", "0")
    assert "IDH" not in rows


def test_column_without_any_value_is_a_gap() -> None:
    rows = {row[0]: row[1:] for row in characteristics_table(pd.DataFrame({"idh": [None, None]})).rows}
    assert rows["IDH"] == ("–", "2")


def test_leavers_are_sorted_by_step_and_case() -> None:
    table = leavers_table(
        {"extract": {"b": {"detail": "late"}}, "prepare": {"c": {"detail": "x"}, "a": {"detail": "y"}}}
    )
    assert [row[:3] for row in table.rows] == [
        ("sub-a", "prepare", "y"),
        ("sub-c", "prepare", "x"),
        ("sub-b", "extract", "late"),
    ]


def summary(auc: Estimate, permuted: Estimate | None) -> StudySummary:
    one = Estimate(value=0.5)
    return StudySummary("grading", 40, 20, auc, one, one, one, None, permuted, None, None)


def test_judgement_follows_the_intervals() -> None:
    high, chance = Estimate(value=0.9, low=0.8, high=1.0), Estimate(value=0.5, low=0.3, high=0.7)
    planted = Phantom(seed=0, null=False, parameters={}, effects={})
    null = Phantom(seed=0, null=True, parameters={}, effects={})
    assert "lies above 0.5" in judge(summary(high, chance), planted)
    assert "as planted" in judge(summary(high, chance), planted)
    assert "although an effect was planted" in judge(summary(chance, chance), planted)
    assert "though no effect was planted" in judge(summary(high, chance), null)
    assert "as it must be" in judge(summary(chance, chance), null)
    assert "planted" not in judge(summary(high, chance), None)
    assert "invents nothing" in judge(summary(high, chance), None)
    assert "something leaks" in judge(summary(high, Estimate(value=0.8, low=0.6, high=0.9)), None)
    assert "lies below 0.5" in judge(summary(high, Estimate(value=0.3, low=0.2, high=0.4)), None)
