"""The gate opens for a challenger that is no worse, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.promotion.comparison import Accuracy, Comparison, Discrimination, Subgroup
from pipelines.promotion.gate import Check, GateThresholds, judge_challenger
from services.model_serving.package import Estimate, PackageDescription, TrainingData

GOOD = Discrimination(
    patients=60, events=30, champion=0.80, challenger=0.82, difference=Estimate(value=0.02, low=-0.02, high=0.06),
    lower_90=-0.013, p_value=0.3,
)  # fmt: skip
ACCURATE = Accuracy(
    champion_brier=0.18, challenger_brier=0.17, brier_difference=Estimate(value=-0.01, low=-0.03, high=0.01),
    observed=0.5, champion_predicted=0.52, challenger_predicted=0.51,
)  # fmt: skip
OF_WOMEN = Subgroup(column="sex", value="F", found=GOOD.model_copy(update={"patients": 30, "events": 15}))


def description(counts: dict[str, int], *, auc: float = 0.8) -> PackageDescription:
    return PackageDescription(
        study="grading",
        kind="logistic",
        columns=("f",),
        medians=(0.0,),
        means=(0.0,),
        scales=(1.0,),
        classes=("LGG", "HGG"),
        threshold=0.5,
        intended_use="Tests",
        metrics={"auc": Estimate.model_construct(value=auc), "permuted_auc": Estimate(value=0.52)},
        training=TrainingData(
            patients=sum(counts.values()), patients_by_class=counts, features_sha256="0" * 64, labels_sha256="0" * 64
        ),
        code_version="1",
        packages={},
        arrays_sha256="0" * 64,
    )


def comparison(**changes: object) -> Comparison:
    return Comparison(
        champion="v1",
        challenger="v2",
        measure="AUC",
        horizon_months=None,
        overall=GOOD,
        accuracy=ACCURATE,
        subgroups=(OF_WOMEN,),
    ).model_copy(update=changes)


def of_women(**changes: object) -> tuple[Subgroup, ...]:
    return (OF_WOMEN.model_copy(update={"found": OF_WOMEN.found.model_copy(update=changes)}),)


BEFORE = description({"LGG": 40, "HGG": 50})
AFTER = description({"LGG": 45, "HGG": 60})
NOTHING = Discrimination(patients=60, events=30)


def test_a_challenger_that_is_no_worse_is_promoted() -> None:
    decision = judge_challenger(comparison(), BEFORE, AFTER, thresholds=GateThresholds())
    assert decision.promote, decision.reason
    assert decision.reason == f"passed {len(decision.checks)} checks"
    assert "AUC of sex F" in {check.name for check in decision.checks}


@pytest.mark.parametrize(
    ("named", "given", "after"),
    [
        ("AUC not lower", comparison(overall=NOTHING), AFTER),
        ("AUC not lower", comparison(overall=GOOD.model_copy(update={"lower_90": -0.051})), AFTER),
        ("AUC not lower", comparison(overall=GOOD.model_copy(update={"lower_90": np.nan})), AFTER),
        ("AUC not lower", comparison(overall=GOOD.model_copy(update={"challenger": np.nan})), AFTER),
        ("Brier score", comparison(accuracy=ACCURATE.model_copy(update={"brier_difference": None})), AFTER),
        ("Brier score", comparison(accuracy=ACCURATE.model_copy(update={"challenger_brier": np.nan})), AFTER),
        ("Brier score", comparison(accuracy=ACCURATE.model_copy(update={"brier_difference": Estimate(value=0.03)})),
         AFTER),
        ("calibration in the large", comparison(accuracy=ACCURATE.model_copy(update={"challenger_predicted": 0.7})),
         AFTER),
        ("calibration in the large", comparison(accuracy=ACCURATE.model_copy(update={"challenger_predicted": np.nan})),
         AFTER),
        ("held-out patients", comparison(overall=GOOD.model_copy(update={"events": 9})), AFTER),
        ("held-out patients", comparison(overall=GOOD.model_copy(update={"events": 51})), AFTER),
        ("training events", comparison(), description({"LGG": 39, "HGG": 90})),
        ("out of fold, better than shuffled outcomes", comparison(), description({"LGG": 45, "HGG": 60}, auc=0.51)),
        ("out of fold, better than shuffled outcomes", comparison(), description({"LGG": 45, "HGG": 60}, auc=np.nan)),
        ("same question", comparison(), AFTER.model_copy(update={"classes": ("HGG", "LGG")})),
        ("AUC of sex F", comparison(subgroups=of_women(challenger=0.64)), AFTER),
        ("AUC of sex F", comparison(subgroups=of_women(champion=0.55, challenger=0.49)), AFTER),
        ("AUC of sex F", comparison(subgroups=of_women(challenger=None)), AFTER),
        ("AUC of sex F", comparison(subgroups=of_women(challenger=np.nan)), AFTER),
    ],
)  # fmt: skip
def test_one_thing_that_speaks_against_it_is_enough(named: str, given: Comparison, after: PackageDescription) -> None:
    decision = judge_challenger(given, BEFORE, after, thresholds=GateThresholds())
    assert not decision.promote
    assert [check.name for check in decision.failed] == [named]
    assert named in decision.reason


def test_few_patients_of_a_subgroup_are_not_judged_and_all_may_stray_where_the_champion_does() -> None:
    small = comparison(subgroups=of_women(events=7, challenger=0.1))
    assert judge_challenger(small, BEFORE, AFTER, thresholds=GateThresholds()).promote
    both = ACCURATE.model_copy(update={"champion_predicted": 0.75, "challenger_predicted": 0.7})
    assert judge_challenger(comparison(accuracy=both), BEFORE, AFTER, thresholds=GateThresholds()).promote


def test_a_failed_check_of_an_earlier_step_keeps_the_gate_shut() -> None:
    failed = Check(name="columns", passed=False, expected="those of before", got="one less")
    decision = judge_challenger(comparison(), BEFORE, AFTER, thresholds=GateThresholds(), earlier=(failed,))
    assert not decision.promote
    assert decision.failed == (failed,)


def test_deaths_are_the_events_of_a_signature() -> None:
    before = description({"censored": 10, "deaths": 60})
    assert judge_challenger(comparison(), before, description({"censored": 5, "deaths": 60}),
                            thresholds=GateThresholds()).promote  # fmt: skip
    fewer = judge_challenger(comparison(), before, description({"censored": 50, "deaths": 59}),
                             thresholds=GateThresholds())  # fmt: skip
    assert [check.name for check in fewer.failed] == ["training events"]
