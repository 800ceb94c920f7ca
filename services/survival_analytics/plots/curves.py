"""ROC, calibration, decision and impact curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.survival_analytics.calibration import BinaryCalibration, CalibrationCurve, CalibrationGroups
from services.survival_analytics.inputs import FloatArray
from services.survival_analytics.net_benefit import ClinicalImpact, DecisionCurves
from services.survival_analytics.plots.style import (
    GREY,
    LIGHT,
    colour_of,
    dash_of,
    house_style,
    label_axes,
    new_figure,
)
from services.survival_analytics.roc import Auc, RocCurve
from services.survival_analytics.survival_calibration import SurvivalCalibration, SurvivalCalibrationCurve
from services.survival_analytics.time_dependent_roc import TimeDependentAuc, TimeDependentRoc


def _square(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=LIGHT, linewidth=1, zorder=0)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")


def plot_roc(curves: Mapping[str, RocCurve], *, areas: Mapping[str, Auc] | None = None, title: str = "") -> Figure:
    """Draw ROC curves with their areas in the legend.

    Parameters
    ----------
    curves
        By label.
    areas
        With DeLong's limits, by the same labels; otherwise the plain area is shown.
    title
        Above the plot.
    """
    with house_style():
        figure = new_figure(width=4.3, height=4.3)
        axes = figure.subplots()
        for position, (label, curve) in enumerate(curves.items()):
            text = f"{curve.area:.3f}"
            if areas is not None:
                area = areas[label]
                text = f"{area.estimate:.3f} ({area.lower:.3f} to {area.upper:.3f})"
            axes.plot(
                1 - curve.specificity,
                curve.sensitivity,
                color=colour_of(position),
                linestyle=dash_of(position),
                label=f"{label}: {text}",
            )
        _square(axes)
        label_axes(axes, x="1 - specificity", y="sensitivity", title=title)
        axes.legend(loc="lower right", title="AUC (95 % CI)" if areas else "AUC", title_fontsize=8)
    return figure


def plot_time_dependent_roc(
    curves: Mapping[str, TimeDependentRoc], *, areas: Mapping[str, TimeDependentAuc] | None = None, title: str = ""
) -> Figure:
    """Draw ROC curves at times, with AUC and limits where ``areas`` (one time each) gives them."""
    with house_style():
        figure = new_figure(width=4.3, height=4.3)
        axes = figure.subplots()
        for position, (label, curve) in enumerate(curves.items()):
            text = f"{curve.area:.3f}"
            if areas is not None:
                area = areas[label]
                text = f"{area.estimate[0]:.3f} ({area.lower[0]:.3f} to {area.upper[0]:.3f})"
            axes.plot(
                curve.false_positive_rate,
                curve.sensitivity,
                color=colour_of(position),
                linestyle=dash_of(position),
                label=f"{label}: {text}",
            )
        _square(axes)
        label_axes(axes, x="1 - specificity", y="sensitivity", title=title)
        axes.legend(loc="lower right", title="AUC (95 % CI)" if areas else "AUC", title_fontsize=8)
    return figure


def plot_calibration(
    groups: CalibrationGroups,
    *,
    curve: CalibrationCurve | None = None,
    summary: BinaryCalibration | None = None,
    title: str = "",
) -> Figure:
    """Draw observed against predicted risk: groups as points, the smooth curve as a line, key figures as text."""
    with house_style():
        figure = new_figure(width=4.3, height=4.3)
        axes = figure.subplots()
        if curve is not None:
            axes.plot(curve.predicted, curve.observed, color=colour_of(0), label="smooth")
        axes.plot(groups.predicted, groups.observed, "o", color=colour_of(1), markersize=5, label="groups")
        _square(axes)
        label_axes(axes, x="predicted risk", y="observed share", title=title)
        if summary is not None:
            lines = [
                f"intercept {round(summary.calibration_in_the_large, 2) + 0.0:.2f}",
                f"slope {summary.slope:.2f}",
                f"Brier {summary.brier:.3f}",
                f"C {summary.c:.3f}",
            ]
            axes.text(0.03, 0.97, "\n".join(lines), transform=axes.transAxes, va="top", color=GREY, fontsize=8)
        axes.legend(loc="lower right")
    return figure


def plot_survival_calibration(
    calibrations: Mapping[str, SurvivalCalibration],
    *,
    curves: Mapping[str, SurvivalCalibrationCurve] | None = None,
    title: str = "",
) -> Figure:
    """Draw observed against predicted risk by a time, with limits of the Kaplan–Meier risk in each group."""
    with house_style():
        figure = new_figure(width=4.3, height=4.3)
        axes = figure.subplots()
        for position, (label, result) in enumerate(calibrations.items()):
            colour = colour_of(position)
            if curves is not None:
                smooth = curves[label]
                axes.plot(smooth.predicted, smooth.observed, color=colour, linestyle=dash_of(position), alpha=0.8)
            distance = np.vstack((result.observed - result.lower, result.upper - result.observed))
            axes.errorbar(
                result.predicted,
                result.observed,
                yerr=np.nan_to_num(distance),
                fmt="os^D"[position % 4],
                color=colour,
                markersize=4.5,
                linewidth=1,
                capsize=2,
                label=label,
            )
        _square(axes)
        label_axes(axes, x="predicted risk", y="observed risk (1 - Kaplan–Meier)", title=title)
        axes.legend(loc="upper left")
    return figure


def plot_decision_curves(curves: DecisionCurves, *, highest: float | None = None, title: str = "") -> Figure:
    """Draw net benefit over thresholds, beside treating everybody and nobody.

    Parameters
    ----------
    curves
        Of one or more models.
    highest
        Largest threshold to draw; all of them if not given.
    title
        Above the plot.
    """
    with house_style():
        figure = new_figure(width=5.0, height=3.8)
        axes = figure.subplots()
        position = 0
        top = curves.event_rate
        for curve in curves.curves:
            shown = curve.threshold <= (highest or 1.0)
            x, y = curve.threshold[shown], curve.net_benefit[shown]
            if curve.strategy == "all":
                axes.plot(x, y, color=GREY, linewidth=1, label="everybody")
            elif curve.strategy == "none":
                axes.plot(x, y, color="#000000", linewidth=1, label="nobody")
            else:
                axes.plot(x, y, color=colour_of(position), linestyle=dash_of(position), label=curve.strategy)
                position += 1
                top = max(top, float(np.nanmax(y)))
        axes.set_ylim(-0.12 * top, 1.08 * top)
        axes.set_xlim(0, highest or 1.0)
        label_axes(axes, x="threshold probability", y="net benefit", title=title)
        axes.legend(loc="upper right")
    return figure


def plot_clinical_impact(impact: ClinicalImpact, *, title: str = "") -> Figure:
    """Draw how many patients a threshold calls high risk, and how many of them have the event."""
    with house_style():
        figure = new_figure(width=5.0, height=3.8)
        axes = figure.subplots()
        series: list[tuple[str, FloatArray]] = [
            ("called high risk", impact.high_risk),
            ("of them with the event", impact.high_risk_with_event),
        ]
        for position, (label, values) in enumerate(series):
            axes.plot(impact.threshold, values, color=colour_of(position), linestyle=dash_of(position), label=label)
        axes.fill_between(impact.threshold, impact.high_risk_with_event, color=colour_of(1), alpha=0.12, linewidth=0)
        axes.set_ylim(0, impact.population * 1.02)
        axes.set_xlim(0, 1)
        label_axes(axes, x="threshold probability", y=f"patients per {impact.population:,}", title=title)
        axes.legend(loc="upper right")
    return figure
