"""What a study learns from: features and outcomes of the same patients, sorted and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.modelling.tables import check_unique, id_mismatch
from services.shared.errors import InvalidTable, OneClass, TooFewCases


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
    check_unique(features.index, field="features")
    check_unique(labels.index, field="labels")
    features = features[~features.index.isin(list(reasons))]
    labels = labels[~labels.index.isin(list(reasons))]
    if set(features.index) != set(labels.index):
        raise id_mismatch(
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
