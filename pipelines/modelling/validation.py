"""Nested cross-validation: everything that is learnt is learnt from the training part of a fold.

A :class:`Recipe` says how a study selects features and fits its classifier. :func:`fit_recipe` makes one model of it
from one set of patients: an inner cross-validation of the whole recipe (scaling and selection included) tunes the
classifier, calibrates its probability and sets the threshold. :func:`cross_validate` repeats that in each training
part and keeps what the models say of patients that they never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipelines.modelling.classifiers import fit_platt, youden_threshold
from pipelines.modelling.selection import Scaling
from services.model_serving.package import FittedModel, LogisticClassifier, SvmClassifier
from services.model_serving.predictor import classifier_scores, probabilities

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Outcome = npt.NDArray[np.int64]
Classifier = LogisticClassifier | SvmClassifier
Rival = Callable[[Array, Outcome, Array, int], Array]
"""Scores of validation patients by another classifier: (train z, train outcome, validation z, seed)."""


@dataclass(frozen=True)
class Selection:
    """The features that a recipe chose, and how many each step left.

    Parameters
    ----------
    scaling
        Training statistics of the chosen columns, in column order.
    steps
        Number of columns after each step.
    filled_up
        Steps that kept too few columns and were filled up by the smallest p-values.
    """

    scaling: Scaling
    steps: dict[str, int]
    filled_up: tuple[str, ...]


class Recipe(Protocol):
    """How a study makes a model."""

    @property
    def settings(self) -> Sequence[Mapping[str, float]]:
        """Hyper-parameters to choose from, simplest first."""

    @property
    def rivals(self) -> Mapping[str, Rival]:
        """Other classifiers that are compared with the study's own on the same features."""

    def select(self, values: Array, outcome: Outcome, *, seed: int) -> Selection:
        """Choose features from raw values (NaN is missing) of training patients."""

    def fit(self, z: Array, outcome: Outcome, setting: Mapping[str, float]) -> Classifier:
        """Fit the classifier to z-scores of the chosen features."""


@dataclass(frozen=True)
class Split:
    """One fold: positions of its training and validation patients."""

    repeat: int
    fold: int
    train: Index
    test: Index


@dataclass(frozen=True)
class Fit:
    """One model and how it came about.

    Parameters
    ----------
    inner_auc
        AUC of the inner held-out scores at the chosen setting; optimistic by the choice among settings.
    inner_scores
        Held-out scores of the study's classifier (under the empty name) and its rivals, by name; rivals only where
        asked for.
    inner_fold
        Inner fold of each patient; it depends on outcome and seed alone, so recipes fitted with the same seed share it.
    """

    model: FittedModel
    selection: Selection
    setting: Mapping[str, float]
    inner_auc: float
    inner_scores: dict[str, Array]
    inner_fold: npt.NDArray[np.int64]


@dataclass(frozen=True)
class FoldResult:
    """One outer fold: its model and the probabilities of its validation patients."""

    split: Split
    fit: Fit
    probabilities: Array


def derive_seed(seed: int, *path: int) -> int:
    """Return a seed of its own for one part of a computation."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


def stratified_folds(outcome: Outcome, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each patient's fold; every fold holds both classes in the same proportion, within one patient.

    There are fewer folds where the smaller class has fewer patients.
    """
    rng = np.random.default_rng(seed)
    count = min(folds, int(np.bincount(outcome, minlength=2).min()))
    fold = np.empty(len(outcome), dtype=np.int64)
    start = 0
    for value in (0, 1):
        members = rng.permutation(np.flatnonzero(outcome == value))
        fold[members] = (start + np.arange(len(members))) % count
        start += len(members)  # the next class starts where this one ended, so that folds differ by one at most
    return fold


def make_splits(outcome: Outcome, *, folds: int, repeats: int, seed: int) -> list[Split]:
    """Return the folds of a repeated stratified cross-validation."""
    splits = []
    for repeat in range(repeats):
        fold = stratified_folds(outcome, folds=folds, seed=derive_seed(seed, repeat))
        splits += [
            Split(repeat, k, np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(int(fold.max()) + 1)
        ]
    return splits


def rank_auc(outcome: Outcome, scores: Array) -> float:
    """Return the area under the ROC curve by mid-ranks (Mann–Whitney)."""
    from scipy.stats import rankdata

    positives = int(outcome.sum())
    rank_sum = float(rankdata(scores)[outcome == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(outcome) - positives))


def fit_recipe(
    recipe: Recipe,
    values: Array,
    outcome: Outcome,
    *,
    names: Sequence[str],
    inner_folds: int,
    seed: int,
    compare: bool = False,
) -> Fit:
    """Make one model from these patients.

    Parameters
    ----------
    values
        Raw features, shape (patients, features), NaN where missing.
    outcome
        Shape (patients,), 1 for the positive class.
    names
        Name of each column of ``values``.
    inner_folds
        Folds of the inner cross-validation, in which the whole recipe is repeated.
    compare
        Whether the rivals are scored in the inner folds too.
    """
    settings = list(recipe.settings)
    fold = stratified_folds(outcome, folds=inner_folds, seed=derive_seed(seed, 0))
    held_out = np.empty((len(settings), len(outcome)))
    rivals = {name: np.empty(len(outcome)) for name in recipe.rivals} if compare else {}
    for k in range(int(fold.max()) + 1):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        scaling = recipe.select(values[train], outcome[train], seed=derive_seed(seed, 1, k)).scaling
        z_train, z_test = scaling.z_scores(values[train]), scaling.z_scores(values[test])
        for row, setting in enumerate(settings):
            held_out[row, test] = classifier_scores(recipe.fit(z_train, outcome[train], setting), z_test)
        for name, scores in rivals.items():
            scores[test] = recipe.rivals[name](z_train, outcome[train], z_test, derive_seed(seed, 2, k))
    areas = [rank_auc(outcome, scores) for scores in held_out]
    best = int(np.argmax(areas))
    selection = recipe.select(values, outcome, seed=derive_seed(seed, 3))
    classifier = recipe.fit(selection.scaling.z_scores(values), outcome, settings[best])
    log_odds = held_out[best]
    if isinstance(classifier, SvmClassifier):
        slope, intercept = fit_platt(log_odds, outcome)
        classifier = replace(classifier, platt_slope=slope, platt_intercept=intercept)
        log_odds = slope * log_odds + intercept
    scaling = selection.scaling
    model = FittedModel(
        columns=tuple(names[column] for column in scaling.columns),
        medians=scaling.medians,
        means=scaling.means,
        scales=scaling.scales,
        classifier=classifier,
        threshold=youden_threshold(outcome, 0.5 * (1 + np.tanh(0.5 * log_odds))),
    )
    return Fit(model, selection, settings[best], areas[best], {"": held_out[best], **rivals}, fold)


def cross_validate(
    recipe: Recipe,
    values: Array,
    outcome: Outcome,
    *,
    names: Sequence[str],
    splits: Iterable[Split],
    inner_folds: int,
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> list[FoldResult]:
    """Fit the recipe in each training part and predict its validation part.

    Parameters
    ----------
    splits
        As :func:`make_splits` gives them; the outcome of validation patients is not looked at here.
    done
        Called after each fold.
    """
    position = {name: i for i, name in enumerate(names)}
    results = []
    for split in splits:
        fit = fit_recipe(
            recipe,
            values[split.train],
            outcome[split.train],
            names=names,
            inner_folds=inner_folds,
            seed=derive_seed(seed, 1, split.repeat, split.fold),
        )
        columns = [position[name] for name in fit.model.columns]
        results.append(FoldResult(split, fit, probabilities(fit.model, values[split.test][:, columns])))
        done()
    return results


def pool(results: Sequence[FoldResult], patients: int) -> tuple[Array, Array]:
    """Return each patient's mean out-of-fold probability and mean distance to its fold's threshold."""
    chance, margin, times = np.zeros(patients), np.zeros(patients), np.zeros(patients)
    for result in results:
        chance[result.split.test] += result.probabilities
        margin[result.split.test] += result.probabilities - result.fit.model.threshold
        times[result.split.test] += 1
    return chance / times, margin / times


def selection_outside_folds(
    recipe: Recipe, values: Array, outcome: Outcome, *, splits: Iterable[Split], seed: int
) -> Array:
    """Return cross-validated scores of a classifier whose scaling, features and setting saw all patients.

    The order of steps of many papers. Its AUC is optimistic; it is reported only to show by how much.
    """
    selection = recipe.select(values, outcome, seed=derive_seed(seed, 3))
    z = selection.scaling.z_scores(values)
    settings = list(recipe.settings)
    scores = np.empty((len(settings), len(outcome)))
    for split in splits:
        for row, setting in enumerate(settings):
            classifier = recipe.fit(z[split.train], outcome[split.train], setting)
            scores[row, split.test] = classifier_scores(classifier, z[split.test])
    return np.asarray(scores[int(np.argmax([rank_auc(outcome, row) for row in scores]))])
