"""Kaplan–Meier curves with a table of patients at risk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.survival_analytics.inputs import FloatArray
from services.survival_analytics.kaplan_meier import SurvivalCurve
from services.survival_analytics.log_rank import GroupComparison
from services.survival_analytics.plots.style import (
    GREY,
    colour_of,
    dash_of,
    format_p,
    house_style,
    label_axes,
    new_figure,
)
from services.survival_analytics.ticks import pretty_ticks


def plot_survival(
    curves: Mapping[str, SurvivalCurve],
    *,
    comparison: GroupComparison | None = None,
    time_unit: str = "months",
    title: str = "",
    limits: bool = True,
) -> Figure:
    """Draw survival curves with confidence bands, censoring marks and a table of patients at risk.

    Parameters
    ----------
    curves
        By group label.
    comparison
        Its p-value is written into the plot.
    time_unit
        For the axis label.
    title
        Above the plot.
    limits
        Draw the confidence bands.
    """
    with house_style():
        figure = new_figure(width=5.4, height=3.9 + 0.2 * len(curves))
        top, table = figure.subplots(2, 1, height_ratios=[6, 0.5 + 0.42 * len(curves)], sharex=True)
        longest = max(float(curve.time[-1]) for curve in curves.values())
        ticks = pretty_ticks(0, longest, count=6)
        ticks = ticks[ticks <= longest * 1.0001] if ticks.size > 3 else ticks
        for position, (label, curve) in enumerate(curves.items()):
            _draw_curve(top, curve, label, position, limits=limits)
        top.set_ylim(0, 1.02)
        top.set_xlim(-0.01 * longest, longest * 1.02)
        top.set_xticks(ticks)
        top.tick_params(labelbottom=True)
        label_axes(top, x=f"time ({time_unit})", y="survival", title=title)
        top.legend(loc="upper right", handlelength=2.6)
        if comparison is not None:
            name = "log-rank" if comparison.rho == 0 else f"G-rho ({comparison.rho:g})"
            top.text(0.02, 0.05, f"{name} {format_p(comparison.p_value)}", transform=top.transAxes, color=GREY)
        _draw_table(table, curves, ticks)
    return figure


def _draw_curve(axes: Axes, curve: SurvivalCurve, label: str, position: int, *, limits: bool) -> None:
    x = np.concatenate(([0.0], curve.time))
    y = np.concatenate(([1.0], curve.survival))
    colour = colour_of(position)
    if limits:
        lower, upper = np.concatenate(([1.0], curve.lower)), np.concatenate(([1.0], curve.upper))
        axes.fill_between(x, lower, upper, step="post", color=colour, alpha=0.15, linewidth=0)
    median = curve.median
    shown = "not reached" if np.isnan(median) else f"{median:.3g}"
    axes.step(x, y, where="post", color=colour, linestyle=dash_of(position), label=f"{label} (median {shown})")
    lost = curve.censored > 0
    axes.plot(curve.time[lost], curve.survival[lost], "|", color=colour, markersize=5, markeredgewidth=0.8)


def _draw_table(axes: Axes, curves: Mapping[str, SurvivalCurve], ticks: FloatArray) -> None:
    axes.set_ylim(len(curves) - 0.4, -0.9)
    for side in ("left", "bottom", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(bottom=False, left=False, labelbottom=False, pad=16)
    axes.set_yticks(range(len(curves)), list(curves))
    for position, (tick, curve) in enumerate(zip(axes.get_yticklabels(), curves.values(), strict=True)):
        tick.set_color(colour_of(position))
        for time, count in zip(ticks, curve.at(ticks).at_risk, strict=True):
            axes.text(time, position, f"{count:.0f}", ha="center", va="center", fontsize=8)
    axes.text(0, 1.0, "patients at risk", transform=axes.transAxes, fontsize=8, color=GREY, va="top")
