from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipelines.modelling.selection import (
    backward_aic,
    compare_groups,
    fit_scaling,
    forest_importance,
    keep_significant,
    lasso_support,
    most_important,
)
from pipelines.modelling.validation import stratified_folds


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_scaling_imputes_the_median_before_mean_and_deviation(rng):
    values = rng.normal(size=(21, 4))
    values[rng.random((21, 4)) < 0.3] = np.nan
    scaling = fit_scaling(values, max_missing=0.9)
    filled = np.where(np.isnan(values), np.nanmedian(values, axis=0), values)
    np.testing.assert_allclose(scaling.medians, np.nanmedian(values, axis=0))
    np.testing.assert_allclose(scaling.z_scores(values), stats.zscore(filled, axis=0))


def test_columns_that_carry_nothing_are_left_out(rng):
    values = rng.normal(size=(40, 6))
    values[:, 0] = 5.0
    values[:, 1] = np.where(np.arange(40) < 38, 0.0, values[:, 1])  # the same value in 95 %
    values[:, 2] = np.where(np.arange(40) < 37, 0.0, values[:, 2])
    values[:21, 3] = np.nan
    values[:20, 4] = np.nan
    scaling = fit_scaling(values, max_missing=0.5)
    assert scaling.columns.tolist() == [2, 4, 5]
    assert (scaling.mostly_missing, scaling.near_constant) == (1, 2)


def test_new_patients_do_not_move_the_scaling(rng):
    values = rng.normal(size=(30, 5))
    scaling = fit_scaling(values[:20], max_missing=0.5)
    np.testing.assert_allclose(
        scaling.z_scores(values[20:] + 100), (values[20:] + 100 - values[:20].mean(0)) / values[:20].std(0)
    )


def test_group_tests_are_those_of_scipy_column_by_column(rng):
    y = np.arange(30) % 2
    z = rng.normal(size=(30, 12)) * np.where(y[:, None] * (np.arange(12) % 2) == 1, 4.0, 1.0)
    found = compare_groups(z, y, alpha=0.05)
    unequal = 0
    for column in range(12):
        a, b = z[y == 1, column], z[y == 0, column]
        levene = stats.levene(a, b, center="mean").pvalue
        unequal += levene < 0.05
        expected = stats.ttest_ind(a, b, equal_var=levene >= 0.05).pvalue
        assert found.levene[column] == pytest.approx(levene, rel=1e-10)
        assert found.t_test[column] == pytest.approx(expected, rel=1e-10)
    assert 0 < unequal < 12


@pytest.mark.filterwarnings("error")
def test_a_column_without_spread_in_a_class_is_tested_in_silence(rng):
    y = np.arange(30) % 2
    z = rng.normal(size=(30, 3))
    z[y == 0, 0] = 0.25
    z[:, 1] = 0.5
    found = compare_groups(z, y, alpha=0.05)
    positive = z[y == 1, 0]
    assert found.t_test[0] == pytest.approx(stats.ttest_1samp(positive, 0.25).pvalue)  # Welch without the other spread
    assert found.t_test[1] == 1


def test_too_few_significant_columns_are_filled_up_by_the_smallest_p():
    p = np.array([0.3, 0.01, 0.2, 0.9])
    assert keep_significant(p, alpha=0.05, at_least=3)[0].tolist() == [0, 1, 2]
    assert keep_significant(p, alpha=0.05, at_least=3)[1]
    assert keep_significant(p, alpha=0.25, at_least=1) == (pytest.approx([1, 2]), False)


def test_lasso_by_error_is_that_of_scikit_learn(rng):
    from sklearn.linear_model import LassoCV
    from sklearn.model_selection import PredefinedSplit

    y = np.arange(40) % 2
    z = rng.normal(size=(40, 30))
    z[:, :4] += y[:, None]
    z = stats.zscore(z, axis=0)
    folds = stratified_folds(y, folds=5, seed=1)
    found, filled = lasso_support(z, y, folds=folds, criterion="error", p_values=np.ones(30), at_least=2)
    top = np.abs(z.T @ (y - y.mean())).max() / 40
    reference = LassoCV(alphas=top * np.geomspace(1, 0.02, 50), cv=PredefinedSplit(folds), tol=1e-3).fit(z, y)
    assert found.tolist() == np.flatnonzero(reference.coef_).tolist()
    assert not filled


def test_lasso_by_auc_finds_the_planted_columns(rng):
    y = np.arange(60) % 2
    z = rng.normal(size=(60, 50))
    z[:, [7, 31]] += 1.5 * y[:, None]
    folds = stratified_folds(y, folds=10, seed=1)
    p = compare_groups(z, y, alpha=0.05).t_test
    found, _ = lasso_support(z, y, folds=folds, criterion="auc", p_values=p, at_least=2)
    assert {7, 31} <= set(found.tolist())


def test_a_lasso_that_keeps_nothing_is_filled_up(rng):
    y = np.arange(40) % 2
    z = rng.normal(size=(40, 10))
    z -= np.outer(2 * y - 1, ((2 * y - 1) @ z) / 40) * 0.999  # hardly any association is left
    p = np.linspace(0.9, 0.1, 10)
    found, filled = lasso_support(
        z, y, folds=stratified_folds(y, folds=5, seed=0), criterion="error", p_values=p, at_least=2
    )
    assert filled
    assert {9} <= set(found.tolist())
    assert len(found) >= 2


def test_the_forest_ranks_the_planted_columns_first(rng):
    y = np.arange(60) % 2
    z = rng.normal(size=(60, 12))
    z[:, [2, 9]] += 2 * y[:, None]
    importance = forest_importance(z, y, trees=100, seed=5)
    assert importance.sum() == pytest.approx(1)
    assert most_important(importance, count=2).tolist() == [2, 9]


def test_backward_elimination_is_that_of_statsmodels_step_by_step(rng):
    import statsmodels.api as sm

    y = (rng.random(150) < 0.5).astype(np.int64)
    z = rng.normal(size=(150, 7))
    z[:, :2] += 0.8 * y[:, None]

    def aic(columns: list[int]) -> float:
        return float(sm.Logit(y, sm.add_constant(z[:, columns])).fit(disp=0).aic)

    kept = list(range(7))
    while len(kept) > 1:
        options = [aic([c for c in kept if c != out]) for out in kept]
        if min(options) >= aic(kept):
            break
        del kept[int(np.argmin(options))]
    assert backward_aic(z, y).tolist() == kept
    assert 1 < len(kept) < 7


def test_backward_elimination_ends_where_classes_separate(rng):
    y = np.arange(30) % 2
    z = rng.normal(size=(30, 25))
    z[:, 3] += 10 * y
    kept = backward_aic(z, y)
    assert 3 in kept
    assert len(kept) < 5
