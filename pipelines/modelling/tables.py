"""Feature tables and outcomes: read them and find the patients' rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from services.shared.cohort import PARTICIPANT_COLUMNS
from services.shared.contracts import case_label
from services.shared.errors import (
    DuplicateId,
    IdMismatch,
    InvalidTable,
    NotFound,
    UnreadableFile,
)

ID_COLUMNS = ("case_id", "participant_id", "ID", "source_id")
_BOOKKEEPING = re.compile(
    r"cohort|space|split|subset|.*(^|_)(date|time|timestamp|created|seconds)$|diagnostics_.*", re.I
)
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "#div/0!", "#n/a", "#num!", "#value!"})


@dataclass(frozen=True)
class FeatureTable:
    """A table of features, and what was left out of it.

    Parameters
    ----------
    features
        One row a patient, indexed by ``case_id``; float64, NaN where a feature does not exist.
    left_out
        Reason by name of each column that is no feature.
    """

    features: pd.DataFrame
    left_out: dict[str, str]


def read_feature_table(path: Path) -> FeatureTable:
    """Return the features in a Parquet or CSV file.

    The patients' column is the first of ``case_id``, ``participant_id``, ``ID``, ``source_id`` (any case) that there
    is, or a Parquet index of such a name. Dates, clinical columns, diagnostics and text are no features and are left
    out.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such file, or it is not a table.
    InvalidTable, DuplicateId
        Where no column names the patients, one occurs twice, or a column mixes numbers with text.
    """
    if not path.is_file():
        raise NotFound("there is no such feature table", field=str(path), remedy="name a .parquet or .csv file")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise UnreadableFile(
            "the feature table cannot be read",
            field=path.name,
            expected="Parquet, or CSV with a header",
            got=str(error).strip().splitlines()[-1][:160],
        ) from error
    if frame.index.name in ID_COLUMNS:
        frame = frame.reset_index()
    return feature_table(frame, field=path.name)


def feature_table(frame: pd.DataFrame, *, field: str = "features") -> FeatureTable:
    """Return the features of a table with a column of patients; see :func:`read_feature_table`."""
    frame = frame.rename(columns=lambda name: str(name).strip())
    repeated = sorted(set(frame.columns[frame.columns.duplicated()]))
    if repeated:
        raise InvalidTable("a column occurs twice", field=field, expected="unique names", got=", ".join(repeated[:5]))
    spelled = {name.lower(): name for name in reversed(frame.columns)}
    found = [spelled[name.lower()] for name in ID_COLUMNS if name.lower() in spelled]
    if not found:
        raise InvalidTable(
            "no column names the patients",
            field=field,
            expected=f"one of {', '.join(ID_COLUMNS)}",
            got=", ".join(frame.columns[:5]),
            remedy="name the column of identifiers case_id",
        )
    ids = pd.Index(frame[found[0]].astype(str).str.strip().str.removeprefix("sub-"), name="case_id")
    check_unique(ids, field=f"{field}: {found[0]}")
    left_out: dict[str, str] = {}
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        if name.lower() in (known.lower() for known in ID_COLUMNS):
            continue
        if name.lower() in PARTICIPANT_COLUMNS:
            left_out[name] = "clinical"
        elif _BOOKKEEPING.fullmatch(name) or pd.api.types.is_datetime64_any_dtype(frame[name]):
            left_out[name] = "bookkeeping"
        else:
            values = _as_numbers(frame[name], field=field)
            if values is None:
                left_out[name] = "text"
            else:
                columns[name] = values
    features = pd.DataFrame(columns)
    features.index = ids
    return FeatureTable(features.sort_index(), left_out)


def _as_numbers(column: pd.Series, *, field: str) -> pd.Series | None:
    """Return a column as float64, or None where it is text."""
    if pd.api.types.is_bool_dtype(column):
        return None
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(np.float64)
    text = column.astype(str).str.strip()
    present = ~text.str.lower().isin(_MISSING) & column.notna()
    values = pd.to_numeric(text.where(present), errors="coerce")
    broken = present & values.isna()
    if not broken.any():
        return values.astype(np.float64)
    if broken.sum() > present.sum() / 2:
        return None
    raise InvalidTable(
        "a column mixes numbers with text",
        field=f"{field}: {column.name}",
        expected="numbers, empty where missing",
        got=f"{int(broken.sum())} entries such as {text[broken].iloc[0][:40]!r}",
        remedy="correct or empty these entries, or remove the column",
    )


def check_unique(ids: pd.Index, *, field: str) -> None:
    """Raise DuplicateId where a patient occurs more than once."""
    repeated = sorted(set(ids[ids.duplicated()]))
    if repeated:
        raise DuplicateId(
            "a patient occurs more than once",
            field=field,
            expected="one row a patient",
            got=", ".join(repeated[:5]),
            remedy="remove or rename the repeated rows",
        )


def participant_rows(participants: pd.DataFrame, ids: pd.Index) -> pd.DataFrame:
    """Return the clinical table's rows of a feature table's patients, indexed by ``ids``.

    Patients match by ``participant_id`` (with or without ``sub-``), by ``source_id``, or by the label that an import
    makes of their identifier, whichever fits more of them.

    Parameters
    ----------
    ids
        ``case_id`` of the feature table.

    Raises
    ------
    IdMismatch, DuplicateId
        Where not every patient is in the clinical table, or one stands there twice.
    """
    labels = participants["participant_id"].astype(str).str.removeprefix("sub-")
    ways = [(ids, labels)]
    if "source_id" in participants:
        ways.append((ids, participants["source_id"].astype(str).str.strip()))
    ways.append((pd.Index([case_label(name) for name in ids]), labels))
    wanted, known = max(ways, key=lambda way: int(way[0].isin(way[1]).sum()))
    check_unique(pd.Index(known), field="participants.tsv")
    missing = ids[~wanted.isin(known)]
    if len(missing):
        raise id_mismatch(list(missing), [], expected="a row of participants.tsv for each patient with features")
    return participants.set_index(pd.Index(known)).loc[wanted].set_index(ids)


def participant_labels(participants: pd.DataFrame, column: str, ids: pd.Index) -> pd.Series:
    """Return one clinical column for a feature table's patients, indexed by ``ids``; NaN where there is no entry.

    Raises
    ------
    InvalidTable, IdMismatch, DuplicateId
        Where the table lacks the column, and as :func:`participant_rows`.
    """
    if column not in participants:
        raise InvalidTable(
            "the clinical table lacks the outcome",
            field="participants.tsv",
            expected=column,
            got=", ".join(map(str, participants.columns[:12])),
        )
    return participant_rows(participants, ids)[column]


def participant_classes(
    participants: pd.DataFrame, column: str, ids: pd.Index, *, spellings: Mapping[str, frozenset[str]]
) -> pd.Series:
    """Return each patient's class from a clinical column, whatever its spelling; None where it is unknown.

    Parameters
    ----------
    spellings
        Lower-case spellings by class.

    Raises
    ------
    InvalidTable
        Where an entry is no known spelling, and as :func:`participant_labels`.
    """
    classes = {spelling: name for name, known in spellings.items() for spelling in known}

    def class_of(value: object) -> str | None:
        text = "" if pd.isna(value) else str(value).strip().lower()  # type: ignore[call-overload]
        if text in _MISSING:
            return None
        if text not in classes:
            raise InvalidTable(
                "an outcome is not known",
                field=column,
                expected="; ".join(f"{name}: {', '.join(sorted(known))}" for name, known in spellings.items()),
                got=repr(value),
            )
        return classes[text]

    return participant_labels(participants, column, ids).map(class_of)


def id_mismatch(only_features: list[str], only_labels: list[str], *, expected: str) -> IdMismatch:
    """Return the error that lists the patients of one table only."""
    parts = [
        f"{len(ids)} {what}: {', '.join(sorted(ids)[:5])}{' …' if len(ids) > 5 else ''}"
        for ids, what in ((only_features, "with features only"), (only_labels, "with an outcome only"))
        if ids
    ]
    return IdMismatch(
        "features and outcomes do not name the same patients",
        field="case_id",
        expected=expected,
        got="; ".join(parts),
        remedy="correct the identifiers, or exclude these patients knowingly",
    )
