"""A survival study's part of the report, and its lines in the overview."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipelines.reporting.figures import draw_comparison, draw_features
from pipelines.reporting.optional_tables import optional_figures, optional_tables
from pipelines.reporting.picture import Picture
from pipelines.reporting.published import FIGURES
from pipelines.reporting.selection_figures import draw_set_sizes
from pipelines.reporting.sources import Phantom, StudyOutputs
from pipelines.reporting.survival_figures import (
    draw_auc_by_time,
    draw_risk_scores,
    draw_survival,
    draw_survival_calibration,
    part_name,
)
from pipelines.reporting.tables import UNKNOWN, Table, format_estimate, format_number, format_p
from services.model_serving.package import Estimate


def survival_glance(studies: Sequence[StudyOutputs]) -> Table | None:
    """Return one row for each study and group of patients; None where no study is one of survival."""
    studies = [study for study in studies if study.kind == "survival"]
    if not studies:
        return None
    horizons = sorted({horizon for study in studies for horizon in horizons_of(study)})
    rows = tuple(
        (study.name, part_name(part), *_figures(study, part, horizons))
        for study in studies
        for part in (*study.parts, *(("permuted",) if "permuted_c_index" in study.metrics else ()))
    )
    return Table(
        "Survival studies, with 95 % intervals (C-index and AUC: resampled patients; hazard ratio: Cox model of the "
        "two groups)",
        (
            "Study",
            "Patients",
            "How many (deaths)",
            "C-index",
            *(f"AUC, {horizon:g} months" for horizon in horizons),
            "Hazard ratio, high against low",
            "Log-rank p",
        ),
        rows,
        numeric=tuple(range(2, 6 + len(horizons))),
    )


def _figures(study: StudyOutputs, part: str, horizons: Sequence[float]) -> tuple[str, ...]:
    metrics = study.metrics
    known = f"{part}_patients" in metrics
    counts = f"{metrics[f'{part}_patients']:.0f} ({metrics[f'{part}_deaths']:.0f})" if known else UNKNOWN
    wanted = ["c_index", *(f"auc_{horizon:g}" for horizon in horizons), "hazard_ratio"]
    p = metrics.get(f"{part}_logrank_p")
    return (
        counts,
        *(format_estimate(study.estimate(f"{part}_{name}")).replace(" [", "\n[") for name in wanted),
        UNKNOWN if p is None else format_p(p),
    )


def horizons_of(study: StudyOutputs) -> list[float]:
    """Return the months at which a study tells its AUC."""
    found = (re.fullmatch(r".+?_auc_(\d+(?:\.\d+)?)", name) for name in study.metrics)
    return sorted({float(match[1]) for match in found if match})


_SEEN = ("train", "cv", "tuning", "validation_tuning")
"""Groups of patients that the model was fitted to or chosen by."""


def judge_survival(study: StudyOutputs, phantom: Phantom | None) -> str:
    """Return in a sentence whether the score orders survival, and whether the procedure invents."""
    told, unseen = study.estimate("cv_c_index"), "out of fold"
    if told is None:
        told, unseen = study.estimate("train_c_index"), "in the patients that it was fitted to"
    text = f"C-index {format_estimate(told)} {unseen}: "
    above = told is not None and told.low is not None and told.low > 0.5
    text += f"the interval {'lies above' if above else 'does not lie above'} 0.5"
    if phantom is not None and phantom.null:
        text += ", though no effect was planted" if above else ", as it must be where no effect was planted"
    for part in study.parts:
        other = study.estimate(f"{part}_c_index")
        if part not in _SEEN and other is not None:
            holds = other.low is not None and other.low > 0.5
            text += f"; in {part_name(part)} {format_estimate(other)}, which {'holds' if holds else 'does not hold'}"
    permuted = study.estimate("permuted_c_index")
    if permuted is None or permuted.low is None or permuted.high is None:
        return text + ". No run with permuted follow-up was made."
    if permuted.low > 0.5:
        return text + ". With permuted follow-up the interval lies above 0.5 too: something leaks, or it is chance."
    if permuted.high < 0.5:
        return text + ". With permuted follow-up the interval lies below 0.5, which small folds tend to cause."
    return text + ". With permuted follow-up the interval covers 0.5, so the procedure itself invents nothing."


def survival_pictures(study: StudyOutputs) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Return a survival study's figures: narrow and wide ones."""
    predictions = study.tables["predictions"]
    narrow: list[Picture] = [_comparison(study)]
    by_time = {
        part: {h: e for h in horizons_of(study) if (e := study.estimate(f"{part}_auc_{h:g}")) is not None}
        for part in study.parts
    }
    by_time = {part: values for part, values in by_time.items() if values}
    if by_time:
        published = study.paper.figures if study.paper is not None else ()
        stars = [(float(f.figure[4:]), f) for f in published if f.figure.startswith("auc_")]
        narrow.append(draw_auc_by_time(study.name, by_time, stars))
    for part in study.parts:
        rows = predictions[predictions["part"] == part]
        if len(rows):
            narrow.append(draw_survival(study.name, part, rows, note=_group_note(study, part)))
    training = predictions[predictions["part"] == "train"]
    if len(training):
        narrow.append(draw_risk_scores(study.name, "train", training, cutoff=study.model.threshold))
    wide: list[Picture] = []
    features = study.tables["features"]
    if len(features):
        wide.append(
            draw_features(
                study.name,
                names=features["feature"].astype(str).tolist(),
                weights=features["coefficient"].to_numpy(np.float64),
                kept=features["share_of_folds"].to_numpy(np.float64)
                if "share_of_folds" in features
                else np.full(len(features), np.nan),
                weight="Coefficient, log hazard ratio per standard deviation",
            )
        )
    calibration = study.tables.get("calibration")
    if calibration is not None and len(calibration):
        wide.append(draw_survival_calibration(study.name, calibration, key="calibration"))
    more_narrow, more_wide = optional_figures(study)
    steps = study.flow.get("features_after_step")
    if "venn" not in study.tables and isinstance(steps, dict):
        narrow.append(draw_set_sizes(study.name, pd.DataFrame({"set": list(steps), "genes": list(steps.values())})))
    return (*narrow, *more_narrow), (*wide, *more_wide)


def _comparison(study: StudyOutputs) -> Picture:
    rows: list[tuple[str, str, Estimate, np.ndarray[tuple[int], np.dtype[np.float64]] | None]] = []
    for part in study.parts:
        estimate = study.estimate(f"{part}_c_index")
        if estimate is not None:
            rows.append(("paper_order" if part == "train" else "ours", part_name(part), estimate, None))
    permuted = study.estimate("permuted_c_index")
    if permuted is not None:
        table = study.tables.get("permuted")
        runs = table["c_index"].to_numpy(np.float64) if table is not None and "c_index" in table else None
        rows.append(("permuted", part_name("permuted"), permuted, runs))
    papers = study.paper.figures if study.paper is not None else ()
    for figure in ("c_index", "nomogram_c_index_integrated"):
        found = [published for published in papers if published.figure == figure]
        for published in found:
            kind = "" if figure == "c_index" else "integrated nomogram, "
            value = Estimate(value=published.value, low=published.low, high=published.high)
            rows.append(("published", f"paper: {kind}{published.where}", value, None))
        if found:
            break
    return draw_comparison(study.name, rows, measure="C-index")


def _group_note(study: StudyOutputs, part: str) -> str:
    ratio, p = study.estimate(f"{part}_hazard_ratio"), study.metrics.get(f"{part}_logrank_p")
    told = [f"Hazard ratio, high against low, {format_estimate(ratio)}" if ratio is not None else ""]
    told.append(f"log-rank p {format_p(p)}" if p is not None else "")
    text = "; ".join(part for part in told if part)
    return f"{text}." if text else ""


def survival_tables(study: StudyOutputs) -> tuple[Table, ...]:
    """Return a survival study's tables that hold something."""
    tables = (
        _feature_table(study),
        _nomogram_table(study),
        _figure_table(study),
        _silent_table(study),
        *optional_tables(study),
        _fold_table(study),
    )
    return tuple(table for table in tables if table.rows)


def _feature_table(study: StudyOutputs) -> Table:
    frame = study.tables["features"]
    named = {
        "feature": "Feature",
        "coefficient": "Coefficient per SD",
        "hazard_ratio": "Hazard ratio per SD",
        "univariable_hazard_ratio": "Univariable hazard ratio",
        "univariable_p": "Univariable p",
    }
    shown = [name for name in named if name in frame]
    share = "share_of_folds" in frame
    rows = tuple(
        (*(format_number(row[name]) for name in shown), *((f"{row['share_of_folds']:.0%}",) if share else ()))
        for row in frame.to_dict("records")
    )
    headers = (*(named[name] for name in shown), *(("Chosen in folds",) if share else ()))
    return Table(
        "Features of the final model, fitted to all training patients. They were chosen by these tests, so p describes "
        "and does not prove",
        headers,
        rows,
        numeric=tuple(range(1, len(headers))),
    )


def _figure_table(study: StudyOutputs) -> Table:
    """Return every further figure by group of patients: what the overview leaves out."""
    told = {"c_index", "hazard_ratio", "logrank_p", "patients", "deaths"} | {f"auc_{h:g}" for h in horizons_of(study)}
    names = [name for name in _figure_names(study) if name not in told and not name.startswith("nomogram_")]
    return _by_part(study, names, "Further figures by group of patients")


def _nomogram_table(study: StudyOutputs) -> Table:
    """Return clinical against integrated nomogram by group of patients; empty where the study has none."""
    names = [name for name in _figure_names(study) if name.startswith("nomogram_")]
    return _by_part(study, names, "Clinical against integrated nomogram by group of patients")


def _figure_names(study: StudyOutputs) -> list[str]:
    named: dict[str, None] = {}
    for part in study.parts:
        named |= dict.fromkeys(name.removeprefix(f"{part}_") for name in study.metrics if name.startswith(f"{part}_"))
    limits = {f"{name}{end}" for name in named for end in ("_low", "_high")}
    kept = [name for name in named if name not in limits]
    return sorted(kept, key=lambda name: re.sub(r"\d+", lambda digits: digits[0].zfill(6), name))


def _by_part(study: StudyOutputs, names: Sequence[str], caption: str) -> Table:
    rows = tuple((figure_name(name), *(_further(study, f"{part}_{name}") for part in study.parts)) for name in names)
    headers = ("Figure", *map(part_name, study.parts))
    return Table(caption, headers, rows, numeric=tuple(range(1, len(headers))))


def _further(study: StudyOutputs, name: str) -> str:
    if name.endswith("_p") and name in study.metrics:
        return format_p(study.metrics[name])
    if name.rpartition("_")[2] in ("patients", "deaths") or name.endswith("patients_high_risk"):
        return f"{study.metrics[name]:.0f}" if name in study.metrics else UNKNOWN
    return format_estimate(study.estimate(name)).replace(" [", "\n[")


def figure_name(name: str) -> str:
    """Return what a figure is called on a page: ``brier_12`` is the Brier score at 12 months."""
    if name in FIGURES:
        return FIGURES[name]
    if name in ("nomogram_patients", "nomogram_deaths"):
        return f"{name.removeprefix('nomogram_').capitalize()} with every clinical column"
    name = name.removeprefix("nomogram_")
    timed = re.fullmatch(r"(.+?)_(\d+(?:\.\d+)?)(?:_(null|clinical|integrated))?", name)
    if timed is None:
        return name.replace("_", " ").capitalize()
    stem = _STEMS.get(timed[1], timed[1].replace("_", " ").capitalize())
    variant = {None: "", "null": ", no covariates"}.get(timed[3], f", {timed[3]}")
    return f"{stem} at {timed[2]} months{variant}"


_STEMS = {"nri": "Net reclassification improvement", "brier": "Brier score"}


def _silent_table(study: StudyOutputs) -> Table:
    """Return figures that some patients do not define, with the reason."""
    stated = study.flow.get("figures_left_out")
    rows = tuple(
        (part_name(part), *(text.strip() for text in str(reason).partition(":")[::2]))
        for part, reasons in (stated.items() if isinstance(stated, dict) else ())
        for reason in reasons
    )
    return Table("Figures that some patients do not define", ("Patients", "Figure", "Reason"), rows)


def _fold_table(study: StudyOutputs) -> Table:
    folds = study.tables.get("folds")
    if folds is None or folds.empty:
        return Table("Outer folds", (), ())
    listed = "features" in folds
    shown = folds.drop(columns=["features"]) if listed else folds
    steps = [str(column) for column in shown if str(column).startswith("after_")]
    plain = [str(column) for column in shown if str(column) not in (*steps, "filled_up")]
    rows = tuple(
        (*(format_number(row[name]) for name in plain), " → ".join(format_number(row[name]) for name in steps))
        for row in shown.to_dict("records")
    )
    order = " → ".join(name.removeprefix("after_").replace("_", " ") for name in steps)
    return Table(
        f"Outer folds: the whole fit repeated inside the training part of each. Features left after {order}",
        (*(name.replace("_", " ").capitalize() for name in plain), "Features left"),
        rows,
        numeric=tuple(range(len(plain))),
    )
