"""Univariable Cox models of many covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from services.shared.errors import GliaflowError
from services.survival_analytics.cox_fit import fit_cox
from services.survival_analytics.cox_likelihood import (
    Ties,
)
from services.survival_analytics.inputs import (
    FloatArray,
    Notice,
    read_follow_up,
    require_column,
)


@dataclass(frozen=True, eq=False)
class CoxScreen:
    """Univariable Cox models of many covariates; NaN rows are explained in ``notices``."""

    covariates: tuple[str, ...]
    coefficients: FloatArray
    hazard_ratios: FloatArray
    lower: FloatArray
    upper: FloatArray
    p_values: FloatArray
    concordance: FloatArray
    notices: tuple[Notice, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate."""
        return pd.DataFrame(
            {
                "covariate": self.covariates,
                "coefficient": self.coefficients,
                "hazard_ratio": self.hazard_ratios,
                "lower": self.lower,
                "upper": self.upper,
                "p_value": self.p_values,
                "concordance": self.concordance,
            }
        )


def screen_covariates(
    frame: pd.DataFrame,
    time: str,
    *,
    event: str,
    covariates: Sequence[str],
    ties: Ties = "efron",
    level: float = 0.95,
) -> CoxScreen:
    """Fit a univariable Cox model per covariate.

    A covariate that cannot be fitted (constant, missing values) keeps its row, with NaN and a notice
    ``not_fitted``; the others go on.
    """
    read_follow_up(
        np.asarray(require_column(frame, time, step="screen_covariates")),
        np.asarray(require_column(frame, event, step="screen_covariates")),
        step="screen_covariates",
    )
    values = np.full((6, len(covariates)), np.nan)
    notices: list[Notice] = []
    for row, name in enumerate(covariates):
        require_column(frame, name, step="screen_covariates")
        try:
            model = fit_cox(frame, time, event=event, covariates=[name], ties=ties, level=level)
        except GliaflowError as error:
            notices.append(Notice("not_fitted", f"{name}: {error.detail}"))
            continue
        notices += [Notice(notice.name, f"{name}: {notice.detail}") for notice in model.notices]
        values[:, row] = [
            model.coefficients[0],
            model.hazard_ratios[0],
            model.lower[0],
            model.upper[0],
            model.p_values[0],
            model.concordance.estimate,
        ]
    return CoxScreen(
        tuple(covariates), values[0], values[1], values[2], values[3], values[4], values[5], tuple(notices)
    )
