from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.study_data import study_data
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, OneClass, TooFewCases

CLASSES = ("LGG", "HGG")


@pytest.fixture
def cohort() -> tuple[pd.DataFrame, pd.Series]:
    ids = [f"P{i}" for i in range(12)]
    features = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 3)), index=ids, columns=["b", "a", "c"])
    return features, pd.Series(["LGG", "HGG"] * 6, index=ids)


def test_order_of_rows_and_columns_does_not_matter(cohort):
    features, labels = cohort
    one = study_data(features, labels, classes=CLASSES, folds=3)
    other = study_data(features.iloc[::-1, ::-1], labels.sample(frac=1, random_state=0), classes=CLASSES, folds=3)
    assert one.ids == other.ids
    assert one.columns == other.columns == ("a", "b", "c")
    assert np.array_equal(one.values, other.values)
    assert (one.features_sha256, one.labels_sha256) == (other.features_sha256, other.labels_sha256)


def test_another_value_or_label_is_another_version_of_the_data(cohort):
    features, labels = cohort
    one = study_data(features, labels, classes=CLASSES, folds=2)
    features.iloc[0, 0] += 1e-9
    swapped = labels.copy()
    swapped.iloc[[0, 1]] = ["HGG", "LGG"]
    other = study_data(features, swapped, classes=CLASSES, folds=2)
    assert one.features_sha256 != other.features_sha256
    assert one.labels_sha256 != other.labels_sha256


def test_patients_without_outcome_and_excluded_ones_are_counted(cohort):
    features, labels = cohort
    labels = labels.astype(object)
    labels["P0"], labels["P2"] = None, " "
    data = study_data(features, labels, classes=CLASSES, folds=None, excluded={"P1": "quarantined", "P99": "no images"})
    assert data.flow["patients_without_outcome"] == ["P0", "P2"]
    assert data.flow["patients_excluded"] == {"P1": "quarantined", "P99": "no images"}
    assert len(data.ids) == data.flow["patients_studied"] == 9
    assert data.flow["patients_by_class"] == {"LGG": 4, "HGG": 5}
    assert data.flow["patients_given"] == 13


def _infinite(features: pd.DataFrame) -> None:
    features.loc["P3", "a"] = np.inf


def _text(features: pd.DataFrame) -> None:
    features["a"] = "x"


@pytest.mark.parametrize(("damage", "match"), [(_infinite, "infinite"), (_text, "not numeric")])
def test_features_must_be_finite_numbers(cohort, damage, match):
    features, labels = cohort
    damage(features)
    with pytest.raises(InvalidTable, match=match):
        study_data(features, labels, classes=CLASSES, folds=2)


def test_identifiers_must_match_and_are_listed(cohort):
    features, labels = cohort
    with pytest.raises(IdMismatch, match=r"2 with features only: P0, P1"):
        study_data(features, labels.iloc[2:], classes=CLASSES, folds=2)
    with pytest.raises(IdMismatch, match=r"1 with an outcome only: P0"):
        study_data(features.iloc[1:], labels, classes=CLASSES, folds=2)


def test_repeated_patients_are_refused(cohort):
    features, labels = cohort
    with pytest.raises(DuplicateId, match="P0"):
        study_data(pd.concat([features, features.iloc[:1]]), labels, classes=CLASSES, folds=2)
    with pytest.raises(DuplicateId, match="P0"):
        study_data(features, pd.concat([labels, labels.iloc[:1]]), classes=CLASSES, folds=2)


def test_one_class_too_few_cases_and_strange_classes(cohort):
    features, labels = cohort
    with pytest.raises(OneClass, match="12 LGG, 0 HGG"):
        study_data(features, labels.replace("HGG", "LGG"), classes=CLASSES, folds=2)
    with pytest.raises(TooFewCases, match="at least 7 patients of each class for 7 folds"):
        study_data(features, labels, classes=CLASSES, folds=7)
    with pytest.raises(InvalidTable, match="G2"):
        study_data(features, labels.replace("LGG", "G2"), classes=CLASSES, folds=2)
