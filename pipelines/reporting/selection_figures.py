"""Figures of how features were found: volcano, counts of steps, coefficient path, enrichment, heat maps, ratios."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pipelines.reporting.picture import (
    BLUE,
    GREEN,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    Picture,
    abbreviate,
    draw,
    in_house_style,
    new_figure,
)

FloatArray = npt.NDArray[np.float64]
SHOWN_GENES = 10
SHOWN_SETS = 16
SHOWN_RATIOS = 30
SHOWN_PATHS = 10
_DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#0072b2", "#f7f7f7", "#d55e00"])
_STRENGTH = LinearSegmentedColormap.from_list("strength", ["#9cc7e0", "#0072b2", "#003a5c"])


@in_house_style
def draw_volcano(name: str, table: pd.DataFrame) -> Picture:
    """Draw significance over log2 fold change; the strongest chosen genes are named.

    Parameters
    ----------
    table
        One row a gene: ``gene``, ``log_fold_change``, ``p``, and whether it passes (``differential`` or ``chosen``).
    """
    table = table.dropna(subset=["log_fold_change", "p"])
    change = table["log_fold_change"].to_numpy(np.float64)
    strength = -np.log10(np.clip(table["p"].to_numpy(np.float64), 1e-300, 1.0))
    flag = next((column for column in ("differential", "chosen") if column in table), None)
    chosen = table[flag].to_numpy(dtype=bool) if flag else np.zeros(len(table), dtype=bool)
    figure, axes = new_figure(4.4, 3.9)
    up, down = chosen & (change > 0), chosen & (change < 0)
    for members, colour, marker, label in (
        (~chosen, MUTED, ".", "not chosen"),
        (up, RED, "^", "up"),
        (down, BLUE, "v", "down"),
    ):
        axes.plot(
            change[members],
            strength[members],
            marker,
            color=colour,
            markersize=4,
            alpha=0.7,
            markeredgewidth=0,
            label=f"{label} ({int(members.sum())})",
            rasterized=len(table) > 3000,
        )
    spread = max(float(np.abs(change).max(initial=0.5)) * 1.4, 0.1)
    axes.set(xlim=(-spread, spread), ylim=(-0.02 * strength.max(initial=1), 1.14 * strength.max(initial=1)))
    _name_genes(axes, table["gene"].astype(str).tolist(), change, strength, chosen)
    contrast = str(table["contrast"].iloc[0]) if "contrast" in table and len(table) else ""
    axes.set(xlabel="log2 fold change", ylabel="−log10 p")
    axes.set_title("Differential expression")
    figure.legend(loc="outside lower center", ncols=3)
    return draw(
        figure,
        name=f"{name}-volcano",
        alt=f"Volcano plot of {len(table)} genes: {int(up.sum())} up, {int(down.sum())} down",
        caption=f"Volcano plot of {len(table)} genes{f', {contrast}' if contrast else ''}: {int(up.sum())} up, "
        f"{int(down.sum())} down at the study's thresholds.",
    )


def _name_genes(
    axes: Axes, genes: Sequence[str], change: FloatArray, strength: FloatArray, chosen: npt.NDArray[np.bool_]
) -> None:
    """Name the strongest chosen genes of each side, keeping labels apart."""
    height = strength.max(initial=1) * 0.055
    for side in (change > 0, change < 0):
        last = np.inf
        for index in sorted(np.flatnonzero(chosen & side), key=lambda i: -strength[i])[: SHOWN_GENES // 2]:
            y = min(strength[index], last - height)
            last = y
            right = change[index] > 0
            axes.annotate(
                genes[int(index)],
                (change[index], strength[index]),
                xytext=(change[index] + (0.03 if right else -0.03) * np.ptp(axes.get_xlim()), y),
                fontsize=7,
                ha="left" if right else "right",
                va="center",
                arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
            )


@in_house_style
def draw_set_sizes(name: str, table: pd.DataFrame) -> Picture:
    """Draw how many features each step finds and how many two of them share: the counts of a Venn diagram.

    Parameters
    ----------
    table
        ``set`` and ``genes`` (how many), from the largest to the last step.
    """
    labels = [str(label).replace("_", " ") for label in table["set"]]
    counts = table["genes"].to_numpy(np.int64)
    figure, axes = new_figure(4.4, 0.9 + 0.34 * len(labels))
    rows = np.arange(len(labels))
    axes.barh(rows, counts, color=[ORANGE if "intersection" in label else BLUE for label in labels], height=0.62)
    for row, count in enumerate(counts):
        axes.annotate(
            f"{count}", (count, row), xytext=(4, 0), textcoords="offset points", va="center_baseline", fontsize=8
        )
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set(xlabel="Features left", xlim=(0, max(1, counts.max(initial=1)) * 1.15))
    axes.grid(visible=False, axis="y")
    axes.set_title("From candidates to signature")
    told = "; ".join(f"{label} {count}" for label, count in zip(labels, counts, strict=True))
    return draw(
        figure,
        name=f"{name}-sets",
        alt=f"Features by step: {told}",
        caption=f"Features that each step finds or leaves: {told}.",
    )


@in_house_style
def draw_path(name: str, table: pd.DataFrame) -> Picture:
    """Draw coefficients over the penalty, with the penalty that cross-validation chose.

    Parameters
    ----------
    table
        ``lambda``, ``chosen``, and one column ``coefficient_<feature>`` each.
    """
    penalty = np.log10(table["lambda"].to_numpy(np.float64))
    columns = [str(column) for column in table if str(column).startswith("coefficient_")]
    weights = table[columns].to_numpy(np.float64)
    chosen = int(np.argmax(table["chosen"].to_numpy(dtype=bool))) if "chosen" in table else len(table) - 1
    kept = np.flatnonzero(weights[chosen])
    ranked = sorted(range(len(columns)), key=lambda j: -float(np.abs(weights[chosen, j])))
    palette = (BLUE, RED, GREEN, PURPLE, ORANGE, INK)
    figure, axes = new_figure(4.8, 4.2)
    for position, j in enumerate(ranked):
        shown = position < SHOWN_PATHS and weights[chosen, j] != 0
        axes.plot(
            penalty,
            weights[:, j],
            color=palette[position % len(palette)] if shown else MUTED,
            linewidth=1.4 if shown else 0.6,
            linestyle=("-", "--", ":")[position // len(palette) % 3] if shown else "-",
            alpha=1.0 if shown else 0.5,
            label=abbreviate(columns[j].removeprefix("coefficient_"), 40) if shown else None,
        )
    axes.axvline(penalty[chosen], color=INK, linewidth=1, linestyle="--")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set(xlabel="log10 penalty", ylabel="Coefficient per standard deviation")
    axes.invert_xaxis()
    axes.set_title("Coefficient path")
    if len(kept):
        figure.legend(loc="outside lower center", ncols=3 if len(columns[0]) < 28 else 1, fontsize=7)
    return draw(
        figure,
        name=f"{name}-path",
        alt=f"Paths of {len(columns)} coefficients over {len(table)} penalties; {len(kept)} are not zero where chosen",
        caption=f"Coefficients over the penalty, which falls to the right. Dashed: chosen by cross-validation in the "
        f"training cohort, where {len(kept)} of {len(columns)} are not zero; the {min(SHOWN_PATHS, len(kept))} largest "
        "are named.",
    )


@in_house_style
def draw_enrichment(name: str, table: pd.DataFrame) -> Picture:
    """Draw the most over-represented gene sets: fold over chance, size of the overlap, false discovery rate."""
    table = table.dropna(subset=["fold", "fdr"]).sort_values(["fdr", "fold"], ascending=[True, False], kind="stable")
    tested, significant = len(table), int((table["fdr"] < 0.05).sum())
    table = table.drop_duplicates(subset=[c for c in ("collection", "gene_set") if c in table]).head(SHOWN_SETS)
    strength = -np.log10(np.clip(table["fdr"].to_numpy(np.float64), 1e-30, 1.0))
    overlap = table["overlap"].to_numpy(np.float64)
    figure, axes = new_figure(6.4, 1.5 + 0.3 * len(table))
    dots = axes.scatter(
        table["fold"],
        np.arange(len(table)),
        s=24 + 130 * overlap / overlap.max(initial=1),
        c=strength,
        cmap=_STRENGTH,
        norm=Normalize(0, max(2.0, float(strength.max(initial=1)))),
        edgecolors=INK,
        linewidths=0.4,
    )
    axes.set_yticks(range(len(table)), [_set_label(row) for row in table.to_dict("records")], fontsize=7.5)
    axes.set_ylim(len(table) - 0.3, -0.7)
    axes.set_xlim(left=0)
    axes.margins(x=0.1)
    axes.set_xlabel("Fold over chance")
    axes.set_title("Over-represented gene sets")
    bar = figure.colorbar(dots, ax=axes, shrink=0.7, aspect=22)
    bar.set_label("−log10 false discovery rate", fontsize=8)
    bar.outline.set_visible(False)
    told = "; ".join(
        f"{row['gene_set']} {row['fold']:.1f}-fold, FDR {row['fdr']:.2g}" for row in table.head(5).to_dict("records")
    )
    return draw(
        figure,
        name=f"{name}-enrichment",
        alt=f"Over-representation: {told}",
        caption=f"Gene sets by false discovery rate: the first {len(table)} of {tested} with an overlap, {significant} "
        "below 0.05. Area: genes in common.",
    )


def _set_label(row: Mapping[Hashable, object]) -> str:
    text = str(row["gene_set"]).replace("_", " ").strip()
    words = text if not text.isupper() else text.capitalize()
    return textwrap.shorten(words, 46, placeholder="…") + f" ({row['overlap']:g})"


@in_house_style
def draw_heat_map(name: str, table: pd.DataFrame) -> Picture:
    """Draw z-scores of the signature's features by patient, from the lowest risk score to the highest.

    Parameters
    ----------
    table
        One row a patient: ``case_id``, ``risk_score``, ``group``, and one column a feature.
    """
    table = table.sort_values("risk_score", kind="stable")
    features = [str(column) for column in table if column not in ("case_id", "risk_score", "group")]
    values = table[features].to_numpy(np.float64)
    order = np.argsort([-_slope(values[:, j]) for j in range(len(features))], kind="stable")
    high = (table["group"] == "high").to_numpy()
    figure, axes = new_figure(6.4, 1.2 + 0.19 * len(features))
    axes.set_axis_off()
    strip, body = figure.subplots(2, 1, height_ratios=[1, max(4, len(features))], sharex=True)
    strip.imshow(high[None, :], aspect="auto", cmap=LinearSegmentedColormap.from_list("groups", [BLUE, RED]))
    strip.set_yticks([0], ["risk group"])
    image = body.imshow(np.clip(values[:, order].T, -2.5, 2.5), aspect="auto", cmap=_DIVERGING, vmin=-2.5, vmax=2.5)
    body.set_yticks(range(len(features)), [features[j] for j in order], fontsize=7)
    body.set_xlabel(f"{len(table)} patients, from the lowest risk score to the highest")
    for panel in (strip, body):
        panel.grid(visible=False)
        panel.set_xticks([])
        panel.tick_params(length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(image, ax=body, shrink=0.8, aspect=22)
    bar.set_label("z-score", fontsize=8)
    bar.outline.set_visible(False)
    strip.set_title("The signature's features")
    return draw(
        figure,
        name=f"{name}-heat-map",
        alt=f"Heat map of {len(features)} features in {len(table)} patients by rising risk score; {int(high.sum())} of "
        "high risk",
        caption="z-scores of the signature's features in the training cohort. Strip: low risk blue, high risk red; "
        "values beyond 2.5 standard deviations are drawn as 2.5.",
    )


def _slope(values: FloatArray) -> float:
    rank = np.arange(values.size) - (values.size - 1) / 2
    return float(np.nansum(rank * np.nan_to_num(values)))


@in_house_style
def draw_correlation_matrix(name: str, table: pd.DataFrame) -> Picture:
    """Draw a square table of correlations; its first column names the rows."""
    labels = table.iloc[:, 0].astype(str).tolist()
    values = table.iloc[:, 1:].to_numpy(np.float64)
    size = min(6.6, 2.6 + 0.2 * len(labels))
    figure, axes = new_figure(size + 0.8, size)
    image = axes.imshow(values, cmap=_DIVERGING, vmin=-1, vmax=1)
    short = [abbreviate(label.replace("_", " "), 34) for label in labels]
    axes.set_yticks(range(len(short)), short, fontsize=6.5)
    axes.set_xticks(range(len(short)), [str(i + 1) for i in range(len(short))], fontsize=6.5)
    axes.set_yticklabels([f"{label}  {i + 1}" for i, label in enumerate(short)])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("Correlation", fontsize=8)
    bar.outline.set_visible(False)
    axes.set_title("Correlation of the features")
    off = np.abs(values - np.diag(np.diag(values)))
    return draw(
        figure,
        name=f"{name}-correlation",
        alt=f"Correlation of {len(labels)} features, at most {off.max(initial=0):.2f} between two",
        caption=f"Correlation of the final model's {len(labels)} features: at most {off.max(initial=0):.2f} in size "
        "between two of them.",
    )


def ratio_ticks(low: float, high: float) -> list[float]:
    """Return round ratios of 1, 2 and 5 times powers of ten that lie within limits, 1 always among them."""
    steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
    found = [step for step in steps if low <= step <= high or step == 1.0]
    if len(found) < 3:
        found = sorted({*found, *(step for step in (0.7, 1.0, 1.5) if low <= step <= high)})
    return found if len(found) <= 8 else [step for step in found if np.isclose(np.log10(step) % 1, 0)]


@in_house_style
def draw_ratios(name: str, table: pd.DataFrame, *, label: str, title: str, key: str) -> Picture:
    """Draw hazard or odds ratios with limits on a logarithmic axis, the smallest P first.

    Parameters
    ----------
    table
        A first column with names, and ``hazard_ratio`` or ``odds_ratio``, ``low``, ``high``, ``p_value``.
    """
    column = "hazard_ratio" if "hazard_ratio" in table else "odds_ratio"
    usable = table[column].between(1e-4, 1e4) & table["low"].gt(1e-6) & table["high"].lt(1e6)
    found = table[usable].sort_values("p_value", kind="stable")
    shown = found.head(SHOWN_RATIOS)
    rows = np.arange(len(shown))
    figure, axes = new_figure(5.4, 1.0 + 0.24 * max(2, len(shown)))
    axes.axvline(1.0, color=MUTED, linewidth=1, linestyle="--")
    axes.hlines(rows, shown["low"], shown["high"], color=BLUE, linewidth=1.4)
    axes.plot(shown[column], rows, "s", color=BLUE, markersize=4)
    axes.set_xscale("log")
    ticks = ratio_ticks(float(shown["low"].min()), float(shown["high"].max()))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    names = [abbreviate(str(v).replace("_", " "), 40) for v in shown.iloc[:, 0]]
    axes.set_yticks(rows, names, fontsize=7.5)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="y")
    axes.set_title(title)
    told = "; ".join(
        f"{row.iloc[0]} {row[column]:.2f} [{row['low']:.2f}–{row['high']:.2f}]" for _, row in shown.head(5).iterrows()
    )
    return draw(
        figure,
        name=f"{name}-{key}",
        alt=f"{title}: {told}",
        caption=f"{title}: {label}, the {len(shown)} smallest p of {len(table)}.",
    )
