from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from services.model_serving.package import pack, unpack
from services.model_serving.predictor import (
    classifier_scores,
    feature_effects,
    predict,
    probabilities,
    standardise,
    survival_probabilities,
)
from services.shared.errors import InvalidTable, InvalidValue


def packaged(reference, card):
    return unpack(pack(reference.model, card), name="test")


def test_scores_are_those_of_scikit_learn(reference):
    ours = classifier_scores(reference.model.classifier, reference.z)
    np.testing.assert_allclose(ours, reference.estimator.decision_function(reference.z), rtol=0, atol=1e-10)


def test_logistic_probabilities_are_those_of_scikit_learn(logistic):
    ours = probabilities(logistic.model, logistic.values)
    np.testing.assert_allclose(ours, logistic.estimator.predict_proba(logistic.z)[:, 1], rtol=0, atol=1e-10)


def test_machine_probabilities_are_platts_sigmoid_of_its_decision_values(machine):
    expected = 1 / (1 + np.exp(-(1.7 * machine.estimator.decision_function(machine.z) - 0.1)))
    np.testing.assert_allclose(probabilities(machine.model, machine.values), expected, rtol=0, atol=1e-10)


def test_missing_values_take_the_training_median(reference):
    values = reference.values.copy()
    values[:, 2] = np.nan
    filled = reference.values.copy()
    filled[:, 2] = reference.model.medians[2]
    assert np.array_equal(standardise(reference.model, values), standardise(reference.model, filled))


def test_logistic_effects_add_up_to_the_log_odds(logistic):
    z = logistic.z[3]
    total = feature_effects(logistic.model, z).sum() + logistic.model.classifier.intercept
    assert total == pytest.approx(logistic.estimator.decision_function(z[None])[0], abs=1e-10)


def test_machine_effects_are_changes_against_the_median(machine):
    values = machine.values[3].copy()
    z = machine.z[3]
    effects = feature_effects(machine.model, z)
    for column in range(6):
        other = values.copy()
        other[column] = machine.model.medians[column]
        change = probabilities(machine.model, values[None])[0] - probabilities(machine.model, other[None])[0]
        assert effects[column] == pytest.approx(change, abs=1e-12)


def test_prediction_states_label_threshold_and_reasons_largest_first(reference, card):
    for patient in range(20):
        found = predict(
            packaged(reference, card), reference.row(patient), model="grading", version="v1", case="c/sub-1"
        )
        assert found.label == ("HGG" if found.probability >= 0.4 else "LGG")
        assert (found.model, found.version, found.case, found.threshold) == ("grading", "v1", "c/sub-1", 0.4)
        sizes = [abs(effect.effect) for effect in found.effects]
        assert sizes == sorted(sizes, reverse=True)
        assert len(sizes) == 6


def test_imputed_and_distant_features_are_named(reference, card):
    row = reference.row()
    names = list(row)
    row[names[1]] = None
    row[names[4]] = float(reference.model.means[4] - 5 * reference.model.scales[4])
    found = predict(packaged(reference, card), row, model="grading", version="v1")
    assert found.imputed == (names[1],)
    assert found.out_of_range == (names[4],)
    assert len(found.warnings) == 2
    missing = next(effect for effect in found.effects if effect.feature == names[1])
    assert missing.value is None
    if found.effect_unit == "probability":
        assert missing.effect == 0


def test_unknown_features_are_counted_and_change_nothing(reference, card):
    package = packaged(reference, card)
    row = reference.row()
    found = predict(package, {**row, "other": 1.0, "another": None}, model="grading", version="v1")
    assert found.ignored_features == 2
    assert found.probability == predict(package, row, model="grading", version="v1").probability


def test_absent_columns_are_an_error_that_names_them(reference, card):
    row = reference.row()
    gone = next(iter(row))
    del row[gone]
    with pytest.raises(InvalidTable, match=rf"without 1 of them: {gone}"):
        predict(packaged(reference, card), row, model="grading", version="v1")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_features_are_refused(reference, card, value):
    row = reference.row() | {reference.model.columns[0]: value}
    with pytest.raises(InvalidTable, match="infinite"):
        predict(packaged(reference, card), row, model="grading", version="v1")


def test_nothing_known_gives_no_prediction(reference, card):
    with pytest.raises(InvalidTable, match="every feature"):
        predict(packaged(reference, card), dict.fromkeys(reference.model.columns), model="grading", version="v1")


def test_serving_needs_numpy_alone():
    code = """
import sys
import services.model_serving.predictor, services.model_serving.registry
heavy = {"sklearn", "scipy", "torch", "pandas", "bentoml"} & {name.partition(".")[0] for name in sys.modules}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_risk_score_and_survival_are_those_worked_by_hand(cox, cox_card):
    row, weights = cox.row(4), cox.model.classifier.coefficients
    z = (cox.values[4] - cox.model.means) / cox.model.scales
    found = predict(packaged(cox, cox_card), row, model="ferroptosis", version="v0001-000000000000")
    by_hand = sum(float(w) * float(v) for w, v in zip(weights, z, strict=True))
    assert found.risk_score == pytest.approx(by_hand, abs=1e-12)
    assert found.probability is None
    assert found.effect_unit == "log-hazard"
    assert found.label == ("high" if by_hand >= 0.25 else "low")
    assert found.positive_label == "high"
    assert [point.months for point in found.survival] == [3, 12, 24]
    for point, baseline in zip(found.survival, (0.95, 0.8, 0.55), strict=True):
        assert point.probability == pytest.approx(baseline ** np.exp(by_hand), abs=1e-12)
    assert sum(effect.effect for effect in found.effects) == pytest.approx(by_hand, abs=1e-12)
    assert found.effects[0].effect == pytest.approx(max(weights * z, key=abs))


def test_risk_groups_meet_at_the_cut_off(cox, cox_card):
    from dataclasses import replace

    score = float(classifier_scores(cox.model.classifier, standardise(cox.model, cox.values[:1]))[0])
    for threshold, label in ((score, "high"), (np.nextafter(score, np.inf), "low")):
        reference = replace(cox, model=replace(cox.model, threshold=threshold))
        found = predict(packaged(reference, cox_card), cox.row(), model="ferroptosis", version="v0001-000000000000")
        assert found.label == label


def test_a_signature_tells_what_was_missing_and_what_is_far_off(cox, cox_card):
    row = cox.row() | {cox.model.columns[1]: None, cox.model.columns[2]: 1e4, "other": 1.0}
    found = predict(packaged(cox, cox_card), row, model="ferroptosis", version="v0001-000000000000")
    assert found.imputed == (cox.model.columns[1],)
    assert found.out_of_range == (cox.model.columns[2],)
    assert found.ignored_features == 1
    assert len(found.warnings) == 2
    assert all(0 <= point.probability <= 1 for point in found.survival)


def test_survival_is_a_step_that_starts_at_one_and_keeps_its_last_value(cox):
    found = survival_probabilities(cox.model.classifier, np.array([0.0, 1.0]), np.array([1.0, 3.0, 23.9, 99.0]))
    assert found[0].tolist() == [1.0, 0.95, 0.8, 0.55]
    assert found[1] == pytest.approx(found[0] ** np.e)


def test_a_signature_has_no_single_probability(cox):
    with pytest.raises(InvalidValue, match="no single probability"):
        probabilities(cox.model, cox.values)
