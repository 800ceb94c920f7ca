"""Figures that compare the models of a classification study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipelines.reporting.picture import MUTED, Picture, draw, in_house_style, new_figure
from pipelines.reporting.survival_figures import SERIES, part_name
from pipelines.reporting.tables import Table, format_estimate
from services.model_serving.package import Estimate
from services.survival_analytics.net_benefit import ClinicalImpact
from services.survival_analytics.plots import plot_auc_matrix, plot_clinical_impact
from services.survival_analytics.roc import AucMatrix

_FIGURES = ("auc", "sensitivity", "specificity", "accuracy", "brier")


def model_name(name: object) -> str:
    """Return a model's name as it is printed."""
    return str(name).replace("_", " ")


def estimate_of(row: pd.Series, figure: str) -> Estimate:
    """Return a figure of a row with its limits, where it has some."""
    low, high = (row.get(f"{figure}_{end}") for end in ("low", "high"))
    limits = {"low": float(low), "high": float(high)} if pd.notna(low) and pd.notna(high) else {}
    return Estimate(value=float(row[figure]), **limits)


def performance_table(frame: pd.DataFrame) -> Table:
    """Return the performance of every model by group of patients."""
    figures = [figure for figure in _FIGURES if figure in frame]
    rows = tuple(
        (
            model_name(row["model"]),
            part_name(str(row["part"])),
            *(
                format_estimate(estimate_of(row, figure)).replace(" [", "\n[") if pd.notna(row[figure]) else "–"
                for figure in figures
            ),
        )
        for _, row in frame.iterrows()
    )
    headers = ("Model", "Patients", *(figure.upper() if figure == "auc" else figure.capitalize() for figure in figures))
    return Table(
        "Models compared, with 95 % limits (AUC: DeLong)", headers, rows, numeric=tuple(range(2, len(headers)))
    )


@in_house_style
def draw_models(name: str, table: pd.DataFrame) -> Picture:
    """Draw the AUC of every model with limits, out of fold and in other cohorts.

    Parameters
    ----------
    table
        ``model``, ``part``, ``auc``, ``auc_low``, ``auc_high``.
    """
    table = table[table["part"] != "train"] if (table["part"] != "train").any() else table
    models, parts = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["part"]))
    figure, axes = new_figure(5.6, 1.3 + (0.2 + 0.16 * len(parts)) * len(models))
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle="--")
    for position, part in enumerate(parts):
        colour, marker, _ = SERIES[position % len(SERIES)]
        rows = table[table["part"] == part].set_index("model")
        y = np.array([models.index(model) for model in rows.index]) + 0.24 * (position - (len(parts) - 1) / 2)
        axes.hlines(y, rows["auc_low"], rows["auc_high"], color=colour, linewidth=1.5)
        axes.plot(rows["auc"], y, marker, color=colour, markersize=5, label=part_name(str(part)))
    axes.set_yticks(range(len(models)), [model_name(model) for model in models])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_xlabel("AUC (95 % interval, DeLong)")
    axes.set_xlim(right=1.02)
    axes.grid(visible=False, axis="y")
    axes.set_title("Models compared")
    figure.legend(loc="outside lower center", ncols=3)
    told = "; ".join(
        f"{model_name(row['model'])}, {part_name(str(row['part']))} {format_estimate(estimate_of(row, 'auc'))}"
        for _, row in table.iterrows()
    )
    return draw(
        figure,
        name=f"{name}-models",
        alt=f"AUC of the models: {told}",
        caption="AUC of every model with 95 % intervals; the figures are in the table of models. Dashed: chance.",
    )


@in_house_style
def draw_delong(name: str, table: pd.DataFrame, areas: pd.Series) -> Picture:
    """Draw p-values of DeLong's test between models, with AUCs on the diagonal.

    Parameters
    ----------
    table
        ``model``, and one column a model: a square of p-values.
    areas
        AUC by model.
    """
    names = table["model"].astype(str).tolist()
    p_values = table[names].to_numpy(np.float64)
    matrix = AucMatrix(
        names=tuple(map(model_name, names)),
        areas=areas.reindex(names).to_numpy(np.float64),
        covariance=np.full_like(p_values, np.nan),
        p_values=np.where(np.isnan(p_values), 1.0, p_values),
    )
    pairs = p_values[np.triu_indices(len(names), 1)]
    figure = plot_auc_matrix(matrix, title="DeLong's test (diagonal: AUC)")
    for text in figure.axes[0].texts:
        if text.get_color() == "black" and text.get_fontweight() != "bold":
            text.set_color("#111111")  # on pale cells, whatever the paper: plain black would follow the page
    return draw(
        figure,
        name=f"{name}-delong",
        alt=f"DeLong's test between {len(names)} models: {int((pairs < 0.05).sum())} of {pairs.size} pairs below 0.05",
        caption=f"p of DeLong's test between {len(names)} models on the same out-of-fold patients: "
        f"{int((pairs < 0.05).sum())} of {pairs.size} pairs lie below 0.05, without correction for their number.",
    )


@in_house_style
def draw_model_calibration(name: str, table: pd.DataFrame) -> Picture:
    """Draw observed frequency over mean predicted probability of each model.

    Parameters
    ----------
    table
        ``model``, ``predicted``, ``observed``, ``observed_low``, ``observed_high``.
    """
    models: Sequence[str] = list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(4.4, 4.2)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    for position, model in enumerate(models):
        rows = table[table["model"] == model]
        colour, marker, dash = SERIES[position % len(SERIES)]
        error = np.vstack([rows["observed"] - rows["observed_low"], rows["observed_high"] - rows["observed"]])
        axes.errorbar(
            rows["predicted"],
            rows["observed"],
            yerr=np.clip(error, 0, None),
            color=colour,
            marker=marker,
            linestyle=dash,
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=model_name(model),
        )
    axes.set(xlabel="Predicted probability", ylabel="Observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    axes.set_title("Calibration of the models")
    figure.legend(loc="outside lower center", ncols=3)
    return draw(
        figure,
        name=f"{name}-calibration-models",
        alt=f"Calibration of {', '.join(map(model_name, models))}",
        caption="Calibration of the out-of-fold probabilities of the models; bars are 95 % intervals (Wilson).",
    )


@in_house_style
def draw_clinical_impact(name: str, table: pd.DataFrame) -> Picture:
    """Draw how many patients a threshold calls positive, and how many of those are."""
    columns = {column: table[column].to_numpy(np.float64) for column in table}
    population = round(float(columns["high_risk"].max(initial=0)) / 1000) * 1000 or 1000
    impact = ClinicalImpact(
        population=population,
        threshold=columns["threshold"],
        high_risk=columns["high_risk"],
        high_risk_with_event=columns["high_risk_with_event"],
    )
    return draw(
        plot_clinical_impact(impact, title="Clinical impact"),
        name=f"{name}-clinical-impact",
        alt=f"Clinical impact curve per {population:,} patients",
        caption=f"Of {population:,} patients, how many each threshold calls positive and how many of those are.",
    )
