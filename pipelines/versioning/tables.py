"""Tables of two versions: which columns and which patients' rows are not the same."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.versioning import objects
from pipelines.versioning.errors import SchemaChanged
from pipelines.versioning.repository import WORKSPACE, Repository
from services.shared.contracts import Contract
from services.shared.errors import UnreadableFile

Kind = Literal["number", "text", "truth", "time", "empty"]

_SHOWN = 5
_LABELS = ("participant_id", "case_id")
_MISSING = ("", "n/a", "NA", "NaN", "nan")


class RetypedColumn(Contract):
    """A column that holds another kind of values."""

    column: str
    before: Kind
    after: Kind


class SchemaChange(Contract):
    """How a table's columns differ from those of another version; ``gone`` where the table is no more."""

    table: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    retyped: tuple[RetypedColumn, ...] = ()
    gone: bool = False

    def __str__(self) -> str:
        return f"{self.table} is gone" if self.gone else f"{self.table}: {self.told}"

    @property
    def told(self) -> str:
        """What differs, without the table's name."""
        retyped = [f"{entry.column} ({entry.before} → {entry.after})" for entry in self.retyped]
        parts = (("added", self.added), ("removed", self.removed), ("of another kind", retyped))
        return "; ".join(f"{what} {shorten(names)}" for what, names in parts if names)


class CaseChange(Contract):
    """Cases that came, went, or are not as they were; sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def shorten(names: Iterable[str]) -> str:
    """Return names as one line, the first of them where there are many."""
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def is_table(path: str) -> bool:
    """Return whether a path is a table whose columns later steps rely on: clinical, expression, counts or features."""
    parts = PurePosixPath(path).parts
    if len(parts) != 4 or parts[0] != WORKSPACE or parts[1] not in ("raw", "features"):
        return False
    return parts[3] == "participants.tsv" or parts[3].endswith(".parquet")


def read_schema(content: bytes, *, name: str) -> dict[str, Kind]:
    """Return the kind of values by column of a Parquet or tab-separated table.

    Raises
    ------
    UnreadableFile
        Where it is neither.
    """
    try:
        if name.endswith(".parquet"):
            return {field.name: _kind_of_type(field.type) for field in pq.read_schema(io.BytesIO(content))}
        table = _read_text(content)
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise UnreadableFile("the table cannot be read", field=name, got=" ".join(str(error).split())) from error
    return schema_of(table)


def schema_of(table: pd.DataFrame) -> dict[str, Kind]:
    """Return the kind of values by column of a table in memory; text that reads as numbers is numbers, as in a file."""
    return {str(name): _kind_of_values(values) for name, values in table.items()}


def compare_schemas(before: Mapping[str, Kind], after: Mapping[str, Kind], *, table: str) -> SchemaChange | None:
    """Return how columns differ, or None where they do not; a column without any value fits every kind."""
    retyped = [
        RetypedColumn(column=name, before=before[name], after=after[name])
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name] and "empty" not in (before[name], after[name])
    ]
    added, removed = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    if not added and not removed and not retyped:
        return None
    return SchemaChange(table=table, added=tuple(added), removed=tuple(removed), retyped=tuple(retyped))


def schema_changes(repository: Repository, since: str) -> tuple[SchemaChange, ...]:
    """Return how the tables of the workspace differ in columns from those of a revision.

    Tables that the revision had are looked at; a new one changes nothing that anybody relies on.

    Raises
    ------
    NotFound
        Where there is no such revision.
    IncompleteRemote, UnsavedData
        Where the revision's tables are neither in the cache nor in the remote.
    """
    cache, remote = repository.cache_and_remote()
    folders = [
        out for out in repository.outputs(since) if out.path.startswith((f"{WORKSPACE}/raw", f"{WORKSPACE}/features"))
    ]
    found = []
    for path, oid in sorted(objects.files_of(folders, cache, remote).items()):
        if not is_table(path):
            continue
        now = repository.root / path
        if not now.is_file():
            found.append(SchemaChange(table=path, gone=True))
            continue
        content = now.read_bytes()
        if objects.md5(content) == oid:
            continue
        before = read_schema(objects.require_object(oid, path, cache, remote), name=path)
        change = compare_schemas(before, read_schema(content, name=path), table=path)
        if change is not None:
            found.append(change)
    return tuple(found)


def require_schema(repository: Repository, since: str, *, allow_change: bool = False) -> tuple[SchemaChange, ...]:
    """Check that the workspace's tables have the columns that they had at a revision, and return what differs.

    Parameters
    ----------
    since
        The revision, such as the tag of the champion.
    allow_change
        Changed columns are returned instead of refused.

    Raises
    ------
    SchemaChanged
        Naming tables and columns.
    """
    changes = schema_changes(repository, since)
    if changes and not allow_change:
        raise SchemaChanged(
            f"{len(changes)} {'table has' if len(changes) == 1 else 'tables have'} other columns than at {since}",
            field="; ".join(map(str, changes)),
            expected="the columns that the models were trained on",
            remedy="put the columns right, or accept them with --allow-schema-change",
        )
    return changes


def compare_rows(before: bytes | None, after: bytes | None, *, name: str) -> CaseChange:
    """Return which patients' rows differ between two states of a table; None is a table that is not there.

    Values of columns that both have are compared; a column that came or went is a change of columns, not of rows.
    """
    old, new = (pd.DataFrame() if content is None else _read_rows(content, name) for content in (before, after))
    both = old.index.intersection(new.index)
    columns = [column for column in new.columns if column in old.columns]
    left, right = old.loc[both, columns], new.loc[both, columns]
    same = ((left == right) | (left.isna() & right.isna())).all(axis=1)
    return CaseChange(
        added=tuple(sorted(new.index.difference(old.index))),
        removed=tuple(sorted(old.index.difference(new.index))),
        changed=tuple(sorted(both[~same.to_numpy(dtype=bool)])),
    )


def _read_rows(content: bytes, name: str) -> pd.DataFrame:
    """Return a table indexed by case label, without a prefix; a case that stands twice keeps its last row."""
    table = pd.read_parquet(io.BytesIO(content)) if name.endswith(".parquet") else _read_text(content)
    for label in _LABELS:
        if label in table:
            table = table.set_index(label)
            break
    table.index = pd.Index([str(value).removeprefix("sub-") for value in table.index])
    return table[~table.index.duplicated(keep="last")]


def _read_text(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), sep="\t", dtype=str, keep_default_na=False, na_values=list(_MISSING))


def _kind_of_type(kind: pa.DataType) -> Kind:
    if pa.types.is_null(kind):
        return "empty"
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    return "time" if pa.types.is_temporal(kind) else "text"


def _kind_of_values(column: pd.Series) -> Kind:
    if column.isna().all():
        return "empty"
    if pd.api.types.is_bool_dtype(column):
        return "truth"
    if pd.api.types.is_numeric_dtype(column):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(column):
        return "time"
    text = column.dropna().astype(str)
    if text.isin(["True", "False", "true", "false"]).all():
        return "truth"
    return "number" if pd.to_numeric(text, errors="coerce").notna().all() else "text"


def table_now(root: Path, path: str) -> bytes | None:
    """Return a table of the workspace, or None where it is not there."""
    return (root / path).read_bytes() if (root / path).is_file() else None
