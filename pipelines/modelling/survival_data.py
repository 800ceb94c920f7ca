"""What a survival study learns from: features and follow-up of the same patients, sorted and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.tables import check_unique, id_mismatch
from services.shared.errors import InvalidTable, TooFewCases

Array = npt.NDArray[np.float64]
Event = npt.NDArray[np.int64]
FOLLOW_UP = ("os_months", "event")


@dataclass(frozen=True)
class SurvivalData:
    """Patients with features and follow-up, sorted by identifier.

    Parameters
    ----------
    ids, columns
        Patients and features, sorted.
    values
        Shape (patients, features); NaN where a feature does not exist.
    months
        Follow-up, shape (patients,), above 0.
    event
        1 death, 0 censored, shape (patients,).
    clinical
        Every column of the clinical table, indexed like ``ids``.
    flow
        Patients in and out, by reason.
    """

    ids: tuple[str, ...]
    columns: tuple[str, ...]
    values: Array
    months: Array
    event: Event
    clinical: pd.DataFrame
    flow: dict[str, object]

    def take(self, rows: npt.ArrayLike) -> SurvivalData:
        """Return some patients, by position, in the order given."""
        rows = np.asarray(rows, dtype=np.int64)
        return SurvivalData(
            tuple(self.ids[i] for i in rows),
            self.columns,
            self.values[rows],
            self.months[rows],
            self.event[rows],
            self.clinical.iloc[rows],
            self.flow,
        )

    @property
    def features_sha256(self) -> str:
        """Hash of the features, whatever file they came from."""
        digest = hashlib.sha256("\n".join((*self.ids, "", *self.columns)).encode())
        digest.update(np.where(np.isnan(self.values), np.nan, self.values + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()

    @property
    def labels_sha256(self) -> str:
        """Hash of the follow-up."""
        rows = (f"{i}\t{t!r}\t{e}" for i, t, e in zip(self.ids, self.months.tolist(), self.event, strict=True))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def survival_data(
    features: pd.DataFrame,
    clinical: pd.DataFrame,
    *,
    excluded: Mapping[str, str] | None = None,
    minimum_events: int = 1,
    step: str = "study",
) -> SurvivalData:
    """Join features and follow-up, and say who is left out for which reason.

    Parameters
    ----------
    features
        One row a patient, indexed by ``case_id``; numeric, NaN where a feature does not exist.
    clinical
        Indexed by ``case_id`` with ``os_months`` and ``event``; further columns come along.
    excluded
        Reason by ``case_id`` of patients knowingly left out.
    minimum_events
        Deaths that the study needs.

    Raises
    ------
    DuplicateId, IdMismatch
        Where a patient occurs twice, or the tables share no patient.
    InvalidTable
        Where a feature is not a number or infinite, or ``event`` is neither 0 nor 1.
    TooFewCases
        Where fewer deaths are left.
    """
    reasons = dict(excluded or {})
    features, clinical = features.copy(deep=False), clinical.copy(deep=False)
    features.index, clinical.index = features.index.astype(str), clinical.index.astype(str)
    features.columns = features.columns.astype(str)
    check_unique(features.index, field="features")
    check_unique(clinical.index, field="clinical table")
    _check_columns(features, clinical, step)
    common = features.index.intersection(clinical.index)
    if common.empty:
        raise id_mismatch(
            sorted(features.index)[:5], sorted(clinical.index)[:5], expected="patients of both tables, by identifier"
        )
    dropped = dict.fromkeys(features.index.difference(clinical.index), "no clinical row")
    dropped |= dict.fromkeys(clinical.index.difference(features.index), "no features")
    follow = clinical.loc[common, list(FOLLOW_UP)].apply(pd.to_numeric, errors="coerce")
    dropped |= dict.fromkeys(common[follow.isna().any(axis=1)], "no follow-up")
    dropped |= dict.fromkeys(
        common[(follow["os_months"] <= 0) & follow["event"].notna()], "follow-up of 0 months or less"
    )
    dropped |= {i: reason for i, reason in reasons.items() if i in common or i in dropped}
    ids = sorted(i for i in common if i not in dropped)
    event = follow.loc[ids, "event"].to_numpy(dtype=np.float64)
    if not np.isin(event, (0.0, 1.0)).all():
        raise InvalidTable(
            "the event is not coded as expected", step=step, field="event", expected="1 death, 0 censored"
        )
    if event.sum() < minimum_events:
        raise TooFewCases(
            "there are fewer deaths than needed",
            step=step,
            field="event",
            expected=f"at least {minimum_events} deaths",
            got=f"{int(event.sum())} among {len(ids)} patients",
            remedy="add patients or follow-up",
        )
    table = features.loc[ids].sort_index(axis="columns")
    values = table.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(values).any():
        strange = table.columns[np.isinf(values).any(axis=0)]
        raise InvalidTable(
            "a feature is infinite",
            step=step,
            field=", ".join(strange[:5]),
            expected="finite numbers, empty where a feature does not exist",
            got=f"{int(np.isinf(values).sum())} infinite values in {len(strange)} columns",
        )
    flow: dict[str, object] = {
        "patients_given": len(features.index.union(clinical.index)),
        "patients_excluded": dict(sorted(dropped.items())),
        "patients_studied": len(ids),
        "deaths": int(event.sum()),
        "features_given": values.shape[1],
    }
    months = follow.loc[ids, "os_months"].to_numpy(dtype=np.float64)
    return SurvivalData(
        tuple(ids), tuple(table.columns), values, months, event.astype(np.int64), clinical.loc[ids], flow
    )


def _check_columns(features: pd.DataFrame, clinical: pd.DataFrame, step: str) -> None:
    lacking = [name for name in FOLLOW_UP if name not in clinical]
    if lacking:
        raise InvalidTable(
            "the clinical table has no follow-up",
            step=step,
            field=", ".join(lacking),
            expected="os_months (above 0) and event (1 death, 0 censored)",
            got=", ".join(map(str, clinical.columns[:8])),
        )
    repeated = sorted(set(features.columns[features.columns.duplicated()]))
    text = [str(name) for name in features if not pd.api.types.is_numeric_dtype(features[name])] if not repeated else []
    if repeated or text or features.shape[1] == 0:
        raise InvalidTable(
            "a feature occurs twice" if repeated else "a feature is not numeric" if text else "there is no feature",
            step=step,
            field=", ".join((repeated or text)[:5]) or "features",
            expected="unique numeric columns",
        )
