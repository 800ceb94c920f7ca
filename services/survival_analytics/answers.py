"""From a request's data to a table, and from results to what goes over the wire."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from services.shared.cohort import read_cohort
from services.shared.errors import InvalidTable, NotFound, TooFewCases, TooLarge
from services.shared.storage import Storage
from services.survival_analytics import inputs
from services.survival_analytics.contracts import MAX_ROWS, AnalysisResult, Cell, Column, Data, Figure, Notice, Table


def load_frame(storage: Storage, data: Data) -> pd.DataFrame:
    """Return the patients that a request names.

    Raises
    ------
    InvalidTable, TooFewCases, TooLarge
        Columns of different lengths, no rows, more than a million rows, or a file of an unknown kind.
    NotFound
        No such cohort or table.
    """
    if data.columns is not None:
        frame = _inline(data.columns)
    elif data.cohort is not None:
        frame = read_cohort(storage, data.cohort).participants
    else:
        frame = _stored(storage, str(data.table))
    if len(frame) == 0:
        raise TooFewCases("The table has no rows.", step="load_frame", field="data")
    if len(frame) > MAX_ROWS:
        raise TooLarge(
            "The table has too many rows.", step="load_frame", expected=f"at most {MAX_ROWS:,}", got=f"{len(frame):,}"
        )
    return frame


def _inline(columns: Mapping[str, tuple[Cell, ...]]) -> pd.DataFrame:
    lengths = {name: len(values) for name, values in columns.items()}
    if not lengths:
        raise InvalidTable("No column was given.", step="load_frame", field="data.columns")
    if len(set(lengths.values())) > 1:
        raise InvalidTable(
            "The columns have different lengths.",
            step="load_frame",
            field="data.columns",
            expected="equal lengths",
            got=", ".join(f"{name}: {n}" for name, n in list(lengths.items())[:10]),
        )
    if max(lengths.values()) > MAX_ROWS:
        raise TooLarge(
            "The table has too many rows.",
            step="load_frame",
            expected=f"at most {MAX_ROWS:,}",
            got=f"{max(lengths.values()):,}",
        )
    return pd.DataFrame({name: pd.Series(list(values)) for name, values in columns.items()})


def _stored(storage: Storage, key: str) -> pd.DataFrame:
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        ".csv": pd.read_csv,
        ".tsv": lambda path: pd.read_csv(path, sep="\t"),
    }
    kind = PurePosixPath(key).suffix
    if kind not in readers:
        raise InvalidTable("Unknown kind of table.", step="load_frame", expected=", ".join(readers), got=key)
    if not storage.exists(key):
        raise NotFound("There is no such table.", step="load_frame", field="data.table", got=key)
    with storage.local(key) as path:
        try:
            frame = readers[kind](path)
        except (ValueError, OSError) as error:
            raise InvalidTable("The table cannot be read.", step="load_frame", field=key, got=str(error)) from error
    return frame


def to_cell(value: object) -> Cell:
    """Return a JSON value; NaN becomes null, infinities the words that R uses."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return float(value)
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "Inf" if number > 0 else "-Inf"
    return number


def to_table(name: str, frame: pd.DataFrame) -> Table:
    """Return a data frame as a table."""
    columns = (
        Column(name=str(label), values=tuple(to_cell(value) for value in frame[label].tolist())) for label in frame
    )
    return Table(name=name, columns=tuple(columns))


def build_result(
    *,
    figures: Mapping[str, object] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    notices: Iterable[inputs.Notice] = (),
    svg: str | None = None,
    document: str | None = None,
) -> AnalysisResult:
    """Put a result together; repeated notices are given once."""
    unique = dict.fromkeys((notice.name, notice.detail) for notice in notices)
    return AnalysisResult(
        figures=tuple(Figure(name=name, value=to_cell(value)) for name, value in (figures or {}).items()),
        tables=tuple(to_table(name, frame) for name, frame in (tables or {}).items()),
        notices=tuple(Notice(name=name, detail=detail) for name, detail in unique),
        svg=svg,
        document=document,
    )
