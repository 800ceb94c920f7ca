"""Clinical columns as covariates of a Cox model: numbers as they are, categories as indicators of their levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from services.shared.errors import InvalidTable, TooFewCases


@dataclass(frozen=True)
class ClinicalCoding:
    """How clinical columns become covariates, learnt from training patients.

    Parameters
    ----------
    columns
        The columns that are used.
    levels
        Levels of each categorical column; the first is the reference.
    left_out
        Reason by column that is not used.
    """

    columns: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    left_out: dict[str, str]

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates: a number's column, ``column=level`` for each level but the reference."""
        names: list[str] = []
        for column in self.columns:
            names += [f"{column}={level}" for level in self.levels[column][1:]] if column in self.levels else [column]
        return tuple(names)

    def encode(self, clinical: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
        """Return covariates, NaN for a patient without one of the columns, and how many patients that are, by reason.

        A patient is counted once, under the first column that it lacks; a level that the training patients do not have
        counts as lacking.

        Raises
        ------
        InvalidTable
            Where the table lacks a column, or holds text in a number's.
        TooFewCases
            Where no patient has all columns.
        """
        _require(clinical, self.columns)
        parts: dict[str, pd.Series[float]] = {}
        complete = np.ones(len(clinical), dtype=bool)
        dropped: dict[str, int] = {}
        for column in self.columns:
            labels = _labels(clinical[column])
            usable = labels.notna().to_numpy()
            reasons = {f"no {column}": complete & ~usable}
            if column in self.levels:
                known = labels.isin(self.levels[column]).to_numpy()
                reasons[f"{column} unknown to the training patients"] = complete & usable & ~known
                usable &= known
                for level in self.levels[column][1:]:
                    parts[f"{column}={level}"] = (labels == level).astype("float64")
            else:
                parts[column] = _numbers(clinical[column])
            dropped |= {reason: int(rows.sum()) for reason, rows in reasons.items() if rows.any()}
            complete &= usable
        if not complete.any():
            raise TooFewCases(
                "no patient has all clinical columns",
                step="nomogram",
                field=", ".join(self.columns),
                expected="patients with a value in each",
                got="; ".join(f"{reason}: {count}" for reason, count in dropped.items()),
                remedy="name fewer columns",
            )
        table = pd.DataFrame(parts)
        table.loc[~complete] = np.nan
        return table, dropped


def fit_coding(clinical: pd.DataFrame, columns: Sequence[str], *, categorical: Sequence[str] = ()) -> ClinicalCoding:
    """Learn how to code clinical columns.

    Parameters
    ----------
    clinical
        Training patients.
    columns
        Clinical columns; those that hold numbers are taken as numbers, unless ``categorical`` names them.

    Raises
    ------
    InvalidTable
        Where a column is unknown, or no column varies among the patients that have all of them.
    """
    _require(clinical, columns)
    known = pd.DataFrame({column: _labels(clinical[column]) for column in columns})
    left_out = {column: "no patient has it" for column in columns if known[column].isna().all()}
    complete = known.drop(columns=list(left_out)).dropna()
    left_out |= {str(c): "the same in every patient" for c in complete if complete[c].nunique() < 2}
    used = tuple(column for column in columns if column not in left_out)
    complete = known[list(used)].dropna()
    if not used:
        raise InvalidTable(
            "no clinical column varies",
            step="nomogram",
            field=", ".join(columns),
            expected="a column with two values or more among the patients that have all of them",
            got="; ".join(f"{column}: {reason}" for column, reason in left_out.items()) or "no column",
        )
    levels = {
        column: tuple(sorted(complete[column].unique()))
        for column in used
        if column in categorical or not _is_number(clinical[column])
    }
    return ClinicalCoding(used, levels, left_out)


def _require(clinical: pd.DataFrame, columns: Sequence[str]) -> None:
    lacking = [column for column in columns if column not in clinical]
    if lacking:
        raise InvalidTable(
            "the clinical table lacks a column of the nomogram",
            step="nomogram",
            field=", ".join(lacking),
            expected=", ".join(columns),
            got=", ".join(map(str, clinical.columns[:12])),
        )


def _labels(values: pd.Series) -> pd.Series:
    """Return entries as text, a whole number without its point; missing and empty ones as missing."""
    if pd.api.types.is_numeric_dtype(values):
        text = values.map(lambda v: f"{float(v):g}", na_action="ignore")
    else:
        text = values.map(lambda v: str(v).strip(), na_action="ignore")
    text = text.astype(object)
    return text.where(text.notna() & (text != ""), None)


def _is_number(values: pd.Series) -> bool:
    present = _labels(values).dropna()
    return bool(pd.to_numeric(present, errors="coerce").notna().all())


def _numbers(values: pd.Series) -> pd.Series[float]:
    labels = _labels(values)
    numbers = pd.to_numeric(labels, errors="coerce").astype(np.float64)
    broken = labels.notna() & ~np.isfinite(numbers)
    if broken.any():
        raise InvalidTable(
            "a clinical column of numbers holds something else",
            step="nomogram",
            field=str(values.name),
            expected="numbers, empty where missing",
            got=f"{int(broken.sum())} entries such as {str(labels[broken].iloc[0])[:40]!r}",
        )
    return numbers
