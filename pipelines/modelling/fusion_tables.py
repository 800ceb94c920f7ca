"""Tables and nomogram of imaging models, imaging score, clinical model and fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.fusion import CLINICAL, FUSION, IMAGING, SCORE, Fitted, ImagingModel, Inputs
from pipelines.modelling.performance import bootstrap_limits, calibration_points, describe_predictions
from pipelines.modelling.study_data import StudyData
from services.model_serving.package import FittedModel, LogisticClassifier
from services.model_serving.predictor import standardise
from services.shared.errors import InvalidTable, TooFewCases
from services.survival_analytics.discrimination import auc, compare_auc
from services.survival_analytics.logistic import fit_logistic
from services.survival_analytics.net_benefit import clinical_impact, decision_curves
from services.survival_analytics.nomogram import build_nomogram

Array = npt.NDArray[np.float64]
Outcome = npt.NDArray[np.int64]

POPULATION = 1000


@dataclass(frozen=True)
class Predictions:
    """What a model says of patients.

    Parameters
    ----------
    outcome, chance, margin
        Shape (patients,): class, probability of the positive one, and probability less threshold.
    """

    outcome: Outcome
    chance: Array
    margin: Array


def model_table(
    models: Sequence[ImagingModel],
    final: Fitted,
    shares: Mapping[str, float],
    *,
    clinical: Sequence[str],
    missing: str,
) -> pd.DataFrame:
    """Return one row a model: what it is made of, its mean inner AUC, how often it was chosen, or why it is absent.

    Parameters
    ----------
    shares
        Share of the outer folds that chose each imaging model.
    missing
        Why there is no clinical model, where there is none.
    """
    rows: list[dict[str, object]] = []
    for model in models:
        fit = final.fits.get(model.name)
        rows.append(
            {
                "model": model.name,
                "region": model.region,
                "kind": model.kind,
                "features_given": len(model.columns),
                "features_in_model": len(fit.model.columns) if fit else None,
                "inner_auc_mean": final.inner_means.get(model.name),
                "share_of_folds": shares.get(model.name),
                "chosen": model.name == final.chosen,
                "absent": model.absent,
            }
        )
    for name in (CLINICAL, FUSION):
        fit = final.fits.get(name)
        rows.append(
            {
                "model": name,
                "region": "",
                "kind": name,
                "features_given": len(clinical) + (len(final.fits[IMAGING].model.columns) if name == FUSION else 0),
                "features_in_model": len(fit.model.columns) if fit else None,
                "inner_auc_mean": fit.inner_auc if fit else None,
                "chosen": False,
                "absent": "" if fit else missing,
            }
        )
    return pd.DataFrame(rows).astype({"features_in_model": "Int64"})


def performance_rows(parts: Mapping[str, Mapping[str, Predictions]], *, resamples: int, seed: int) -> pd.DataFrame:
    """Return one row a model and part: rates at the threshold and AUC with limits by DeLong and by bootstrap."""
    rows: list[dict[str, object]] = []
    for part, models in parts.items():
        if not models:
            continue
        outcome = next(iter(models.values())).outcome
        scores = np.array([found.chance for found in models.values()])
        limits = bootstrap_limits(outcome, scores, resamples=resamples, seed=seed)
        for (name, found), (low, high) in zip(models.items(), limits, strict=True):
            figures = describe_predictions(outcome, found.chance, found.margin)
            bootstrap = {"auc_bootstrap_low": float(low), "auc_bootstrap_high": float(high)}
            rows.append({"model": name, "part": part, **figures, **bootstrap})
    return pd.DataFrame(rows)


def classifier_table(outcome: Outcome, final: Fitted) -> pd.DataFrame:
    """Return the AUC of each classifier in the inner folds of each final imaging model, selection repeated in them."""
    rows = []
    for model, fit in final.fits.items():
        if model in (IMAGING, CLINICAL, FUSION):
            continue
        for name, scores in fit.inner_scores.items():
            area = auc(outcome, scores)
            rows.append(
                {
                    "model": model,
                    "classifier": name or fit.model.classifier.kind,
                    "auc": area.estimate,
                    "low": area.lower,
                    "high": area.upper,
                    "kept": not name,
                }
            )
    return pd.DataFrame(rows)


def coefficient_table(final: Fitted) -> pd.DataFrame:
    """Return the regressions behind the imaging score, the clinical model and the fusion, one row a term.

    Log-odds = intercept + Σ coefficient · (value − mean) / scale; a missing value counts as ``median``. The fusion's
    terms are the imaging score and the clinical variables.
    """
    models = {name: final.fits[name].model for name in (IMAGING, CLINICAL) if name in final.fits}
    if final.fusion_parts is not None:
        models[FUSION] = final.fusion_parts
    tables = []
    for name, model in models.items():
        if not isinstance(model.classifier, LogisticClassifier):
            continue
        coefficients = model.classifier.coefficients
        terms = pd.DataFrame(
            {
                "term": model.columns,
                "median": model.medians,
                "mean": model.means,
                "scale": model.scales,
                "coefficient": coefficients,
                "odds_ratio_per_sd": np.exp(coefficients),
            }
        )
        intercept = pd.DataFrame({"term": ["(intercept)"], "coefficient": [model.classifier.intercept]})
        tables.append(pd.concat([intercept, terms], ignore_index=True).assign(model=name))
    columns = ["model", "term", "coefficient", "odds_ratio_per_sd", "median", "mean", "scale"]
    return pd.concat(tables, ignore_index=True)[columns]


def delong_table(outcome: Outcome, held_out: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return DeLong's test of each pair of models on the same out-of-fold patients, as a square of p-values.

    Empty where both AUCs have no variance (two scores that separate the classes completely, or not at all).
    """
    names = list(held_out)
    square = pd.DataFrame(1.0, index=names, columns=names)
    for i, one in enumerate(names):
        for other in names[:i]:
            try:
                found = compare_auc(outcome, held_out[one].chance, second=held_out[other].chance).p_value
            except TooFewCases:
                found = float("nan")
            square.loc[one, other] = square.loc[other, one] = found
    return square.rename_axis("model").reset_index()


def prediction_table(data: StudyData, held_out: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return each patient's out-of-fold probability by every model."""
    outcome = [data.classes[y] for y in data.outcome]
    columns = {name: found.chance for name, found in held_out.items()}
    return pd.DataFrame({"case_id": data.ids, "outcome": outcome, **columns})


def calibration_table(held_out: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return mean predicted and observed frequency in groups of similar out-of-fold probability, by model."""
    tables = []
    for name, found in held_out.items():
        table = calibration_points(found.outcome, found.chance)
        table.insert(0, "model", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def decision_table(outcome: Outcome, held_out: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return decision curves of the score, the clinical model and the fusion beside treating everybody and nobody."""
    models = {name: held_out[name].chance for name in (IMAGING, CLINICAL, FUSION) if name in held_out}
    return decision_curves(outcome, models).to_frame()


def impact_table(found: Predictions) -> pd.DataFrame:
    """Return how many of 1,000 patients a threshold calls positive, and how many of those are."""
    return clinical_impact(found.outcome, found.chance, population=POPULATION).to_frame()


def correlation_table(final: Fitted, inputs: Inputs) -> pd.DataFrame:
    """Return Pearson's correlations between the features of the fusion, or of the imaging model without one."""
    model = final.fits[FUSION if FUSION in final.fits else IMAGING].model
    z = standardise(model, inputs.of(model))
    square = np.atleast_2d(np.corrcoef(z, rowvar=False))
    table = pd.DataFrame(square, columns=list(model.columns))
    table.insert(0, "feature", model.columns)
    return table


def nomogram_of(fusion: FittedModel, score: Array, inputs: Inputs, outcome: Outcome) -> tuple[pd.DataFrame, str]:
    """Return the fusion's nomogram: points by imaging score and clinical value, and all that draws it as JSON.

    Parameters
    ----------
    fusion
        On imaging score and clinical variables.
    score
        The imaging scores that it learnt from, shape (patients,); with them go the ranges of the axes.
    """
    values = np.column_stack([score, inputs.clinical])
    names = (SCORE, *inputs.clinical_columns)
    chosen = values[:, [names.index(name) for name in fusion.columns]]
    chosen = np.where(np.isnan(chosen), fusion.medians, chosen)
    frame = pd.DataFrame(chosen, columns=list(fusion.columns)).assign(outcome=outcome)
    if not isinstance(fusion.classifier, LogisticClassifier):
        raise InvalidTable("only a logistic model has a nomogram", step="fusion", field="classifier")
    slopes = fusion.classifier.coefficients / fusion.scales
    intercept = fusion.classifier.intercept - float(slopes @ fusion.means)
    # The nomogram is that of the fusion itself, whose slight ridge an unpenalised fit lacks.
    unpenalised = fit_logistic(frame, "outcome", covariates=fusion.columns)
    model = replace(unpenalised, coefficients=np.concatenate([[intercept], slopes]))
    nomogram = build_nomogram(model, frame=frame)
    return nomogram.to_frame(), nomogram.to_json() + "\n"
