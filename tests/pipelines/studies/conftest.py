"""Cohorts of random features, with or without a planted effect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from services.model_serving.package import ModelCard, TrainingData

MakeCohort = Callable[..., tuple[pd.DataFrame, pd.Series]]


def make_cohort(
    *,
    patients: int = 40,
    features: int = 120,
    shift: float = 0.0,
    planted: int = 6,
    seed: int = 0,
    classes: tuple[str, str] = ("LGG", "HGG"),
) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    y = np.arange(patients) % 2
    latent = rng.normal(size=(patients, 20))
    x = latent @ rng.normal(size=(20, features)) / 6 + rng.normal(size=(patients, features))
    x[:, :planted] += shift * y[:, None]
    x = x * rng.uniform(0.1, 1000, features) + rng.normal(size=features) * 100
    ids = pd.Index([f"P{i:03d}" for i in rng.permutation(patients)], name="case_id")
    columns = [f"planted{i}" if i < planted else f"noise{i:03d}" for i in range(features)]
    return pd.DataFrame(x, index=ids, columns=columns), pd.Series([classes[v] for v in y], index=ids)


@pytest.fixture(scope="session")
def cohort_maker() -> MakeCohort:
    return make_cohort


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        study="test",
        classes=("LGG", "HGG"),
        intended_use="Tests",
        metrics={},
        training=TrainingData(patients=1, patients_by_class={}, features_sha256="0" * 64, labels_sha256="0" * 64),
        code_version="1",
        packages={},
    )
