"""Tables of a report, each made of text that is ready to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
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


def format_number(value: object) -> str:
    """Return a number as it is printed in tables; anything else as text."""
    if isinstance(value, np.floating):
        value = float(value)
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return UNKNOWN
    if value.is_integer() and 2 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"


def format_p(value: float) -> str:
    """Return a p-value as it is printed everywhere."""
    return UNKNOWN if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


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
