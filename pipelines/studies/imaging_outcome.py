"""What an imaging network learns to tell of a patient, read from the clinical table as the studies read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.modelling.survival_validation import make_survival_splits
from pipelines.modelling.tables import participant_classes
from pipelines.modelling.validation import derive_seed, make_splits
from pipelines.studies import atrx, ferroptosis_imaging, grading
from pipelines.training.imaging_data import ImagingOutcome, Rows
from pipelines.training.losses import MISSING
from services.model_serving.networks.specification import Architecture
from services.shared.errors import InvalidTable, InvalidValue

STEP = "imaging outcome"
_SPELLINGS: dict[str, dict[str, frozenset[str]]] = {
    "idh": {"WT": frozenset({"wt", "wild type", "wild-type", "wildtype"}), "Mutant": frozenset({"mutant", "mut"})},
    "mgmt": {
        "Unmethylated": frozenset({"unmethylated"}),
        "Methylated": frozenset({"methylated"}),
    },
}


def _lower_grade(participants: pd.DataFrame, ids: pd.Index) -> pd.Series:
    grade = participants.set_index(participants["participant_id"].str.removeprefix("sub-"))["grade"]
    return pd.to_numeric(grade, errors="coerce").reindex(ids).map({2: "II", 3: "III"})


def _by_spelling(column: str) -> Callable[[pd.DataFrame, pd.Index], pd.Series]:
    return lambda table, ids: participant_classes(table, column, ids, spellings=_SPELLINGS[column])


@dataclass(frozen=True)
class ClassOutcome:
    """Two classes, the negative one first, and what reads them from a clinical table: (participants, ids)."""

    classes: tuple[str, str]
    read: Callable[[pd.DataFrame, pd.Index], pd.Series]


CLASS_OUTCOMES: dict[str, ClassOutcome] = {
    "risk_group": ClassOutcome(ferroptosis_imaging.CLASSES, ferroptosis_imaging.read_labels),
    "grade": ClassOutcome(grading.CLASSES, grading.read_labels),
    "lower_grade": ClassOutcome(("II", "III"), _lower_grade),
    "atrx": ClassOutcome(atrx.CLASSES, atrx.read_labels),
    "idh": ClassOutcome(("WT", "Mutant"), _by_spelling("idh")),
    "mgmt": ClassOutcome(("Unmethylated", "Methylated"), _by_spelling("mgmt")),
}
_OWN: dict[Architecture, str] = {"risk_group": "risk_group", "grade": "grade", "grade_survival": "lower_grade"}
SLICE_OUTCOMES = ("atrx", "idh", "mgmt", "lower_grade")


def class_outcome(architecture: Architecture, outcome: str | None) -> ClassOutcome | None:
    """Return the classes that a network tells apart; None for one that says a risk alone.

    Parameters
    ----------
    outcome
        What a slice classifier is to tell, one of :data:`SLICE_OUTCOMES`; the other networks' is fixed.

    Raises
    ------
    InvalidValue
        Where a slice classifier's outcome is not one of these, or another network is given one.
    """
    if architecture == "slice_classifier":
        if outcome not in SLICE_OUTCOMES:
            raise InvalidValue(
                "what the slice classifier tells is not known",
                step=STEP,
                field="train_imaging.outcome",
                expected=", ".join(SLICE_OUTCOMES),
                got=str(outcome),
                remedy="set 'outcome' in the section train_imaging",
            )
        return CLASS_OUTCOMES[outcome]
    if outcome is not None:
        raise InvalidValue(
            "this network's outcome is fixed",
            step=STEP,
            field="train_imaging.outcome",
            expected=_OWN.get(architecture, "survival"),
            got=outcome,
        )
    return CLASS_OUTCOMES[_OWN[architecture]] if architecture in _OWN else None


def read_outcome(
    participants: pd.DataFrame, ids: pd.Index, architecture: Architecture, outcome: str | None
) -> tuple[ImagingOutcome, dict[str, str]]:
    """Return what is known of patients, and the reason by id of those that a network cannot learn from.

    The rows of such patients hold no outcome. The dual-task network learns from lower grades alone.

    Raises
    ------
    InvalidTable
        Where the clinical table lacks a column.
    """
    wanted = class_outcome(architecture, outcome)
    reasons: dict[str, str] = {}
    classes = months = event = None
    if wanted is not None:
        labels = wanted.read(participants, ids)
        classes = labels.map({name: value for value, name in enumerate(wanted.classes)}).fillna(MISSING)
        reasons |= dict.fromkeys(classes.index[classes == MISSING].astype(str), "outcome not known, or not studied")
    if architecture in ("grade_survival", "diffusion_survival"):
        lacking = [name for name in ("os_months", "event") if name not in participants]
        if lacking:
            raise InvalidTable(
                "the clinical table has no follow-up",
                step=STEP,
                field=", ".join(lacking),
                expected="os_months and event",
                got=", ".join(map(str, participants.columns[:10])),
            )
        rows = participants.set_index(participants["participant_id"].str.removeprefix("sub-")).reindex(ids)
        follow = rows[["os_months", "event"]].apply(pd.to_numeric, errors="coerce")
        months, event = follow["os_months"], follow["event"]
        unknown = ~(months > 0) | ~event.isin([0, 1])
        reasons |= dict.fromkeys(ids[unknown.to_numpy()].astype(str), "follow-up not known")
    return (
        ImagingOutcome(
            None if classes is None else np.asarray(classes, dtype=np.int64),
            None if months is None else np.asarray(months, dtype=np.float64),
            None if event is None else np.asarray(event.fillna(0), dtype=np.int64),
        ),
        reasons,
    )


def study_folds(outcome: ImagingOutcome, *, folds: int, seed: int) -> Rows:
    """Return each patient's fold, as a study with this seed draws them for the same patients; from 0.

    Parameters
    ----------
    outcome
        Of patients sorted by id, each with an outcome.
    """
    if outcome.event is not None:
        splits = make_survival_splits(outcome.event, folds=folds, repeats=1, seed=derive_seed(seed, 0))
    else:
        assert outcome.classes is not None
        splits = make_splits(outcome.classes, folds=folds, repeats=1, seed=derive_seed(seed, 0))
    found = np.zeros(len(outcome), dtype=np.int64)
    for split in splits:
        found[split.test] = split.fold
    return found
