"""Forest plots, the matrix of AUC comparisons, and distributions of scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from services.shared.errors import InvalidValue
from services.survival_analytics.cox_model import CoxModel
from services.survival_analytics.cox_screen import CoxScreen
from services.survival_analytics.inputs import FloatArray
from services.survival_analytics.logistic import LogisticModel
from services.survival_analytics.plots.style import (
    GREY,
    LIGHT,
    colour_of,
    dash_of,
    format_p,
    house_style,
    label_axes,
    new_figure,
)
from services.survival_analytics.roc import AucMatrix


def plot_forest(model: CoxModel | CoxScreen | LogisticModel, *, title: str = "") -> Figure:
    """Draw hazard or odds ratios with their limits on a log axis, and the numbers beside them."""
    if isinstance(model, LogisticModel):
        names, kind = model.covariates, "odds ratio"
        ratio, low, high = model.odds_ratios[1:], model.wald_lower[1:], model.wald_upper[1:]
        p = model.p_values[1:]
    else:
        names, kind = model.covariates, "hazard ratio"
        ratio, low, high, p = model.hazard_ratios, model.lower, model.upper, model.p_values
    shown = np.isfinite(ratio) & np.isfinite(low) & np.isfinite(high) & (low > 1e-6) & (high < 1e6)
    if not shown.any():
        raise InvalidValue("No ratio has finite limits to draw.", step="plot_forest", got=", ".join(names))
    with house_style():
        figure = new_figure(width=6.4, height=1.3 + 0.34 * len(names))
        axes, text = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True)
        rows = np.arange(len(names))
        axes.axvline(1.0, color=LIGHT, linewidth=1, zorder=0)
        axes.hlines(rows[shown], low[shown], high[shown], color=colour_of(0), linewidth=1.6)
        axes.plot(ratio[shown], rows[shown], "s", color=colour_of(0), markersize=5)
        axes.set_xscale("log")
        ticks = _ratio_ticks(float(low[shown].min()), float(high[shown].max()))
        axes.set_xlim(min(ticks[0], float(low[shown].min()) / 1.1), max(ticks[-1], float(high[shown].max()) * 1.1))
        axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_yticks(rows, names)
        axes.set_ylim(len(names) - 0.5, -0.9)
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False)
        label_axes(axes, x=f"{kind} (95 % CI)", y="", title=title)
        text.axis("off")
        for row in rows:
            line = "not estimable"
            if shown[row]:
                line = f"{ratio[row]:.2f} ({low[row]:.2f} to {high[row]:.2f})   {format_p(float(p[row]))}"
            text.text(0, row, line, va="center", fontsize=8)
    return figure


def _ratio_ticks(low: float, high: float) -> FloatArray:
    steps = np.array([m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)])
    below, above = steps[steps <= low].max(initial=steps[0]), steps[steps >= high].min(initial=steps[-1])
    ticks = steps[(steps >= min(below, 1.0)) & (steps <= max(above, 1.0))]
    while ticks.size > 7:
        kept = ticks[::2]
        ticks = kept if 1.0 in kept else ticks[1::2]
    return np.asarray(ticks)


def plot_auc_matrix(matrix: AucMatrix, *, title: str = "") -> Figure:
    """Draw p-values of all pairwise DeLong tests, with each AUC on the diagonal."""
    s = len(matrix.names)
    with house_style():
        figure = new_figure(width=2.6 + 0.62 * s, height=2.0 + 0.56 * s)
        axes = figure.subplots()
        palette = LinearSegmentedColormap.from_list("p", ["#0072B2", "#CFE3EF", "#F7F7F7"])
        shade = np.log10(np.clip(matrix.p_values, 1e-3, 1.0))
        np.fill_diagonal(shade, np.nan)
        image = axes.imshow(shade, cmap=palette, vmin=-3, vmax=0)
        for i in range(s):
            for j in range(s):
                p = matrix.p_values[i, j]
                label = f"{matrix.areas[i]:.3f}" if i == j else ("<0.001" if p < 0.001 else f"{p:.3f}")
                dark = i != j and shade[i, j] < -2
                axes.text(
                    j,
                    i,
                    label,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    weight="bold" if i == j else "normal",
                    color="white" if dark else "black",
                )
        axes.set_xticks(range(s), matrix.names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(s), matrix.names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(title or "DeLong p-values (diagonal: AUC)")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[-3, -2, -1, 0])
        bar.ax.set_yticklabels(["≤ 0.001", "0.01", "0.1", "1"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=7.5)
    return figure


def plot_scores(
    groups: Mapping[str, ArrayLike], *, cut: float | None = None, label: str = "score", title: str = ""
) -> Figure:
    """Draw the distribution of a score in each group, with a cut-point if there is one."""
    values = {name: np.asarray(v, dtype=np.float64) for name, v in groups.items()}
    pooled = np.concatenate(list(values.values()))
    if pooled.size == 0 or not np.isfinite(pooled).all():
        raise InvalidValue("Scores must be finite numbers.", step="plot_scores", field=label, got=pooled.size)
    edges = np.histogram_bin_edges(pooled, bins=min(30, max(8, int(np.sqrt(pooled.size))))).tolist()
    with house_style():
        figure = new_figure(width=5.0, height=3.4)
        axes = figure.subplots()
        for position, (name, v) in enumerate(values.items()):
            colour = colour_of(position)
            axes.hist(v, bins=edges, density=True, color=colour, alpha=0.25, linewidth=0)
            axes.hist(
                v,
                bins=edges,
                density=True,
                histtype="step",
                color=colour,
                linestyle=dash_of(position),
                linewidth=1.4,
                label=f"{name} (n={v.size})",
            )
        if cut is not None:
            axes.axvline(cut, color=GREY, linewidth=1)
            axes.text(
                cut, 0.98, f" cut {cut:.3g}", transform=axes.get_xaxis_transform(), va="top", color=GREY, fontsize=8
            )
        axes.set_ylim(0, axes.get_ylim()[1] * 1.18)
        label_axes(axes, x=label, y="density", title=title)
        axes.legend(loc="upper left")
    return figure
