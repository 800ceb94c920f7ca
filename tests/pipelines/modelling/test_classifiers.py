from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from pipelines.modelling.classifiers import MIN_PLATT_SLOPE, fit_logistic, fit_platt, fit_svm, youden_threshold


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(50) % 2
    return rng.normal(size=50) + y, y


def test_platts_sigmoid_minimises_the_cross_entropy_of_smoothed_targets(scores):
    s, y = scores
    target = np.where(y == 1, 26 / 27, 1 / 27)
    expected = minimize(
        lambda b: (np.logaddexp(0, b[0] * s + b[1]) - target * (b[0] * s + b[1])).sum(), [0, 0], tol=1e-12
    )
    np.testing.assert_allclose(fit_platt(s, y), expected.x, rtol=1e-5)


def test_platts_sigmoid_stays_finite_where_classes_separate():
    y = np.arange(20) % 2
    slope, intercept = fit_platt(100.0 * y, y)
    assert 0 < slope < 1
    assert np.isfinite(intercept)


def test_calibration_never_reverses_the_classifier(scores):
    s, y = scores
    slope, intercept = fit_platt(-s, y)
    assert slope == MIN_PLATT_SLOPE
    assert intercept == pytest.approx(0)


def test_youdens_threshold_by_hand():
    y = np.array([0, 0, 1, 0, 1, 1])
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    assert youden_threshold(y, p) == pytest.approx(0.5)  # 0.25 is as good; one half is nearer to itself


def test_classifiers_keep_the_numbers_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    rng = np.random.default_rng(1)
    y = np.arange(40) % 2
    z = rng.normal(size=(40, 5)) + y[:, None]
    logistic = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(z, y)
    ours = fit_logistic(z, y, c=0.5)
    np.testing.assert_allclose(ours.coefficients, logistic.coef_[0], atol=1e-6)
    machine = fit_svm(z, y, c=2.0, gamma=0.1)
    reference = SVC(C=2.0, gamma=0.1).fit(z, y)
    assert np.array_equal(machine.dual_coefficients, reference.dual_coef_[0])
    assert (machine.platt_slope, machine.platt_intercept) == (1, 0)
