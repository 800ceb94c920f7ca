"""Models fitted with scikit-learn, packed as a study packs them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from services.model_serving.package import (
    CoxSignature,
    Estimate,
    FittedModel,
    LogisticClassifier,
    ModelCard,
    SvmClassifier,
    TrainingData,
    pack,
)
from services.shared.storage import Storage

COLUMNS = tuple(f"T1c_TC_original_glcm_F{i}" for i in range(6))
CARD = ModelCard(
    study="grading",
    classes=("LGG", "HGG"),
    intended_use="Tests",
    metrics={"auc": Estimate(value=0.8, low=0.7, high=0.9)},
    training=TrainingData(
        patients=60, patients_by_class={"LGG": 30, "HGG": 30}, features_sha256="0" * 64, labels_sha256="1" * 64
    ),
    code_version="1",
    packages={"numpy": np.__version__},
)


COX_CARD = replace(
    CARD,
    study="ferroptosis",
    classes=("low", "high"),
    metrics={"c_index": Estimate(value=0.7, low=0.6, high=0.8)},
    training=CARD.training.model_copy(update={"patients_by_class": {"censored": 30, "deaths": 30}}),
    platform="log2 intensity",
)


@dataclass(frozen=True)
class Reference:
    """A fitted model beside the scikit-learn estimator that it was made of."""

    model: FittedModel
    estimator: ClassifierMixin
    values: NDArray[np.float64]

    @property
    def z(self) -> NDArray[np.float64]:
        return (self.values - self.model.means) / self.model.scales

    def write(self, storage: Storage, folder: str, card: ModelCard = CARD) -> str:
        for name, content in pack(self.model, card).items():
            storage.write_bytes(f"{folder}/{name}", content)
        return folder

    def row(self, patient: int = 0) -> dict[str, float | None]:
        return dict(zip(self.model.columns, self.values[patient].tolist(), strict=True))


def make_reference(kind: str) -> Reference:
    rng = np.random.default_rng(7)
    y = np.arange(60) % 2
    values = rng.normal(size=(60, 6)) * 3 + 10 + y[:, None]
    means, scales = values.mean(axis=0), values.std(axis=0)
    z = (values - means) / scales
    if kind == "logistic":
        estimator = LogisticRegression().fit(z, y)
        classifier = LogisticClassifier(estimator.coef_[0], float(estimator.intercept_[0]))
    else:
        estimator = SVC(C=3.0, gamma=0.2).fit(z, y)
        classifier = SvmClassifier(
            estimator.support_vectors_, estimator.dual_coef_[0], float(estimator.intercept_[0]), 0.2, 1.7, -0.1
        )
    return Reference(FittedModel(COLUMNS, np.median(values, axis=0), means, scales, classifier, 0.4), estimator, values)


@pytest.fixture(params=["logistic", "svm_rbf"])
def reference(request: pytest.FixtureRequest) -> Reference:
    return make_reference(request.param)


@pytest.fixture
def logistic() -> Reference:
    return make_reference("logistic")


@pytest.fixture
def machine() -> Reference:
    return make_reference("svm_rbf")


@pytest.fixture
def card() -> ModelCard:
    return CARD


@pytest.fixture
def cox_card() -> ModelCard:
    return COX_CARD


@pytest.fixture
def cox() -> Reference:
    """A Cox signature of six features; the estimator is not used."""
    reference = make_reference("logistic")
    signature = CoxSignature(
        np.array([0.8, -0.5, 0.3, 0.0, 0.1, -0.2]), np.array([3.0, 12.0, 24.0]), np.array([0.95, 0.8, 0.55])
    )
    return replace(reference, model=replace(reference.model, classifier=signature, threshold=0.25))
