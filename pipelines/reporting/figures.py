"""Figures of a study and of a cohort, drawn from numbers that are already computed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pipelines.reporting.picture import (
    BLUE,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PAPER,
    RED,
    Picture,
    abbreviate,
    draw,
    in_house_style,
    new_figure,
)
from pipelines.reporting.tables import format_estimate
from services.model_serving.package import Estimate

FloatArray = npt.NDArray[np.float64]

RESAMPLES = 1000
_MARKERS = {"ours": ("o", BLUE), "permuted": ("s", MUTED), "paper_order": ("D", ORANGE), "published": ("*", RED)}


def roc_band(
    truth: npt.NDArray[np.bool_], score: FloatArray, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return a pointwise 95 % band of sensitivity over false positive rates.

    Patients are resampled with replacement inside each class; the band holds the 2.5th to 97.5th percentile of
    sensitivity at each rate.

    Parameters
    ----------
    truth : array of bool, shape (n,)
        Whether a patient has the outcome.
    score : array of float, shape (n,)
        The higher, the more likely.

    Returns
    -------
    rates, low, high : arrays of float, shape (101,)
    """
    rng = np.random.default_rng(seed)
    positive, negative = score[truth], score[~truth]
    rates = np.linspace(0.0, 1.0, 101)
    rank = np.minimum((rates * negative.size).astype(int), negative.size - 1)
    curves = np.empty((resamples, rates.size))
    for i in range(resamples):
        thresholds = np.sort(rng.choice(negative, negative.size))[::-1][rank]
        hits = np.sort(rng.choice(positive, positive.size))
        curves[i] = 1.0 - np.searchsorted(hits, thresholds, side="right") / positive.size
    curves[:, -1] = 1.0
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return rates, low, high


@in_house_style
def draw_roc(
    name: str,
    *,
    curve: tuple[FloatArray, FloatArray],
    truth: npt.NDArray[np.bool_],
    score: FloatArray,
    auc: Estimate,
    operating_point: tuple[float, float] | None,
) -> Picture:
    """Draw a ROC curve (false positive rate, sensitivity) with its band and the operating point."""
    figure, axes = new_figure(4.2, 3.9)
    rates, low, high = roc_band(truth, score)
    axes.fill_between(rates, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % band")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="no information")
    axes.plot(*curve, color=BLUE, label="out of fold", drawstyle="default")
    if operating_point is not None:
        axes.plot(*operating_point, "o", color=ORANGE, markersize=8, markeredgecolor=INK, label="at the threshold")
    axes.set(xlabel="1 − specificity", ylabel="Sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_title("ROC curve")
    axes.legend(loc="lower right")
    return draw(
        figure,
        name=f"{name}-roc",
        alt=f"ROC curve, area under the curve {format_estimate(auc)}",
        caption=f"ROC curve of the out-of-fold predictions of {truth.size} patients: AUC {format_estimate(auc)}, "
        f"DeLong. The band is pointwise: {RESAMPLES:,} bootstrap resamples of patients within each class. "
        "The dot is sensitivity and specificity as tabled: off the curve where the thresholds of folds differ.",
    )


@in_house_style
def draw_calibration(
    name: str, *, predicted: FloatArray, observed: FloatArray, low: FloatArray, high: FloatArray, brier: Estimate | None
) -> Picture:
    """Draw observed frequencies (with 95 % intervals) over mean predicted probabilities of bins of patients."""
    figure, axes = new_figure(4.2, 3.9)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    error = np.clip(np.vstack([observed - low, high - observed]), 0.0, None)
    axes.errorbar(
        predicted, observed, yerr=error, color=BLUE, marker="o", capsize=3, linewidth=1.4, label="out of fold"
    )
    axes.set(xlabel="Predicted probability", ylabel="Observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    axes.set_title("Calibration")
    axes.legend(loc="upper left")
    scored = f" Brier score {format_estimate(brier)}." if brier is not None else ""
    return draw(
        figure,
        name=f"{name}-calibration",
        alt=f"Calibration in {predicted.size} bins of patients.{scored}",
        caption=f"Calibration of the out-of-fold probabilities in {predicted.size} bins; bars are 95 % intervals "
        f"(Wilson).{scored}",
    )


@in_house_style
def draw_scores(
    name: str, *, truth: npt.NDArray[np.bool_], score: FloatArray, threshold: float, labels: tuple[str, str]
) -> Picture:
    """Draw each patient's probability by class (labels: negative, positive), with the threshold."""
    figure, axes = new_figure(4.2, 3.0)
    for row, (chosen, colour) in enumerate(((~truth, ORANGE), (truth, BLUE))):
        values = np.sort(score[chosen])
        _draw_quartiles(axes, values, row, orientation="horizontal")
        axes.plot(values, row + _jitter(values.size), "o", color=colour, markersize=4, alpha=0.8, markeredgewidth=0)
    axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--")
    side = 1 if threshold < 0.6 else -1
    axes.annotate(
        f"threshold {threshold:.2f}",
        (threshold, 1.55),
        xytext=(4 * side, 0),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="top",
        fontsize=8,
    )
    axes.set_yticks([0, 1], [f"{label}\n(n = {n})" for label, n in zip(labels, _counts(truth), strict=True)])
    axes.set(xlabel="Predicted probability", xlim=(-0.03, 1.03), ylim=(-0.5, 1.6))
    axes.grid(visible=False, axis="y")
    axes.set_title("Scores by class")
    return draw(
        figure,
        name=f"{name}-scores",
        alt=f"Predicted probabilities of {labels[0]} and {labels[1]}, with the threshold {threshold:.2f}",
        caption=f"Out-of-fold probability of {labels[1]}, one dot a patient; dashed: threshold of "
        "the final model; boxes: quartiles, whiskers: 1.5 times "
        "the interquartile range.",
    )


@in_house_style
def draw_comparison(
    name: str, rows: Sequence[tuple[str, str, Estimate, FloatArray | None]], *, measure: str = "AUC"
) -> Picture:
    """Draw AUCs or C-indices with their intervals one below the other.

    Parameters
    ----------
    rows
        Kind (ours, permuted, paper_order, published), label, estimate, and the figure of each run where there are some.
    measure
        What the figures are; 0.5 is chance.
    """
    figure, axes = new_figure(4.6, 0.9 + (0.5 if len(rows) < 6 else 0.42) * len(rows))
    for position, (kind, _, estimate, runs) in enumerate(rows):
        marker, colour = _MARKERS[kind]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [position, position], color=colour, linewidth=2)
        if runs is not None:
            axes.plot(runs, np.full(len(runs), position + 0.3), "|", color=colour, markersize=6)
        size = 11 if marker == "*" else 7
        axes.plot(estimate.value, position, marker, color=colour, markersize=size, markeredgewidth=0)
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), [textwrap.fill(label, 26) for _, label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    lowest = min([e.value if e.low is None else e.low for _, _, e, _ in rows] + [0.45])
    lowest = min([lowest, *(float(runs.min()) for *_, runs in rows if runs is not None and runs.size)])
    axes.set(xlabel=f"{measure} (95 % interval)", xlim=(max(0.0, lowest) - 0.03, 1.03))
    axes.grid(visible=False, axis="y")
    beside = " and the paper" if any(kind == "published" for kind, *_ in rows) else ""
    axes.set_title(f"Against chance{beside}")
    told = "; ".join(f"{label} {format_estimate(estimate)}" for _, label, estimate, _ in rows)
    return draw(
        figure,
        name=f"{name}-comparison",
        alt=f"{measure}: {told}",
        caption=f"{measure} against chance (dashed){beside}. Ticks: single runs with permuted labels.",
    )


@in_house_style
def draw_features(name: str, *, names: Sequence[str], weights: FloatArray, kept: FloatArray, weight: str) -> Picture:
    """Draw the final model's weights of features, and how often each was chosen across folds (share, 0 to 1)."""
    order = np.argsort(np.abs(weights), kind="stable")
    figure, axes = new_figure(6.4, 0.9 + 0.3 * len(names))
    colours = [BLUE if weights[i] >= 0 else ORANGE for i in order]
    axes.barh(np.arange(len(names)), weights[order], color=colours, height=0.6)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{abbreviate(names[i], 44)}  {kept[i]:.0%}" for i in order])
    axes.set_xlabel(weight, x=1.0, ha="right")
    axes.grid(visible=False, axis="y")
    axes.set_title("Features of the final model")
    return draw(
        figure,
        name=f"{name}-features",
        alt="; ".join(f"{names[i]} {weights[i]:+.3f}, chosen in {kept[i]:.0%} of folds" for i in order[::-1]),
        caption=f"{weight} of each feature. The percentage says in what share of outer folds the feature was chosen.",
    )


@in_house_style
def draw_by_region(
    name: str,
    values: Mapping[str, FloatArray],
    *,
    title: str,
    label: str,
    caption: str,
    limits: tuple[float, float] | None,
) -> Picture:
    """Draw one strip of dots and a box for each region; values are one per patient, NaN where there is none."""
    figure, axes = new_figure(4.2, 3.2)
    regions = list(values)
    medians = []
    for position, region in enumerate(regions):
        known = np.sort(values[region][np.isfinite(values[region])])
        if known.size:
            _draw_quartiles(axes, known, position, orientation="vertical")
            axes.plot(
                position + _jitter(known.size), known, "o", color=BLUE, markersize=4, alpha=0.8, markeredgewidth=0
            )
            medians.append(f"{region} median {np.median(known):.2f} (n = {known.size})")
    axes.set_xticks(range(len(regions)), regions)
    axes.set(ylabel=label, xlim=(-0.6, len(regions) - 0.4))
    axes.set_ylim(bottom=0.0, top=limits[1] if limits else None)
    axes.grid(visible=False, axis="x")
    axes.set_title(title)
    return draw(figure, name=name, alt=f"{title}: {'; '.join(medians)}", caption=f"{caption} {'; '.join(medians)}.")


@dataclass(frozen=True)
class Stage:
    """One box of the flow of patients, and those who leave after it with the reason."""

    label: str
    patients: int
    leavers: tuple[tuple[str, int], ...] = ()


@in_house_style
def draw_flow(stages: Sequence[Stage], branches: Sequence[tuple[str, int, tuple[tuple[str, int], ...]]]) -> Picture:
    """Draw the flow of patients: stages down the left, who left beside the arrows, one row for each study below."""
    step = 1.0
    height = step * (len(stages) + len(branches)) - 0.2
    figure, axes = new_figure(6.6, height)
    axes.set_axis_off()
    axes.set(xlim=(0, 6.6), ylim=(height, 0))
    for row, stage in enumerate(stages):
        y = row * step + 0.4
        _box(axes, 1.5, y, 2.8, f"{stage.label}\nn = {stage.patients}", strong=True)
        if row + 1 < len(stages):
            _arrow(axes, (1.5, y + 0.27), (1.5, y + step - 0.27))
        if stage.leavers:
            _arrow(axes, (1.5, y + step / 2), (3.3, y + step / 2))
            _box(axes, 4.9, y + step / 2, 3.2, _leavers(stage.leavers), strong=False)
    trunk = (len(stages) - 1) * step + 0.67
    for row, (label, patients, leavers) in enumerate(branches):
        y = (len(stages) + row) * step + 0.4
        axes.plot([0.3, 0.3], [trunk, y], color=MUTED, linewidth=1)
        _arrow(axes, (0.3, y), (0.6, y))
        _box(axes, 1.75, y, 2.3, f"Study {label}\nn = {patients}", strong=True)
        if leavers:
            _arrow(axes, (2.9, y), (3.3, y))
            _box(axes, 4.9, y, 3.2, _leavers(leavers), strong=False)
    told = "; ".join(f"{stage.label} {stage.patients}" for stage in stages)
    told += "".join(f"; study {label} {patients}" for label, patients, _ in branches)
    return draw(
        figure,
        name="flow",
        alt=f"Flow of patients: {told}",
        caption="Flow of patients. Nobody leaves without a reason.",
    )


def _leavers(leavers: Sequence[tuple[str, int]]) -> str:
    lines = [textwrap.shorten(f"{count} × {reason}", 52, placeholder="…") for reason, count in leavers[:3]]
    more = sum(count for _, count in leavers[3:])
    return "\n".join([*lines, *([f"{more} for other reasons"] if more else [])])


def _box(axes: Axes, x: float, y: float, width: float, text: str, *, strong: bool) -> None:
    lines = text.count("\n") + 1
    height = 0.17 * lines + 0.18
    edge = INK if strong else LINE
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=PAPER, edgecolor=edge))
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5 if strong else 7.5, linespacing=1.3)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _draw_quartiles(
    axes: Axes, values: FloatArray, position: int, *, orientation: Literal["vertical", "horizontal"]
) -> None:
    axes.boxplot(
        values,
        positions=[position],
        orientation=orientation,
        widths=0.5,
        showfliers=False,
        manage_ticks=False,
        boxprops={"color": MUTED},
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": MUTED},
        capprops={"color": MUTED},
    )


def _jitter(count: int) -> FloatArray:
    """Return offsets that spread neighbours in sorted order, the same in every run."""
    return np.asarray((np.arange(count) * 0.618034 % 1.0 - 0.5) * 0.36, dtype=np.float64)


def _counts(truth: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int((~truth).sum()), int(truth.sum())
