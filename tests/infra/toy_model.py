"""A model package of two features, for servers that must have one."""

from __future__ import annotations

import numpy as np

from services.model_serving.package import (
    Estimate,
    FittedModel,
    LogisticClassifier,
    ModelCard,
    TrainingData,
    pack,
    write_package,
)
from services.shared.storage import Storage


def write_toy_model(storage: Storage, folder: str) -> None:
    """Write a logistic model of features ``a`` and ``b``."""
    model = FittedModel(
        columns=("a", "b"),
        medians=np.array([0.0, 1.0]),
        means=np.array([0.5, 1.5]),
        scales=np.array([1.0, 2.0]),
        classifier=LogisticClassifier(coefficients=np.array([1.0, -2.0]), intercept=0.25),
        threshold=0.4,
    )
    classes = ("WT", "Mutant")
    training = TrainingData(
        patients=2, patients_by_class=dict.fromkeys(classes, 1), features_sha256="0" * 64, labels_sha256="1" * 64
    )
    card = ModelCard(
        study="toy",
        classes=classes,
        intended_use="A test.",
        metrics={"auc": Estimate(value=0.9, low=0.8, high=1.0)},
        training=training,
        code_version="1",
        packages={},
    )
    write_package(storage, folder, pack(model, card))
