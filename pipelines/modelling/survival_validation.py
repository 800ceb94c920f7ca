"""Nested cross-validation of a signature, shuffled follow-up, and a signature applied to other patients, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.signature import (
    CutoffRule,
    Signature,
    SignatureRecipe,
    event_folds,
    fit_signature,
    high_risk,
    predicted_survival,
    risk_scores,
)
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_performance import (
    SurvivalFigures,
    brier_times,
    evaluate_survival,
    stratified_concordance,
)
from pipelines.modelling.validation import Split, derive_seed
from services.model_serving.package import FittedModel, Package

Array = npt.NDArray[np.float64]
Event = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class SurvivalFold:
    """One outer fold: its signature, and what that says of its validation patients.

    Parameters
    ----------
    scores, high
        Risk scores and whether they reach the fold's own cut-off, shape (validation patients,).
    """

    split: Split
    signature: Signature
    scores: Array
    high: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class OutOfFold:
    """What the folds say of all patients.

    Parameters
    ----------
    scores, strata
        Shape (patients, repeats): score, and fold that it comes from; scores of different folds have different scales.
    high
        Shape (patients,): whether the mean distance to the folds' cut-offs is 0 or more.
    """

    scores: Array
    strata: npt.NDArray[np.int64]
    high: npt.NDArray[np.bool_]
    folds: tuple[SurvivalFold, ...]

    def survival(self, times_months: npt.ArrayLike) -> Array:
        """Return mean out-of-fold survival probabilities, shape (patients, times)."""
        times = np.asarray(times_months, dtype=np.float64)
        total = np.zeros((len(self.scores), len(times)))
        for fold in self.folds:
            total[fold.split.test] += predicted_survival(fold.signature.model, fold.scores, times)
        return np.asarray(total / self.scores.shape[1])


def make_survival_splits(event: Event, *, folds: int, repeats: int, seed: int) -> list[Split]:
    """Return the folds of a repeated cross-validation, balanced by event.

    Raises
    ------
    TooFewCases
        Where there are fewer deaths than folds.
    """
    splits = []
    for repeat in range(repeats):
        fold = event_folds(event, folds=folds, seed=derive_seed(seed, repeat))
        splits += [Split(repeat, k, np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]
    return splits


def cross_validate_signature(
    recipe: SignatureRecipe,
    data: SurvivalData,
    *,
    folds: int = 5,
    repeats: int = 1,
    cutoff: CutoffRule = "maximally_selected",
    horizons: Sequence[float] = (12, 24, 36),
    seed: int,
    splits: Sequence[Split] | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[SurvivalFold]:
    """Repeat the whole recipe, baseline and cut-off in each training part and score its validation part.

    Parameters
    ----------
    splits
        Folds of one's own instead of ``folds`` and ``repeats``. The follow-up of validation patients is not looked at.
    done
        Called after each fold.
    """
    if splits is None:
        splits = make_survival_splits(data.event, folds=folds, repeats=repeats, seed=derive_seed(seed, 0))
    results = []
    for split in splits:
        signature = fit_signature(
            recipe,
            data.take(split.train),
            cutoff=cutoff,
            horizons_months=horizons,
            seed=derive_seed(seed, 1, split.repeat, split.fold),
        )
        scores = _fold_scores(signature.model, data, split.test)
        results.append(SurvivalFold(split, signature, scores, high_risk(signature.model, scores)))
        done()
    return results


def _fold_scores(model: FittedModel, data: SurvivalData, rows: Index) -> Array:
    """Return the scores of a fold; a feature may be missing in every patient of a small fold, but not in the cohort."""
    from services.model_serving.predictor import classifier_scores, standardise

    position = {name: i for i, name in enumerate(data.columns)}
    values = data.values[rows][:, [position[name] for name in model.columns]]
    return classifier_scores(model.classifier, standardise(model, values))


def pool_survival(results: Sequence[SurvivalFold], patients: int) -> OutOfFold:
    """Return what the folds of every repeat say of all patients."""
    repeats = max(result.split.repeat for result in results) + 1
    scores = np.full((patients, repeats), np.nan)
    strata = np.zeros((patients, repeats), dtype=np.int64)
    margin = np.zeros(patients)
    for result in results:
        test, repeat = result.split.test, result.split.repeat
        scores[test, repeat] = result.scores
        strata[test, repeat] = result.split.fold
        margin[test] += result.scores - result.signature.model.threshold
    return OutOfFold(scores, strata, margin >= 0, tuple(results))


def evaluate_out_of_fold(
    pooled: OutOfFold, data: SurvivalData, *, horizons: Sequence[float], bootstraps: int, seed: int
) -> SurvivalFigures:
    """Return the figures of out-of-fold predictions: C within folds, the rest by pooled predicted survival.

    Pooling sets patients of different folds side by side, whose baselines know the other folds' deaths: without any
    signal the pooled AUC lies a little below one half (0.47 in simulations), the C within folds does not.
    """
    times = brier_times(horizons)
    return evaluate_survival(
        pooled.scores,
        pooled.high,
        pooled.survival(horizons),
        data,
        horizons=horizons,
        bootstraps=bootstraps,
        seed=seed,
        strata=pooled.strata,
        curve=(times, pooled.survival(times)),
    )


def apply_signature(
    model: FittedModel,
    data: SurvivalData,
    *,
    horizons: Sequence[float],
    bootstraps: int,
    seed: int,
    platform: str | None = None,
    cohort: str | None = None,
) -> SurvivalFigures:
    """Return the figures of a signature in other patients, its coefficients, cut-off and baseline unchanged.

    Raises
    ------
    InvalidTable
        Where the patients lack a feature of the signature.
    TooFewCases
        Where nobody died.
    """
    scores = risk_scores(model, data, platform=platform, cohort=cohort)
    times = brier_times(horizons)
    return evaluate_survival(
        scores,
        high_risk(model, scores),
        predicted_survival(model, scores, horizons),
        data,
        horizons=horizons,
        bootstraps=bootstraps,
        seed=seed,
        curve=(times, predicted_survival(model, scores, times)),
    )


@dataclass(frozen=True)
class AppliedSignature:
    """A signature in a new cohort.

    Parameters
    ----------
    figures
        C, AUC at the horizons, hazard ratio, log-rank P, calibration.
    predictions
        One row a patient: ``case_id``, ``months``, ``event``, ``risk_score``, ``group``.
    flow
        Patients in and out, and how expression came to the training scale.
    """

    figures: SurvivalFigures
    predictions: pd.DataFrame
    flow: dict[str, object]


def judge_package(
    package: Package, data: SurvivalData, *, cohort: str, horizons: Sequence[float], bootstraps: int, seed: int
) -> AppliedSignature:
    """Return what a packaged signature is worth on other patients; see :func:`apply_signature`."""
    model, platform = package.model, package.description.platform
    figures = apply_signature(
        model, data, horizons=horizons, bootstraps=bootstraps, seed=seed, platform=platform, cohort=cohort
    )
    return AppliedSignature(figures, predict_signature(package, data), data.flow)


def predict_signature(package: Package, data: SurvivalData) -> pd.DataFrame:
    """Return what a packaged signature says of each patient, be it a number or not; see :class:`AppliedSignature`."""
    scores = risk_scores(package.model, data)
    return pd.DataFrame(
        {
            "case_id": data.ids,
            "months": data.months,
            "event": data.event,
            "risk_score": scores,
            "group": np.where(high_risk(package.model, scores), "high", "low"),
        }
    )


def permuted_survival(
    recipe: SignatureRecipe,
    data: SurvivalData,
    *,
    runs: int,
    folds: int,
    repeats: int,
    cutoff: CutoffRule,
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Return C of the whole cross-validation with (months, event) pairs shuffled against the features.

    Returns
    -------
    pandas.DataFrame
        One row a run: run, c_index, low, high (normal 95 % limits of that run), filled_up (folds without a feature).
    """
    rows = []
    for run in range(runs):
        run_seed = derive_seed(seed, 3, run)
        order = np.random.default_rng(run_seed).permutation(len(data.ids))
        shuffled = replace(data, months=data.months[order], event=data.event[order])
        results = cross_validate_signature(
            recipe, shuffled, folds=folds, repeats=repeats, cutoff=cutoff, seed=run_seed, done=done
        )
        pooled = pool_survival(results, len(data.ids))
        found = stratified_concordance(shuffled, pooled.scores, pooled.strata)
        filled = sum(bool(result.signature.selection.filled_up) for result in results)
        rows.append((run + 1, found.estimate, found.lower, found.upper, filled))
    return pd.DataFrame(rows, columns=["run", "c_index", "low", "high", "filled_up"])


def select_outside_folds(
    recipe: SignatureRecipe,
    data: SurvivalData,
    *,
    columns: Sequence[str],
    splits: Sequence[Split],
    cutoff: CutoffRule,
    seed: int,
) -> OutOfFold:
    """Return cross-validated scores of features that were chosen with all patients.

    The order of steps of many papers. Its C is optimistic; it is reported only to show by how much.

    Parameters
    ----------
    columns
        The features that the recipe chose from all patients.
    """
    known = set(columns)
    kept = [i for i, name in enumerate(data.columns) if name in known]
    reduced = replace(data, columns=tuple(data.columns[i] for i in kept), values=data.values[:, kept])
    results = cross_validate_signature(recipe, reduced, cutoff=cutoff, seed=seed, splits=splits)
    return pool_survival(results, len(data.ids))
