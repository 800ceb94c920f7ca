"""The tables of a survival study and its flow of patients, from figures, folds and the fitted signature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.signature import (
    Signature,
    cox_signature,
    high_risk,
    predicted_survival,
    risk_scores,
    screen_univariable,
)
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_performance import SurvivalFigures, stratified_concordance
from pipelines.modelling.survival_validation import OutOfFold
from services.model_serving.package import FittedModel
from services.model_serving.predictor import standardise
from services.shared.errors import TooFewCases

Array = npt.NDArray[np.float64]

GROUPS = ("low", "high")


def prediction_table(
    model: FittedModel,
    training: SurvivalData,
    pooled: OutOfFold,
    validation: Mapping[str, SurvivalData],
    horizons: tuple[float, ...],
) -> pd.DataFrame:
    """Return one row a patient and part: score, group and survival at the horizons.

    The training patients come twice: as the signature sees them (``train``) and out-of-fold (``cv``, with the fold of
    the first repeat; scores are means over repeats).
    """

    def rows(
        part: str, data: SurvivalData, scores: Array, high: npt.NDArray[np.bool_], survival: Array
    ) -> pd.DataFrame:
        table = pd.DataFrame(
            {
                "case_id": data.ids,
                "part": part,
                "months": data.months,
                "event": data.event,
                "risk_score": scores,
                "group": np.where(high, *GROUPS[::-1]),
            }
        )
        for j, horizon in enumerate(horizons):
            table[f"survival_{horizon:g}"] = survival[:, j]
        return table

    tables = []
    for part, data in {"train": training, **{f"validation_{name}": data for name, data in validation.items()}}.items():
        scores = risk_scores(model, data)
        tables.append(rows(part, data, scores, high_risk(model, scores), predicted_survival(model, scores, horizons)))
    out_of_fold = rows("cv", training, pooled.scores.mean(axis=1), pooled.high, pooled.survival(horizons))
    out_of_fold["fold"] = pooled.strata[:, 0] + 1
    table = pd.concat([tables[0], out_of_fold, *tables[1:]], ignore_index=True)
    return table.astype({"fold": "Int64"})


def fold_table(training: SurvivalData, pooled: OutOfFold) -> pd.DataFrame:
    """Return one row an outer fold: sizes, C-index, cut-off, columns after each step, features."""
    rows: list[dict[str, object]] = []
    for result in pooled.folds:
        split, signature = result.split, result.signature
        test = training.take(split.test)
        try:
            c_index = stratified_concordance(test, result.scores[:, None], None).estimate
        except TooFewCases:
            c_index = np.nan  # no pair of this fold can be compared
        rows.append(
            {
                "repeat": split.repeat + 1,
                "fold": split.fold + 1,
                "train": len(split.train),
                "train_deaths": int(training.event[split.train].sum()),
                "test": len(split.test),
                "test_deaths": int(test.event.sum()),
                "c_index": c_index,
                "cutoff": signature.model.threshold,
                "cutoff_rule": signature.cutoff,
                "cutoff_p_corrected": np.nan if signature.p_value_corrected is None else signature.p_value_corrected,
                **{f"after_{step}": left for step, left in signature.selection.steps.items()},
                "filled_up": ";".join(signature.selection.filled_up),
                "features": ";".join(signature.model.columns),
            }
        )
    return pd.DataFrame(rows)


def feature_table(training: SurvivalData, signature: Signature, pooled: OutOfFold) -> pd.DataFrame:
    """Return one row a feature of the signature, the largest weight first; hazard ratios are per standard deviation."""
    model = signature.model
    position = {name: i for i, name in enumerate(training.columns)}
    z = standardise(model, training.values[:, [position[name] for name in model.columns]])
    alone = screen_univariable(z, training.months, training.event, names=model.columns)
    coefficients = cox_signature(model).coefficients
    table = pd.DataFrame(
        {
            "feature": model.columns,
            "coefficient": coefficients,
            "hazard_ratio": np.exp(coefficients),
            "univariable_hazard_ratio": alone["hazard_ratio"],
            "univariable_p": alone["p_value"],
            "share_of_folds": [np.mean([n in r.signature.model.columns for r in pooled.folds]) for n in model.columns],
        }
    )
    order = np.lexsort((table["feature"].to_numpy(dtype=str), -np.abs(coefficients)))
    return table.iloc[order].reset_index(drop=True)


def join_parts(parts: Mapping[str, SurvivalFigures], name: str) -> pd.DataFrame:
    """Return one table of all parts, with a column ``part``."""
    tables = []
    for part, figures in parts.items():
        table = figures.tables[name].copy()
        table.insert(0, "part", part)
        tables.append(table)
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def study_flow(
    training: SurvivalData,
    validation: Mapping[str, SurvivalData],
    signature: Signature,
    parts: Mapping[str, SurvivalFigures],
) -> dict[str, object]:
    """Return patients and features in and out, imputed values, and figures that a part does not define."""
    return training.flow | {
        "features_after_step": signature.selection.steps,
        "steps_filled_up": list(signature.selection.filled_up),
        "cutoff_rule": signature.cutoff,
        "values_imputed": {
            part: _imputed(signature.model, data)
            for part, data in {"train": training, **{f"validation_{n}": d for n, d in validation.items()}}.items()
        },
        "validation": {name: data.flow for name, data in validation.items()},
        "figures_left_out": {part: list(figures.left_out) for part, figures in parts.items() if figures.left_out},
    }


def _imputed(model: FittedModel, data: SurvivalData) -> int:
    position = {name: i for i, name in enumerate(data.columns)}
    return int(np.isnan(data.values[:, [position[name] for name in model.columns]]).sum())
