"""Ferroptosis risk group from imaging, after Front Neurosci 2022, 1082867: high against low, threefold.

The label is the risk group that the genomic half gave a patient. What predicts it plugs in as an
:class:`ImagingClassifier`; the paper's is a 3D ResNet-50 on images cropped by a mask of the tumour core (TC) or the
whole tumour (WT). Until a network is given, radiomic features of either region and the recipe of the grading study
predict it, and results say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from pipelines.modelling.performance import describe_predictions
from pipelines.modelling.study import Progress, StudyParameters, StudyPlan, StudyResult, run_study
from pipelines.modelling.study_data import study_data
from pipelines.modelling.tables import participant_classes
from pipelines.modelling.validation import derive_seed, make_splits, rank_auc
from pipelines.studies import grading
from services.shared.errors import InvalidTable, InvalidValue
from services.survival_analytics.discrimination import classify

Array = npt.NDArray[np.float64]
Outcome = npt.NDArray[np.int64]
RegionName = Literal["TC", "WT"]

NAME = "ferroptosis_imaging"
VERSION = "1"
CLASSES = ("low", "high")
REGIONS: tuple[RegionName, ...] = ("TC", "WT")
PREDICTOR = "radiomics: recipe of the grading study, no network"
INTENDED_USE = (
    "Research: probability that an untreated adult-type diffuse glioma is of the high ferroptosis risk group, from "
    "radiomic features extracted with the settings of the training data. Not for clinical decisions."
)
FIGURES = ("auc", "accuracy", "f1_weighted", "f1", "precision", "recall", "sensitivity", "specificity")
_SPELLINGS = {"low": frozenset({"low", "low risk", "low-risk"}), "high": frozenset({"high", "high risk", "high-risk"})}
_CORE = frozenset({"ET", "NET", "NCR", "TC"})
_BEYOND_CORE = frozenset({"ED", "WT", "BRAIN"})


class Parameters(grading.Parameters):
    """Parameters of the imaging half."""

    folds: int = Field(3, ge=2, le=20, description="Outer folds; the paper has three")
    region: RegionName = Field("WT", description="Region whose model is kept; both are evaluated")


class ImagingClassifier(Protocol):
    """What predicts risk groups from images; a network or a recipe over features.

    ``threshold``: a patient is of the high group from this probability on; ``fit`` may set it, on training patients.
    """

    name: str
    threshold: float

    def fit(self, ids: Sequence[str], labels: Outcome, *, seed: int) -> None:
        """Learn from the images of these patients; 1 is the high group."""

    def predict(self, ids: Sequence[str]) -> Array:
        """Return the probability of the high group, shape (patients,)."""


@dataclass(frozen=True)
class ImagingEvaluation:
    """What a classifier says of patients that it had not seen.

    Parameters
    ----------
    predictions
        One row a patient: ``case_id``, ``fold``, ``outcome``, ``probability``, ``threshold``, ``predicted``.
    figures
        As :func:`fold_figures` gives them.
    metrics
        Pooled over folds, with 95 % limits.
    """

    predictions: pd.DataFrame
    figures: pd.DataFrame
    metrics: dict[str, float]


def read_labels(participants: pd.DataFrame, ids: pd.Index) -> pd.Series:
    """Return low or high for each patient of a feature table, from the clinical column ``risk_group``."""
    return participant_classes(participants, "risk_group", ids, spellings=_SPELLINGS)


def region_columns(columns: Sequence[str], region: RegionName) -> list[str]:
    """Return the features of a region: of the tumour core those of its parts alone, of the whole tumour all.

    Raises
    ------
    InvalidTable
        Where no feature's name tells that it belongs to the region.
    """
    if region == "WT":
        return list(columns)
    chosen = []
    for name in columns:
        words = set(re.split(r"[_\W]+", name))
        if words & _CORE and not words & _BEYOND_CORE:
            chosen.append(name)
    if not chosen:
        raise InvalidTable(
            "no feature belongs to the tumour core",
            step=NAME,
            field="features",
            expected=f"names with one of {', '.join(sorted(_CORE))}",
            got=", ".join(list(columns)[:5]),
        )
    return chosen


def cross_validate_classifier(
    classifier: ImagingClassifier, labels: pd.Series, *, folds: int = 3, seed: int = 0
) -> ImagingEvaluation:
    """Fit a classifier in each training part of a stratified cross-validation and judge it on the rest.

    Parameters
    ----------
    labels
        ``low`` or ``high`` by ``case_id``, one row a patient.

    Raises
    ------
    DuplicateId, InvalidTable, OneClass, TooFewCases
        See :func:`pipelines.modelling.study_data.study_data`.
    InvalidValue
        Where the classifier returns no probability for each patient.
    """
    nothing = pd.DataFrame({"none": 0.0}, index=labels.index)
    data = study_data(nothing, labels, classes=CLASSES, folds=folds)
    probability, threshold = np.empty(len(data.ids)), np.empty(len(data.ids))
    fold = np.empty(len(data.ids), dtype=np.int64)
    for split in make_splits(data.outcome, folds=folds, repeats=1, seed=derive_seed(seed, 0)):
        classifier.fit(
            [data.ids[i] for i in split.train], data.outcome[split.train], seed=derive_seed(seed, 1, split.fold)
        )
        chance = np.asarray(classifier.predict([data.ids[i] for i in split.test]), dtype=np.float64)
        if chance.shape != split.test.shape or not ((chance >= 0) & (chance <= 1)).all():
            raise InvalidValue(
                "the classifier gives no probability for each patient",
                step=NAME,
                field=classifier.name,
                expected=f"{len(split.test)} numbers in [0, 1]",
                got=f"shape {chance.shape}",
            )
        probability[split.test], threshold[split.test], fold[split.test] = chance, classifier.threshold, split.fold + 1
    predictions = pd.DataFrame(
        {
            "case_id": data.ids,
            "fold": fold,
            "outcome": [CLASSES[y] for y in data.outcome],
            "probability": probability,
            "threshold": threshold,
            "predicted": [CLASSES[int(m >= 0)] for m in probability - threshold],
        }
    )
    metrics = describe_predictions(data.outcome, probability, probability - threshold)
    return ImagingEvaluation(predictions, fold_figures(predictions), metrics)


def fold_figures(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the paper's Table 2 by fold, and their mean.

    ``f1_weighted`` is the mean of both classes' F1, weighted by their sizes, which the paper's F1 is; ``f1``,
    ``precision`` and ``recall`` are those of the high group.

    Parameters
    ----------
    predictions
        ``fold``, ``outcome``, ``probability``, ``threshold`` by patient.
    """
    rows = []
    for fold, part in predictions.groupby("fold", sort=True):
        outcome = (part["outcome"] == CLASSES[1]).to_numpy().astype(np.int64)
        margin = (part["probability"] - part["threshold"]).to_numpy()
        table = classify(outcome, margin, threshold=0.0)
        hits = table.true_negatives, table.true_positives
        wrong = table.false_negatives + table.false_positives
        f1_low = 2 * hits[0] / (2 * hits[0] + wrong) if hits[0] + wrong else 0.0
        sizes = [len(part) - int(outcome.sum()), int(outcome.sum())]
        rows.append(
            {
                "fold": str(fold),
                "patients": len(part),
                "high": sizes[1],
                "auc": rank_auc(outcome, part["probability"].to_numpy()),
                "accuracy": table.accuracy,
                "f1_weighted": float(np.average([f1_low, table.f1], weights=sizes)),
                "f1": table.f1,
                "precision": table.positive_predictive_value,
                "recall": table.sensitivity,
                "sensitivity": table.sensitivity,
                "specificity": table.specificity,
            }
        )
    table_2 = pd.DataFrame(rows)
    mean: dict[str, object] = {"fold": "mean", "patients": table_2["patients"].sum(), "high": table_2["high"].sum()}
    mean |= {name: table_2[name].mean() for name in FIGURES}
    return pd.concat([table_2, pd.DataFrame([mean])], ignore_index=True)


def run(
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    clinical: pd.DataFrame | None = None,
    parameters: StudyParameters | None = None,
    seed: int = 0,
    excluded: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Run the study on radiomic features of both regions; see :func:`pipelines.modelling.study.run_study`.

    The model and curves are those of ``region``; the table ``table_2`` holds both, and metrics carry ``tc_`` and
    ``wt_`` figures beside: the mean of the folds as in the paper's Table 2, and the pooled AUC with limits. Imaging
    alone predicts: clinical columns are not used.
    """
    del clinical
    chosen = Parameters.model_validate((parameters or Parameters()).model_dump())
    results: dict[str, StudyResult] = {}
    for number, region in enumerate(REGIONS):
        plan = StudyPlan(NAME, VERSION, CLASSES, INTENDED_USE, grading.GradingRecipe(chosen), chosen)
        table = features[region_columns([str(name) for name in features], region)]
        results[region] = run_study(
            plan, table, labels, seed=seed, excluded=excluded, progress=_part(progress, number, len(REGIONS))
        )
    kept = results[chosen.region]
    metrics, both = dict(kept.metrics), []
    for region in REGIONS:
        result = results[region]
        figures = fold_figures(result.predictions)
        mean = figures.iloc[-1]
        metrics |= {
            f"{region.lower()}_fold_{name}": round(float(mean[name]), 10)
            for name in FIGURES
            if mean[name] == mean[name]
        }
        for name in ("auc", "auc_low", "auc_high", "permuted_auc", "permuted_auc_low", "permuted_auc_high"):
            if name in result.metrics:
                metrics[f"{region.lower()}_{name}"] = result.metrics[name]
        figures.insert(0, "region", region)
        both.append(figures)
    return replace(
        kept,
        metrics=metrics,
        more_tables=kept.more_tables | {"table_2": pd.concat(both, ignore_index=True)},
        flow=kept.flow | {"predictor": PREDICTOR, "region_of_model": chosen.region},
    )


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, text: progress(number * total + done, parts * total, text)
