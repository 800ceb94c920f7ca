"""The one place where columns that come from outside are checked before a statistic is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from services.shared.errors import InvalidTable, InvalidValue, OneClass, TooFewCases

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Notice:
    """A named warning that travels with a result.

    Attributes
    ----------
    name
        Stable identifier, such as ``monotone_likelihood``.
    detail
        What happened and what it means for the numbers.
    """

    name: str
    detail: str


@dataclass(frozen=True, eq=False)
class Follow:
    """Follow-up times and event indicators of n patients, checked.

    Attributes
    ----------
    time
        Shape (n,), same unit as given, at or above zero, finite.
    event
        Shape (n,), 1 where the event was observed and 0 where the patient was censored.
    """

    time: FloatArray
    event: IntArray

    def __len__(self) -> int:
        return int(self.time.size)


def read_vector(values: ArrayLike, *, field: str, step: str) -> FloatArray:
    """Return a finite one-dimensional float array or say which entry is not a number."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValue(
            f"Column '{field}' holds values that are not numbers.",
            step=step,
            field=field,
            expected="numbers",
            got=str(error),
            remedy="Encode categories as numbers (indicator columns) first.",
        ) from error
    if vector.ndim != 1:
        raise InvalidValue(
            f"Column '{field}' must be one-dimensional.",
            step=step,
            field=field,
            expected="one value per patient",
            got=f"shape {vector.shape}",
        )
    if vector.size == 0:
        raise TooFewCases(f"Column '{field}' is empty.", step=step, field=field, expected="at least one row", got=0)
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise InvalidValue(
            f"Column '{field}' has {bad.size} missing or infinite value(s).",
            step=step,
            field=field,
            expected="finite numbers",
            got=f"{vector[bad[0]]} in row {int(bad[0])}",
            remedy="Drop or impute the rows before the analysis.",
        )
    return np.ascontiguousarray(vector)


def read_binary(values: ArrayLike, *, field: str, step: str) -> IntArray:
    """Return a 0/1 vector; anything else is an error."""
    vector = read_vector(np.asarray(values, dtype=np.float64), field=field, step=step)
    bad = np.flatnonzero((vector != 0.0) & (vector != 1.0))
    if bad.size:
        raise InvalidValue(
            f"Column '{field}' must hold 0 or 1 only.",
            step=step,
            field=field,
            expected="0 or 1",
            got=f"{vector[bad[0]]:g} in row {int(bad[0])}",
            remedy="Recode the indicator: 1 = event or case, 0 = censored or control.",
        )
    return vector.astype(np.int64)


def read_classes(values: ArrayLike, *, field: str, step: str) -> IntArray:
    """Return a 0/1 vector in which both values occur."""
    vector = read_binary(values, field=field, step=step)
    if vector.min() == vector.max():
        raise OneClass(
            f"Column '{field}' has a single class.",
            step=step,
            field=field,
            expected="both 0 and 1",
            got=f"only {int(vector[0])}",
            remedy="The statistic needs cases and controls.",
        )
    return vector


def read_follow_up(time: ArrayLike, event: ArrayLike, *, step: str, need_events: bool = True) -> Follow:
    """Check follow-up times and event indicators.

    Parameters
    ----------
    time, event
        Shape (n,). Times at or above zero; events 0 or 1.
    step
        Named in errors.
    need_events
        Refuse data without a single event.

    Raises
    ------
    InvalidValue
        Negative, missing or infinite time; event not 0/1; lengths that differ.
    TooFewCases
        No rows, or no event where one is needed.
    """
    times = read_vector(time, field="time", step=step)
    events = read_binary(event, field="event", step=step)
    require_same_length(times, events, field="event", step=step)
    bad = np.flatnonzero(times < 0)
    if bad.size:
        raise InvalidValue(
            f"{bad.size} follow-up time(s) are negative.",
            step=step,
            field="time",
            expected="times at or above zero",
            got=f"{times[bad[0]]:g} in row {int(bad[0])}",
            remedy="Check the dates that the time was computed from.",
        )
    if need_events and not events.any():
        raise TooFewCases(
            "No event was observed.",
            step=step,
            field="event",
            expected="at least one 1",
            got=f"{events.size} censored patients",
            remedy="Survival models and comparisons need observed events.",
        )
    return Follow(times, events)


def require_same_length(
    first: FloatArray | IntArray, second: FloatArray | IntArray | NDArray[np.object_], *, field: str, step: str
) -> None:
    """Refuse columns of different lengths."""
    if len(first) != len(second):
        raise InvalidValue(
            f"Column '{field}' has another length than the first column.",
            step=step,
            field=field,
            expected=f"{len(first)} rows",
            got=f"{len(second)} rows",
        )


def read_score(values: ArrayLike, follow: Follow | IntArray, *, field: str = "score", step: str) -> FloatArray:
    """Return a finite score with one value per patient."""
    score = read_vector(values, field=field, step=step)
    reference = follow.time if isinstance(follow, Follow) else follow
    require_same_length(reference, score, field=field, step=step)
    return score


def read_probability(values: ArrayLike, reference: FloatArray | IntArray, *, field: str, step: str) -> FloatArray:
    """Return probabilities in [0, 1] with one value per patient."""
    risk = read_vector(values, field=field, step=step)
    require_same_length(reference, risk, field=field, step=step)
    bad = np.flatnonzero((risk < 0) | (risk > 1))
    if bad.size:
        raise InvalidValue(
            f"Column '{field}' must hold probabilities.",
            step=step,
            field=field,
            expected="values in [0, 1]",
            got=f"{risk[bad[0]]:g} in row {int(bad[0])}",
            remedy="Give predicted risks, not linear predictors.",
        )
    return risk


def read_groups(values: ArrayLike | pd.Series, *, field: str, step: str) -> tuple[IntArray, tuple[str, ...]]:
    """Return group codes 0…g-1 and their labels in sorted order (numbers sort as numbers)."""
    series = pd.Series(values).reset_index(drop=True)
    missing = np.flatnonzero(series.isna().to_numpy())
    if missing.size:
        raise InvalidValue(
            f"Column '{field}' has {missing.size} missing value(s).",
            step=step,
            field=field,
            expected="a group for every patient",
            got=f"a missing value in row {int(missing[0])}",
        )
    levels = sorted(series.unique().tolist())
    codes = pd.Categorical(series, categories=levels).codes.astype(np.int64)
    return codes, tuple(format_level(level) for level in levels)


def format_level(level: object) -> str:
    """Write a level as R writes it: whole numbers without a decimal point."""
    if isinstance(level, float) and level.is_integer():
        return str(int(level))
    return str(level)


def read_columns(frame: pd.DataFrame, columns: Sequence[str], *, step: str) -> FloatArray:
    """Return the named columns as a finite (n, p) matrix.

    Raises
    ------
    InvalidTable
        A column is unknown, repeated or not numeric.
    InvalidValue
        A value is missing or infinite.
    """
    if not columns:
        raise InvalidTable("No covariate was named.", step=step, expected="at least one column", got="none")
    if len(set(columns)) != len(columns):
        repeated = sorted({name for name in columns if list(columns).count(name) > 1})
        raise InvalidTable("A covariate is named twice.", step=step, field=repeated[0], got=", ".join(repeated))
    return np.column_stack(
        [read_vector(require_column(frame, name, step=step), field=name, step=step) for name in columns]
    )


def require_column(frame: pd.DataFrame, name: str, *, step: str) -> NDArray[np.object_]:
    """Return one column by name or say which columns exist."""
    if name not in frame.columns:
        raise InvalidTable(
            f"Column '{name}' is not in the table.",
            step=step,
            field=name,
            expected=", ".join(map(str, frame.columns[:20])),
            got=name,
        )
    if list(frame.columns).count(name) > 1:
        raise InvalidTable(f"Column '{name}' occurs more than once in the table.", step=step, field=name)
    return frame[name].to_numpy()


def refuse_constant(matrix: FloatArray, names: Sequence[str], *, step: str) -> None:
    """Refuse covariates that take a single value: their coefficient does not exist."""
    for column, name in enumerate(names):
        if np.ptp(matrix[:, column]) == 0:
            raise InvalidTable(
                f"Covariate '{name}' is constant.",
                step=step,
                field=name,
                expected="at least two values",
                got=f"{matrix[0, column]:g} in every row",
                remedy="Remove the covariate.",
            )


def read_time_points(times: ArrayLike | float, *, step: str) -> FloatArray:
    """Return ascending evaluation times at or above zero."""
    points = read_vector(np.atleast_1d(np.asarray(times, dtype=np.float64)), field="times", step=step)
    if (points < 0).any():
        raise InvalidValue("Evaluation times must not be negative.", step=step, field="times", got=f"{points.min():g}")
    return points
