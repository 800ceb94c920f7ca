"""Clinical against integrated nomograms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.modelling.nomograms import compare_nomograms, evaluate_nomograms, with_nomograms
from pipelines.modelling.signature import CoxLasso
from pipelines.modelling.survival_study import SurvivalPlan, SurvivalStudyParameters, run_survival_study
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.discrimination import compare_concordance, concordance
from services.survival_analytics.reclassification import reclassify_survival

COLUMNS = ["age_years", "idh"]
HORIZONS = (12, 24)


def with_clinic(data, seed):
    rng = np.random.default_rng(seed)
    n = len(data.ids)
    clinical = data.clinical.assign(
        age_years=np.round(60 - data.months / 4 + rng.normal(0, 12, n)),
        idh=np.where(rng.random(n) < 0.1, None, rng.choice(["WT", "Mutant"], n)),
    )
    return replace(data, clinical=clinical)


@pytest.fixture(scope="module")
def training(simulated):
    return with_clinic(simulated(220, 12, seed=1), 1)


@pytest.fixture(scope="module")
def other(simulated):
    return with_clinic(simulated(120, 12, seed=2, prefix="V"), 2)


def score_of(data):
    return 0.4 * (data.values[:, 0] - data.values[:, 1] + data.values[:, 2] - data.values[:, 3])


@pytest.fixture(scope="module")
def found(training, other):
    noisy = score_of(training) + np.random.default_rng(3).normal(size=220)
    return compare_nomograms(
        training,
        clinical_columns=COLUMNS,
        score=score_of(training),
        out_of_fold=noisy,
        validation={"v": (other, score_of(other))},
        horizons=HORIZONS,
        seed=1,
        bootstraps=60,
    )


def complete(data):
    table = data.clinical.assign(score=score_of(data))
    table = table[table["idh"].notna()]
    return table.assign(wt=(table["idh"] == "WT").astype(float))


def test_apparent_figures_are_those_of_both_models_in_the_same_patients(found, training):
    table = complete(training)
    clinical = fit_cox(table, "os_months", event="event", covariates=["age_years", "wt"])
    integrated = fit_cox(table, "os_months", event="event", covariates=["age_years", "wt", "score"])
    metrics = found.metrics
    assert metrics["train_nomogram_patients"] == len(table)
    assert metrics["train_nomogram_c_index_clinical"] == pytest.approx(clinical.concordance.estimate)
    assert metrics["train_nomogram_c_index_integrated"] == pytest.approx(integrated.concordance.estimate)
    assert metrics["train_nomogram_aic_clinical"] == pytest.approx(clinical.aic)
    assert metrics["train_nomogram_aic_integrated"] == pytest.approx(integrated.aic)
    ratio = 2 * (integrated.log_likelihood - clinical.log_likelihood)
    assert metrics["train_nomogram_likelihood_ratio"] == pytest.approx(ratio)
    assert metrics["train_nomogram_likelihood_ratio_p"] < 1e-6
    old, new = clinical.predict_risk(table), integrated.predict_risk(table)
    compared = compare_concordance(table["os_months"], table["event"], first=new, second=old)
    assert metrics["train_nomogram_c_index_difference"] == pytest.approx(compared.difference)
    assert metrics["train_nomogram_c_index_difference_p"] == pytest.approx(compared.p_value)
    risks = [1 - model.predict_survival(table, [12]).survival[0] for model in (clinical, integrated)]
    nri = reclassify_survival(table["os_months"], table["event"], old=risks[0], new=risks[1], at=12)
    assert metrics["train_nomogram_nri_12"] == pytest.approx(nri.nri)
    for name in ("c_index_integrated", "c_index_difference", "nri_12"):
        low, value, high = (metrics[f"train_nomogram_{name}{end}"] for end in ("_low", "", "_high"))
        assert low < value < high


def test_other_patients_meet_the_training_models_unchanged(found, training, other):
    table = complete(other)
    integrated = fit_cox(complete(training), "os_months", event="event", covariates=["age_years", "wt", "score"])
    expected = concordance(table["os_months"], table["event"], score=integrated.predict_risk(table)).estimate
    assert found.metrics["validation_v_nomogram_c_index_integrated"] == pytest.approx(expected)
    assert "validation_v_nomogram_aic_integrated" not in found.metrics
    spoilt = replace(other, months=other.months[::-1].copy(), event=1 - other.event)
    again = compare_nomograms(
        training,
        clinical_columns=COLUMNS,
        score=score_of(training),
        validation={"v": (spoilt, score_of(other) * -5)},
        horizons=HORIZONS,
        seed=1,
        bootstraps=10,
    )
    assert again.documents == found.documents
    assert np.array_equal(again.fitted.integrated.coefficients, found.fitted.integrated.coefficients)


def test_out_of_fold_scores_have_a_part_of_their_own(found):
    assert found.metrics["cv_nomogram_c_index_clinical"] == found.metrics["train_nomogram_c_index_clinical"]
    assert found.metrics["cv_nomogram_c_index_integrated"] < found.metrics["train_nomogram_c_index_integrated"]
    assert found.metrics["cv_nomogram_aic_integrated"] > found.metrics["train_nomogram_aic_integrated"]


def test_flow_tells_who_was_left_out_and_the_reference(found, training):
    assert found.flow["reference_levels"] == {"idh": "Mutant"}
    missing = int(training.clinical["idh"].isna().sum())
    assert found.flow["train"]["patients_left_out"] == {"no idh": missing}
    assert set(found.tables["nomogram"]["part"]) == {"train", "cv"}
    assert set(found.tables["decision_curves"]["strategy"]) == {"all", "none", "clinical", "integrated"}
    assert set(found.tables["nomogram_calibration"]["part"]) == {"train", "cv", "validation_v"}
    assert all(np.isfinite(value) for value in found.metrics.values())


def test_the_nomogram_predicts_what_its_model_predicts(found, training):
    document = json.loads(found.documents["nomogram.json"])
    table = complete(training).iloc[:5].assign(signature=lambda t: t["score"], **{"idh=WT": lambda t: t["wt"]})
    total = sum(
        covariate["points_at_zero"] + covariate["points_per_value"] * table[covariate["name"]]
        for covariate in document["covariates"]
    )
    predictor = document["intercept"] + total / document["points_per_unit"]
    expected = found.fitted.integrated.predict_survival(table, [24]).survival[0]
    assert document["outcomes"][1]["reference"] ** np.exp(predictor.to_numpy()) == pytest.approx(expected)


def test_a_score_of_noise_adds_nothing(training):
    noise = np.random.default_rng(9).normal(size=220)
    found = compare_nomograms(
        training, clinical_columns=COLUMNS, score=noise, horizons=HORIZONS, seed=1, bootstraps=100
    ).metrics
    assert found["train_nomogram_likelihood_ratio_p"] > 0.05
    assert found["train_nomogram_c_index_difference_low"] <= 0 <= found["train_nomogram_c_index_difference_high"]
    gain = found["train_nomogram_aic_clinical"] - found["train_nomogram_aic_integrated"]
    assert gain == pytest.approx(found["train_nomogram_likelihood_ratio"] - 2)


def test_horizons_past_the_follow_up_are_left_out_with_the_reason(found, other):
    late = evaluate_nomograms(found.fitted, other, score_of(other), horizons=(12, 900), seed=1, bootstraps=10)
    assert "nri_900" not in late.metrics
    assert any("900" in reason for reason in late.flow["figures_left_out"])
    assert "nri_12" in late.metrics


def test_a_study_gets_the_nomograms_of_its_own_scores(training, other):
    parameters = SurvivalStudyParameters(folds=3, permutations=0, bootstraps=20, horizons_months=HORIZONS)
    plan = SurvivalPlan("toy", "1", "Tests.", CoxLasso(), parameters, "z")
    bare = replace(other, clinical=other.clinical[["os_months", "event"]])
    cohorts = {"v": other, "bare": bare}
    result = run_survival_study(plan, training, cohorts, seed=1)
    joined = with_nomograms(result, training, cohorts, clinical_columns=COLUMNS, seed=1)
    assert {"train_nomogram_nri_12", "cv_nomogram_nri_12", "validation_v_nomogram_nri_12"} <= set(joined.metrics)
    assert joined.flow["nomogram"]["cohorts_left_out"] == {"bare": "no column age_years, idh"}
    assert set(joined.documents) == {"nomogram.json", "nomogram_clinical.json"}
    assert joined.model is result.model
    assert set(result.metrics) < set(joined.metrics)
