"""Clinical variables as numbers that a model can take: age, sex, WHO grade, and VASARI where a table has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from services.shared.errors import IdMismatch, InvalidTable

Array = npt.NDArray[np.float64]

AGE, SEX, GRADE = "age_years", "sex", "grade"
MALE = "sex_male"
MOST_COMMON_SHARE = 0.9
_SEX = {"m": 1.0, "male": 1.0, "f": 0.0, "female": 0.0}
_GRADE = {"ii": 2.0, "iii": 3.0, "iv": 4.0, "g2": 2.0, "g3": 3.0, "g4": 4.0}
_MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>"})


@dataclass(frozen=True)
class ClinicalVariables:
    """Clinical variables of a study's patients.

    Parameters
    ----------
    columns
        ``age_years``, ``sex_male`` (1 male, 0 female), ``grade`` and columns whose name begins with ``vasari``.
    values
        Shape (patients, columns), NaN where missing.
    left_out
        Reason by name of each variable that is not used.
    """

    columns: tuple[str, ...]
    values: Array
    left_out: dict[str, str]


def clinical_numbers(table: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Return the clinical variables that a table has, one row a patient, NaN where a value is missing.

    Parameters
    ----------
    table
        Indexed by ``case_id``.
    ids
        Patients in the wanted order; those that the table lacks have no values.

    Raises
    ------
    IdMismatch
        Where the table knows none of the patients, or one of them twice.
    InvalidTable
        Where an entry is neither a number nor a known spelling.
    """
    table = table.set_axis(table.index.astype(str))
    known = table.index.isin(list(ids))
    if not known.any() or table.index[known].has_duplicates:
        raise IdMismatch(
            "the clinical table does not fit the features",
            step="clinical variables",
            field="case_id",
            expected="one row for each patient with features",
            got="a patient twice" if known.any() else "none of the patients",
        )
    rows = table.reindex(list(ids))
    columns = {}
    for name in table:
        lower = str(name).lower()
        if lower == SEX:
            columns[MALE] = _numbers(rows[name], _SEX)
        elif lower in (AGE, GRADE):
            columns[lower] = _numbers(rows[name], _GRADE if lower == GRADE else {})
        elif lower.startswith("vasari"):
            columns[lower] = _numbers(rows[name], {})
    return pd.DataFrame(columns, index=rows.index, dtype=np.float64)


def clinical_variables(table: pd.DataFrame, ids: Sequence[str], *, max_missing: float) -> ClinicalVariables:
    """Return the clinical variables that tell patients apart, whatever the outcome.

    A variable is left out where it is missing in more than ``max_missing`` of the patients, or where more than nine
    in ten have the same value.

    Raises
    ------
    IdMismatch, InvalidTable
        As :func:`clinical_numbers`.
    """
    numbers = clinical_numbers(table, ids)
    left_out = {name: "not in the clinical table" for name in (AGE, MALE, GRADE) if name not in numbers}
    for name in numbers:
        missing = float(numbers[name].isna().mean())
        counts = numbers[name].value_counts()
        if missing > max_missing:
            left_out[str(name)] = f"missing in {missing:.0%} of the patients"
        elif counts.iloc[0] > MOST_COMMON_SHARE * counts.sum():
            left_out[str(name)] = f"the same value in {counts.iloc[0] / counts.sum():.0%} of the patients"
    kept = tuple(str(name) for name in numbers if name not in left_out)
    return ClinicalVariables(kept, numbers[list(kept)].to_numpy(dtype=np.float64), left_out)


def _numbers(column: pd.Series, spellings: dict[str, float]) -> pd.Series:
    text = column.map(lambda value: "" if pd.isna(value) else str(value).strip().lower())
    values = pd.to_numeric(text.map(lambda value: spellings.get(value, value)), errors="coerce").astype(np.float64)
    strange = values.isna() & ~text.isin(_MISSING)
    strange |= np.isinf(values) | (column.name == SEX) & values.notna() & ~values.isin([0.0, 1.0])
    if strange.any():
        raise InvalidTable(
            "a clinical value cannot be read",
            step="clinical variables",
            field=str(column.name),
            expected=f"a number or one of {', '.join(spellings)}" if spellings else "a number, empty where missing",
            got=repr(text[strange].iloc[0]),
        )
    return values
