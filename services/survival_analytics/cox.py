"""Cox's proportional hazards model: fit, screen, check, bootstrap, in one namespace."""

from services.survival_analytics.cox_fit import (
    CoxBootstrap,
    bootstrap_cox,
    check_proportional_hazards,
    cox_residuals,
    fit_cox,
)
from services.survival_analytics.cox_model import CoxModel
from services.survival_analytics.cox_screen import ColumnScreen, CoxScreen, screen_columns, screen_covariates

__all__ = [
    "ColumnScreen",
    "CoxBootstrap",
    "CoxModel",
    "CoxScreen",
    "bootstrap_cox",
    "check_proportional_hazards",
    "cox_residuals",
    "fit_cox",
    "screen_columns",
    "screen_covariates",
]
