"""Choose features: drop what cannot carry information, test, LASSO, forest importance, backward AIC.

Every function sees training patients only; who they are is decided in :mod:`pipelines.modelling.validation`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from services.shared.errors import InvalidTable

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

NEAR_CONSTANT_SHARE = 0.95


@dataclass(frozen=True)
class Scaling:
    """Usable columns with their training statistics.

    Parameters
    ----------
    columns
        Positions of the usable columns, shape (k,).
    medians, means, scales
        Shape (k,); mean and standard deviation are taken after imputation by the median.
    mostly_missing, near_constant
        How many columns were left out for either reason.
    """

    columns: Index
    medians: Array
    means: Array
    scales: Array
    mostly_missing: int
    near_constant: int

    def z_scores(self, values: Array) -> Array:
        """Return z-scores of all usable columns, shape (patients, k), from raw values of all columns."""
        chosen = values[:, self.columns]
        return np.asarray((np.where(np.isnan(chosen), self.medians, chosen) - self.means) / self.scales)

    def take(self, positions: Index) -> Scaling:
        """Return the scaling of some of the usable columns."""
        return Scaling(
            self.columns[positions],
            self.medians[positions],
            self.means[positions],
            self.scales[positions],
            self.mostly_missing,
            self.near_constant,
        )


def fit_scaling(values: Array, *, max_missing: float) -> Scaling:
    """Learn imputation and z-scores, leaving out columns that are mostly missing or nearly constant.

    Parameters
    ----------
    values
        Shape (patients, features), NaN where missing.
    max_missing
        Largest share of missing values that a usable column may have.

    Raises
    ------
    InvalidTable
        Where no column is usable.
    """
    patients = len(values)
    missing = np.isnan(values)
    present = patients - missing.sum(axis=0)
    enough = np.flatnonzero((missing.mean(axis=0) <= max_missing) & (present >= 2))
    ordered = np.sort(values[:, enough], axis=0)  # NaN comes last
    count = present[enough]
    column = np.arange(len(enough))
    medians = (ordered[(count - 1) // 2, column] + ordered[count // 2, column]) / 2
    filled = np.where(missing[:, enough], medians, values[:, enough])
    run = int(np.ceil(NEAR_CONSTANT_SHARE * patients))
    ordered = np.sort(filled, axis=0)
    means, scales = filled.mean(axis=0), filled.std(axis=0)
    constant = (ordered[run - 1 :] == ordered[: patients - run + 1]).any(axis=0)
    constant |= scales <= 1e-10 * np.maximum(np.abs(means), 1e-290)
    keep = ~constant
    if not keep.any():
        raise InvalidTable(
            "no feature can be used",
            step="scaling",
            field="features",
            expected=f"a feature that varies and is missing in at most {max_missing:.0%} of the training patients",
            got=f"{values.shape[1] - len(enough)} mostly missing and {int(constant.sum())} nearly constant features",
            remedy="check the extraction, or raise max_missing",
        )
    return Scaling(
        enough[keep],
        medians[keep],
        means[keep],
        scales[keep],
        mostly_missing=values.shape[1] - len(enough),
        near_constant=int(constant.sum()),
    )


@dataclass(frozen=True)
class GroupTests:
    """Two-sided p-values of each column, shape (features,).

    Parameters
    ----------
    levene
        Levene's test of equal variances (about the mean).
    t_test
        Student's t-test, or Welch's where Levene's test rejects equal variances.
    """

    levene: Array
    t_test: Array


def compare_groups(z: Array, outcome: npt.NDArray[np.int64], *, alpha: float, levene: bool = True) -> GroupTests:
    """Compare both classes in every column.

    Parameters
    ----------
    alpha
        Level at which Levene's test chooses Welch's t-test.
    levene
        Without it every t-test is Student's.
    """
    positive, negative = z[outcome == 1], z[outcome == 0]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # A column without spread in one class (an absent region, imputed) has a defined test and needs no warning.
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        student = stats.ttest_ind(positive, negative, axis=0).pvalue
        if not levene:
            return GroupTests(np.full(z.shape[1], np.nan), _certain(student))
        spread = _certain(stats.levene(positive, negative, axis=0, center="mean").pvalue)
        welch = stats.ttest_ind(positive, negative, axis=0, equal_var=False).pvalue
    return GroupTests(spread, _certain(np.where(spread < alpha, welch, student)))


def _certain(p_values: Array) -> Array:
    """Return p-values where an undefined one (no spread in either class) counts as no evidence."""
    return np.where(np.isnan(p_values), 1.0, p_values)


def keep_significant(p_values: Array, *, alpha: float, at_least: int) -> tuple[Index, bool]:
    """Return the columns with p < alpha, and whether the smallest p-values had to fill up to ``at_least``."""
    order = np.argsort(p_values, kind="stable")
    passed = int((p_values < alpha).sum())
    return np.sort(order[: max(passed, at_least)]), passed < at_least


def lasso_support(
    z: Array,
    outcome: npt.NDArray[np.int64],
    *,
    folds: npt.NDArray[np.int64],
    criterion: Literal["error", "auc"],
    p_values: Array,
    at_least: int,
    penalties: int = 50,
) -> tuple[Index, bool]:
    """Return the columns with a coefficient in the LASSO whose penalty cross-validation likes best.

    Least squares on the outcome coded 0/1 (Tibshirani 1996), path of ``penalties`` down to 2 % of the largest.

    Parameters
    ----------
    z
        z-scores, shape (patients, features).
    folds
        Validation fold of each patient.
    criterion
        ``error``: smallest mean squared error; ``auc``: largest AUC of the pooled held-out scores. The larger
        penalty wins a tie.
    p_values
        Of each column; the smallest fill up where fewer than ``at_least`` columns keep a coefficient.

    Returns
    -------
    tuple of ndarray and bool
        The columns, and whether they had to be filled up.
    """
    from sklearn.linear_model import lasso_path

    y = outcome.astype(np.float64)
    centred = z - z.mean(axis=0)
    largest = np.abs(centred.T @ (y - y.mean())).max() / len(y)
    grid = largest * np.geomspace(1, 0.02, penalties)

    def path(train: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
        means = z[train].mean(axis=0)
        coefficients = lasso_path(z[train] - means, y[train] - y[train].mean(), alphas=grid, tol=1e-3, max_iter=20_000)[
            1
        ]
        return coefficients, y[train].mean() - means @ coefficients

    held_out = np.empty((len(y), penalties))
    for fold in np.unique(folds):
        train = folds != fold
        coefficients, intercepts = path(train)
        held_out[~train] = z[~train] @ coefficients + intercepts
    if criterion == "error":
        merit = -((held_out - y[:, None]) ** 2).mean(axis=0)
    else:
        ranks = stats.rankdata(held_out, axis=0)
        merit = ranks[outcome == 1].mean(axis=0)
    best = int(np.argmax(merit))
    chosen = np.flatnonzero(path(np.ones(len(y), dtype=bool))[0][:, best])
    if len(chosen) >= min(at_least, z.shape[1]):
        return chosen, False
    order = np.argsort(p_values, kind="stable")
    others = order[~np.isin(order, chosen)][: at_least - len(chosen)]
    return np.sort(np.concatenate([chosen, others])), True


def forest_importance(z: Array, outcome: npt.NDArray[np.int64], *, trees: int, seed: int) -> Array:
    """Return each column's mean decrease of Gini impurity in a random forest, shape (features,)."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=trees, random_state=seed, n_jobs=1)
    return np.asarray(forest.fit(z, outcome).feature_importances_)


def most_important(importance: Array, *, count: int) -> Index:
    """Return the columns of the ``count`` largest importances, in column order."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])


def backward_aic(z: Array, outcome: npt.NDArray[np.int64]) -> Index:
    """Return the columns that backward elimination by AIC leaves in a logistic regression.

    The column whose removal lowers AIC = deviance + 2·(coefficients) most goes first; it ends where none lowers it.
    A slight ridge (1e-3 on z-scores) keeps estimates finite where the classes separate.
    """
    kept = np.arange(z.shape[1])
    best = float(_deviance(z[None], outcome)[0]) + 2 * (len(kept) + 1)
    while len(kept) > 1:
        without = np.array([np.delete(kept, position) for position in range(len(kept))])
        criteria = _deviance(z[:, without].transpose(1, 0, 2), outcome) + 2 * len(kept)
        candidate = int(np.argmin(np.round(criteria, 6)))
        if criteria[candidate] >= best:
            break
        best, kept = float(criteria[candidate]), without[candidate]
    return kept


def _deviance(designs: Array, outcome: npt.NDArray[np.int64], *, ridge: float = 1e-3, rounds: int = 30) -> Array:
    """Return the deviances of logistic regressions fitted side by side by Newton's method.

    Parameters
    ----------
    designs
        Shape (models, patients, features).
    """
    models, patients, _ = designs.shape
    x = np.concatenate([np.ones((models, patients, 1)), designs], axis=2)
    y = outcome.astype(np.float64)
    penalty = np.full(x.shape[2], ridge)
    penalty[0] = 0.0
    beta = np.zeros((models, x.shape[2]))
    for _ in range(rounds):
        eta = np.clip((x @ beta[..., None])[..., 0], -30, 30)
        chance = 1 / (1 + np.exp(-eta))
        gradient = ((y - chance)[:, None] @ x)[:, 0] - penalty * beta
        weight = np.maximum(chance * (1 - chance), 1e-9)
        hessian = x.transpose(0, 2, 1) @ (weight[..., None] * x) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        beta = beta + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-8:
            break
    eta = (x @ beta[..., None])[..., 0]
    return np.asarray(2 * (np.logaddexp(0, eta) - y * eta).sum(axis=1))
