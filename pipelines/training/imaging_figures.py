"""How good what networks say of unseen patients is."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.modelling.performance import describe_predictions
from pipelines.modelling.validation import rank_auc
from services.survival_analytics.concordance import concordance


def imaging_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """Return the figures of out-of-fold predictions: pooled, with 95 % limits, and the mean of the folds.

    Classes as in :func:`pipelines.modelling.performance.describe_predictions`; ``fold_auc`` is the mean of the folds'
    AUC. Risks: Harrell's C with pairs of one fold only, since folds have different networks.
    """
    found: dict[str, float] = {}
    if "probability" in predictions:
        known = predictions[predictions["outcome"] >= 0]
        y, chance = known["outcome"].to_numpy(dtype=np.int64), known["probability"].to_numpy()
        found |= describe_predictions(y, chance, chance - known["threshold"].to_numpy())
        areas = [
            rank_auc(part["outcome"].to_numpy(dtype=np.int64), part["probability"].to_numpy())
            for _, part in known.groupby("fold")
            if part["outcome"].nunique() == 2
        ]
        found["fold_auc"] = float(np.mean(areas)) if areas else float("nan")
    if "risk_score" in predictions:
        c = concordance(
            predictions["months"],
            predictions["event"],
            score=predictions["risk_score"],
            strata=predictions["fold"],
        )
        found |= {"c_index": c.estimate, "c_index_low": c.lower, "c_index_high": c.upper}
        found |= {"patients": len(predictions), "deaths": int(predictions["event"].sum())}
    return {name: round(float(value), 10) for name, value in found.items() if value == value}
