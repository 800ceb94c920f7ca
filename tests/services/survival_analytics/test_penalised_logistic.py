from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from services.shared.errors import OneClass
from services.survival_analytics.penalised_logistic import cross_validate_logistic, fit_logistic_path


@pytest.fixture(scope="module")
def data() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(150, 12))
    y = (rng.random(150) < 1 / (1 + np.exp(-1.2 * x[:, 0] + x[:, 3]))).astype(int)
    return pd.DataFrame(x, columns=[f"f{j}" for j in range(12)]), y


def test_equals_scikit_learn(data: tuple) -> None:
    x, y = data
    scaled = ((x - x.mean()) / x.to_numpy().std(axis=0)).to_numpy()
    path = fit_logistic_path(scaled, y, lambdas=[0.05], threshold=1e-14)
    peer = LogisticRegression(l1_ratio=1.0, C=1 / (150 * 0.05), solver="saga", tol=1e-10, max_iter=100_000)
    peer.fit(scaled, y)
    assert path.coefficients[0] == pytest.approx(peer.coef_[0], abs=1e-6)
    assert path.intercepts[0] == pytest.approx(peer.intercept_[0], abs=1e-6)


def test_cross_validation(data: tuple) -> None:
    x, y = data
    for measure in ("deviance", "auc", "misclassification"):
        result = cross_validate_logistic(x, y, folds=5, seed=2, measure=measure)
        assert {"f0", "f3"} <= set(result.selected().index)


def test_too_small_class() -> None:
    with pytest.raises(OneClass):
        fit_logistic_path(np.random.default_rng(0).normal(size=(6, 2)), [0, 0, 0, 0, 0, 1])
