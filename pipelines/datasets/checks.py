"""What a release's tables must be like before they become a cohort, whoever published them.

The clinical table's rules are a pandera schema; what fails becomes one error that names the patient, the column, what
was expected and what came.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipelines.datasets.release import MATRICES, Release
from services.shared.cohort import PARTICIPANT_COLUMNS
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, TooFewCases

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

CATEGORIES: dict[str, tuple[str, ...]] = {
    "subset": ("study", "segmentation"),
    "sex": ("F", "M"),
    "idh": ("WT", "Mutant"),
    "codeletion_1p19q": ("codel", "non-codel"),
    "mgmt": ("Methylated", "Unmethylated"),
    "atrx": ("WT", "Mutant"),
    "risk_group": ("high", "low"),
}
"""Values by column of the clinical table, beside missing."""

RANGES: dict[str, tuple[float, float]] = {"age_years": (0, 120), "os_months": (0, 1200)}
"""Lowest and highest value by column."""

_WHOLE: dict[str, tuple[int, ...]] = {"grade": (2, 3, 4), "event": (0, 1)}
_SNAKE = re.compile(r"[a-z][a-z0-9_]*")


def check_release(release: Release) -> Release:
    """Return a release whose tables are sorted by patient and have the types and values that a cohort needs.

    Raises
    ------
    InvalidTable, DuplicateId
        Where the clinical table breaks a rule (see :func:`check_clinical`), a further column has no meaning, or a
        matrix holds text or infinite values.
    IdMismatch
        Where a matrix has a row that is no patient's.
    TooFewCases
        Where no patient is left.
    """
    step = f"import {release.name}"
    if release.participants.empty:
        raise TooFewCases(
            "no patient of the release stays", step=step, expected="a patient", got=f"{len(release.dropped)} left out"
        )
    participants = check_clinical(release.participants, step=step)
    lacking = sorted(set(participants.columns) - set(PARTICIPANT_COLUMNS) - set(release.meanings))
    if lacking:
        raise InvalidTable(
            "a further column has no meaning in the data dictionary",
            step=step,
            field=", ".join(lacking[:5]),
            expected="a sentence for each in meanings",
        )
    labels = set(participants["participant_id"].str.removeprefix("sub-"))
    matrices = {name: _checked_matrix(name, matrix, labels, step) for name, matrix in release.matrices.items()}
    return dataclasses.replace(release, participants=participants, matrices=matrices)


def check_clinical(frame: pd.DataFrame, *, step: str) -> pd.DataFrame:
    """Return a clinical table sorted by ``participant_id``, numbers as float64, grade and event as Int64.

    ``participant_id`` is ``sub-`` and letters and digits, ``source_id`` what the publisher writes, each unique; codes
    are those of :data:`CATEGORIES`, numbers lie in :data:`RANGES`. Further columns are free but named in snake_case.

    Raises
    ------
    DuplicateId
        Where an identifier occurs twice.
    InvalidTable
        Where another rule is broken; all faults are counted, the first is named.
    """
    from pandera.errors import SchemaErrors

    strange = [str(name) for name in frame.columns if not _SNAKE.fullmatch(str(name))]
    repeated = sorted(set(frame.columns[frame.columns.duplicated()].map(str)))
    if strange or repeated:
        raise InvalidTable(
            "a column occurs twice" if repeated else "a column's name is not in snake_case",
            step=step,
            field=", ".join((repeated or strange)[:5]),
            expected="unique names of lower-case letters, digits and _",
        )
    if "participant_id" not in frame:
        raise InvalidTable(
            "the clinical table has no participant_id",
            step=step,
            expected="participant_id",
            got=list(frame.columns[:8]),
        )
    table = _typed(frame)
    try:
        _schema().validate(table, lazy=True)
    except SchemaErrors as error:
        raise _first_fault(error.failure_cases, table, step) from error
    return table.sort_values("participant_id", ignore_index=True)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as numbers where every value is one; the schema names the others."""
    table = frame.reset_index(drop=True)
    for name in table:
        if name in RANGES or name in _WHOLE:
            values = pd.to_numeric(table[name], errors="coerce")
            if (values.isna() == table[name].isna()).all():
                table[name] = values.astype(np.float64)
                if name in _WHOLE and (table[name].dropna() % 1 == 0).all():
                    table[name] = table[name].astype("Int64")
        elif name in PARTICIPANT_COLUMNS:
            table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table


def _schema() -> DataFrameSchema:
    import pandera.pandas as pa

    def optional(dtype: object, check: pa.Check) -> pa.Column:
        return pa.Column(dtype, check, nullable=True, required=False)

    def is_text(value: object) -> bool:
        return isinstance(value, str)

    columns = {
        "participant_id": pa.Column(
            object,
            pa.Check.str_matches(r"^sub-[A-Za-z0-9]+$", error="sub-<letters and digits>"),
            unique=True,
        ),
        "source_id": pa.Column(object, pa.Check(is_text, element_wise=True, error="text"), unique=True, required=False),
        "histology": optional(object, pa.Check(is_text, element_wise=True, error="text")),
    }
    for name, values in CATEGORIES.items():
        columns[name] = optional(object, pa.Check.isin(values, error=", ".join(values)))
    for name, codes in _WHOLE.items():
        columns[name] = optional("Int64", pa.Check.isin(codes, error=", ".join(map(str, codes))))
    for name, (low, high) in RANGES.items():
        columns[name] = optional(
            float,
            pa.Check.in_range(low, high, error=f"a number from {low:g} to {high:g}"),
        )
    return pa.DataFrameSchema(columns, strict=False)


def _first_fault(faults: pd.DataFrame, table: pd.DataFrame, step: str) -> InvalidTable:
    """The first fault by column and row, said in our words; a type's fault gives way to a value's."""
    found = faults.assign(of_value=faults["index"].notna())
    found = found.sort_values(["of_value", "column", "index"], ascending=[False, True, True], kind="stable")
    fault = found.iloc[0]
    column, row, check = str(fault["column"]), fault["index"], str(fault["check"])
    case = str(table["participant_id"].iloc[int(row)]).removeprefix("sub-") if pd.notna(row) else None
    if check == "field_uniqueness":
        return DuplicateId(
            "a patient occurs more than once",
            case=case,
            step=step,
            field=column,
            expected="one row a patient",
            got=fault["failure_case"],
            remedy="remove or rename the repeated rows",
        )
    if check.startswith("dtype"):
        kind = "whole numbers" if column in _WHOLE else "numbers" if column in RANGES else "text"
        got = next(
            (value for value in table[column] if pd.notna(value) and not _fits(value, kind)), fault["failure_case"]
        )
        row = next((i for i, value in enumerate(table[column]) if value is got), None)
        case = None if row is None else str(table["participant_id"].iloc[row]).removeprefix("sub-")
        return InvalidTable("a column is of the wrong kind", case=case, step=step, field=column, expected=kind, got=got)
    return InvalidTable(
        "a value of the clinical table is not as expected",
        case=case,
        step=step,
        field=column,
        expected="a value" if check == "not_nullable" else check,
        got=f"{fault['failure_case']}; {len(found)} such faults in the table",
    )


def _fits(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    number = pd.to_numeric(pd.Series([value]), errors="coerce").iloc[0]
    return bool(pd.notna(number) and (kind == "numbers" or number % 1 == 0))


def _checked_matrix(name: str, matrix: pd.DataFrame, labels: set[str], step: str) -> pd.DataFrame:
    if name not in MATRICES:
        raise InvalidTable("unknown matrix", step=step, field=name, expected=", ".join(MATRICES))
    strangers = [str(label) for label in matrix.index if label not in labels]
    if strangers:
        raise IdMismatch(
            "a matrix has a row that is no patient of the clinical table",
            case=strangers[0],
            step=step,
            field=name,
            expected="case_id, the participant_id without sub-",
            got=f"{len(strangers)} such rows",
        )
    for axis, kind in ((matrix.index, "patient"), (matrix.columns, "column")):
        repeated = axis[axis.duplicated()]
        if len(repeated):
            raise DuplicateId(
                f"a {kind} of a matrix occurs more than once", step=step, field=name, got=str(repeated[0])
            )
    text = [str(column) for column, kind in matrix.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    if text:
        raise InvalidTable(
            "a matrix holds text", step=step, field=f"{name}: {text[0]}", expected="numbers", got=f"{len(text)} columns"
        )
    infinite = np.isinf(matrix.to_numpy(dtype=np.float64))
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise InvalidTable(
            "a matrix holds infinite values",
            case=str(matrix.index[row]),
            step=step,
            field=f"{name}: {matrix.columns[column]}",
            expected="finite numbers, empty where missing",
            got=f"{int(infinite.sum())} infinite values",
        )
    return matrix.sort_index().rename_axis("case_id")
