"""Feature tables and outcomes: read them, check them, bring them to the same patients."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from services.shared.cohort import PARTICIPANT_COLUMNS
from services.shared.contracts import case_label
from services.shared.errors import (
    DuplicateId,
    IdMismatch,
    InvalidTable,
    NotFound,
    OneClass,
    TooFewCases,
    UnreadableFile,
)

ID_COLUMNS = ("case_id", "participant_id", "ID", "source_id")
_BOOKKEEPING = re.compile(
    r"cohort|space|split|subset|.*(^|_)(date|time|timestamp|created|seconds)$|diagnostics_.*", re.I
)
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "#div/0!", "#n/a", "#num!", "#value!"})


@dataclass(frozen=True)
class FeatureTable:
    """A table of features, and what was left out of it.

    Parameters
    ----------
    features
        One row a patient, indexed by ``case_id``; float64, NaN where a feature does not exist.
    left_out
        Reason by name of each column that is no feature.
    """

    features: pd.DataFrame
    left_out: dict[str, str]


def read_feature_table(path: Path) -> FeatureTable:
    """Return the features in a Parquet or CSV file.

    The patients' column is the first of ``case_id``, ``participant_id``, ``ID``, ``source_id`` (any case) that there
    is, or a Parquet index of such a name. Dates, clinical columns, diagnostics and text are no features and are left
    out.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such file, or it is not a table.
    InvalidTable, DuplicateId
        Where no column names the patients, one occurs twice, or a column mixes numbers with text.
    """
    if not path.is_file():
        raise NotFound("there is no such feature table", field=str(path), remedy="name a .parquet or .csv file")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise UnreadableFile(
            "the feature table cannot be read",
            field=path.name,
            expected="Parquet, or CSV with a header",
            got=str(error).strip().splitlines()[-1][:160],
        ) from error
    if frame.index.name in ID_COLUMNS:
        frame = frame.reset_index()
    return feature_table(frame, field=path.name)


def feature_table(frame: pd.DataFrame, *, field: str = "features") -> FeatureTable:
    """Return the features of a table with a column of patients; see :func:`read_feature_table`."""
    frame = frame.rename(columns=lambda name: str(name).strip())
    repeated = sorted(set(frame.columns[frame.columns.duplicated()]))
    if repeated:
        raise InvalidTable("a column occurs twice", field=field, expected="unique names", got=", ".join(repeated[:5]))
    spelled = {name.lower(): name for name in reversed(frame.columns)}
    found = [spelled[name.lower()] for name in ID_COLUMNS if name.lower() in spelled]
    if not found:
        raise InvalidTable(
            "no column names the patients",
            field=field,
            expected=f"one of {', '.join(ID_COLUMNS)}",
            got=", ".join(frame.columns[:5]),
            remedy="name the column of identifiers case_id",
        )
    ids = pd.Index(frame[found[0]].astype(str).str.strip().str.removeprefix("sub-"), name="case_id")
    _check_unique(ids, field=f"{field}: {found[0]}")
    left_out: dict[str, str] = {}
    columns: dict[str, pd.Series] = {}
    for name in frame.columns:
        if name.lower() in (known.lower() for known in ID_COLUMNS):
            continue
        if name.lower() in PARTICIPANT_COLUMNS:
            left_out[name] = "clinical"
        elif _BOOKKEEPING.fullmatch(name) or pd.api.types.is_datetime64_any_dtype(frame[name]):
            left_out[name] = "bookkeeping"
        else:
            values = _as_numbers(frame[name], field=field)
            if values is None:
                left_out[name] = "text"
            else:
                columns[name] = values
    features = pd.DataFrame(columns)
    features.index = ids
    return FeatureTable(features.sort_index(), left_out)


def _as_numbers(column: pd.Series, *, field: str) -> pd.Series | None:
    """Return a column as float64, or None where it is text."""
    if pd.api.types.is_bool_dtype(column):
        return None
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(np.float64)
    text = column.astype(str).str.strip()
    present = ~text.str.lower().isin(_MISSING) & column.notna()
    values = pd.to_numeric(text.where(present), errors="coerce")
    broken = present & values.isna()
    if not broken.any():
        return values.astype(np.float64)
    if broken.sum() > present.sum() / 2:
        return None
    raise InvalidTable(
        "a column mixes numbers with text",
        field=f"{field}: {column.name}",
        expected="numbers, empty where missing",
        got=f"{int(broken.sum())} entries such as {text[broken].iloc[0][:40]!r}",
        remedy="correct or empty these entries, or remove the column",
    )


def _check_unique(ids: pd.Index, *, field: str) -> None:
    repeated = sorted(set(ids[ids.duplicated()]))
    if repeated:
        raise DuplicateId(
            "a patient occurs more than once",
            field=field,
            expected="one row a patient",
            got=", ".join(repeated[:5]),
            remedy="remove or rename the repeated rows",
        )


def participant_labels(participants: pd.DataFrame, column: str, ids: pd.Index) -> pd.Series:
    """Return one clinical column for a feature table's patients.

    Patients match by ``participant_id`` (with or without ``sub-``) or by ``source_id``, whichever fits more of them.

    Parameters
    ----------
    ids
        ``case_id`` of the feature table.

    Returns
    -------
    pandas.Series
        Indexed by ``ids``; NaN where the clinical table has no entry.

    Raises
    ------
    InvalidTable, IdMismatch
        Where the table lacks the column, or not every patient is in it.
    """
    if column not in participants:
        raise InvalidTable(
            "the clinical table lacks the outcome",
            field="participants.tsv",
            expected=column,
            got=", ".join(map(str, participants.columns[:12])),
        )
    candidates = [participants["participant_id"].astype(str).str.removeprefix("sub-")]
    if "source_id" in participants:
        candidates.append(participants["source_id"].astype(str).str.strip())
    keys = max(candidates, key=lambda series: int(ids.isin(series).sum()))
    if not ids.isin(keys).any():
        ids_by_label = pd.Index([case_label(name) for name in ids])
        known = pd.Series(participants[column].to_numpy(), index=candidates[0])
        values = known.reindex(ids_by_label)
        values.index = ids
        missing = ids[~ids_by_label.isin(known.index)]
    else:
        _check_unique(pd.Index(keys), field="participants.tsv")
        known = pd.Series(participants[column].to_numpy(), index=pd.Index(keys))
        values = known.reindex(ids)
        missing = ids[~ids.isin(known.index)]
    if len(missing):
        raise _mismatch(list(missing), [], expected="a row of participants.tsv for each patient with features")
    return values.rename(column)


def participant_classes(
    participants: pd.DataFrame, column: str, ids: pd.Index, *, spellings: Mapping[str, frozenset[str]]
) -> pd.Series:
    """Return each patient's class from a clinical column, whatever its spelling; None where it is unknown.

    Parameters
    ----------
    spellings
        Lower-case spellings by class.

    Raises
    ------
    InvalidTable
        Where an entry is no known spelling, and as :func:`participant_labels`.
    """
    classes = {spelling: name for name, known in spellings.items() for spelling in known}

    def class_of(value: object) -> str | None:
        text = "" if pd.isna(value) else str(value).strip().lower()  # type: ignore[call-overload]
        if text in _MISSING:
            return None
        if text not in classes:
            raise InvalidTable(
                "an outcome is not known",
                field=column,
                expected="; ".join(f"{name}: {', '.join(sorted(known))}" for name, known in spellings.items()),
                got=repr(value),
            )
        return classes[text]

    return participant_labels(participants, column, ids).map(class_of)


def _mismatch(only_features: list[str], only_labels: list[str], *, expected: str) -> IdMismatch:
    parts = [
        f"{len(ids)} {what}: {', '.join(sorted(ids)[:5])}{' …' if len(ids) > 5 else ''}"
        for ids, what in ((only_features, "with features only"), (only_labels, "with an outcome only"))
        if ids
    ]
    return IdMismatch(
        "features and outcomes do not name the same patients",
        field="case_id",
        expected=expected,
        got="; ".join(parts),
        remedy="correct the identifiers, or exclude these patients knowingly",
    )


@dataclass(frozen=True)
class StudyData:
    """The patients of a study, sorted by identifier, and who was left out.

    Parameters
    ----------
    ids, columns
        Patients and features, sorted.
    values
        Shape (patients, features); NaN where a feature does not exist.
    outcome
        Shape (patients,), 1 for the positive class.
    classes
        Negative and positive class.
    flow
        Counts of patients in and out, by reason.
    """

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    outcome: np.ndarray[tuple[int], np.dtype[np.int64]]
    classes: tuple[str, str]
    flow: dict[str, object]

    @property
    def features_sha256(self) -> str:
        """Hash of the features, whatever file they came from."""
        digest = hashlib.sha256("\n".join((*self.ids, "", *self.columns)).encode())
        digest.update(np.where(np.isnan(self.values), np.nan, self.values + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()

    @property
    def labels_sha256(self) -> str:
        """Hash of the outcomes."""
        rows = (f"{i}\t{self.classes[y]}" for i, y in zip(self.ids, self.outcome, strict=True))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def study_data(
    features: pd.DataFrame,
    labels: pd.Series,
    *,
    classes: tuple[str, str],
    folds: int | None,
    excluded: Mapping[str, str] | None = None,
) -> StudyData:
    """Bring features and outcomes together and check that a study can be made of them.

    Parameters
    ----------
    features
        One row a patient, indexed by ``case_id``; NaN where a feature does not exist.
    labels
        Class by ``case_id``; a patient whose class is missing is left out and counted.
    classes
        Negative and positive class.
    folds
        Folds of the cross-validation; None where the data only judge a finished model.
    excluded
        Reason by ``case_id`` of patients that are knowingly left out; they need neither features nor a label.

    Raises
    ------
    DuplicateId, IdMismatch
        Where a patient occurs twice, or in one of the two only.
    InvalidTable
        Where a feature is not a number or infinite, or a label is none of the classes.
    OneClass, TooFewCases
        Where nothing can be learnt.
    """
    reasons = dict(excluded or {})
    features, labels = features.copy(deep=False), labels.copy(deep=False)
    features.index, labels.index = features.index.astype(str), labels.index.astype(str)
    features.columns = features.columns.astype(str)
    _check_unique(features.index, field="features")
    _check_unique(labels.index, field="labels")
    features = features[~features.index.isin(list(reasons))]
    labels = labels[~labels.index.isin(list(reasons))]
    if set(features.index) != set(labels.index):
        raise _mismatch(
            sorted(set(features.index) - set(labels.index)),
            sorted(set(labels.index) - set(features.index)),
            expected="one label for each row of features",
        )
    texts = labels.map(lambda value: "" if pd.isna(value) else str(value).strip())
    unlabelled = sorted(texts.index[texts == ""])
    texts = texts[texts != ""].sort_index()
    strange = sorted(set(texts) - set(classes))
    if strange:
        raise InvalidTable(
            "an outcome is none of the study's classes",
            field="labels",
            expected=" or ".join(classes),
            got=", ".join(strange[:5]),
        )
    counts = {name: int((texts == name).sum()) for name in classes}
    _check_counts(counts, folds)
    values = _numeric(features.loc[texts.index].sort_index(axis="columns"))
    flow: dict[str, object] = {
        "patients_given": len(features) + len(reasons),
        "patients_excluded": dict(sorted(reasons.items())),
        "patients_without_outcome": unlabelled,
        "patients_studied": len(texts),
        "patients_by_class": counts,
        "features_given": values.shape[1],
    }
    return StudyData(
        tuple(texts.index),
        tuple(sorted(features.columns)),
        values,
        (texts == classes[1]).to_numpy().astype(np.int64),
        classes,
        flow,
    )


def _check_counts(counts: dict[str, int], folds: int | None) -> None:
    got = ", ".join(f"{count} {name}" for name, count in counts.items())
    if min(counts.values()) == 0:
        raise OneClass(
            "the outcome has one class only",
            step="study",
            field="labels",
            expected=f"patients of both classes, {' and '.join(counts)}",
            got=got,
            remedy="add patients of the other class",
        )
    # The inner training parts must hold two patients of each class to compare variances; DeLong's limits need two.
    needed = 2 if folds is None else next(n for n in range(folds, 3 * folds + 1) if n - -(-n // folds) >= 3)
    if min(counts.values()) < needed:
        raise TooFewCases(
            "there are fewer patients than needed",
            step="study",
            field="labels",
            expected=f"at least {needed} patients of each class" + (f" for {folds} folds" if folds else ""),
            got=got,
            remedy="add patients, or set fewer folds",
        )


def _numeric(frame: pd.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    text = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    repeated = sorted(set(map(str, frame.columns[frame.columns.duplicated()])))
    if text or repeated or frame.shape[1] == 0:
        raise InvalidTable(
            "a feature occurs twice" if repeated else "a feature is not numeric" if text else "there is no feature",
            field=", ".join((repeated or text)[:5]) or "features",
            expected="unique numeric columns",
            got=f"{len(repeated or text)} such columns of {frame.shape[1]}",
            remedy="read the table with read_feature_table",
        )
    values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        raise InvalidTable(
            "a feature is infinite",
            field=", ".join(frame.columns[infinite][:5]),
            expected="finite numbers, empty where a feature does not exist",
            got=f"{int(np.isinf(values).sum())} infinite values in {int(infinite.sum())} columns",
            remedy="empty these entries",
        )
    return values
