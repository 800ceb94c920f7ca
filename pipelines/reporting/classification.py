"""A study that tells classes apart: its line in the overview, its figures and its tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.reporting.figures import (
    draw_calibration,
    draw_comparison,
    draw_features,
    draw_roc,
    draw_scores,
)
from pipelines.reporting.optional_tables import optional_figures, optional_tables
from pipelines.reporting.picture import Picture
from pipelines.reporting.sources import Phantom, StudyOutputs
from pipelines.reporting.tables import UNKNOWN, Table, format_estimate, format_number
from services.model_serving.package import Estimate


@dataclass(frozen=True)
class Published:
    """The figure of the paper behind a study that is nearest to ours, and all in words."""

    auc: float
    nearest: str
    words: str
    source: str


def nearest_published(study: StudyOutputs) -> Published | None:
    """Return the paper's headline figure; None where the study follows no paper."""
    paper = study.paper
    if paper is None or paper.figures[0].figure != "auc":
        return None
    first = paper.figures[0]
    return Published(first.value, first.where, f"{first.value:.3f} with {first.where}", paper.source)


@dataclass(frozen=True)
class StudySummary:
    """One study in one line; every estimate has its 95 % interval.

    Parameters
    ----------
    patients, positives
        How many were studied, and how many of them are of the positive class.
    auc, sensitivity, specificity, accuracy, brier
        Of the out-of-fold predictions.
    permuted_auc
        The same procedure with shuffled outcomes; None where it was not run.
    optimistic_auc
        With features selected outside the folds, as many papers do; never the figure to quote.
    published
        What the paper reports; None where the study has no paper.
    """

    study: str
    patients: int
    positives: int
    auc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    accuracy: Estimate
    brier: Estimate | None
    permuted_auc: Estimate | None
    optimistic_auc: Estimate | None
    published: Published | None


def summarise(study: StudyOutputs) -> StudySummary:
    """Return a study's line in the overview."""
    return StudySummary(
        study=study.name,
        patients=round(study.metrics["patients"]),
        positives=round(study.metrics["positives"]),
        auc=_known(study, "auc"),
        sensitivity=_known(study, "sensitivity"),
        specificity=_known(study, "specificity"),
        accuracy=_known(study, "accuracy"),
        brier=study.estimate("brier"),
        permuted_auc=study.estimate("permuted_auc"),
        optimistic_auc=study.estimate("paper_order_optimistic_auc"),
        published=nearest_published(study),
    )


def _known(study: StudyOutputs, name: str) -> Estimate:
    estimate = study.estimate(name)
    return estimate if estimate is not None else Estimate(value=study.metrics[name])


def glance_table(rows: tuple[StudySummary, ...]) -> Table:
    """Return the overview of studies."""
    return Table(
        "Out-of-fold performance with 95 % intervals (AUC: DeLong; sensitivity, specificity, accuracy: exact binomial)",
        (
            "Study",
            "Patients (positive)",
            "AUC",
            "Sensitivity",
            "Specificity",
            "Accuracy",
            "Brier score",
            "AUC, permuted labels",
            "AUC, paper's order (optimistic)",
            "AUC, published",
        ),
        tuple(
            (
                row.study,
                f"{row.patients} ({row.positives})",
                *map(
                    _two_lines,
                    (
                        row.auc,
                        row.sensitivity,
                        row.specificity,
                        row.accuracy,
                        row.brier,
                        row.permuted_auc,
                        row.optimistic_auc,
                    ),
                ),
                f"{row.published.auc:.3f}" if row.published else UNKNOWN,
            )
            for row in rows
        ),
        numeric=tuple(range(1, 10)),
    )


def _two_lines(estimate: Estimate | None) -> str:
    return format_estimate(estimate).replace(" [", "\n[")


def glance_notes(rows: tuple[StudySummary, ...], phantom: Phantom | None) -> list[str]:
    """Return what a reader must know before quoting a figure of the overview."""
    notes = [f"{row.study}: {judge(row, phantom)}" for row in rows]
    notes.append(
        "Permuted labels: the whole procedure with shuffled outcomes, mean of several runs with the width of one; its "
        "interval should cover 0.5. Paper's order: features selected on all patients before cross-validation, which "
        "leaks; shown only to say by how much it flatters."
    )
    cited = "; ".join(
        f"{row.study}: {row.published.words} ({row.published.source})" for row in rows if row.published is not None
    )
    if cited:
        notes.append(
            f"Published, {cited}. The sections of the studies list all of it beside ours and say why the figures "
            f"{'cannot be compared: these patients are simulated' if phantom else 'differ'}."
        )
    return notes


def judge(row: StudySummary, phantom: Phantom | None) -> str:
    """Return in a sentence whether a study found something, and whether that is as it should be."""
    found = row.auc.low is not None and row.auc.low > 0.5
    text = (
        f"AUC {format_estimate(row.auc)}: the interval {'lies above' if found else 'does not lie above'} 0.5, so the "
        f"outcome {'can' if found else 'could not'} be told from the images better than by chance"
    )
    if phantom is not None and phantom.null:
        text += ", though no effect was planted" if found else ", as it must be where no effect was planted"
    elif phantom is not None:
        text += ", as planted" if found else ", although an effect was planted"
    permuted = row.permuted_auc
    if permuted is None or permuted.low is None or permuted.high is None:
        return text + "."
    if permuted.low > 0.5:
        return text + ". With permuted labels the interval lies above 0.5: something leaks, do not trust the figures."
    if permuted.high < 0.5:
        return text + ". With permuted labels the interval lies below 0.5, which small folds tend to cause."
    return text + ". With permuted labels the interval covers 0.5, so the procedure itself invents nothing."


def classification_tables(study: StudyOutputs) -> tuple[Table, ...]:
    """Return a study's tables that hold something."""
    tables = (
        _confusion_table(study),
        _feature_table(study),
        *optional_tables(study),
        _rival_table(study),
        _fold_table(study),
        _choice_table(study),
    )
    return tuple(table for table in tables if table.rows)


def classification_pictures(study: StudyOutputs) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Return a study's figures: narrow and wide ones."""
    narrow, wide = optional_figures(study)
    features = _feature_picture(study)
    return (*_pictures(study, summarise(study)), *narrow), (*((features,) if features is not None else ()), *wide)


def _pictures(study: StudyOutputs, row: StudySummary) -> tuple[Picture, ...]:
    predictions, roc, bins = (study.tables[name] for name in ("predictions", "roc", "calibration"))
    truth = (predictions["outcome"] == study.classes[1]).to_numpy(dtype=bool)
    score = predictions["probability"].to_numpy(dtype=np.float64)
    curve = (roc["false_positive_rate"].to_numpy(np.float64), roc["sensitivity"].to_numpy(np.float64))
    compared: list[tuple[str, str, Estimate, np.ndarray[tuple[int], np.dtype[np.float64]] | None]] = []
    compared.append(("ours", "nested cross-validation", row.auc, None))
    if row.permuted_auc is not None:
        runs = study.tables["permuted"]["auc"].to_numpy(np.float64)
        compared.append(("permuted", f"permuted labels, {len(runs)} runs", row.permuted_auc, runs))
    if row.optimistic_auc is not None:
        compared.append(("paper_order", "paper's order (optimistic)", row.optimistic_auc, None))
    if row.published is not None:
        published = Estimate(value=row.published.auc)
        compared.append(("published", f"published: {row.published.nearest}", published, None))
    return (
        draw_roc(
            study.name,
            curve=curve,
            truth=truth,
            score=score,
            auc=row.auc,
            operating_point=(1.0 - row.specificity.value, row.sensitivity.value),
        ),
        draw_calibration(
            study.name,
            predicted=bins["predicted"].to_numpy(np.float64),
            observed=bins["observed"].to_numpy(np.float64),
            low=bins["observed_low"].to_numpy(np.float64),
            high=bins["observed_high"].to_numpy(np.float64),
            brier=row.brier,
        ),
        draw_scores(study.name, truth=truth, score=score, threshold=study.model.threshold, labels=study.classes),
        draw_comparison(study.name, compared),
    )


def _feature_picture(study: StudyOutputs) -> Picture | None:
    table = study.tables["features"]
    if table.empty:
        return None
    column, words = (
        ("coefficient", "Coefficient, log-odds per standard deviation")
        if "coefficient" in table
        else (
            "mean_difference_z",
            f"Mean difference {study.classes[1]} − {study.classes[0]}, standard deviations",
        )
    )
    return draw_features(
        study.name,
        names=table["feature"].astype(str).tolist(),
        weights=table[column].to_numpy(np.float64),
        kept=table["share_of_folds"].to_numpy(np.float64),
        weight=words,
    )


def _confusion_table(study: StudyOutputs) -> Table:
    predictions = study.tables["predictions"]
    counts = pd.crosstab(predictions["outcome"], predictions["predicted"])
    counts = counts.reindex(index=list(study.classes), columns=list(study.classes), fill_value=0)
    rows = tuple(
        (f"is {name}", *map(str, numbers), str(sum(numbers)))
        for name, numbers in zip(study.classes, counts.to_numpy(dtype=np.int64).tolist(), strict=True)
    )
    headers = ("", *(f"called {name}" for name in study.classes), "patients")
    return Table(
        "Confusion matrix of the out-of-fold predictions, each at the threshold of its own fold",
        headers,
        rows,
        numeric=(1, 2, 3),
    )


def _fold_table(study: StudyOutputs) -> Table:
    folds = study.tables["folds"]
    named = {
        "repeat": "Repeat",
        "fold": "Fold",
        "train": "Trained on",
        "test": "Tested on",
        "auc": "AUC",
        "inner_auc": "AUC, inner folds",
        "threshold": "Threshold",
    }
    named = {name: words for name, words in named.items() if name in folds}
    if "repeat" in named and folds["repeat"].max() <= 1:
        del named["repeat"]
    steps = [str(name) for name in folds if str(name).startswith("after_")]
    known = (*named, *steps, "repeat", "filled_up", "features")
    settings = [str(name) for name in folds if name not in known and pd.api.types.is_numeric_dtype(folds[name])]
    rows = tuple(
        (
            *(format_number(fold[name]) for name in named),
            ", ".join(f"{name} = {fold[name]:g}" for name in settings) or UNKNOWN,
            " → ".join(f"{fold[name]:g}" for name in steps),
        )
        for fold in folds.to_dict("records")
    )
    order = " → ".join(name.removeprefix("after_").replace("_", "-") for name in steps)
    return Table(
        f"Outer folds: what was chosen inside the training part of each. Features left after {order}",
        (*named.values(), "Setting", "Features left"),
        rows,
        numeric=tuple(range(len(named))),
    )


def _choice_table(study: StudyOutputs) -> Table:
    """Return every feature that some fold chose, the most frequent first."""
    folds: dict[str, list[str]] = {}
    for fold in study.tables["folds"].to_dict("records"):
        label = f"{fold['fold']}" if fold["repeat"] <= 1 else f"{fold['repeat']}/{fold['fold']}"
        for feature in str(fold["features"]).split(";"):
            folds.setdefault(feature, []).append(label)
    total = len(study.tables["folds"])
    ranked = sorted(folds.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = tuple((feature, f"{len(chosen)} of {total}", ", ".join(chosen)) for feature, chosen in ranked)
    return Table(
        f"Features that folds chose: {len(rows)} in all", ("Feature", "Chosen by", "Folds"), rows, numeric=(1,)
    )


def _feature_table(study: StudyOutputs) -> Table:
    table = study.tables["features"]
    named = {
        "feature": "Feature",
        "coefficient": "Coefficient",
        "importance": "Importance (forest)",
        "mean_difference_z": "Mean difference, SD",
        "t_test_p": "t-test p",
        "levene_p": "Levene p",
    }
    shown = [name for name in named if name in table and table[name].notna().any()]
    rows = tuple(
        (*(format_number(row[name]) for name in shown), f"{row['share_of_folds']:.0%}")
        for row in table.to_dict("records")
    )
    return Table(
        "Features of the final model, fitted to all patients. They were chosen by these tests, so p describes and "
        "does not prove",
        (*(named[name] for name in shown), "Chosen in folds"),
        rows,
        numeric=tuple(range(1, len(shown) + 1)),
    )


def _rival_table(study: StudyOutputs) -> Table:
    table = study.tables["comparison"]
    rows = (
        ()
        if len(table) < 2
        else tuple(
            (
                str(row["classifier"]).replace("_", " "),
                format_estimate(Estimate(value=row["auc"], low=row["low"], high=row["high"])),
                "yes" if row["kept"] else "no",
            )
            for row in table.to_dict("records")
        )
    )
    return Table(
        "Classifiers compared in the inner folds of the final fit", ("Classifier", "AUC", "Kept"), rows, numeric=(1,)
    )
