"""Read a publisher's table, plain, gzipped or alone in a ZIP archive, whatever ends its lines and parts its columns.

Some files named ``.zip`` are plain CSV and some named ``.csv`` are zipped, so the content decides. Lone carriage
returns (old Macintosh, CGGA) end lines like any others. A header keeps the publisher's spelling, repeats included.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

import pandas as pd

from services.shared.errors import DuplicateId, InvalidTable, NotFound, UnreadableFile

# Xena gives its RNA-seq matrices no ending.
_TABLE = re.compile(r"(\.(csv|tsv|txt|tab)|^HiSeqV2\w*)(\.gz|\.zip)?$", re.I)
_NUMBER = r"^x(?=\d)"
_BROKEN = (UnicodeDecodeError, ValueError, OSError, EOFError, csv.Error, zlib.error, zipfile.BadZipFile)


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
        mark = _separator(path, step)
        with _open(path, step) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
            names = next(csv.reader(lines, delimiter=mark), [])
    except _BROKEN as error:
        raise _unreadable(path, step, error) from error
    if not names:
        raise UnreadableFile("the table is empty", step=step, field=path.name, expected="a header")
    return [name.strip() for name in names]


def read_text_table(path: Path, *, step: str) -> pd.DataFrame:
    """Return a table with every value as text, spaces around column names removed, nothing taken for missing.

    Parameters
    ----------
    path
        A delimited table; tab, comma or semicolon is told by the first line.
    step
        The importer that an error names.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such file, or it is no table.
    """
    return _read(path, step=step, numeric=False)


def read_value_table(path: Path, *, step: str) -> pd.DataFrame:
    """Return a table whose columns of numbers are numbers, and ``NA`` and nothing are missing."""
    return _read(path, step=step, numeric=True)


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
    require_columns(frame, (column,), file=file, step=step)
    ids = frame[column].astype("string").str.strip()
    if (ids.isna() | (ids == "")).any():
        raise InvalidTable("a row has no identifier", step=step, field=f"{file}: {column}", expected="one in each row")
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
    table.index = pd.Index(ids.astype(str), name=None)
    return table


def plain_name(column: object) -> str:
    """Return a column's name in lower-case letters and digits, without the X that R puts before a digit.

    >>> plain_name("Survival..months."), plain_name("Survival (months)"), plain_name("X1p.19q.codeletion")
    ('survivalmonths', 'survivalmonths', '1p19qcodeletion')
    """
    return re.sub(_NUMBER, "", re.sub(r"[^a-z0-9]", "", str(column).lower()))


def tables_in(folder: Path) -> list[Path]:
    """Return a folder's tables, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _TABLE.search(path.name))


def _read(path: Path, *, step: str, numeric: bool) -> pd.DataFrame:
    names = read_header(path, step=step)
    try:
        with _open(path, step) as stream:
            frame = pd.read_csv(
                stream,
                sep=_separator(path, step),
                header=None,
                skiprows=1,
                dtype=None if numeric else str,
                keep_default_na=numeric,
                encoding="utf-8-sig",
                low_memory=False,
            )
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame(columns=range(len(names)))
    except _BROKEN as error:
        raise _unreadable(path, step, error) from error
    if frame.shape[1] == len(names) + 1:
        # R's write.table leaves the row names' column without a name.
        names = ["", *names]
    if frame.shape[1] != len(names):
        raise UnreadableFile(
            "rows and header differ in length",
            step=step,
            field=path.name,
            expected=f"{len(names)} columns",
            got=f"{frame.shape[1]}",
        )
    frame.columns = pd.Index(names)
    return frame


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
        with zipfile.ZipFile(path) as archive:
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


def _separator(path: Path, step: str) -> str:
    with _open(path, step) as stream:
        start = stream.read(1 << 16)
    first = re.split(rb"[\r\n]", start.lstrip(b"\xef\xbb\xbf\r\n"), maxsplit=1)[0]
    return max(("\t", ",", ";"), key=lambda mark: first.count(mark.encode()))
