"""Ferroptosis genes of FerrDb (zhounan.org/ferrdb; Zhou & Bao, Database 2020), from files that the user names.

Three layouts occur: one file a role (``…driver.csv``, ``…suppressor.csv``, ``…marker.csv`` with ``Symbol``), a union
with ``roles``, and gene-category pairs (``FerrDb_Category``). A gene may have several roles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from services.shared.errors import InvalidTable, NotFound, TooFewCases, UnreadableFile

ROLES = ("driver", "suppressor", "marker")
_SYMBOL_COLUMNS = ("symbol", "gene")
_ROLE_COLUMNS = ("roles", "ferrdb_category", "category", "role")
_HGNC_COLUMNS = ("hgnc_id", "hgnc")


@dataclass(frozen=True)
class FerroptosisGenes:
    """Ferroptosis genes with their roles.

    Parameters
    ----------
    roles
        Roles by symbol, both sorted.
    left_out
        Reason by name for what is no gene with a role.
    records
        Rows read.
    """

    roles: dict[str, tuple[str, ...]]
    left_out: dict[str, str]
    records: int

    def with_role(self, *roles: str) -> tuple[str, ...]:
        """Return the symbols that have any of the roles; all symbols where none is named."""
        return tuple(gene for gene, own in self.roles.items() if not roles or set(own) & set(roles))


def read_ferrdb(*paths: Path) -> FerroptosisGenes:
    """Read FerrDb lists and unite them.

    Where a list has HGNC ids, an entry without one (a pseudo-name, a complex) is left out and named.

    Raises
    ------
    NotFound, UnreadableFile
        Where a file is not there or no table.
    InvalidTable
        Where a file has no column of symbols, or neither a column nor a name that tells the role.
    TooFewCases
        Where no gene is left.
    """
    roles: dict[str, set[str]] = {}
    left_out: dict[str, str] = {}
    records = 0
    for path in paths:
        frame = _read(path)
        symbols = frame[_column(frame, _SYMBOL_COLUMNS, path)].fillna("").str.strip()
        hgnc = next((name for name in _HGNC_COLUMNS if name in frame), None)
        known = frame[hgnc].fillna("").str.contains(r"HGNC:\d", regex=True) if hgnc else symbols != ""
        records += len(frame)
        for symbol, own, is_gene in zip(symbols, _roles(frame, path), known, strict=True):
            if not symbol:
                left_out["(empty)"] = "no symbol"
            elif not is_gene:
                left_out[symbol] = "no HGNC id"
            elif not own:
                left_out[symbol] = "no role as driver, suppressor or marker"
            else:
                roles.setdefault(symbol, set()).update(own)
    if not roles:
        raise TooFewCases("The lists hold no ferroptosis gene.", step="read_ferrdb", field=_names(paths))
    return FerroptosisGenes(
        roles={gene: tuple(sorted(roles[gene])) for gene in sorted(roles)},
        left_out={name: reason for name, reason in sorted(left_out.items()) if name not in roles},
        records=records,
    )


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise NotFound("There is no such FerrDb list.", step="read_ferrdb", field=str(path))
    try:
        frame = pd.read_csv(path, dtype=str, encoding="utf-8-sig", sep=None, engine="python")
    except (UnicodeDecodeError, ValueError, pd.errors.ParserError) as exc:
        raise UnreadableFile("The FerrDb list is no table.", step="read_ferrdb", field=str(path), got=str(exc)) from exc
    return frame.rename(columns=lambda name: str(name).strip().lower())


def _roles(frame: pd.DataFrame, path: Path) -> Iterable[set[str]]:
    named = [role for role in ROLES if role in path.stem.lower()]
    column = next((name for name in _ROLE_COLUMNS if name in frame), None)
    if column is None and len(named) == 1:
        return [set(named)] * len(frame)
    words = frame[_column(frame, _ROLE_COLUMNS, path)].fillna("").str.lower().str.split(r"[;,/]", regex=True)
    return [{part.strip() for part in parts} & set(ROLES) for parts in words]


def _column(frame: pd.DataFrame, names: tuple[str, ...], path: Path) -> str:
    found = next((name for name in names if name in frame), None)
    if found is None:
        raise InvalidTable(
            "A FerrDb list lacks a column.",
            step="read_ferrdb",
            field=path.name,
            expected=" or ".join(names) + ("" if names is _SYMBOL_COLUMNS else ", or the role in the file's name"),
            got=", ".join(map(str, frame.columns[:6])),
        )
    return found


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths) or "no file"
