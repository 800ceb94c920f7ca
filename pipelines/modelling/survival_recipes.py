"""Recipes for survival signatures from images: many correlated columns, and a choice among sequences.

Each narrows the columns in its own way and hands the rest to a penalised Cox recipe. All see training patients only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.classifiers import fit_svm
from pipelines.modelling.selection import (
    Array,
    Index,
    compare_groups,
    fit_scaling,
    forest_importance,
    keep_significant,
    most_important,
)
from pipelines.modelling.signature import FittedSelection, SignatureRecipe, unpenalised_weights
from pipelines.modelling.survival_data import Event
from pipelines.modelling.validation import derive_seed, stratified_folds
from services.model_serving.predictor import classifier_scores
from services.shared.errors import InvalidTable
from services.survival_analytics.discrimination import auc

SEQUENCE_WORDS: dict[str, frozenset[str]] = {
    "T1c": frozenset({"t1c", "t1ce", "t1gd"}),
    "T1": frozenset({"t1", "t1w"}),
    "T2": frozenset({"t2", "t2w"}),
    "FLAIR": frozenset({"flair", "t2f"}),
}
"""How feature tables name a sequence, by the names that are used here."""


def keep_uncorrelated(z: Array, *, limit: float) -> Index:
    """Return columns of which no two have an absolute Pearson correlation above a limit, without any outcome.

    The column that is least correlated with all others on average goes first; whatever is too close to a kept one goes.

    Parameters
    ----------
    z
        z-scores, shape (patients, features), no column constant.
    """
    r = np.abs(np.corrcoef(z, rowvar=False)).reshape(z.shape[1], z.shape[1])
    free = np.ones(z.shape[1], dtype=bool)
    kept = []
    for column in np.argsort(np.round(r.mean(axis=0), 12), kind="stable"):
        if free[column]:
            kept.append(column)
            free &= r[column] <= limit
    return np.sort(np.array(kept, dtype=np.intp))


def sequence_of(feature: str) -> str | None:
    """Return the sequence that a feature's name speaks of, None where it speaks of none (a shape or a place).

    >>> sequence_of("TEXTURE_GLCM_ET_T1Gd_Contrast"), sequence_of("SOLIDITY_ET")
    ('T1c', None)
    """
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", feature)]
    for name, known in SEQUENCE_WORDS.items():
        if known.intersection(words):
            return name
    return None


def fit_within(
    recipe: SignatureRecipe,
    columns: Index,
    values: Array,
    months: Array,
    event: Event,
    *,
    names: Sequence[str],
    seed: int,
) -> FittedSelection:
    """Fit a recipe to some of the columns; the positions that it returns are those of the whole table."""
    fitted = recipe.fit(values[:, columns], months, event, names=[names[i] for i in columns], seed=seed)
    return replace(fitted, scaling=replace(fitted.scaling, columns=columns[fitted.scaling.columns]))


def _later(steps: Mapping[str, int]) -> dict[str, int]:
    """Return the steps of a base recipe that its wrapper did not already count."""
    return {name: left for name, left in steps.items() if name not in ("given", "usable")}


@dataclass(frozen=True)
class UncorrelatedCox:
    """Drop columns that repeat others, then a penalised Cox recipe.

    Parameters
    ----------
    base
        Screens and weighs what is left.
    correlation
        Of two columns with a larger absolute correlation one goes.
    max_missing
        Largest share of missing values of a usable column.
    """

    base: SignatureRecipe
    correlation: float = 0.9
    max_missing: float = 0.2

    @property
    def name(self) -> str:
        """Name of the base, as what comes before it is the same for all."""
        return self.base.name

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:
        """Fit to training patients."""
        scaling = fit_scaling(values, max_missing=self.max_missing)
        kept = scaling.columns[keep_uncorrelated(scaling.z_scores(values), limit=self.correlation)]
        fitted = fit_within(self.base, kept, values, months, event, names=names, seed=seed)
        steps = {"given": values.shape[1], "usable": len(scaling.columns), "uncorrelated": len(kept)}
        return replace(fitted, steps=steps | _later(fitted.steps))


@dataclass(frozen=True)
class KnownRisk:
    """One column that is a risk already, such as a network's: a Cox model stretches it to the scale of log hazards.

    It is never turned round: where a higher risk goes with a longer life among the training patients, it stays as it
    is, less its mean.

    Parameters
    ----------
    max_missing
        Largest share of missing values of a usable column.
    """

    max_missing: float = 0.2

    name = "known_risk"

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:  # noqa: ARG002 - nothing is drawn
        """Fit to training patients.

        Raises
        ------
        InvalidTable
            Where there is more than one column.
        """
        if len(names) != 1:
            raise InvalidTable(
                "there is more than one risk to take as the signature",
                step="signature",
                field=", ".join(names),
                expected="one column",
                got=f"{len(names)} columns",
                remedy="extract the deep features of one such network alone",
            )
        scaling = fit_scaling(values, max_missing=self.max_missing)
        weight = unpenalised_weights(scaling.z_scores(values), months, event)
        steps = {"given": 1, "usable": 1}
        return FittedSelection(scaling, weight if weight[0] > 0 else scaling.scales.copy(), steps)


@dataclass(frozen=True)
class SurvivalClasses:
    """Patients who died before the median follow-up (1) and who lived beyond it (0).

    Parameters
    ----------
    median_months
        Median follow-up of the training patients.
    rows, outcome
        Positions of the patients whose class is known, and their class; whoever was censored before is left out.
    """

    median_months: float
    rows: Index
    outcome: npt.NDArray[np.int64]


def survival_classes(months: Array, event: Event) -> SurvivalClasses:
    """Split patients at the median follow-up, as far as their side of it is known."""
    median = float(np.median(months))
    early = (months <= median) & (event == 1)
    rows = np.flatnonzero(early | (months > median))
    return SurvivalClasses(median, rows, early[rows].astype(np.int64))


@dataclass(frozen=True)
class SequenceForestCox:
    """Choose the sequence that tells short from long survival best, let a forest pick features, weigh them by Cox.

    Front Oncol 2022, 969907: for each sequence Levene's and t-test, a random forest and a support vector machine tell
    death before the median follow-up from survival beyond it; the sequence with the best cross-validated AUC stays.
    A random forest picks its features, an elastic-net Cox model weighs them. Features that belong to no sequence
    (shape, place) go with every one.

    Parameters
    ----------
    base
        Weighs the picked features; must not screen them again.
    sequences
        To choose from, in the order that wins a tie.
    picks
        Features that the forest leaves.
    trees, alpha, folds
        Of the forest, level of the tests, inner folds.
    """

    base: SignatureRecipe
    sequences: tuple[str, ...] = ("T1c", "T1", "T2")
    picks: int = 10
    trees: int = 100
    alpha: float = 0.05
    folds: int = 3
    max_missing: float = 0.2

    name = "sequence_forest_cox"

    def fit(self, values: Array, months: Array, event: Event, *, names: Sequence[str], seed: int) -> FittedSelection:
        """Fit to training patients."""
        columns = self.columns_by_sequence(names)
        classes = survival_classes(months, event)
        scores = {s: self._inner_auc(values[:, c], classes, derive_seed(seed, 0)) for s, c in columns.items()}
        best = max(scores, key=lambda s: -1.0 if np.isnan(scores[s]) else round(scores[s], 12))
        picked = columns[best][self._pick(values[:, columns[best]], classes, derive_seed(seed, 1))]
        fitted = fit_within(self.base, picked, values, months, event, names=names, seed=derive_seed(seed, 2))
        table = pd.DataFrame(
            {
                "sequence": list(scores),
                "features": [len(columns[s]) for s in scores],
                "auc": list(scores.values()),
                "short": int(classes.outcome.sum()),
                "long": int((classes.outcome == 0).sum()),
                "unknown": len(months) - len(classes.rows),
                "median_months": classes.median_months,
                "kept": [s == best for s in scores],
            }
        )
        steps = {"given": values.shape[1], "sequence": len(columns[best]), "forest": len(picked)}
        return replace(fitted, steps=steps | _later(fitted.steps), tables={**fitted.tables, "sequences": table})

    def columns_by_sequence(self, names: Sequence[str]) -> Mapping[str, Index]:
        """Return the columns of each sequence that the table has, those of no sequence with every one.

        Where none of the sequences is named, all columns count as those of one called ``none``.
        """
        found = [sequence_of(name) for name in names]
        columns = {
            sequence: np.array([i for i, s in enumerate(found) if s in (sequence, None)], dtype=np.intp)
            for sequence in self.sequences
            if sequence in found
        }
        return columns or {"none": np.arange(len(names))}

    def _inner_auc(self, values: Array, classes: SurvivalClasses, seed: int) -> float:
        """Return the AUC of held-out decision values; NaN where a class has fewer than two patients."""
        outcome = classes.outcome
        if np.bincount(outcome, minlength=2).min() < 2:
            return float("nan")
        values = values[classes.rows]
        fold = stratified_folds(outcome, folds=self.folds, seed=seed)
        held_out = np.empty(len(outcome))
        for number in np.unique(fold):
            train = fold != number
            scaling = fit_scaling(values[train], max_missing=self.max_missing)
            z = scaling.z_scores(values)
            kept = self._forest(z[train], outcome[train], derive_seed(seed, int(number)))
            machine = fit_svm(z[train][:, kept], outcome[train], c=1.0, gamma=1.0 / len(kept))
            # Decision values of two folds share no scale; their ranks within the fold do.
            scores = classifier_scores(machine, z[~train][:, kept])
            held_out[~train] = (np.argsort(np.argsort(scores, kind="stable")) + 0.5) / len(scores)
        return float(auc(outcome, held_out).estimate)

    def _forest(self, z: Array, outcome: npt.NDArray[np.int64], seed: int) -> Index:
        """Return the columns that tests and forest leave."""
        tests = compare_groups(z, outcome, alpha=self.alpha)
        kept, _ = keep_significant(tests.t_test, alpha=self.alpha, at_least=min(self.picks, z.shape[1]))
        if len(kept) <= self.picks:
            return kept
        importance = forest_importance(z[:, kept], outcome, trees=self.trees, seed=seed)
        return np.asarray(kept[most_important(importance, count=self.picks)])

    def _pick(self, values: Array, classes: SurvivalClasses, seed: int) -> Index:
        """Return the features for the signature; all usable ones where one class has fewer than two patients."""
        scaling = fit_scaling(values, max_missing=self.max_missing)
        if np.bincount(classes.outcome, minlength=2).min() < 2:
            return scaling.columns
        z = scaling.z_scores(values)[classes.rows]
        varies = np.flatnonzero(np.ptp(z, axis=0) > 0)
        return scaling.columns[varies[self._forest(z[:, varies], classes.outcome, seed)]]
