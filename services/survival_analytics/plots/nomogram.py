"""Nomograms, drawn as ``rms`` draws them: a ruler per covariate, the total, and a ruler per outcome."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services.survival_analytics.inputs import FloatArray
from services.survival_analytics.nomogram import Nomogram
from services.survival_analytics.plots.style import colour_of, house_style, new_figure
from services.survival_analytics.ticks import pretty_ticks

LEFT, RIGHT = 0.24, 0.985
NARROWEST_GAP = 0.028


def plot_nomogram(nomogram: Nomogram, *, title: str = "", labels: dict[str, str] | None = None) -> Figure:
    """Draw a nomogram.

    Parameters
    ----------
    nomogram
        As built.
    title
        Above the plot.
    labels
        Names to show instead of column names.
    """
    shown = labels or {}
    rows = 2 + len(nomogram.axes) + 1 + len(nomogram.outcomes)
    with house_style():
        figure = new_figure(width=7.6, height=0.9 + 0.46 * rows)
        axes = figure.subplots()
        axes.axis("off")
        axes.set_xlim(0, 1)
        axes.set_ylim(rows - 0.35, -0.8)
        if title:
            axes.set_title(title)
        points = pretty_ticks(0, 100, count=10)
        _ruler(axes, 0, "points", points, [f"{v:g}" for v in points], 100.0, colour="#000000")
        for row, axis in enumerate(nomogram.axes, start=1):
            names = [f"{v:g}" for v in axis.levels]
            _ruler(axes, row, shown.get(axis.covariate, axis.covariate), axis.points, names, 100.0, colour=colour_of(0))
        total = float(nomogram.total_points[-1])
        row = len(nomogram.axes) + 1
        names = [f"{v:g}" for v in nomogram.total_points]
        _ruler(axes, row, "total points", nomogram.total_points, names, total, colour="#000000")
        inside = (nomogram.linear_predictor_points >= 0) & (nomogram.linear_predictor_points <= total)
        _ruler(
            axes,
            row + 1,
            "linear predictor",
            nomogram.linear_predictor_points[inside],
            [f"{v:g}" for v in nomogram.linear_predictor[inside]],
            total,
            colour=colour_of(2),
        )
        for position, outcome in enumerate(nomogram.outcomes, start=row + 2):
            kept = (outcome.points >= 0) & (outcome.points <= total)
            names = [f"{v:g}" for v in outcome.probability[kept]]
            _ruler(axes, position, outcome.label, outcome.points[kept], names, total, colour=colour_of(1))
    return figure


def _ruler(
    axes: Axes, row: int, label: str, points: FloatArray, names: list[str], whole: float, *, colour: str
) -> None:
    """Draw one ruler; labels that would touch go below the line, and any still too close are left out."""
    axes.text(LEFT - 0.02, row, label, ha="right", va="center", fontsize=9)
    if points.size == 0:
        return
    x = LEFT + (RIGHT - LEFT) * points / whole
    axes.plot([x.min(), x.max()], [row, row], color=colour, linewidth=1.2)
    order = np.argsort(x)
    last = {"above": -1.0, "below": -1.0}
    for k in order:
        axes.plot([x[k], x[k]], [row, row - 0.13], color=colour, linewidth=1)
        room = NARROWEST_GAP * max(1.0, len(names[k]) / 3)
        if x[k] - last["above"] >= room:
            axes.text(x[k], row - 0.18, names[k], ha="center", va="bottom", fontsize=7)
            last["above"] = x[k]
        elif x[k] - last["below"] >= room:
            axes.plot([x[k], x[k]], [row, row + 0.13], color=colour, linewidth=1)
            axes.text(x[k], row + 0.18, names[k], ha="center", va="top", fontsize=7)
            last["below"] = x[k]
