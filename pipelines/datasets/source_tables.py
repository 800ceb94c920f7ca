"""Read a publisher's table, plain, gzipped or alone in a ZIP archive, whatever ends its lines and parts its columns.

Some files named ``.zip`` are plain CSV and some named ``.csv`` are zipped, so the content decides. Lone carriage
returns (old Macintosh, CGGA) end lines like any others. The mark between fields is the one that parts rows and header
alike. Every row has as many fields as the header, or the file is damaged; rows without any value, which spreadsheets
leave behind, are left out and counted. Columns that an importer knows are found whatever their case and spaces.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import IO, cast

import numpy as np
import pandas as pd

from pipelines.archives import DAMAGED, open_archive
from services.shared.errors import DuplicateId, InvalidTable, NotFound, UnreadableFile

# Xena gives its RNA-seq matrices no ending.
_TABLE = re.compile(r"(\.(csv|tsv|txt|tab)|^HiSeqV2\w*)(\.gz|\.zip)?$", re.I)
_NUMBER = r"^x(?=\d)"
_SNIFFED = 20
_MARKS = ("\t", ",", ";")
_BLANK: ContextVar[dict[str, int] | None] = ContextVar("blank_rows", default=None)
_BROKEN = (UnicodeDecodeError, ValueError, OSError, csv.Error, *DAMAGED)


@contextmanager
def counting_blank_rows() -> Iterator[dict[str, int]]:
    """Yield counts, for a release to state, of the blank rows of each table that is read within."""
    counts: dict[str, int] = {}
    token = _BLANK.set(counts)
    try:
        yield counts
    finally:
        _BLANK.reset(token)


def read_header(path: Path, *, step: str) -> list[str]:
    """Return a table's column names as written, without spaces around them.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such file, or it is no table.
    """
    if not path.is_file():
        raise NotFound("there is no such table", step=step, field=path.name, remedy="name the publisher's file")
    try:
        with _open(path, step) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
            start = list(islice((line for line in lines if line.strip()), _SNIFFED))
            names = next(csv.reader(start, delimiter=_separator(start)), [])
    except _BROKEN as error:
        raise _unreadable(path, step, error) from error
    if not names:
        raise UnreadableFile("the table is empty", step=step, field=path.name, expected="a header")
    return [name.strip() for name in names]


def read_text_table(path: Path, *, step: str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Return a table with every value as text, spaces around column names removed, nothing taken for missing.

    Parameters
    ----------
    path
        A delimited table; tab, comma or semicolon is told by its first lines.
    step
        The importer that an error names.
    columns
        Names that the importer knows; a column that differs from one in case, spaces or underscores gets it.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such file, or it is no table: no row, a row with more or fewer fields than the header.
    InvalidTable
        Where a column occurs twice, or two could be one that the importer knows.
    """
    frame = _read(path, step=step, numeric=False)
    names = [str(name) for name in frame.columns]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise InvalidTable("a column occurs twice", step=step, field=path.name, got=", ".join(repeated[:5]))
    return as_published(frame, columns, file=path.name, step=step)


def read_value_table(path: Path, *, step: str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Return a table whose columns of numbers are numbers, and ``NA`` and nothing are missing.

    Names may repeat, as those of genes do; otherwise as :func:`read_text_table`.
    """
    return as_published(_read(path, step=step, numeric=True), columns, file=path.name, step=step)


def as_published(frame: pd.DataFrame, columns: Iterable[str], *, file: str, step: str) -> pd.DataFrame:
    """Return a table whose columns have the publisher's names where only case, spaces or underscores differ.

    Raises
    ------
    InvalidTable
        Where several columns could be one.
    """
    known = list(columns)
    there = [str(name) for name in frame.columns]
    loose: dict[str, list[str]] = {}
    for name in there if known else []:
        if name not in known:
            loose.setdefault(_folded(name), []).append(name)
    renamed: dict[str, str] = {}
    for name in known:
        found = [] if name in there else loose.get(_folded(name), [])
        if len(found) > 1:
            raise InvalidTable(
                "several columns could be one", step=step, field=file, expected=name, got=", ".join(found)
            )
        renamed |= dict.fromkeys(found, name)
    return frame.rename(columns=renamed) if renamed else frame


def require_columns(frame: pd.DataFrame, columns: Iterable[str], *, file: str, step: str) -> None:
    """Check that a table has columns, each once.

    Raises
    ------
    InvalidTable
        Naming what is not there or stands twice.
    """
    names = list(frame.columns)
    missing = [name for name in columns if name not in names]
    repeated = [name for name in columns if names.count(name) > 1]
    if missing or repeated:
        raise InvalidTable(
            "a column is not there" if missing else "a column occurs twice",
            step=step,
            field=file,
            expected=", ".join(missing or repeated),
            got=", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
        )


def index_by(frame: pd.DataFrame, column: str, *, file: str, step: str) -> pd.DataFrame:
    """Return a table indexed by a column of identifiers, without spaces around them.

    Raises
    ------
    InvalidTable, DuplicateId
        Where the column is not there, an identifier is empty, or one occurs twice.
    """
    ids = identifiers(frame, column, file=file, step=step)
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise DuplicateId(
            "an identifier occurs more than once",
            case=str(repeated.iloc[0]),
            step=step,
            field=f"{file}: {column}",
            expected="one row a patient",
            got=f"{repeated.nunique()} repeated",
        )
    table = frame.drop(columns=column)
    table.index = pd.Index(ids, name=None)
    return table


def identifiers(frame: pd.DataFrame, column: str, *, file: str, step: str) -> pd.Series:
    """Return a column of identifiers without spaces around them.

    Raises
    ------
    InvalidTable
        Where the column is not there, or a row has none.
    """
    require_columns(frame, (column,), file=file, step=step)
    ids = frame[column].astype("string").str.strip()
    nameless = (ids.isna() | (ids == "")).to_numpy()
    if nameless.any():
        raise InvalidTable(
            "a row has no identifier",
            step=step,
            field=f"{file}: {column}",
            expected="one in each row",
            got=f"{int(nameless.sum())} rows without, the first of them row {int(nameless.argmax()) + 1}",
        )
    return ids.astype(str)


def with_plain_names(frame: pd.DataFrame, *, file: str, step: str) -> pd.DataFrame:
    """Return a table whose columns are named by :func:`plain_name`.

    Raises
    ------
    InvalidTable
        Where two columns are one but for their spelling.
    """
    plain = [plain_name(name) for name in frame.columns]
    repeated = [str(name) for name, bare in zip(frame.columns, plain, strict=True) if bare and plain.count(bare) > 1]
    if repeated:
        raise InvalidTable("several columns could be one", step=step, field=file, got=", ".join(repeated[:5]))
    return frame.set_axis(plain, axis="columns")


def plain_name(column: object) -> str:
    """Return a column's name in lower-case letters and digits, without the X that R puts before a digit.

    >>> plain_name("Survival..months."), plain_name("Survival (months)"), plain_name("X1p.19q.codeletion")
    ('survivalmonths', 'survivalmonths', '1p19qcodeletion')
    """
    return re.sub(_NUMBER, "", re.sub(r"[^a-z0-9]", "", str(column).lower()))


def unrecognised(paths: Iterable[Path], *, telling: re.Pattern[str], step: str) -> dict[str, int]:
    """Return a count by name of each table that no reader of an importer takes.

    Raises
    ------
    InvalidTable
        Where a file's name says that it is one which the importer needs.
    """
    left = sorted(paths)
    for path in left:
        if telling.search(path.name):
            header = read_header(path, step=step)
            raise InvalidTable(
                "a table of the folder lacks the columns that its name promises",
                step=step,
                field=path.name,
                expected="the publisher's columns, with tabs, commas or semicolons between them",
                got=", ".join(header[:8])[:200],
                remedy="repair the table, or take it out of the folder",
            )
    return {f"tables not recognised: {path.name}": 1 for path in left}


def not_there(frame: pd.DataFrame, columns: Iterable[str]) -> dict[str, int]:
    """Return a count by name of each column that a table of the release lacks."""
    return {f"columns not there: {name}": 1 for name in columns if name not in frame}


def tables_in(folder: Path) -> list[Path]:
    """Return a folder's tables, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _TABLE.search(path.name))


def _read(path: Path, *, step: str, numeric: bool) -> pd.DataFrame:
    if not path.is_file():
        raise NotFound("there is no such table", step=step, field=path.name, remedy="name the publisher's file")
    try:
        with _open(path, step) as stream:
            lines = stream.read().removeprefix(b"\xef\xbb\xbf").splitlines()
        start = [line.decode() + "\n" for line in islice(filter(bytes.strip, lines), _SNIFFED)]
        mark = _separator(start)
        rows = [line for line in lines if not _is_blank(line, mark)]
        names = [name.strip() for name in next(csv.reader((line.decode() + "\n" for line in rows), delimiter=mark), [])]
        if len(rows) < 2:
            raise UnreadableFile(
                "the table has no row" if names else "the table is empty",
                step=step,
                field=path.name,
                expected="a header and rows",
            )
        if len(names) == 1 and "|" in names[0]:
            raise UnreadableFile(
                "the fields are parted by |", step=step, field=path.name, expected="tabs, commas or semicolons"
            )
        names = _checked_widths(names, rows, mark, path, step)
        frame = pd.read_csv(
            io.BytesIO(b"\n".join(rows)),
            sep=mark,
            header=None,
            names=list(range(len(names))),
            index_col=False,
            skiprows=1,
            dtype=None if numeric else str,
            keep_default_na=numeric,
            encoding="utf-8",
            low_memory=False,
        )
    except _BROKEN as error:
        raise _unreadable(path, step, error) from error
    blank = sum(map(bool, lines)) - len(rows)
    counts = _BLANK.get()
    if blank and counts is not None:
        counts[f"blank rows of {path.name}"] = blank
    frame.columns = pd.Index(names)
    # Spreadsheets leave columns behind that have neither name nor value.
    empty = [not name and not _has_value(frame.iloc[:, n]) for n, name in enumerate(names)]
    return frame.loc[:, ~np.array(empty)] if any(empty) else frame


def _has_value(column: pd.Series) -> bool:
    return bool((column.notna() & (column.astype(str).str.strip() != "")).any())


def _is_blank(line: bytes, mark: str) -> bool:
    """Whether a line holds marks, spaces and empty quotes alone; a lone quote closes a field of several lines."""
    return not line.strip(b' "' + mark.encode()) and line.count(b'"') % 2 == 0


def _checked_widths(names: list[str], rows: list[bytes], mark: str, path: Path, step: str) -> list[str]:
    """The columns' names, one for each field of the rows, which must all have as many."""
    if any(b'"' in line for line in rows):
        text = (line.decode() + "\n" for line in rows)
        widths = np.array([len(row) for row in csv.reader(text, delimiter=mark)])[1:]
    else:
        widths = np.array([line.count(mark.encode()) + 1 for line in rows[1:]])
    if (widths == len(names) + 1).all():
        # R's write.table leaves the row names' column without a name; others end each row with a mark.
        return [*names, ""] if all(line.rstrip(b" ").endswith(mark.encode()) for line in rows[1:]) else ["", *names]
    strange = widths != len(names)
    if strange.all() and len(set(widths)) == 1:
        raise UnreadableFile(
            "rows and header differ in length",
            step=step,
            field=path.name,
            expected=f"{len(names)} fields, as the header has with {mark!r} between them",
            got=f"{widths[0]} in each row",
            remedy="put names that hold the mark in quotes, or part the fields by tabs",
        )
    if strange.any():
        first = int(strange.argmax())
        raise UnreadableFile(
            "a row has fewer fields than the header" if widths[first] < len(names) else "a row has too many fields",
            step=step,
            field=f"{path.name}: row {first + 1} of {len(widths)}",
            expected=f"{len(names)} fields",
            got=f"{widths[first]}; {int(strange.sum())} such rows",
            remedy="fetch the file again, or repair the row",
        )
    return names


def _unreadable(path: Path, step: str, error: Exception) -> UnreadableFile:
    said = str(error).strip().splitlines()
    return UnreadableFile(
        "the table cannot be read",
        step=step,
        field=path.name,
        expected="a delimited table with a header, UTF-8, plain, .gz or .zip",
        got=said[-1][:160] if said else type(error).__name__,
    )


def _open(path: Path, step: str) -> IO[bytes]:
    if zipfile.is_zipfile(path):
        with open_archive(path) as archive:
            members = [
                name
                for name in archive.namelist()
                if not name.endswith("/") and not name.startswith("__MACOSX") and Path(name).name[:1] != "."
            ]
            if len(members) != 1:
                raise UnreadableFile(
                    "the archive must hold one table", step=step, field=path.name, got=f"{len(members)} files"
                )
            return io.BytesIO(archive.read(members[0]))
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if zipped else path.open("rb")


def _separator(lines: Sequence[str]) -> str:
    """The mark that gives the first rows one number of fields, the header's, and the most of them."""
    return max(_MARKS, key=lambda mark: _fit(lines, mark))


def _fit(lines: Sequence[str], mark: str) -> tuple[bool, int, float, int]:
    quoted = any('"' in line for line in lines)
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter=mark)] if quoted else _counted(lines, mark)
    except csv.Error:
        # With another mark a line of many columns is one field, longer than a field may be.
        return False, 0, 0.0, 0
    header, rows = widths[:1], widths[1:] or widths[:1]
    width, common = Counter(rows).most_common(1)[0] if rows else (0, 0)
    alike = 2 if header == [width] else int(header == [width - 1])
    return width > 1, alike, common / max(len(rows), 1), width


def _counted(lines: Sequence[str], mark: str) -> list[int]:
    return [line.count(mark) + 1 for line in lines]


def _folded(name: object) -> str:
    return re.sub(r"[\s_]+", "", str(name)).lower()
