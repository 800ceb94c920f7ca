"""Figures of survival analysis and model evaluation, in one house style."""

from services.survival_analytics.plots.curves import (
    plot_calibration,
    plot_clinical_impact,
    plot_decision_curves,
    plot_roc,
    plot_survival_calibration,
    plot_time_dependent_roc,
)
from services.survival_analytics.plots.nomogram import plot_nomogram
from services.survival_analytics.plots.style import render_png, render_svg, save_figure
from services.survival_analytics.plots.summaries import plot_auc_matrix, plot_forest, plot_scores
from services.survival_analytics.plots.survival import plot_survival

__all__ = [
    "plot_auc_matrix",
    "plot_calibration",
    "plot_clinical_impact",
    "plot_decision_curves",
    "plot_forest",
    "plot_nomogram",
    "plot_roc",
    "plot_scores",
    "plot_survival",
    "plot_survival_calibration",
    "plot_time_dependent_roc",
    "render_png",
    "render_svg",
    "save_figure",
]
