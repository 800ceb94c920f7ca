from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from services.shared.errors import InvalidValue, OneClass, TooFewCases
from services.survival_analytics.classification import best_threshold
from services.survival_analytics.roc import auc, compare_auc, compare_auc_matrix, compare_auc_unpaired, roc


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 120)
    return y, np.round(rng.normal(size=120) + y, 1), np.round(rng.normal(size=120) + 0.5 * y, 1)


def delong_by_hand(y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    cases, controls = x[y == 1], x[y == 0]
    kernel = (cases[:, None] > controls) + 0.5 * (cases[:, None] == controls)
    variance = kernel.mean(axis=1).var(ddof=1) / cases.size + kernel.mean(axis=0).var(ddof=1) / controls.size
    return float(kernel.mean()), float(variance)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=4, max_size=40))
def test_delong_by_hand(rows: list[tuple[int, int]]) -> None:
    y, x = (np.array(column) for column in zip(*rows, strict=True))
    if min(y.sum(), y.size - y.sum()) < 2:
        return
    estimate, variance = delong_by_hand(y, x)
    found = auc(y, x)
    assert found.estimate == pytest.approx(estimate, abs=1e-12)
    assert found.variance == pytest.approx(variance, abs=1e-12)
    assert roc(y, x).area == pytest.approx(estimate, abs=1e-12)


def test_equals_scikit_learn(data: tuple) -> None:
    y, x, _ = data
    assert auc(y, x).estimate == pytest.approx(roc_auc_score(y, x), rel=1e-12)
    false_positive, sensitivity, _ = roc_curve(y, x, drop_intermediate=False)
    ours = roc(y, x)
    assert ours.sensitivity[::-1] == pytest.approx(sensitivity)
    assert 1 - ours.specificity[::-1] == pytest.approx(false_positive)


def test_direction(data: tuple) -> None:
    y, x, _ = data
    assert auc(y, -x, direction="lower").estimate == pytest.approx(auc(y, x).estimate)
    assert auc(y, -x, direction="auto").direction == "lower"
    assert auc(y, -x).estimate < 0.5


def test_partial_area_by_interpolation(data: tuple) -> None:
    y, x, _ = data
    curve = roc(y, x)
    grid = np.linspace(0.8, 1.0, 200_001)
    order = np.lexsort((-curve.sensitivity, curve.specificity))
    area = np.trapezoid(np.interp(grid, curve.specificity[order], curve.sensitivity[order]), grid)
    assert curve.partial_area() == pytest.approx(area, abs=1e-4)
    assert curve.partial_area(specificity_from=0.0, specificity_to=1.0) == pytest.approx(curve.area)
    assert curve.partial_area(corrected=True) > 0.5
    with pytest.raises(InvalidValue):
        curve.partial_area(specificity_from=0.5, specificity_to=0.5)


def test_paired_comparison_uses_the_covariance(data: tuple) -> None:
    y, a, b = data
    test = compare_auc(y, a, second=b)
    variance = auc(y, a).variance + auc(y, b).variance - 2 * test.covariance
    assert test.standard_error == pytest.approx(np.sqrt(variance))
    matrix = compare_auc_matrix(y, {"a": a, "b": b})
    assert matrix.p_values[0, 1] == pytest.approx(test.p_value)
    assert np.diag(matrix.covariance) == pytest.approx([auc(y, a).variance, auc(y, b).variance])


def test_a_score_against_itself(data: tuple) -> None:
    y, a, _ = data
    assert compare_auc(y, a, second=a).p_value == 1.0


def test_unpaired_comparison(data: tuple) -> None:
    y, a, b = data
    test = compare_auc_unpaired(y, a, other_outcome=y, other_score=b)
    assert not test.paired
    assert 100 < test.degrees_of_freedom < 240
    assert test.covariance == 0


def test_complete_separation_is_announced() -> None:
    result = auc([0, 0, 1, 1], [1, 2, 3, 4])
    assert result.estimate == 1
    assert result.notices[0].name == "no_variance"


def test_bad_input() -> None:
    with pytest.raises(OneClass):
        auc([1, 1], [1, 2])
    with pytest.raises(TooFewCases):
        auc([0, 1, 1], [1, 2, 3])
    with pytest.raises(InvalidValue):
        roc([0, 1], [1, 2], direction="sideways")
    with pytest.raises(InvalidValue):
        best_threshold([0, 1], [1, 2], criterion="luck")
