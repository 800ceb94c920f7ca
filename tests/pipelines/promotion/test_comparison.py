"""Two versions on the same patients: figures against their own definitions, and what cannot be computed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.promotion.comparison import HeldOutPatients, compare_versions, judged_subgroups, split_patients
from services.shared.errors import InvalidTable, TooFewCases
from services.survival_analytics.discrimination import auc, compare_auc, compare_concordance, concordance

RNG = np.random.default_rng(5)
N = 80


def clinic(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age_years": np.linspace(20, 80, n),
            "sex": np.where(np.arange(n) % 2, "F", "M"),
            "grade": np.where(np.arange(n) % 4, 4.0, np.nan),
        }
    )


def classified(n: int = N, *, noise: float = 1.0) -> HeldOutPatients:
    outcome = (np.arange(n) % 2).astype(float)
    rng = np.random.default_rng(1)
    champion, challenger = (1 / (1 + np.exp(-(outcome * 2 - 1 + rng.normal(0, s, n)))) for s in (2.0, noise))
    ids = tuple(f"p{i:03d}" for i in range(n))
    return HeldOutPatients(ids, outcome, None, champion, challenger, champion, challenger, clinic(n))


def followed(n: int = N) -> HeldOutPatients:
    rng = np.random.default_rng(2)
    risk = rng.normal(size=n)
    months = rng.exponential(30 * np.exp(-risk)) + 0.1
    censored = rng.uniform(5, 80, n)
    event = (months <= censored).astype(float)
    scores = risk + rng.normal(0, 1.0, n), risk + rng.normal(0, 0.5, n)
    risks = tuple(1 - np.exp(-24 / (30 * np.exp(-score))) for score in scores)
    ids = tuple(f"p{i:03d}" for i in range(n))
    return HeldOutPatients(ids, event, np.minimum(months, censored), *scores, *risks, clinic(n), 24.0)


def test_classes_are_compared_by_delong_on_the_same_patients() -> None:
    given = classified()
    found = compare_versions(given, champion="v1", challenger="v2")
    expected = compare_auc(given.event, given.challenger, second=given.champion)
    assert found.measure == "AUC"
    assert found.overall.champion == pytest.approx(auc(given.event, given.champion).estimate)
    assert found.overall.difference is not None
    assert found.overall.difference.value == pytest.approx(expected.difference)
    assert found.overall.difference.low == pytest.approx(expected.lower)
    assert found.overall.lower_90 == pytest.approx(
        compare_auc(given.event, given.challenger, second=given.champion, level=0.9).lower
    )
    assert found.overall.p_value == pytest.approx(expected.p_value)
    brier = [float(np.mean((risk - given.event) ** 2)) for risk in (given.champion, given.challenger)]
    assert found.accuracy.champion_brier == pytest.approx(brier[0])
    assert found.accuracy.brier_difference is not None
    assert found.accuracy.brier_difference.value == pytest.approx(brier[1] - brier[0])
    assert found.accuracy.observed == 0.5


def test_survival_is_compared_by_correlated_concordances() -> None:
    given = followed()
    assert given.months is not None
    found = compare_versions(given, champion="v1", challenger="v2")
    expected = compare_concordance(given.months, given.event, first=given.challenger, second=given.champion)
    assert found.measure == "C-index"
    assert found.overall.champion == pytest.approx(
        concordance(given.months, given.event, score=given.champion).estimate
    )
    assert found.overall.difference is not None
    assert found.overall.difference.value == pytest.approx(expected.difference)
    assert found.overall.p_value == pytest.approx(expected.p_value)
    assert found.accuracy.challenger_brier is not None
    assert 0 < found.accuracy.challenger_brier < 0.35
    assert found.accuracy.observed is not None
    assert found.horizon_months == 24.0


@pytest.mark.parametrize("given", [classified(), followed()], ids=["classes", "survival"])
def test_a_version_does_not_differ_from_itself(given: HeldOutPatients) -> None:
    same = HeldOutPatients(
        given.case_ids, given.event, given.months, given.champion, given.champion, given.champion_risk,
        given.champion_risk, given.clinical, given.horizon_months,
    )  # fmt: skip
    found = compare_versions(same, champion="v1", challenger="v1").overall
    assert found.difference is not None
    assert (found.difference.value, found.lower_90, found.p_value) == (0.0, 0.0, 1.0)


def test_subgroups_are_those_with_several_values_and_small_ones_are_not_judged() -> None:
    found = compare_versions(classified(), champion="v1", challenger="v2")
    names = {(group.column, group.value): group.found for group in found.subgroups}
    assert set(names) == {("age_years", "below 40"), ("age_years", "40 to 59"), ("age_years", "60 and above"),
                          ("sex", "F"), ("sex", "M")}  # fmt: skip
    assert sum(found.patients for (column, _), found in names.items() if column == "age_years") == N
    women = names[("sex", "F")]  # all of one class: nothing to tell apart
    assert (women.events, women.champion, women.difference) == (40, None, None)
    assert {group.column for group in judged_subgroups(found, minimum=5)} == {"age_years"}
    assert judged_subgroups(found, minimum=50) == []
    assert split_patients(pd.DataFrame({"sex": ["F", "F"]})) == []


def test_what_is_not_finite_gives_no_figure() -> None:
    given = classified()
    spoilt = given.challenger.copy()
    spoilt[3] = np.nan
    found = compare_versions(
        HeldOutPatients(given.case_ids, given.event, None, given.champion, spoilt, given.champion, spoilt, clinic(N)),
        champion="v1",
        challenger="v2",
    )
    assert (found.overall.champion, found.overall.challenger, found.overall.lower_90) == (None, None, None)
    assert found.accuracy.challenger_brier is None


def test_nobody_held_out_and_unequal_predictions_are_told() -> None:
    with pytest.raises(TooFewCases, match="held_out_share"):
        compare_versions(classified().take(np.zeros(N, dtype=bool)), champion="v1", challenger="v2")
    given = classified()
    with pytest.raises(InvalidTable, match="same patients"):
        HeldOutPatients(given.case_ids, given.event, None, given.champion[:-1], given.challenger, given.champion,
                        given.challenger, clinic(N))  # fmt: skip
