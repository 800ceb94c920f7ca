"""Clinical tables in our terms: identifiers, follow-up, and another release's table joined to a release."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.datasets import codings
from pipelines.datasets.participants import read_participants
from pipelines.datasets.release import Release
from services.shared.cohort import PARTICIPANT_COLUMNS
from services.shared.contracts import case_label
from services.shared.errors import IdMismatch, InvalidTable, NotFound
from services.shared.storage import sha256_of

FOLLOW_UP = ("os_months", "event")

_CONVERTERS: dict[str, Callable[[pd.Series, str], pd.Series]] = {
    "age_years": lambda column, step: codings.numbers(column, step=step, field="age_years"),
    "os_months": lambda column, step: codings.numbers(column, step=step, field="os_months"),
    "event": lambda column, step: codings.events(column, step=step),
    "sex": lambda column, step: codings.sexes(column, step=step),
    "grade": lambda column, step: codings.grades(column, step=step),
    "idh": lambda column, step: codings.mutations(column, step=step, field="idh"),
    "atrx": lambda column, step: codings.mutations(column, step=step, field="atrx"),
    "codeletion_1p19q": lambda column, step: codings.codeletions(column, step=step),
    "mgmt": lambda column, step: codings.methylations(column, step=step),
}


def participants_of(clinical: pd.DataFrame) -> pd.DataFrame:
    """Return a table indexed by the publisher's identifiers with ``participant_id`` and ``source_id`` as columns."""
    ids = [str(name) for name in clinical.index]
    table = clinical.reset_index(drop=True)
    table.insert(0, "participant_id", [f"sub-{case_label(name)}" for name in ids])
    table.insert(1, "source_id", ids)
    return table


def whole_follow_up(clinical: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the table with follow-up only where months and event are both known and months are not negative.

    Patients stay; a study leaves out who has no follow-up, or one of 0 months. The counts say how many there are.
    """
    table = clinical.copy()
    months = table["os_months"].astype(np.float64)
    negative = months < 0
    half = months.notna() != table["event"].notna()
    lost = negative | half
    table["os_months"] = months.mask(lost)
    table["event"] = table["event"].astype("Int64").mask(lost)
    counted = {
        "patients without follow-up": int(table["os_months"].isna().sum()),
        "patients without follow-up, negative": int(negative.sum()),
        "patients without follow-up, months or vital status alone": int((half & ~negative).sum()),
        "patients with a follow-up of 0 months": int((table["os_months"] == 0).sum()),
    }
    return table, {name: count for name, count in counted.items() if count}


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return SHA-256 by name of the files that an importer read."""
    return {path.name: sha256_of(path) for path in sorted(paths)}


def read_clinical(path: Path, *, step: str) -> Release:
    """Read a clinical table to join to a release.

    Parameters
    ----------
    path
        The folder of the clinical release of TCGA (:mod:`pipelines.datasets.tcga`), or a CSV or TSV with a column of
        identifiers and columns named as in :data:`services.shared.cohort.PARTICIPANT_COLUMNS`; other columns come
        along as text.
    step
        The importer that an error names.
    """
    if path.is_dir():
        from pipelines.datasets import tcga

        return tcga.read_release(path)
    if not path.is_file():
        raise NotFound(
            "there is no such clinical table", step=step, field=path.name, remedy="name a CSV, TSV or folder"
        )
    frame = read_participants(path)
    ids = frame["participant_id"].str.removeprefix("sub-")
    columns: dict[str, pd.Series] = {}
    meanings: dict[str, str] = {}
    for written in frame.columns.drop(["participant_id", "source_id"]):
        name = re.sub(r"[^a-z0-9]+", "_", str(written).lower()).strip("_")
        if not name or not name[0].isalpha() or name in columns:
            raise InvalidTable(
                "a column's name is repeated or does not begin with a letter", step=step, field=str(written)
            )
        column = frame[written].set_axis(ids)
        columns[name] = _CONVERTERS[name](column, step) if name in _CONVERTERS else codings.text(column)
        if name not in PARTICIPANT_COLUMNS:
            meanings[name] = f"{written}, as in {path.name}"
    table = pd.DataFrame(columns, index=pd.Index(ids))
    table = table.reset_index(drop=True).assign(participant_id=frame["participant_id"], source_id=frame["source_id"])
    return Release(name=step, participants=table, meanings=meanings, sources=hashes([path]))


def join_clinical(release: Release, participants: Path | None) -> Release:
    """Return a release with the columns of another clinical table that it lacks itself.

    Nothing is overwritten: where both have a column, the release's own stays and differing values are counted.
    Months and event go together, so that a follow-up never mixes two sources. Histology is worded by each source in its
    own way and is not compared.

    Raises
    ------
    IdMismatch
        Where the tables share no patient.
    """
    if participants is None:
        return release
    step = f"import {release.name}"
    other = read_clinical(participants, step=step)
    own = release.participants.set_index("participant_id")
    theirs = other.participants.set_index("participant_id").drop(columns="source_id")
    common = own.index.intersection(theirs.index)
    if common.empty:
        raise IdMismatch(
            "the clinical table names no patient of the release",
            step=step,
            field=participants.name,
            expected=f"identifiers such as {release.participants['source_id'].iloc[0]}",
            got=f"identifiers such as {other.participants['source_id'].iloc[0]}",
        )
    shared = [str(name) for name in theirs if name in own]
    held = set(shared) | (set(FOLLOW_UP) if set(FOLLOW_UP) & set(own.columns) else set())
    added = [name for name in theirs if name not in held]
    counted = {"patients without a row in the joined clinical table": len(own.index.difference(theirs.index))}
    for name in set(shared) - {"histology"}:
        differing = _differing(own.loc[common, name], theirs.loc[common, name])
        counted[f"{name} differs in the joined clinical table, the release's own stays"] = differing
    joined = own.join(theirs[added]).reset_index()
    return dataclasses.replace(
        release,
        participants=joined,
        meanings={**release.meanings, **{name: other.meanings[name] for name in added if name in other.meanings}},
        counted={**release.counted, **{name: count for name, count in counted.items() if count}},
        sources={**release.sources, **other.sources},
        licence=" ".join(part for part in dict.fromkeys((release.licence, other.licence)) if part),
    )


def _differing(own: pd.Series, theirs: pd.Series) -> int:
    """Patients whose values both tables have and that differ: by more than half a unit where they are numbers."""
    both = own.notna() & theirs.notna()
    if pd.api.types.is_numeric_dtype(own) and pd.api.types.is_numeric_dtype(theirs):
        apart = (own[both].astype(np.float64) - theirs[both].astype(np.float64)).abs() > 0.5
        return int(apart.sum())
    return int((own[both].astype(str).str.lower() != theirs[both].astype(str).str.lower()).sum())
