"""Publishers' codings → ours: one converter a column of :data:`services.shared.cohort.PARTICIPANT_COLUMNS`.

A converter takes a column indexed by patient, as text or numbers. A marker of missing values gives None or NaN; a code
that nobody knows is an error that names the row, never a missing value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from services.shared.errors import InvalidTable

DAYS_A_MONTH = 30.4375
"""Days of a month: 365.25 / 12."""

MISSING = frozenset(
    {
        "", "-", "--", ".", "?", "na", "n/a", "#n/a", "nan", "<na>", "nat", "none", "null", "nd", "unk", "unknown",
        "missing", "not available", "not applicable", "not reported", "not evaluated", "not known",
        "[not available]", "[not applicable]", "[not evaluated]", "[unknown]", "[discrepancy]", "[completed]",
    }
)  # fmt: skip
"""What publishers write where they have nothing, in lower case."""

Codes = Mapping[str, str | None]
"""Our value by the publisher's code in lower case; None for a further marker of missing values."""

_SEX: Codes = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_MUTATION: Codes = {
    **dict.fromkeys(("wt", "wildtype", "wild-type", "wild type", "idhwt", "idh-wt", "not_mutated", "0"), "WT"),
    **dict.fromkeys(("mutant", "mut", "mutated", "mutation", "idhmut", "idh-mut", "1"), "Mutant"),
    "wt (maf)": "WT",
    "mutant (maf)": "Mutant",
}
_CODELETION: Codes = {
    **dict.fromkeys(("codel", "codeleted", "co-deleted", "codeletion", "co-deletion"), "codel"),
    **dict.fromkeys(("non-codel", "noncodel", "non-codeleted", "non codel", "not codeleted", "intact"), "non-codel"),
}
_METHYLATION: Codes = {
    **dict.fromkeys(("methylated", "m", "meth"), "Methylated"),
    **dict.fromkeys(("unmethylated", "un-methylated", "u", "unmeth"), "Unmethylated"),
}
_EVENT: Codes = {
    **dict.fromkeys(("1", "dead", "deceased", "died", "1:deceased"), "1"),
    **dict.fromkeys(("0", "alive", "living", "censored", "0:living"), "0"),
}
_GRADE: Codes = {"2": "2", "ii": "2", "3": "3", "iii": "3", "4": "4", "iv": "4"}
_GRADE_WORDS = re.compile(r"who|cns\s?5?|grade|^g(?=[1-4i])")
_ALIVE = re.compile(r"alive\s*\(\s*(\d+(?:\.\d+)?)\s*days?\s+later\s*\)", re.I)


def text(column: pd.Series) -> pd.Series:
    """Return a column as text without spaces around it, None where missing; ``3.0`` becomes ``3``."""
    written = column.astype("string").str.strip().str.replace(r"\s+", " ", regex=True)
    written = written.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    missing = (written.isna() | written.str.lower().isin(MISSING)).to_numpy(dtype=bool)
    return written.astype(object).mask(missing, None)


def coded(column: pd.Series, codes: Codes, *, field: str, step: str) -> pd.Series:
    """Return our values of a column of codes.

    Parameters
    ----------
    column
        Indexed by patient.
    codes
        Our value by the publisher's code in lower case.
    field, step
        The column and the importer that an error names.

    Raises
    ------
    InvalidTable
        Where a code is not among ``codes`` and not in :data:`MISSING`.
    """
    written = text(column)
    lower = written.map(str.lower, na_action="ignore")
    unknown = written.notna() & ~lower.isin(codes)
    if unknown.any():
        raise InvalidTable(
            "a value is not coded as expected",
            case=str(column.index[unknown.to_numpy()][0]),
            step=step,
            field=field,
            expected=", ".join(codes),
            got=", ".join(sorted(set(written[unknown]))[:5]),
            remedy="correct the code, or leave it empty where the value is not known",
        )
    found = [codes[code] if code is not None else None for code in lower]
    return pd.Series(found, index=column.index, name=column.name, dtype=object)


def sexes(column: pd.Series, *, step: str, field: str = "sex", also: Codes | None = None) -> pd.Series:
    """Return F or M."""
    return coded(column, {**_SEX, **(also or {})}, field=field, step=step)


def mutations(column: pd.Series, *, step: str, field: str, also: Codes | None = None) -> pd.Series:
    """Return WT or Mutant, of IDH, ATRX or another gene."""
    return coded(column, {**_MUTATION, **(also or {})}, field=field, step=step)


def codeletions(
    column: pd.Series, *, step: str, field: str = "codeletion_1p19q", also: Codes | None = None
) -> pd.Series:
    """Return codel or non-codel."""
    return coded(column, {**_CODELETION, **(also or {})}, field=field, step=step)


def methylations(column: pd.Series, *, step: str, field: str = "mgmt", also: Codes | None = None) -> pd.Series:
    """Return Methylated or Unmethylated."""
    return coded(column, {**_METHYLATION, **(also or {})}, field=field, step=step)


def grades(column: pd.Series, *, step: str, field: str = "grade", also: Codes | None = None) -> pd.Series:
    """Return WHO grade 2, 3 or 4 (Int64) of ``WHO III``, ``G3``, ``III``, ``Grade 3`` or 3."""
    written = text(column)
    bare = written.map(lambda value: _GRADE_WORDS.sub("", value.lower()).strip(), na_action="ignore")
    known = {**_GRADE, **(also or {})}
    found = coded(bare.where(bare.isin(known) | written.isna(), written), known, field=field, step=step)
    return pd.Series(pd.to_numeric(found).astype("Int64"), index=column.index, name=column.name)


def events(column: pd.Series, *, step: str, field: str = "event", also: Codes | None = None) -> pd.Series:
    """Return 1 for a death and 0 for a patient alive at last follow-up (Int64)."""
    found = coded(column, {**_EVENT, **(also or {})}, field=field, step=step)
    return pd.Series(pd.to_numeric(found).astype("Int64"), index=column.index, name=column.name)


def numbers(column: pd.Series, *, step: str, field: str) -> pd.Series:
    """Return a column as float64, NaN where missing.

    Raises
    ------
    InvalidTable
        Where a value is neither a finite number nor a marker of missing values.
    """
    written = text(column)
    values = pd.to_numeric(written, errors="coerce").astype(np.float64)
    strange = written.notna().to_numpy() & ~np.isfinite(values.to_numpy())
    if strange.any():
        raise InvalidTable(
            "a value is no number",
            case=str(column.index[strange][0]),
            step=step,
            field=field,
            expected="a number or nothing",
            got=", ".join(sorted(set(written[strange]))[:5]),
        )
    return values


def months_of_days(days: pd.Series) -> pd.Series:
    """Return months of days, :data:`DAYS_A_MONTH` days a month."""
    return days / DAYS_A_MONTH


def follow_up_of_days(column: pd.Series, *, step: str, field: str) -> pd.DataFrame:
    """Return ``os_months`` and ``event`` of a column that says days to death or ``ALIVE (361 days later)``.

    BraTS writes survival so: a number is a death, the other form a patient alive.
    """
    written = text(column)
    alive = np.array([value is not None and _ALIVE.fullmatch(value) is not None for value in written], dtype=bool)
    days = numbers(
        written.mask(alive, written.map(lambda value: _ALIVE.sub(r"\1", value), na_action="ignore")),
        step=step,
        field=field,
    )
    event = pd.Series(np.where(alive, 0, 1), index=column.index).astype("Int64").where(days.notna())
    return pd.DataFrame({"os_months": months_of_days(days), "event": event}, index=column.index)
