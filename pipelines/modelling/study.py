"""Run a study: nested cross-validation, permuted labels, final model, and every figure that is reported."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.applied_model import CohortFigures, apply_to_cohort, evaluate_model
from pipelines.modelling.performance import (
    auc_with_limits,
    bootstrap_limits,
    calibration_points,
    describe_predictions,
    permuted_metrics,
    roc_points,
)
from pipelines.modelling.selection import compare_groups, forest_importance
from pipelines.modelling.study_contents import (
    Addition,
    Extension,
    ShuffledRun,
    StudyParameters,
    StudyPlan,
    StudyResult,
    StudyRun,
)
from pipelines.modelling.study_data import StudyData, study_data
from pipelines.modelling.validation import (
    Fit,
    FoldResult,
    Split,
    cross_validate,
    derive_seed,
    fit_recipe,
    make_splits,
    pool,
    rank_auc,
    selection_outside_folds,
)
from services.model_serving.package import Estimate, LogisticClassifier, ModelCard, TrainingData
from services.shared.manifest import package_versions
from services.survival_analytics.discrimination import auc

Array = npt.NDArray[np.float64]
Outcome = npt.NDArray[np.int64]
Progress = Callable[[int, int, str], None]

__all__ = [
    "CohortFigures",
    "FoldCounter",
    "Progress",
    "StudyParameters",
    "StudyPlan",
    "StudyResult",
    "apply_to_cohort",
    "evaluate_model",
    "model_card",
    "run_study",
]


def run_study(
    plan: StudyPlan,
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    seed: int,
    excluded: Mapping[str, str] | None = None,
    extension: Extension | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Run a study on a table of features.

    Parameters
    ----------
    features
        One row a patient, indexed by ``case_id``; numeric, NaN where a feature does not exist.
    labels
        Class by ``case_id``; missing ones are left out and counted.
    seed
        The same seed, features and labels give the same result, whatever the order of rows and columns.
    excluded
        Reason by ``case_id`` of patients knowingly left out.
    extension
        Further models, which change none of the study's own figures.
    progress
        Called with folds done, folds in all, and what is being done.

    Raises
    ------
    IdMismatch, DuplicateId, InvalidTable, OneClass, TooFewCases
        See :func:`pipelines.modelling.study_data.study_data`.
    """
    parameters = plan.parameters
    data = study_data(features, labels, classes=plan.classes, folds=parameters.folds, excluded=excluded)
    splits = _splits(plan, data.outcome, seed)
    runs = 1 + parameters.permutations
    further = 0 if extension is None else extension.count_steps(data.columns, folds=len(splits), runs=runs)
    count = FoldCounter(progress, total=len(splits) * runs + 1 + further)
    results = _nested(plan, data, data.outcome, splits, seed, count.label("cross-validation"))
    chance, margin = pool(results, len(data.ids))
    metrics = describe_predictions(data.outcome, chance, margin)
    areas = [rank_auc(data.outcome[r.split.test], r.probabilities) for r in results]
    metrics |= {"fold_auc_mean": float(np.mean(areas)), "fold_auc_sd": float(np.std(areas, ddof=1))}
    limits = bootstrap_limits(data.outcome, chance[None], resamples=parameters.bootstraps, seed=derive_seed(seed, 5))[0]
    if parameters.bootstraps:
        metrics |= {"auc_bootstrap_low": float(limits[0]), "auc_bootstrap_high": float(limits[1])}
    shuffled = _shuffled(plan, data, seed, count.label("permuted labels"))
    permuted = _permuted_table(shuffled)
    metrics |= permuted_metrics(permuted, metrics["auc"])
    first_repeat = [split for split in splits if split.repeat == 0]
    scores = selection_outside_folds(plan.recipe, data.values, data.outcome, splits=first_repeat, seed=seed)
    metrics |= auc_with_limits("paper_order_optimistic_auc", data.outcome, scores)
    final = fit_recipe(
        plan.recipe,
        data.values,
        data.outcome,
        names=data.columns,
        inner_folds=parameters.inner_folds,
        seed=derive_seed(seed, 2),
        compare=True,
    )
    count.label("final model")()
    more = Addition({}, {}, {}, {}, {})
    if extension is not None:
        found = StudyRun(plan, data, seed, splits, results, final, derive_seed(seed, 2), shuffled)
        more = extension.extend(found, done=count.label("further models"))
    metrics |= {"features_given": len(data.columns), "features_in_model": len(final.model.columns)}
    flow = data.flow | {
        "features_after_step": final.selection.steps,
        "steps_filled_up": list(final.selection.filled_up),
        **more.flow,
    }
    metrics |= more.metrics
    metrics = {name: round(value, 10) for name, value in metrics.items()}
    return StudyResult(
        study=plan.name,
        metrics=metrics,
        predictions=_predictions(data, results, chance, margin),
        folds=_fold_table(results, areas),
        roc=roc_points(data.outcome, chance),
        calibration=calibration_points(data.outcome, chance),
        permuted=permuted,
        comparison=_comparison(data.outcome, final),
        features=_feature_table(data, final, results, seed),
        flow=flow,
        parameters={**parameters.model_dump(mode="json"), "seed": seed},
        model=final.model,
        card=model_card(plan, data, metrics),
        fold_models=tuple(result.fit.model for result in results),
        more_tables=more.tables,
        documents=more.documents,
        packages=more.packages,
    )


class FoldCounter:
    """Counts folds for whoever shows progress."""

    def __init__(self, progress: Progress | None, *, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def label(self, text: str) -> Callable[[], None]:
        """Return what counts one more fold, under a name for what is being done."""

        def step() -> None:
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total, text)

        return step


def _splits(plan: StudyPlan, outcome: Outcome, seed: int) -> list[Split]:
    return make_splits(outcome, folds=plan.parameters.folds, repeats=plan.parameters.repeats, seed=derive_seed(seed, 0))


def _nested(
    plan: StudyPlan, data: StudyData, outcome: Outcome, splits: list[Split], seed: int, done: Callable[[], None]
) -> list[FoldResult]:
    return cross_validate(
        plan.recipe,
        data.values,
        outcome,
        names=data.columns,
        splits=splits,
        inner_folds=plan.parameters.inner_folds,
        seed=seed,
        done=done,
    )


def _shuffled(plan: StudyPlan, data: StudyData, seed: int, done: Callable[[], None]) -> list[ShuffledRun]:
    runs = []
    for run in range(plan.parameters.permutations):
        run_seed = derive_seed(seed, 3, run)
        outcome = np.random.default_rng(run_seed).permutation(data.outcome)
        splits = _splits(plan, outcome, run_seed)
        runs.append(ShuffledRun(outcome, splits, _nested(plan, data, outcome, splits, run_seed, done), run_seed))
    return runs


def _permuted_table(runs: list[ShuffledRun]) -> pd.DataFrame:
    rows = []
    for number, run in enumerate(runs, start=1):
        area = auc(run.outcome, pool(run.results, len(run.outcome))[0])
        rows.append({"run": number, "auc": area.estimate, "low": area.lower, "high": area.upper})
    return pd.DataFrame(rows, columns=["run", "auc", "low", "high"])


def _predictions(data: StudyData, results: list[FoldResult], chance: Array, margin: Array) -> pd.DataFrame:
    fold = np.empty(len(data.ids), dtype=np.int64)
    for result in results:
        if result.split.repeat == 0:
            fold[result.split.test] = result.split.fold + 1
    return pd.DataFrame(
        {
            "case_id": data.ids,
            "fold": fold,
            "outcome": [data.classes[y] for y in data.outcome],
            "probability": chance,
            "threshold": chance - margin,
            "predicted": [data.classes[int(m >= 0)] for m in margin],
        }
    )


def _fold_table(results: list[FoldResult], areas: list[float]) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for result, area in zip(results, areas, strict=True):
        fit = result.fit
        rows.append(
            {
                "repeat": result.split.repeat + 1,
                "fold": result.split.fold + 1,
                "train": len(result.split.train),
                "test": len(result.split.test),
                "auc": area,
                "inner_auc": fit.inner_auc,
                "threshold": fit.model.threshold,
                **fit.setting,
                **{f"after_{step}": left for step, left in fit.selection.steps.items()},
                "filled_up": ";".join(fit.selection.filled_up),
                "features": ";".join(fit.model.columns),
            }
        )
    return pd.DataFrame(rows)


def _comparison(outcome: Outcome, final: Fit) -> pd.DataFrame:
    rows = []
    for name, scores in final.inner_scores.items():
        area = auc(outcome, scores)
        shown = name or final.model.classifier.kind
        rows.append(
            {"classifier": shown, "auc": area.estimate, "low": area.lower, "high": area.upper, "kept": not name}
        )
    return pd.DataFrame(rows)


def _feature_table(data: StudyData, final: Fit, results: list[FoldResult], seed: int) -> pd.DataFrame:
    model = final.model
    z = final.selection.scaling.z_scores(data.values)
    tests = compare_groups(z, data.outcome, alpha=0.05)
    table = pd.DataFrame(
        {
            "feature": model.columns,
            "levene_p": tests.levene,
            "t_test_p": tests.t_test,
            "mean_difference_z": z[data.outcome == 1].mean(axis=0) - z[data.outcome == 0].mean(axis=0),
            "importance": forest_importance(z, data.outcome, trees=100, seed=derive_seed(seed, 4)),
            "share_of_folds": [np.mean([name in r.fit.model.columns for r in results]) for name in model.columns],
        }
    )
    if isinstance(model.classifier, LogisticClassifier):
        table["coefficient"] = model.classifier.coefficients
    return table.sort_values(["importance", "feature"], ascending=[False, True], ignore_index=True)


def model_card(plan: StudyPlan, data: StudyData, metrics: Mapping[str, float]) -> ModelCard:
    """Describe a model: how the procedure that made it did out of fold, and what it learnt from."""
    names = ("auc", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "brier", "permuted_auc")
    versions = package_versions("gliaflow", "numpy", "scikit-learn", "scipy")
    return ModelCard(
        study=plan.name,
        classes=plan.classes,
        intended_use=plan.intended_use,
        metrics={
            name: Estimate(value=metrics[name], low=metrics.get(f"{name}_low"), high=metrics.get(f"{name}_high"))
            for name in names
            if name in metrics
        },
        training=TrainingData(
            patients=len(data.ids),
            patients_by_class={name: int((data.outcome == i).sum()) for i, name in enumerate(data.classes)},
            features_sha256=data.features_sha256,
            labels_sha256=data.labels_sha256,
        ),
        code_version=f"gliaflow {versions['gliaflow']}, {plan.name} {plan.version}",
        packages={**versions, "python": platform.python_version()},
    )
