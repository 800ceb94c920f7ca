from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.applied_model import apply_to_cohort
from services.model_serving.package import (
    CoxSignature,
    FittedModel,
    LogisticClassifier,
    ModelCard,
    Package,
    TrainingData,
    pack,
    unpack,
)
from services.shared.errors import InvalidTable, OneClass

CARD = ModelCard(
    study="test",
    classes=("WT", "Mutant"),
    intended_use="Tests",
    metrics={},
    training=TrainingData(patients=1, patients_by_class={}, features_sha256="0" * 64, labels_sha256="0" * 64),
    code_version="1",
    packages={},
)
MODEL = FittedModel(
    ("b", "a"),
    medians=np.array([1.0, 2.0]),
    means=np.array([1.0, 2.0]),
    scales=np.array([1.0, 2.0]),
    classifier=LogisticClassifier(np.array([1.0, 0.5]), 0.0),
    threshold=0.5,
)


def package(model: FittedModel = MODEL) -> Package:
    return unpack(pack(model, CARD), name="test")


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, pd.Series]:
    ids = [f"P{i}" for i in range(6)]
    features = pd.DataFrame({"a": [2.0] * 6, "b": [0.0, 0.5, 3.0, 2.0, np.nan, 4.0], "other": 7.0}, index=ids)
    return features, pd.Series(["WT", "WT", "WT", "Mutant", "Mutant", "Mutant"], index=ids)


def test_figures_by_hand(cohort):
    found = apply_to_cohort(package(), *cohort, bootstraps=100)
    # log-odds b − 1: −1, −0.5, 2 | 1, 0 (median), 3
    assert found.metrics["auc"] == pytest.approx(7 / 9)
    assert found.metrics["sensitivity"] == 1
    assert found.metrics["specificity"] == pytest.approx(2 / 3)
    assert found.predictions["probability"].tolist() == pytest.approx(
        (1 / (1 + np.exp(-np.array([-1, -0.5, 2, 1, 0, 3])))).tolist()
    )
    assert found.flow["values_taken_as_training_median"] == {"b": 1}
    assert found.metrics["auc_bootstrap_low"] <= found.metrics["auc"] <= found.metrics["auc_bootstrap_high"]


def test_left_out_patients_are_counted(cohort):
    features, labels = cohort
    labels = labels.astype(object)
    labels["P0"] = None
    found = apply_to_cohort(package(), features, labels, excluded={"P5": "idh WT"}, bootstraps=0)
    assert found.flow["patients_without_outcome"] == ["P0"]
    assert found.flow["patients_excluded"] == {"P5": "idh WT"}
    assert "auc_bootstrap_low" not in found.metrics


def test_clinical_columns_join_the_features(cohort):
    features, labels = cohort
    clinical = pd.DataFrame({"age_years": range(40, 46), "sex": ["F", "M"] * 3, "grade": 2}, index=features.index)
    model = replace(MODEL, columns=("b", "sex_male"))
    found = apply_to_cohort(package(model), features, labels, clinical=clinical.iloc[::-1], bootstraps=0)
    assert found.metrics["patients"] == 6
    with pytest.raises(InvalidTable, match="sex_male"):
        apply_to_cohort(package(model), features, labels)


def test_what_cannot_be_judged_says_why(cohort):
    features, labels = cohort
    signature = replace(MODEL, classifier=CoxSignature(np.ones(2), np.array([1.0]), np.array([0.9])))
    with pytest.raises(InvalidTable, match="survival signature"):
        apply_to_cohort(package(signature), features, labels)
    with pytest.raises(InvalidTable, match="without 1 of them: b"):
        apply_to_cohort(package(), features.drop(columns="b"), labels)
    with pytest.raises(OneClass):
        apply_to_cohort(package(), features, labels.map(lambda _: "WT"))
