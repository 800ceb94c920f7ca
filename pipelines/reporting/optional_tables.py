"""Tables that only some studies write: which figure each becomes, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from pipelines.reporting.model_figures import (
    draw_clinical_impact,
    draw_delong,
    draw_model_calibration,
    draw_models,
    performance_table,
)
from pipelines.reporting.picture import Picture, draw, in_house_style
from pipelines.reporting.selection_figures import (
    draw_correlation_matrix,
    draw_enrichment,
    draw_heat_map,
    draw_path,
    draw_ratios,
    draw_set_sizes,
    draw_volcano,
)
from pipelines.reporting.sources import StudyOutputs
from pipelines.reporting.survival_figures import draw_decision_curves, draw_survival_calibration, part_name
from pipelines.reporting.tables import Table, format_estimate, format_number
from services.model_serving.package import Estimate
from services.survival_analytics.nomogram import CovariateAxis, Nomogram, OutcomeAxis
from services.survival_analytics.plots import plot_nomogram
from services.survival_analytics.ticks import pretty_ticks

SHOWN_ROWS = 60
Drawing = Callable[[str, pd.DataFrame], Picture]


def _draw_nomogram_calibration(name: str, table: pd.DataFrame, *, model: str) -> Picture:
    key, what = f"calibration-{model}", f"the {model} nomogram"
    return draw_survival_calibration(name, table[table["model"] == model], key=key, what=what)


FIGURES: Mapping[str, Drawing] = {
    "venn": draw_set_sizes,
    "differential": draw_volcano,
    "path": draw_path,
    "model_calibration": draw_model_calibration,
    "clinical_impact": draw_clinical_impact,
}
"""Figures of half a page's width, by the table that they are drawn from."""

WIDE_FIGURES: Mapping[str, Drawing] = {
    "performance": draw_models,
    "decision_curves": draw_decision_curves,
    "heat_map": draw_heat_map,
    "enrichment": draw_enrichment,
    "correlation": draw_correlation_matrix,
    "screening": lambda name, table: draw_ratios(
        name,
        table,
        label="Hazard ratio per standard deviation (95 % limits)",
        title="Univariable Cox models",
        key="screening",
    ),
    "nomogram": lambda name, table: draw_ratios(
        name,
        table[(table["part"] == "train") & (table["model"] == "integrated")].drop(columns="part"),
        label="Hazard ratio (95 % limits)",
        title="Multivariable Cox model of the integrated nomogram",
        key="multivariable",
    ),
    **{
        f"nomogram_calibration:{model}": partial(_draw_nomogram_calibration, model=model)
        for model in ("clinical", "integrated")
    },
}
"""Figures of a page's width."""

_NOT_PRINTED = frozenset(
    {
        *("predictions", "folds", "roc", "calibration", "permuted", "comparison", "features", "survival_curves"),
        *("time_dependent_auc", "decision_curves", "path", "heat_map", "score_distribution", "correlation"),
        *("differential", "screening", "clinical_impact", "pathways", "venn", "nomogram_calibration"),
        *("model_calibration", "permuted_models", "classifiers", "nomogram_points"),
    }
)
"""Tables that are drawn, or printed elsewhere."""

_CAPTIONS = {
    "table_1": "Characteristics by risk group",
    "characteristics": "Characteristics by risk group",
    "models": "Models: what they are made of, and how often the folds chose them",
    "delong": "DeLong's test between models: p",
    "enrichment": "Over-represented gene sets",
    "correlations": "Pathway scores against the risk score (Pearson)",
    "nomogram": "Models of the nomograms",
    "multivariable": "Uni- and multivariable Cox models",
    "adjusted": "The score adjusted for clinical columns",
    "candidates": "Candidates compared in the tuning patients",
    "feature_sets": "Sets of features compared",
    "parts": "Patients by part",
    "harmonisation": "Ways to bring other cohorts to the training scale",
    "context": "What else tells survival, and what the score adds",
}


def optional_figures(study: StudyOutputs) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Return the figures of the tables that a study wrote beyond those of its kind: narrow and wide ones."""
    narrow, wide = (
        tuple(
            drawing(study.name, study.tables[table])
            for name, drawing in drawings.items()
            if len(study.tables.get(table := name.partition(":")[0], ())) and _can_draw(table, study.tables[table])
        )
        for drawings in (FIGURES, WIDE_FIGURES)
    )
    delong, performance = study.tables.get("delong"), study.tables.get("performance")
    if delong is not None and performance is not None and len(delong) > 1:
        areas = performance[performance["part"] == "cv"].set_index("model")["auc"]
        wide = (*wide, draw_delong(study.name, delong, areas))
    return narrow, wide


def _can_draw(name: str, frame: pd.DataFrame) -> bool:
    """Return whether a table has what its figure needs: a logistic nomogram states points and no hazard ratios."""
    return name != "nomogram" or "hazard_ratio" in frame


def optional_tables(study: StudyOutputs) -> tuple[Table, ...]:
    """Return the tables that a study wrote beyond those of its kind; one that lists patients is not printed."""
    found: list[Table] = []
    for name, frame in study.tables.items():
        if name in _NOT_PRINTED or frame.empty or "case_id" in frame:
            continue
        if name == "performance":
            found.append(performance_table(frame))
        elif "characteristic" in frame:
            found += _characteristics(name, frame)
        else:
            found.append(printed_table(_CAPTIONS.get(name, name.replace("_", " ").capitalize()), frame))
    return tuple(found)


def printed_table(caption: str, frame: pd.DataFrame) -> Table:
    """Return a data frame as a table of text; a long one is cut, and says so."""
    frame = frame.drop(columns=[column for column in ("names", "genes_of_set") if column in frame])
    shown = _with_limits(frame.head(SHOWN_ROWS))
    if "part" in shown:
        shown = shown.assign(part=[part_name(str(part)) for part in shown["part"]])
    numeric = tuple(
        i
        for i, column in enumerate(shown)
        if pd.api.types.is_numeric_dtype(shown[column])
        or shown[column].map(lambda v: v is None or isinstance(v, Estimate)).all()
    )
    headers = tuple(_header(str(column)) for column in shown)
    rows = tuple(tuple(_cell(value) for value in row) for row in shown.itertuples(index=False))
    more = f" (the first {len(shown)} of {len(frame)} rows)" if len(frame) > len(shown) else ""
    return Table(caption + more, headers, rows, numeric=tuple(i for i in numeric if i))


def _with_limits(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose figures stand with their limits in one column: ``auc``, ``auc_low``, ``auc_high``.

    Plain ``low`` and ``high`` belong to the column before them.
    """
    columns = [str(column) for column in frame]
    merged = frame.copy()
    for position, column in enumerate(columns):
        ends = (f"{column}_low", f"{column}_high")
        if columns[position + 1 : position + 3] == ["low", "high"]:
            ends = ("low", "high")
        if not all(end in merged for end in ends) or not pd.api.types.is_numeric_dtype(frame[column]):
            continue
        values = frame[[column, *ends]].astype(float).itertuples(index=False)
        merged[column] = pd.Series([_estimate(*row) for row in values], index=frame.index, dtype=object)
        merged = merged.drop(columns=list(ends))
    return merged


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) or all(v is None or isinstance(v, Estimate) for v in column)


def _estimate(value: float, low: float, high: float) -> Estimate | None:
    if not np.isfinite(value):
        return None
    limits = (low, high) if np.isfinite(low) and np.isfinite(high) else (None, None)
    return Estimate(value=value, low=limits[0], high=limits[1])


def _header(column: str) -> str:
    text = column.replace("_", " ")
    return text if text in ("p", "r") else text[:1].upper() + text[1:]


def _cell(value: object) -> str:
    if value is None or isinstance(value, Estimate):
        return format_estimate(value).replace(" [", "\n[")
    if isinstance(value, str):
        return value if len(value) <= 160 else f"{value[:157]}…"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return format_number(value)


def _characteristics(name: str, frame: pd.DataFrame) -> list[Table]:
    """Return Table 1 of each group of patients."""
    tables = []
    for part, rows in frame.groupby("part", sort=False) if "part" in frame else [("", frame)]:
        sizes = {
            group: f"{group} (n = {int(rows[f'patients_{group}'].iloc[0])})"
            for group in ("low", "high")
            if f"patients_{group}" in rows
        }
        known = ("characteristic", "level", "all", "low", "high", "missing", "test", "p_value")
        named = [column for column in rows if column in known or " (n=" in str(column)]
        shown = rows[named].dropna(axis="columns", how="all").rename(columns=sizes)
        shown = shown.assign(characteristic=shown["characteristic"].map(lambda v: str(v).replace("_", " ")))
        if "missing" in shown:
            shown["missing"] = ["" if pd.isna(v) or v == "" else f"{float(v):.0f}" for v in shown["missing"]]
        if "p_value" in shown:
            shown["p_value"] = ["" if pd.isna(p) else "<0.001" if p < 0.001 else f"{p:.3f}" for p in shown["p_value"]]
        shown = shown.astype(object).where(shown.notna(), "")
        where = f", {part_name(str(part))}" if part else ""
        printed = printed_table(f"{_CAPTIONS.get(name, 'Characteristics')}{where}", shown)
        tables.append(printed)
    return tables


def nomogram_figures(study: StudyOutputs) -> tuple[Picture, ...]:
    """Return a drawing of each nomogram among a study's JSON documents."""
    pictures = []
    for document, text in study.documents.items():
        content = json.loads(text)
        for key, described in _nomograms(document, content):
            pictures.append(_draw_nomogram(f"{study.name}-{key}", key, described))
    return tuple(pictures)


def _nomograms(document: str, content: object) -> list[tuple[str, dict[str, object]]]:
    if not isinstance(content, dict):
        return []
    if {"family", "covariates", "outcomes", "total_points"} <= content.keys():
        return [(document.replace("_", "-"), content)]
    inside = [(f"{document}-{key}".replace("_", "-"), value) for key, value in content.items()]
    return [item for key, value in inside for item in (_nomograms(key, value) if isinstance(value, dict) else [])]


@in_house_style
def _draw_nomogram(name: str, key: str, described: dict[str, object]) -> Picture:
    nomogram = read_nomogram(described)
    labels = {axis.covariate: axis.covariate.replace("_", " ") for axis in nomogram.axes}
    title = {"nomogram": "Nomogram", "nomogram-clinical": "Clinical nomogram"}.get(
        key, key.replace("-", " ").capitalize()
    )
    covariates = ", ".join(labels.values())
    return draw(
        plot_nomogram(nomogram, title=title, labels=labels),
        name=name,
        alt=f"{title} of {covariates}: points from 0 to {nomogram.total_points[-1]:g} in total, "
        f"{', '.join(outcome.label for outcome in nomogram.outcomes)}",
        caption=f"{title}. Read the points of each covariate ({covariates}) off the first ruler, add them up, and "
        "read the prediction below the total.",
    )


def read_nomogram(described: dict[str, object]) -> Nomogram:
    """Return the nomogram that a JSON document describes, see :meth:`Nomogram.to_json`."""
    content = pd.Series(described)
    slope, intercept = float(content["points_per_unit"]), float(content["intercept"])
    axes = tuple(
        CovariateAxis(
            covariate=str(axis["name"]),
            coefficient=float(axis["points_per_value"]) / slope,
            levels=np.asarray(axis["levels"], dtype=np.float64),
            contribution=np.asarray(axis["levels"], dtype=np.float64) * float(axis["points_per_value"]) / slope,
            points=np.asarray(axis["points"], dtype=np.float64),
        )
        for axis in content["covariates"]
    )
    total = np.asarray(content["total_points"], dtype=np.float64)
    ticks = pretty_ticks(intercept, intercept + float(total[-1]) / slope, count=8)
    outcomes = tuple(
        OutcomeAxis(
            label=str(outcome["label"]),
            time=float("nan") if outcome["time"] is None else float(outcome["time"]),
            reference=float("nan") if outcome["reference"] is None else float(outcome["reference"]),
            probability=np.asarray(outcome["ticks"], dtype=np.float64),
            points=np.asarray(outcome["points"], dtype=np.float64),
        )
        for outcome in content["outcomes"]
    )
    return Nomogram(
        family="cox" if content["family"] == "cox" else "logistic",
        axes=axes,
        intercept=intercept,
        model_intercept=0.0,
        points_per_unit=slope,
        total_points=total,
        linear_predictor=ticks,
        linear_predictor_points=(ticks - intercept) * slope,
        outcomes=outcomes,
    )
