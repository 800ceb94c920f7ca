"""Turn features into probabilities or risk scores with a packaged model, in NumPy alone, and say why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from services.model_serving.contracts import FeatureEffect, Prediction, SurvivalPoint
from services.model_serving.package import (
    Array,
    Classifier,
    CoxSignature,
    FittedModel,
    Kind,
    LogisticClassifier,
    Package,
    SvmClassifier,
)
from services.shared.errors import InvalidTable, InvalidValue

OUT_OF_RANGE_Z = 4.0
_EFFECT_UNITS: Mapping[Kind, Literal["log-odds", "probability", "log-hazard"]] = {
    "logistic": "log-odds",
    "svm_rbf": "probability",
    "cox": "log-hazard",
}


def standardise(model: FittedModel, values: Array) -> Array:
    """Return z-scores; a missing value becomes the training median first.

    Parameters
    ----------
    values
        Shape (patients, features) in the order of ``model.columns``; NaN is missing.
    """
    return np.asarray((np.where(np.isnan(values), model.medians, values) - model.means) / model.scales)


def classifier_scores(classifier: Classifier, z: Array) -> Array:
    """Return scores before calibration, shape (patients,): log-odds, a machine's decision values, or log hazards.

    Parameters
    ----------
    z
        z-scores, shape (patients, features).
    """
    if isinstance(classifier, CoxSignature):
        return np.asarray(z @ classifier.coefficients)
    if isinstance(classifier, LogisticClassifier):
        return np.asarray(z @ classifier.coefficients + classifier.intercept)
    squared = ((z[:, None, :] - classifier.support_vectors[None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-classifier.gamma * squared) @ classifier.dual_coefficients + classifier.intercept)


def _probabilities_of_z(model: FittedModel, z: Array) -> Array:
    scores = classifier_scores(model.classifier, z)
    if isinstance(model.classifier, SvmClassifier):
        scores = model.classifier.platt_slope * scores + model.classifier.platt_intercept
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))


def probabilities(model: FittedModel, values: Array) -> Array:
    """Return the probability of the positive class, shape (patients,), from raw features (NaN is missing).

    Raises
    ------
    InvalidValue
        For a Cox signature, whose probabilities depend on time.
    """
    if isinstance(model.classifier, CoxSignature):
        raise InvalidValue(
            "a Cox signature has no single probability",
            field="model",
            expected="a classifier",
            got="kind cox",
            remedy="use its risk score, or its survival at a time",
        )
    return _probabilities_of_z(model, standardise(model, values))


def survival_probabilities(signature: CoxSignature, scores: Array, times_months: Array) -> Array:
    """Return S(t | score) = S₀(t) ^ exp(score), shape (patients, times).

    Parameters
    ----------
    scores
        Risk scores, shape (patients,).
    times_months
        Shape (times,); past the last time of the baseline its last value is kept.
    """
    position = np.searchsorted(signature.times_months, times_months, side="right")
    baseline = np.concatenate(([1.0], signature.baseline_survival))[position]
    hazard_ratio = np.exp(np.clip(scores, -700, 700))
    return np.asarray(baseline[None, :] ** hazard_ratio[:, None])


def feature_effects(model: FittedModel, z: Array) -> Array:
    """Return how much each feature of one patient moves the prediction, shape (features,).

    Logistic regression: coefficient times z-score; with the intercept they add up to the log-odds. Cox signature: the
    same; they add up to the risk score. Support vector machine: the probability less what it would be with that feature
    at its training median.
    """
    classifier = model.classifier
    if isinstance(classifier, LogisticClassifier | CoxSignature):
        return np.asarray(classifier.coefficients * z)
    variants = np.tile(z, (len(z) + 1, 1))
    np.fill_diagonal(variants[1:], (model.medians - model.means) / model.scales)
    chances = _probabilities_of_z(model, variants)
    return np.asarray(chances[0] - chances[1:])


def predict(
    package: Package, features: Mapping[str, float | None], *, model: str, version: str, case: str | None = None
) -> Prediction:
    """Return one patient's prediction with its reasons and warnings.

    Parameters
    ----------
    model, version
        What the prediction calls the model.
    features
        Value by name; None where the feature does not exist for this patient (an absent region). Names that the
        model does not know are left aside and counted.

    Raises
    ------
    InvalidTable
        Where a feature of the model is not named, is infinite, or all of them are None.
    """
    description, fitted = package.description, package.model
    values = _row(fitted, features, case)
    missing = np.isnan(values)
    z = standardise(fitted, values[None])[0]
    effects = feature_effects(fitted, z)
    classifier = fitted.classifier
    chance: float | None = None
    risk: float | None = None
    survival: tuple[SurvivalPoint, ...] = ()
    if isinstance(classifier, CoxSignature):
        decisive = risk = float(classifier_scores(classifier, z[None])[0])
        curve = survival_probabilities(classifier, np.array([risk]), classifier.times_months)[0]
        survival = tuple(
            SurvivalPoint(months=t, probability=s)
            for t, s in zip(classifier.times_months.tolist(), curve.tolist(), strict=True)
        )
    else:
        decisive = chance = float(_probabilities_of_z(fitted, z[None])[0])
    imputed = tuple(name for name, lacks in zip(fitted.columns, missing, strict=True) if lacks)
    far = np.abs(z) > OUT_OF_RANGE_Z
    distant = tuple(name for name, beyond in zip(fitted.columns, far, strict=True) if beyond)
    warnings = []
    if imputed:
        warnings.append(f"{len(imputed)} of {len(values)} features were missing and took their training median")
    if distant:
        warnings.append(f"{len(distant)} of {len(values)} features lie beyond {OUT_OF_RANGE_Z:g} standard deviations")
    ranked = sorted(range(len(values)), key=lambda i: (-abs(effects[i]), fitted.columns[i]))
    return Prediction(
        model=model,
        version=version,
        case=case,
        probability=chance,
        risk_score=risk,
        survival=survival,
        label=description.classes[int(decisive >= fitted.threshold)],
        positive_label=description.positive_label,
        threshold=fitted.threshold,
        effect_unit=_EFFECT_UNITS[description.kind],
        effects=tuple(
            FeatureEffect(
                feature=fitted.columns[i],
                value=None if missing[i] else float(values[i]),
                z=float(z[i]),
                effect=float(effects[i]),
            )
            for i in ranked
        ),
        imputed=imputed,
        out_of_range=distant,
        ignored_features=len(features.keys() - set(fitted.columns)),
        warnings=tuple(warnings),
    )


def _row(model: FittedModel, features: Mapping[str, float | None], case: str | None) -> Array:
    """Return the model's columns of one patient, NaN where missing."""
    unnamed = [name for name in model.columns if name not in features]
    if unnamed:
        raise InvalidTable(
            "the features that the model needs are not all there",
            case=case,
            step="predict",
            field="features",
            expected=f"{len(model.columns)} features, None for one that does not exist",
            got=f"without {len(unnamed)} of them: {', '.join(unnamed[:5])}{' …' if len(unnamed) > 5 else ''}",
            remedy="extract with the settings that the model was trained with",
        )
    given = [features[name] for name in model.columns]
    values = np.array([math.nan if value is None else value for value in given], dtype=np.float64)
    infinite = [name for name, value in zip(model.columns, values, strict=True) if math.isinf(value)]
    if infinite or np.isnan(values).all():
        raise InvalidTable(
            "features are infinite" if infinite else "every feature that the model needs is missing",
            case=case,
            step="predict",
            field=", ".join(infinite[:5]) or "features",
            expected="finite numbers" if infinite else "at least one number",
            got="infinite" if infinite else f"{len(values)} missing values",
            remedy="check the extraction of this case",
        )
    return values
