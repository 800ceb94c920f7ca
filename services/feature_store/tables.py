"""A cohort's feature tables: one row a case, stamped with the moment of its scan."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from services.feature_store.radiomics import STEP, read_row
from services.feature_store.studies import DEEP, maker_column
from services.shared.cohort import CaseKeys, Cohort, participants_key, read_cohort
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidTable, NotFound
from services.shared.manifest import read_manifest
from services.shared.storage import Storage

CASE_ID = "case_id"
EVENT_TIMESTAMP = "event_timestamp"
HAS_RADIOMICS = "has_radiomics"
UNDATED = pd.Timestamp("2000-01-01", tz="UTC")
"""Stamp of a case whose scan has no date."""

_NOT_CLINICAL = ("participant_id", "source_id", "subset", "scan_date")
_RESERVED = (CASE_ID, EVENT_TIMESTAMP, HAS_RADIOMICS)
_STAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class ViewTable:
    """The table of one feature view: where it stands, and its columns beside case and moment."""

    name: str
    key: str
    columns: tuple[pa.Field, ...]


@dataclass(frozen=True)
class CohortTables:
    """A cohort's tables: all radiomic features, and what each view reads; the clinical view is the last.

    ``deep`` is the table of deep features, None where no case has such; ``features`` counts both.
    """

    radiomics: str
    deep: str | None
    features: int
    rows: int
    views: tuple[ViewTable, ...]
    without_features: tuple[str, ...]


def radiomics_key(cohort: str) -> str:
    """Key of a cohort's table of radiomic features."""
    return f"features/{cohort}/radiomics.parquet"


def deep_key(cohort: str) -> str:
    """Key of a cohort's table of deep features."""
    return f"features/{cohort}/deep.parquet"


def view_key(cohort: str, view: str) -> str:
    """Key of the part of a table that one view reads; the whole is too wide to read once a view."""
    return f"features/{cohort}/views/{view}.parquet"


def view_of(feature: str) -> str:
    """Return the view that a feature belongs to: ``<Sequence>_<Region>``, ``mask_<Region>``, or that with ``_deep``.

    >>> view_of("T1c_TC_original_glcm_Contrast"), view_of("T1c_ET_deep_7"), view_of("grade_WT_deep_logit")
    ('T1c_TC', 'T1c_ET_deep', 'grade_WT_deep')
    """
    parts = feature.split("_", 3)
    return "_".join(parts[: 3 if parts[2] == DEEP else 2])


def clinical_key(cohort: str) -> str:
    """Key of a cohort's clinical table."""
    return f"features/{cohort}/clinical.parquet"


def write_tables(storage: Storage, name: str, cases: Sequence[CaseRef] | None) -> CohortTables:
    """Gather the cases' rows and clinical data into the cohort's tables: radiomic, deep where there are such, clinical.

    Parameters
    ----------
    cases
        Which cases; by default the subset ``study``.

    Raises
    ------
    NotFound
        Where a case is not in the cohort, or no case has features.
    InvalidTable
        Where cases were extracted with different parameters, or a scan date cannot be read.
    """
    cohort = _chosen(read_cohort(storage, name), cases)
    found = [case for case in cohort.cases if _is_extracted(storage, CaseKeys(case))]
    if not found:
        raise NotFound(
            "no case of the cohort has features",
            field=f"features/{name}/cases",
            expected=f"features of {len(cohort.cases)} cases",
            got="none",
            remedy="run 'gliaflow extract' first",
        )
    stamps = scan_timestamps(cohort)
    columns = _radiomic_columns(storage, name, found)
    ids = [case.id for case in found]
    _write(storage, radiomics_key(name), ids, stamps, columns)
    deep = _deep_columns(storage, name, found)
    if deep:
        _write(storage, deep_key(name), ids, stamps, deep)
    else:
        storage.remove(deep_key(name))
    groups: dict[str, dict[str, pa.Array]] = {}
    for feature, values in {**columns, **deep}.items():
        groups.setdefault(view_of(feature), {})[feature] = values
    for key in storage.files(f"features/{name}/views"):
        if key not in {view_key(name, view) for view in groups}:
            storage.remove(key)
    views = [_write(storage, view_key(name, view), ids, stamps, group) for view, group in groups.items()]
    everybody = [case.id for case in cohort.cases]
    views.append(_write(storage, clinical_key(name), everybody, stamps, _clinical_columns(cohort, set(ids))))
    missing = tuple(i for i in everybody if i not in set(ids))
    return CohortTables(
        radiomics_key(name),
        deep_key(name) if deep else None,
        len(columns) + sum(not pa.types.is_string(values.type) for values in deep.values()),
        len(found),
        tuple(views),
        missing,
    )


def _is_extracted(storage: Storage, keys: CaseKeys) -> bool:
    """Return whether the row is that of a finished step, and not a leftover of one that has failed since."""
    return storage.exists(keys.features) and storage.exists(keys.manifest(STEP))


def _chosen(cohort: Cohort, cases: Sequence[CaseRef] | None) -> Cohort:
    if cases is None:
        return cohort.subset("study")
    unknown = sorted(map(str, set(cases) - set(cohort.cases)))
    if unknown:
        raise NotFound(
            "a case is not in the cohort",
            field="cases",
            expected=f"participants of {cohort.name}",
            got=", ".join(unknown[:5]),
            remedy="correct the id, or import the case first",
        )
    rows = cohort.participants["participant_id"].isin([f"sub-{case.id}" for case in cases])
    return Cohort(cohort.name, cohort.participants[rows].reset_index(drop=True))


def scan_timestamps(cohort: Cohort) -> dict[str, pd.Timestamp]:
    """Return each case's moment of scan, UTC; :data:`UNDATED` where the table states none."""
    ids = [case.id for case in cohort.cases]
    if "scan_date" not in cohort.participants:
        return dict.fromkeys(ids, UNDATED)
    text = cohort.participants["scan_date"]
    dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    wrong = cohort.participants.loc[dates.isna() & text.notna(), "participant_id"]
    if len(wrong):
        raise InvalidTable(
            "a scan date cannot be read",
            field=f"{participants_key(cohort.name)}: scan_date",
            expected="ISO 8601, as 2024-05-31",
            got=f"{len(wrong)} unreadable, first of {wrong.iloc[0]}",
        )
    return dict(zip(ids, dates.fillna(UNDATED), strict=True))


def _radiomic_columns(storage: Storage, name: str, cases: Sequence[CaseRef]) -> dict[str, pa.Array]:
    rows = {CaseKeys(case).features: read_row(storage, CaseKeys(case).features) for case in cases}
    used = {row.parameters.model_dump_json(): key for key, row in rows.items()}
    if len(used) > 1:
        first, second = list(used.values())[:2]
        raise InvalidTable(
            "cases were extracted with different parameters, so their features cannot be compared",
            field=f"features/{name}/cases",
            expected="one set of parameters",
            got=f"{len(used)} sets, see {first} and {second}",
            remedy="extract all cases again with one set of parameters",
        )
    names = sorted(next(iter(rows.values())).values)
    return {feature: pa.array([row.values[feature] for row in rows.values()], pa.float64()) for feature in names}


def _deep_columns(storage: Storage, name: str, cases: Sequence[CaseRef]) -> dict[str, pa.Array]:
    """Return the columns of the cases' deep features and of who made them; a case without such has none of them."""
    rows: list[dict[str, float | None]] = []
    makers: list[dict[str, str]] = []
    used: dict[str, str] = {}
    for case in cases:
        keys = CaseKeys(case)
        manifest = read_manifest(storage, keys.manifest(DEEP)) if storage.exists(keys.deep_features) else None
        if manifest is None:
            rows.append({})
            makers.append({})
            continue
        networks = manifest.parameters.get("networks")
        # Which fold a patient's features come from differs between patients, and is meant to.
        said = manifest.parameters | {"networks": sorted(networks) if isinstance(networks, dict) else None}
        used.setdefault(json.dumps(said, sort_keys=True), keys.deep_features)
        with storage.local(keys.deep_features) as path:
            rows.append(pq.read_table(path).to_pandas().iloc[0].to_dict())
        stated = manifest.parameters.get("makers")
        makers.append(dict(stated) if isinstance(stated, dict) else {})
    if len(used) > 1:
        first, second = list(used.values())[:2]
        raise InvalidTable(
            "cases have deep features of different networks, so that they cannot be compared",
            field=f"features/{name}/cases",
            expected="one set of networks, sequences and regions",
            got=f"{len(used)} sets, see {first} and {second}",
            remedy="run 'gliaflow extract --deep' on all cases again",
        )
    names = sorted({str(feature) for row in rows for feature in row})
    starts = sorted({start for row in makers for start in row})
    return {
        **{feature: pa.array([present(row.get(feature)) for row in rows], pa.float64()) for feature in names},
        **{maker_column(start): pa.array([row.get(start) for row in makers], pa.string()) for start in starts},
    }


def _clinical_columns(cohort: Cohort, with_features: set[str]) -> dict[str, pa.Array]:
    table = cohort.participants
    clash = [column for column in _RESERVED if column in table]
    if clash:
        raise InvalidTable(
            "the clinical table uses a name that the feature store keeps for itself",
            field=participants_key(cohort.name),
            expected="other names than " + ", ".join(_RESERVED),
            got=", ".join(clash),
            remedy="rename the column",
        )
    ids = [case.id for case in cohort.cases]
    columns = {HAS_RADIOMICS: pa.array([float(i in with_features) for i in ids], pa.float64())}
    for column in sorted(set(table.columns) - set(_NOT_CLINICAL)):
        values = table[column]
        if pd.api.types.is_numeric_dtype(values):
            columns[str(column)] = pa.array(values.astype("float64").to_numpy(), pa.float64())
        else:
            columns[str(column)] = pa.array([str(v) if pd.notna(v) else None for v in values], pa.string())
    return columns


def _write(
    storage: Storage, key: str, ids: Sequence[str], stamps: dict[str, pd.Timestamp], columns: dict[str, pa.Array]
) -> ViewTable:
    moments = pa.array([stamps[i].to_pydatetime() for i in ids], _STAMP)
    table = pa.table({CASE_ID: pa.array(ids, pa.string()), EVENT_TIMESTAMP: moments, **columns})
    with storage.publish(key) as path:
        pq.write_table(table, path)
    return ViewTable(Path(key).stem, key, tuple(pa.field(name, values.type) for name, values in columns.items()))


def read_case_ids(storage: Storage, cohort: str) -> frozenset[str]:
    """Return the ids of the cases in a cohort's clinical table."""
    with storage.local(clinical_key(cohort)) as path:
        return frozenset(pq.read_table(path, columns=[CASE_ID]).column(CASE_ID).to_pylist())


def present(value: object) -> float | str | None:
    """Return a table's value as it crosses JSON: a finite number, a text, or None."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
