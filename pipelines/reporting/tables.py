"""Tables of a report, each made of text that is ready to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipelines.ledger import STEPS, Step
from services.model_serving.package import Estimate
from services.preprocessing.contracts import Quality
from services.shared.errors import Problem

UNKNOWN = "–"


def format_estimate(estimate: Estimate | None) -> str:
    """Return a figure with its 95 % interval, as it is printed everywhere."""
    if estimate is None:
        return UNKNOWN
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}–{estimate.high:.3f}]"


@dataclass(frozen=True)
class Table:
    """Headers and rows of text. ``numeric`` names columns to set flush right, ``flagged`` rows to mark."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    flagged: tuple[int, ...] = ()


def leavers_table(quarantine: Mapping[Step, Mapping[str, Problem]]) -> Table:
    """Return who was left out by which step, why, and what to do about it."""
    rows = []
    for step in STEPS:
        for case, problem in sorted(quarantine.get(step, {}).items()):
            reason = problem.get("detail", UNKNOWN)
            facts = [f"{name} {problem[name]}" for name in ("expected", "got") if name in problem]
            rows.append(
                (f"sub-{case}", step, "; ".join([reason, *facts]), problem.get("remedy", UNKNOWN)),
            )
    return Table("Patients whom a step could not treat", ("Patient", "Step", "Reason", "What to do"), tuple(rows))


def quality_table(quality: Mapping[str, Quality]) -> Table:
    """Return the quality of the prepared images, flagged cases first; the worst sequence stands for a case."""
    rows = []
    for label, q in sorted(quality.items(), key=lambda item: (not item[1].flags, item[0])):
        sequences = list(q.sequences.values())
        noise = [s.signal_to_noise for s in sequences if s.signal_to_noise is not None]
        agreement = [s.nmi_after for s in sequences if s.nmi_after is not None]
        rows.append(
            (
                f"sub-{label}",
                ", ".join(q.flags) or "none",
                f"{q.brain_volume_ml:.0f}",
                f"{q.atlas_dice:.3f}",
                f"{min(noise):.1f}" if noise else UNKNOWN,
                f"{max(s.bias_field_range for s in sequences):.2f}" if sequences else UNKNOWN,
                f"{min(agreement):.3f}" if agreement else UNKNOWN,
                f"{max(s.shift_mm for s in sequences):.1f}" if sequences else UNKNOWN,
                f"{min(s.fraction_seen for s in sequences):.1%}" if sequences else UNKNOWN,
            )
        )
    flagged = sum(bool(q.flags) for q in quality.values())
    return Table(
        f"Quality of {len(rows)} cases, {flagged} flagged (listed first). The worst sequence of a case counts",
        (
            "Patient",
            "Flags",
            "Brain, ml",
            "Dice with atlas",
            "Signal to noise",
            "Bias field range",
            "Mutual information with T1c",
            "Moved, mm",
            "Brain in view",
        ),
        tuple(rows),
        numeric=tuple(range(2, 9)),
        flagged=tuple(range(flagged)),
    )


def characteristics_table(participants: pd.DataFrame) -> Table:
    """Return who the patients are: one row a characteristic, missing values counted."""
    rows: list[tuple[str, str, str]] = []
    for column, label in (("age_years", "Age, years"), ("os_months", "Follow-up, months")):
        if column in participants:
            values = pd.to_numeric(participants[column], errors="coerce")
            quartiles = values.quantile([0.25, 0.5, 0.75])
            text = "{1:.1f} ({0:.1f}–{2:.1f})".format(*quartiles) if values.notna().any() else UNKNOWN
            rows.append((f"{label}: median (quartiles)", text, str(int(values.isna().sum()))))
    for column, label in _CATEGORIES.items():
        if column not in participants:
            continue
        values = participants[column].dropna()
        counts = values.map({0: "no", 1: "yes"}.get if column == "event" else _plain).value_counts().sort_index()
        known = int(counts.sum())
        text = ", ".join(f"{value}: {count} ({count / known:.0%})" for value, count in counts.items()) or UNKNOWN
        rows.append((label, text, str(len(participants) - known)))
    return Table(
        f"Characteristics of the {len(participants)} patients of the studies",
        ("Characteristic", "Patients", "Missing"),
        tuple(rows),
        numeric=(2,),
    )


_CATEGORIES = {
    "sex": "Sex",
    "grade": "WHO grade",
    "histology": "Histology",
    "idh": "IDH",
    "codeletion_1p19q": "1p/19q",
    "mgmt": "MGMT promoter",
    "atrx": "ATRX",
    "risk_group": "Ferroptosis-gene risk",
    "event": "Death observed",
}


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def key_value_table(caption: str, facts: Mapping[str, object], *, headers: tuple[str, str]) -> Table:
    """Return names and values, one row each, in the order given."""
    return Table(caption, headers, tuple((name, str(value)) for name, value in facts.items()))


CHECKLIST_CAPTION = "TRIPOD+AI (BMJ 2024;385:e078378), in short: where each item is answered"


def checklist_table(answers: Mapping[str, str]) -> Table:
    """Return the reporting checklist; an item without an answer says so."""
    rows = tuple((item, topic, answers.get(item, "not reported")) for item, topic in _CHECKLIST)
    silent = tuple(i for i, row in enumerate(rows) if row[2].startswith("not reported"))
    return Table(CHECKLIST_CAPTION, ("Item", "Topic", "Where"), rows, flagged=silent)


_CHECKLIST: Sequence[tuple[str, str]] = (
    ("3–4", "Background, intended use, objectives"),
    ("5", "Source of data and dates"),
    ("6", "Participants: setting, eligibility, treatment"),
    ("7", "Preparation of the data"),
    ("8", "Outcome and how it was assessed"),
    ("9", "Predictors"),
    ("10", "Sample size"),
    ("11", "Missing data"),
    ("12", "Analysis: partition, selection, model, measures"),
    ("13", "Class imbalance"),
    ("14", "Fairness"),
    ("15", "Output of the model, threshold"),
    ("17", "Ethical approval"),
    ("18", "Funding, conflicts, protocol, data and code sharing"),
    ("19", "Involvement of patients and the public"),
    ("20", "Flow and characteristics of participants"),
    ("21", "Participants and events in each analysis"),
    ("22", "Specification of the model"),
    ("23", "Performance with confidence intervals"),
    ("24", "Updating of the model"),
    ("25–27", "Interpretation, limitations, usability"),
)
