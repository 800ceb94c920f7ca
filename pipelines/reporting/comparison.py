"""The paper's figures beside ours, with a line that says what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pandas as pd

from pipelines.reporting.model_figures import estimate_of, model_name
from pipelines.reporting.published import FIGURES, Paper
from pipelines.reporting.sources import StudyOutputs
from pipelines.reporting.survival_figures import part_name
from pipelines.reporting.tables import Table, format_estimate
from services.model_serving.package import Estimate

_REGIONS = {"tc": "tumour core", "wt": "whole tumour"}


def paper_table(study: StudyOutputs) -> Table | None:
    """Return our figures, each followed by the paper's of the same kind; None where the study follows no paper."""
    paper = study.paper
    if paper is None:
        return None
    rows: list[tuple[str, str, str, str]] = []
    ours: list[int] = []
    for figure in dict.fromkeys(published.figure for published in paper.figures):
        label = FIGURES.get(figure, figure)
        for where, estimate in our_figures(study, figure):
            ours.append(len(rows))
            rows.append((label, "here", where, format_estimate(estimate)))
        for published in paper.figures:
            if published.figure == figure:
                value = Estimate(value=published.value, low=published.low, high=published.high)
                rows.append((label, "paper", published.where, format_estimate(value)))
    caption = f"Beside the paper: {paper.source}"
    return Table(
        caption, ("Figure", "Whose", "Model and patients", "Value"), tuple(rows), numeric=(3,), flagged=tuple(ours)
    )


def our_figures(study: StudyOutputs, figure: str) -> Iterator[tuple[str, Estimate]]:
    """Yield what a study found of one kind of figure, with the patients it is of."""
    if study.kind == "classification":
        estimate = study.estimate(figure)
        if estimate is not None:
            yield "out of fold", estimate
        for region, words in _REGIONS.items():
            found = study.estimate(f"{region}_fold_{figure}")
            if found is not None:
                yield f"{words}, mean of the folds", found
        models = study.tables.get("performance")
        for _, row in models.iterrows() if models is not None and figure in models else ():
            if pd.notna(row[figure]):
                yield f"{model_name(row['model'])}, {part_name(str(row['part']))}", estimate_of(row, figure)
        return
    for part in (*study.parts, "permuted"):
        estimate = study.estimate(f"{part}_{figure}")
        if estimate is not None:
            yield part_name(part), estimate
        for name in study.metrics:
            timed = re.fullmatch(rf"{re.escape(part)}_{re.escape(figure)}_(\d+(?:\.\d+)?)", name)
            if not timed or figure == "auc" or float(timed[1]) % 12:  # whole years, as papers tell them
                continue
            if (found := study.estimate(name)) is not None:
                yield f"{part_name(part)}, {timed[1]} months", found


def why_different(paper: Paper, *, simulated: bool) -> str:
    """Return why the two cannot be compared at face value."""
    if simulated:
        return (
            "The patients here are simulated, with effects that were planted, so the figures cannot be compared: a "
            "high figure shows that the software finds what is there, not that it works on patients."
        )
    return f"Other patients and other data, so for orientation only. {paper.differs}"
