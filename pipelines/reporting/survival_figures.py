"""Figures of a survival study, drawn from its tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.reporting.picture import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    Picture,
    draw,
    in_house_style,
    new_figure,
)
from pipelines.reporting.published import PublishedFigure
from services.model_serving.package import Estimate
from services.survival_analytics.kaplan_meier import estimate_survival
from services.survival_analytics.plots import plot_survival

FloatArray = npt.NDArray[np.float64]
SERIES = (
    (BLUE, "o", "-"),
    (GREEN, "s", "--"),
    (ORANGE, "D", "-."),
    (PURPLE, "^", ":"),
    (INK, "v", "-"),
    (MUTED, "P", "--"),
)
_PANEL_COLUMNS = 3
GROUPS = ("low", "high")


def part_name(part: str) -> str:
    """Return what a group of patients is called on a page."""
    fixed = {"train": "training, apparent", "cv": "out of fold", "permuted": "permuted follow-up"}
    return fixed.get(part, part.replace("validation_", "validation ", 1).replace("_", " "))


@in_house_style
def draw_survival(name: str, part: str, rows: pd.DataFrame, *, note: str) -> Picture:
    """Draw Kaplan–Meier curves of the risk groups with patients at risk.

    Parameters
    ----------
    rows
        One row a patient: ``months``, ``event``, ``group``.
    note
        What the comparison found, for the caption.
    """
    groups = [group for group in GROUPS if (rows["group"] == group).any()]
    curves = {
        f"{group} risk": estimate_survival(
            rows.loc[rows["group"] == group, "months"], rows.loc[rows["group"] == group, "event"]
        )
        for group in groups
    }
    figure = plot_survival(curves, title=f"Survival: {part_name(part)}")
    shares = "; ".join(f"{label} {curve.n} patients, {curve.n_events} deaths" for label, curve in curves.items())
    return draw(
        figure,
        name=f"{name}-survival-{part}",
        alt=f"Kaplan–Meier curves, {part_name(part)}: {shares}",
        caption=f"Kaplan–Meier curves with 95 % limits, {part_name(part)}: {shares}. {note}",
    )


@in_house_style
def draw_auc_by_time(
    name: str,
    series: Mapping[str, Mapping[float, Estimate]],
    published: Sequence[tuple[float, PublishedFigure]],
) -> Picture:
    """Draw the AUC by months for each group of patients, with limits, and the paper's as stars."""
    figure, axes = new_figure(4.8, 3.9)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle="--")
    times = sorted({time for values in series.values() for time in values})
    step = 0.07 * (min(np.diff(times)) if len(times) > 1 else 12.0)
    lowest = 0.45
    for position, (part, values) in enumerate(series.items()):
        colour, marker, dash = SERIES[position % len(SERIES)]
        known = sorted(values)
        x = np.array(known) + step * (position - (len(series) - 1) / 2)
        y = np.array([values[time].value for time in known])
        low = np.array([_limit(values[time].low, values[time].value) for time in known])
        high = np.array([_limit(values[time].high, values[time].value) for time in known])
        lowest = min(lowest, float(low.min()))
        axes.errorbar(
            x,
            y,
            yerr=np.clip(np.vstack([y - low, high - y]), 0, None),
            color=colour,
            marker=marker,
            markersize=5,
            linestyle=dash,
            linewidth=1.2,
            capsize=2,
            label=part_name(part),
        )
    for where in dict.fromkeys(figure_.where for _, figure_ in published):
        stars = [(time, figure_.value) for time, figure_ in published if figure_.where == where]
        axes.plot(
            *np.array(stars).T,
            "*" if "training" in where else "X",
            color=RED,
            markersize=9,
            markeredgewidth=0,
            label=textwrap.shorten(f"paper, {where}", 36, placeholder="…"),
        )
    axes.set_xticks(times, [f"{time:g}" for time in times])
    axes.set(xlabel="Months", ylabel="AUC (95 % interval)", ylim=(max(0.0, lowest - 0.03), 1.03))
    axes.set_title("Time-dependent AUC")
    figure.legend(loc="outside lower center", ncols=2)
    told = "; ".join(
        f"{part_name(part)} " + ", ".join(f"{time:g} months {values[time].value:.3f}" for time in sorted(values))
        for part, values in series.items()
    )
    return draw(
        figure,
        name=f"{name}-auc-by-time",
        alt=f"Time-dependent AUC: {told}",
        caption="Cumulative-dynamic AUC (inverse probability of censoring weights) with 95 % intervals; beside each "
        "other for legibility. Dashed: chance. Red: the paper's figures, of other patients.",
    )


def _limit(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not np.isfinite(value) else value


@in_house_style
def draw_risk_scores(name: str, part: str, rows: pd.DataFrame, *, cutoff: float) -> Picture:
    """Draw patients by rising risk score: the score with the cut-off, and follow-up with its end."""
    rows = rows.sort_values(["risk_score", "months"], kind="stable")
    rank = np.arange(1, len(rows) + 1)
    score, months = rows["risk_score"].to_numpy(np.float64), rows["months"].to_numpy(np.float64)
    high, died = (rows["group"] == "high").to_numpy(), (rows["event"] == 1).to_numpy()
    figure, _ = new_figure(4.8, 4.2)
    figure.clear()
    top, bottom = figure.subplots(2, 1, sharex=True)
    for chosen, colour, marker, label in ((~high, BLUE, "o", "low risk"), (high, ORANGE, "s", "high risk")):
        top.plot(rank[chosen], score[chosen], marker, color=colour, markersize=3, markeredgewidth=0, label=label)
    top.axhline(cutoff, color=INK, linewidth=1, linestyle="--", label=f"cut-off {cutoff:.2f}")
    top.set_ylabel("Risk score")
    top.set_title(f"Risk scores: {part_name(part)}")
    top.legend(loc="upper left")
    for chosen, colour, marker, label in ((~died, BLUE, "o", "censored"), (died, RED, "x", "died")):
        bottom.plot(rank[chosen], months[chosen], marker, color=colour, markersize=3.5, label=label)
    bottom.set(xlabel="Patients by rising risk score", ylabel="Follow-up, months")
    bottom.set_ylim(bottom=0)
    bottom.legend(loc="upper right")
    return draw(
        figure,
        name=f"{name}-scores",
        alt=f"Risk scores of {len(rows)} patients from {score.min():.2f} to {score.max():.2f}, cut-off {cutoff:.2f}; "
        f"{int(high.sum())} of high risk; {int(died.sum())} died",
        caption=f"Risk score (log hazard against the training mean) and follow-up of {len(rows)} patients, "
        f"{part_name(part)}. Dashed: the cut-off; {int(high.sum())} patients lie above.",
    )


@in_house_style
def draw_survival_calibration(
    name: str, table: pd.DataFrame, *, key: str = "calibration", what: str = "the signature"
) -> Picture:
    """Draw observed against predicted risk of death, one panel a group of patients.

    Parameters
    ----------
    table
        ``part``, ``months``, ``predicted``, ``observed``, ``low``, ``high``: of groups of patients.
    key
        Name of the figure.
    what
        Whose predictions they are.
    """
    table = table[table["months"].isin(_chosen_months(table))]
    parts = list(dict.fromkeys(table["part"]))
    figure, panels = _panels(len(parts), width=2.5, height=2.6)
    horizons = sorted(table["months"].unique())
    for axes, part in zip(panels, parts, strict=True):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for position, horizon in enumerate(horizons):
            rows = table[(table["part"] == part) & (table["months"] == horizon)].sort_values("predicted")
            colour, marker, dash = SERIES[position % len(SERIES)]
            observed = rows["observed"].to_numpy(np.float64)
            low, high = (rows[end].fillna(rows["observed"]).to_numpy(np.float64) for end in ("low", "high"))
            axes.errorbar(
                rows["predicted"],
                observed,
                yerr=np.clip(np.vstack([observed - low, high - observed]), 0, None),
                color=colour,
                marker=marker,
                markersize=4,
                linestyle=dash,
                linewidth=1.1,
                capsize=2,
                label=f"{horizon:g} months",
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_title(textwrap.fill(part_name(part), 26))
    _label_panels(figure, panels, x="Predicted risk of death", y="Observed risk")
    return draw(
        figure,
        name=f"{name}-{key}",
        alt=f"Calibration of {what}, risk of death by {', '.join(f'{h:g}' for h in horizons)} months: "
        f"{', '.join(map(part_name, parts))}",
        caption=f"Calibration of {what}: risk of death predicted for groups of patients of similar risk, against one "
        "minus Kaplan–Meier survival of the same patients with 95 % limits. Dashed: perfect.",
    )


@in_house_style
def draw_decision_curves(name: str, table: pd.DataFrame) -> Picture:
    """Draw net benefit over thresholds, one panel a group of patients and time.

    Parameters
    ----------
    table
        ``strategy`` (``all``, ``none``, or a model), ``threshold``, ``net_benefit``; ``part`` and ``months`` where
        there are several.
    """
    if "part" in table and (table["part"] != "train").any():
        table = table[table["part"] != "train"]  # apparent curves flatter
    if "months" in table:
        table = table[table["months"].isin(_chosen_months(table))]
    by = [column for column in ("part", "months") if column in table]
    groups = list(table.groupby(by, sort=False)) if by else [((), table)]
    strategies = [name_ for name_ in dict.fromkeys(table["strategy"].astype(str)) if name_ not in ("all", "none")]
    figure, panels = _panels(len(groups), width=2.5, height=2.4)
    titles = []
    for axes, (key, rows) in zip(panels, groups, strict=True):
        named = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        title = part_name(str(named.get("part", "")))
        if "months" in named:
            title = f"{title}, {named['months']:g} months".removeprefix(", ")
        titles.append(title)
        models = rows[~rows["strategy"].isin(["all", "none"])]
        top = max(float(models["net_benefit"].max()), float(rows["net_benefit"].max()), 0.02)
        for strategy, style in (("all", (MUTED, "-")), ("none", (INK, "-"))):
            chosen = rows[rows["strategy"] == strategy]
            label = "treat everybody" if strategy == "all" else "treat nobody"
            axes.plot(chosen["threshold"], chosen["net_benefit"], color=style[0], linewidth=1, label=label)
        for position, strategy in enumerate(strategies):
            chosen = rows[rows["strategy"].astype(str) == strategy]
            colour, _, dash = SERIES[position % len(SERIES)]
            axes.plot(
                chosen["threshold"],
                chosen["net_benefit"],
                color=colour,
                linestyle=dash,
                linewidth=1.3,
                label=strategy.replace("_", " "),
            )
        axes.set(xlim=(0, 1), ylim=(-0.12 * top, 1.08 * top))
        axes.set_title(textwrap.fill(title, 26))
    _label_panels(figure, panels, x="Threshold probability", y="Net benefit")
    return draw(
        figure,
        name=f"{name}-decision-curves",
        alt=f"Decision curves of {', '.join(strategies)} beside treating everybody and nobody: {'; '.join(titles)}",
        caption="Decision curves: net benefit of treating the patients whose predicted risk exceeds the threshold, "
        "beside treating everybody and nobody.",
    )


def _chosen_months(table: pd.DataFrame) -> list[float]:
    """Return at most three times of a table: whole years first."""
    months = sorted(table["months"].unique().tolist())
    return sorted(sorted(months, key=lambda month: (month % 12 != 0, month))[:3])


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = 2 if count == 4 else min(_PANEL_COLUMNS, count)
    rows = -(-count // columns)
    figure, _ = new_figure(max(4.2, width * columns), height * rows + 0.5)
    figure.clear()
    found = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
    for axes in found[count:]:
        axes.set_axis_off()
    return figure, found[:count]


def _label_panels(figure: Figure, panels: Sequence[Axes], *, x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=min(4, len(handles)))
