"""A finished classifier on other patients: external validation, coefficients and threshold unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.clinical_variables import clinical_numbers
from pipelines.modelling.performance import bootstrap_limits, calibration_points, describe_predictions, roc_points
from pipelines.modelling.study_data import StudyData, study_data
from services.model_serving.package import FittedModel, Package
from services.model_serving.predictor import probabilities
from services.shared.errors import InvalidTable

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CohortFigures:
    """What a finished model is worth on other patients.

    Parameters
    ----------
    metrics
        Flat figures, with ``_low`` and ``_high`` as 95 % limits.
    predictions
        One row a patient: outcome, probability, predicted class.
    roc, calibration
        Points of the curves.
    flow
        Patients in and out, with reasons.
    """

    metrics: dict[str, float]
    predictions: pd.DataFrame
    roc: pd.DataFrame
    calibration: pd.DataFrame
    flow: dict[str, object]


def evaluate_model(
    model: FittedModel, features: pd.DataFrame, labels: pd.Series, *, classes: tuple[str, str]
) -> dict[str, float]:
    """Return a finished model's figures on other patients; see :func:`apply_to_cohort`."""
    data, chance = _apply(model, features, labels, classes=classes, excluded=None)
    return describe_predictions(data.outcome, chance, chance - model.threshold)


def apply_to_cohort(
    package: Package,
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    clinical: pd.DataFrame | None = None,
    excluded: Mapping[str, str] | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
) -> CohortFigures:
    """Return what a packaged classifier is worth on other patients, its coefficients and threshold unchanged.

    Parameters
    ----------
    features
        One row a patient, indexed by ``case_id``; needs the model's columns, others are left aside.
    labels
        Class by ``case_id``; patients without one are left out and counted.
    clinical
        Clinical table indexed by ``case_id``, for a model with clinical columns (``age_years``, ``sex_male``,
        ``grade``).
    excluded
        Reason by ``case_id`` of patients knowingly left out.
    bootstraps
        Resamples of patients behind the limits beside DeLong's.

    Raises
    ------
    InvalidTable
        Where the model is a survival signature, or the tables lack a column of it.
    IdMismatch, DuplicateId, OneClass, TooFewCases
        See :func:`pipelines.modelling.study_data.study_data`.
    """
    data, chance = _apply_package(package, features, labels, clinical, excluded)
    margin = chance - package.model.threshold
    metrics = describe_predictions(data.outcome, chance, margin)
    if bootstraps:
        low, high = bootstrap_limits(data.outcome, chance[None], resamples=bootstraps, seed=seed)[0]
        metrics |= {"auc_bootstrap_low": float(low), "auc_bootstrap_high": float(high)}
    missing = {name: int(np.isnan(data.values[:, i]).sum()) for i, name in enumerate(data.columns)}
    return CohortFigures(
        {name: round(value, 10) for name, value in metrics.items()},
        _predictions(package, data, chance),
        roc_points(data.outcome, chance),
        calibration_points(data.outcome, chance),
        {**data.flow, "values_taken_as_training_median": {name: n for name, n in missing.items() if n}},
    )


def predict_cohort(
    package: Package,
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    clinical: pd.DataFrame | None = None,
    excluded: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return what a packaged classifier says of each patient, be it a number or not; see :func:`apply_to_cohort`."""
    return _predictions(package, *_apply_package(package, features, labels, clinical, excluded))


def _predictions(package: Package, data: StudyData, chance: Array) -> pd.DataFrame:
    classes = package.description.classes
    return pd.DataFrame(
        {
            "case_id": data.ids,
            "outcome": [classes[y] for y in data.outcome],
            "probability": chance,
            "predicted": [classes[int(positive)] for positive in chance >= package.model.threshold],
        }
    )


def _apply_package(
    package: Package,
    features: pd.DataFrame,
    labels: pd.Series,
    clinical: pd.DataFrame | None,
    excluded: Mapping[str, str] | None,
) -> tuple[StudyData, Array]:
    if package.description.kind == "cox":
        raise InvalidTable(
            "a survival signature has no classes", step="validation", field="model", expected="a classifier", got="cox"
        )
    if clinical is not None:
        numbers = clinical_numbers(clinical, [str(name) for name in features.index]).set_axis(features.index)
        features = features.join(numbers[[name for name in numbers if name not in features]])
    return _apply(package.model, features, labels, classes=package.description.classes, excluded=excluded)


def _apply(
    model: FittedModel,
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    classes: tuple[str, str],
    excluded: Mapping[str, str] | None,
) -> tuple[StudyData, Array]:
    lacking = [name for name in model.columns if name not in features]
    if lacking:
        raise InvalidTable(
            "the features that the model needs are not all there",
            field="features",
            expected=f"{len(model.columns)} columns",
            got=f"without {len(lacking)} of them: {', '.join(lacking[:5])}",
        )
    data = study_data(features[list(model.columns)], labels, classes=classes, folds=None, excluded=excluded)
    position = {name: i for i, name in enumerate(data.columns)}
    return data, probabilities(model, data.values[:, [position[name] for name in model.columns]])
