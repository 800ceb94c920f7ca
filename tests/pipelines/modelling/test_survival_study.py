"""Whole survival studies and what they write."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipelines.modelling.outputs import write_study
from pipelines.modelling.signature import CoxLasso, risk_scores
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_study import (
    StudyCohort,
    SurvivalPlan,
    SurvivalStudyParameters,
    run_survival_study,
)
from services.model_serving.package import pack, read_package
from services.model_serving.predictor import predict
from services.shared.errors import InvalidTable, InvalidValue, TooFewCases

PARAMETERS = SurvivalStudyParameters(folds=4, permutations=2, bootstraps=40, horizons_months=(12, 24))
PLAN = SurvivalPlan("toy", "1", "Tests only.", CoxLasso(), PARAMETERS, "log2(FPKM + 1)")


@pytest.fixture(scope="module")
def training(simulated) -> SurvivalData:
    return simulated(160, 15, seed=1)


@pytest.fixture(scope="module")
def other(simulated) -> SurvivalData:
    return simulated(90, 15, seed=2, prefix="V")


@pytest.fixture(scope="module")
def result(training, other):
    return run_survival_study(PLAN, training, {"freije": other}, seed=3)


def test_every_part_has_its_figures(result, training, other):
    metrics = result.metrics
    assert (metrics["train_patients"], metrics["validation_freije_patients"]) == (160, 90)
    assert metrics["cv_deaths"] == int(training.event.sum())
    for part in ("train", "cv", "validation_freije"):
        for figure in ("c_index", "auc_12", "auc_24", "hazard_ratio"):
            low, value, high = (metrics[f"{part}_{figure}{end}"] for end in ("_low", "", "_high"))
            assert low < value < high
        assert 0 < metrics[f"{part}_ibs"] < 0.25
    assert metrics["cv_c_index"] > 0.7 > 0.6 > metrics["permuted_c_index"]
    assert metrics["permuted_runs"] == 2
    assert metrics["validation_freije_c_index"] > 0.7
    assert "paper_order_optimistic_c_index_low" in metrics
    assert metrics["features_in_model"] == len(result.model.columns)
    assert 0 < metrics["cutoff_p_corrected"] < 1e-6
    assert all(np.isfinite(value) for value in metrics.values())


def test_tables_agree_with_the_model_and_with_one_another(result, training, other):
    predictions = result.tables["predictions"].set_index(["part", "case_id"])
    assert predictions.groupby("part").size().to_dict() == {"cv": 160, "train": 160, "validation_freije": 90}
    scores = risk_scores(result.model, other)
    assert predictions.loc["validation_freije", "risk_score"].to_numpy() == pytest.approx(scores)
    high = predictions.loc["validation_freije", "group"] == "high"
    assert np.array_equal(high, scores >= result.model.threshold)
    assert (predictions["survival_12"] >= predictions["survival_24"]).all()
    folds = result.tables["folds"]
    assert folds["test"].sum() == 160
    assert folds["test_deaths"].sum() == training.event.sum()
    features = result.tables["features"]
    assert sorted(features["feature"]) == sorted(result.model.columns)
    assert features["coefficient"].abs().is_monotonic_decreasing
    assert features["share_of_folds"].between(0, 1).all()
    for name in ("survival_curves", "time_dependent_auc", "calibration"):
        assert set(result.tables[name]["part"]) == {"train", "cv", "validation_freije"}
    assert {"screening", "path", "permuted"} <= set(result.tables)
    assert result.flow["validation"]["freije"]["patients_studied"] == 90
    assert result.flow["features_after_step"]["given"] == 15


def test_the_package_does_not_know_the_validation_cohorts(result, training, other):
    rng = np.random.default_rng(0)
    spoilt = replace(
        other, months=rng.permutation(other.months) * 7, event=1 - other.event, values=other.values**2 - 30
    )
    for validation in ({"freije": spoilt}, {}, {"a": other, "b": spoilt}):
        again = run_survival_study(PLAN, training, validation, seed=3)
        assert pack(again.model, again.card) == pack(result.model, result.card)
        own = [name for name in result.metrics if not name.startswith("validation_")]
        assert [again.metrics[name] for name in own] == [result.metrics[name] for name in own]


def test_the_package_knows_the_training_labels(result, training):
    months = training.months.copy()
    months[0] += 20
    again = run_survival_study(PLAN, replace(training, months=months), {}, seed=3)
    assert pack(again.model, again.card) != pack(result.model, result.card)


def test_written_files_are_the_same_each_time_and_serve(result, training, storage):
    keys = write_study(storage, "tcga", result)
    first = {key: storage.read_bytes(key) for key in keys}
    assert write_study(storage, "tcga", result) == keys
    assert {key: storage.read_bytes(key) for key in keys} == first
    folder = "studies/tcga/toy"
    assert json.loads(first[f"{folder}/study.json"]) == {"kind": "survival"}
    assert json.loads(first[f"{folder}/metrics.json"]) == result.metrics
    assert {f"{folder}/{name}.csv" for name in result.tables} <= set(keys)
    package = read_package(storage, f"{folder}/model")
    description = package.description
    assert (description.kind, description.platform, description.classes) == ("cox", PLAN.platform, ("low", "high"))
    assert description.training.cohort == "tcga"
    assert description.metrics["c_index"].value == result.metrics["cv_c_index"]
    position = {name: i for i, name in enumerate(training.columns)}
    row = {name: float(training.values[5, position[name]]) for name in package.model.columns}
    served = predict(package, row, model="toy", version="v0001-000000000000")
    table = pd.read_csv(io.BytesIO(first[f"{folder}/predictions.csv"]))
    mine = table[(table["part"] == "train") & (table["case_id"] == training.ids[5])].iloc[0]
    assert served.risk_score == pytest.approx(mine["risk_score"])
    assert served.label == mine["group"]
    at_24 = [point.probability for point in served.survival if point.months == 24]
    assert at_24 == pytest.approx([mine["survival_24"]])


def test_documents_are_written_as_they_are(result, storage):
    with_text = replace(result, documents={"nomogram.json": "{}\n"})
    write_study(storage, "tcga", with_text)
    assert storage.read_text("studies/tcga/toy/nomogram.json") == "{}\n"


def test_progress_reaches_its_end(training, other):
    seen = []
    run_survival_study(PLAN, training, {"v": other}, seed=3, progress=lambda *told: seen.append(told))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def test_a_gene_that_a_validation_platform_lacks_is_named(training, other):
    kept = [i for i, name in enumerate(other.columns) if name != "GENE001"]
    poorer = replace(other, columns=tuple(other.columns[i] for i in kept), values=other.values[:, kept])
    with pytest.raises(InvalidTable) as error:
        run_survival_study(PLAN, training, {"freije": poorer}, seed=3)
    assert error.value.field == "GENE001"
    assert "freije" in str(error.value)
    assert PLAN.platform in str(error.value)


def test_too_few_deaths_are_an_error_that_says_so(training, other):
    event = np.zeros(160, dtype=np.int64)
    event[:3] = 1
    with pytest.raises(TooFewCases, match="fewer deaths than folds"):
        run_survival_study(PLAN, replace(training, event=event), {}, seed=3)
    alive = replace(other, event=np.zeros(90, dtype=np.int64))
    with pytest.raises(TooFewCases, match="nobody died"):
        run_survival_study(PLAN, training, {"freije": alive}, seed=3)


def test_horizons_lie_inside_the_follow_up_and_ascend(training):
    late = replace(PLAN, parameters=PARAMETERS.model_copy(update={"horizons_months": (12.0, 5000.0)}))
    with pytest.raises(InvalidValue, match="outside the training follow-up"):
        run_survival_study(late, training, {}, seed=3)
    for horizons in ((24, 12), (12, 12), (0, 12), ()):
        with pytest.raises(ValidationError):
            SurvivalStudyParameters(horizons_months=horizons)


def test_a_cohort_joins_its_tables_and_may_choose_columns(training):
    features = pd.DataFrame(training.values, index=list(training.ids), columns=list(training.columns))
    cohort = StudyCohort("tcga", features, training.clinical, "log2", excluded={training.ids[0]: "a test"})
    data = cohort.data(["GENE003", "GENE001"])
    assert data.columns == ("GENE001", "GENE003")
    assert len(data.ids) == 159
    assert data.flow["patients_excluded"] == {training.ids[0]: "a test"}


def test_uncensored_patients_can_be_studied(training):
    dead = replace(training, event=np.ones(160, dtype=np.int64))
    found = run_survival_study(PLAN, dead, {}, seed=3).metrics
    assert found["train_deaths"] == 160
    assert found["cv_c_index"] > 0.6
