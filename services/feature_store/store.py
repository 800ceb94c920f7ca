"""The feature store: register a cohort's tables with Feast, and read features as of a moment or the newest.

Embedded, a cohort's registry and online table are two files beside its tables. They are built anew under temporary
names and then moved into place, so that a reader always sees whole files and nothing of a case that was removed stays.
On a cluster the registry is an SQL database and the online table Redis, by settings alone.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig
from pydantic import SecretStr

from services.feature_store.contracts import (
    FeatureRow,
    FeatureRows,
    HistoricalRequest,
    OnlineRequest,
    RegisterRequest,
    RegisterResult,
)
from services.feature_store.definitions import CLINICAL, Definitions, define_cohort
from services.feature_store.tables import (
    CASE_ID,
    EVENT_TIMESTAMP,
    HAS_RADIOMICS,
    CohortTables,
    clinical_key,
    present,
    read_case_ids,
    write_tables,
)
from services.shared.errors import NotFound, Unavailable
from services.shared.manifest import run_step
from services.shared.settings import settings
from services.shared.storage import Storage

STEP = "register"
STEP_VERSION = "4"

_KEYS = [CASE_ID, EVENT_TIMESTAMP]
_DATABASES = {"redis": "GLIAFLOW_FEATURE_ONLINE_URL", "sqlalchemy": "GLIAFLOW_FEATURE_REGISTRY_URL"}


def registry_key(cohort: str) -> str:
    """Key of a cohort's embedded registry."""
    return f"features/{cohort}/feast/registry.db"


def online_key(cohort: str) -> str:
    """Key of a cohort's embedded online table (SQLite)."""
    return f"features/{cohort}/feast/online.db"


def repo_config(cohort: str, *, registry: str, online: str, root: str | None) -> RepoConfig:
    """Return Feast's configuration of one cohort.

    Parameters
    ----------
    root
        Folder from which tables are named; None where they are named by URL.
    registry
        Path of a registry file, or the SQLAlchemy URL of a database.
    online
        Path of an SQLite file, or ``redis://host:port``.
    """
    where_registry = {"registry_type": "sql" if "://" in registry else "file", "path": registry}
    where_online = (
        {"type": "redis", "connection_string": online.removeprefix("redis://")}
        if online.startswith("redis://")
        else {"type": "sqlite", "path": online}
    )
    return RepoConfig(
        project=cohort.replace("-", "_dash_"),
        provider="local",
        registry=where_registry,
        online_store=where_online,
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
        repo_path=root,
    )


@contextmanager
def _databases_answer() -> Iterator[None]:
    """Name the setting of a database that fails; its client, which a store of files never imports, is not asked for."""
    try:
        yield
    except Exception as error:
        setting = _DATABASES.get(type(error).__module__.partition(".")[0])
        if setting is None:
            raise
        raise Unavailable(
            "a database of the feature store does not answer, or refuses",
            field=setting,
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
            remedy="start it, let it take writes, or correct the setting",
        ) from error


@_databases_answer()
def register_cohort(storage: Storage, request: RegisterRequest) -> RegisterResult:
    """Gather a cohort's rows into its tables, register views over them, and load the newest row of each case.

    Registering the same tables again changes nothing.

    Raises
    ------
    NotFound, InvalidTable
        See :func:`services.feature_store.tables.write_tables`.
    Unavailable
        Where a database that the settings name fails.
    """
    started = time.perf_counter()
    tables = write_tables(storage, request.cohort, request.cases)
    definitions = define_cohort(storage, tables)

    def compute() -> list[str]:
        with ExitStack() as stack:
            places = [
                url.get_secret_value() if url else str(stack.enter_context(storage.publish(key)))
                for key, url in _places(request.cohort)
            ]
            root = storage.root if storage.is_local else None
            config = repo_config(request.cohort, registry=places[0], online=places[1], root=root)
            store = FeatureStore(config=config)
            _apply(store, storage, tables, definitions)
        return files

    files = [key for key, url in _places(request.cohort) if url is None]
    cached = False
    if len(files) < len(_places(request.cohort)):
        # What stands in a database is not hashed, so it is always written.
        compute()
    else:
        _, cached = run_step(
            storage,
            f"features/{request.cohort}/feast/manifest.json",
            step=STEP,
            step_version=STEP_VERSION,
            case=None,
            inputs=[view.key for view in tables.views],
            parameters={},
            packages=["feast", "pyarrow"],
            compute=compute,
        )
    return RegisterResult(
        cohort=request.cohort,
        cached=cached,
        table=tables.radiomics,
        deep=tables.deep,
        clinical=clinical_key(request.cohort),
        rows=tables.rows,
        features=tables.features,
        views=tuple(view.name for view in definitions.views),
        services=tuple(service.name for service in definitions.services),
        cases_without_features=tables.without_features,
        seconds=round(time.perf_counter() - started, 3),
    )


def _apply(store: FeatureStore, storage: Storage, tables: CohortTables, definitions: Definitions) -> None:
    store.apply([definitions.entity, *definitions.sources, *definitions.views, *definitions.services])
    # Written from the tables: materialize skips what is older than a year where a view's lifetime is unlimited.
    for view in tables.views:
        with storage.local(view.key) as path:
            table = pq.read_table(path).to_pandas()
        if table.drop(columns=_KEYS).notna().any(axis=None):
            newest = table.sort_values(EVENT_TIMESTAMP).drop_duplicates(CASE_ID, keep="last")
            store.write_to_online_store(view.name, df=newest)


def _places(cohort: str) -> tuple[tuple[str, SecretStr | None], tuple[str, SecretStr | None]]:
    """Return where registry and online table stand: a storage key, or the URL that takes its place."""
    config = settings()
    return (registry_key(cohort), config.feature_registry_url), (online_key(cohort), config.feature_online_url)


@contextmanager
def open_store(storage: Storage, cohort: str) -> Iterator[tuple[FeatureStore, Catalogue]]:
    """Give a cohort's feature store, and what it holds, while the block lasts.

    Raises
    ------
    NotFound
        Where the cohort is not registered.
    """
    with ExitStack() as stack:
        places = []
        for key, url in _places(cohort):
            if url is None and not storage.exists(key):
                raise NotFound(
                    "the cohort's features are not registered",
                    field="cohort",
                    got=cohort,
                    expected=key,
                    remedy="run 'gliaflow extract', which registers the cohort at its end",
                )
            places.append(url.get_secret_value() if url else str(stack.enter_context(storage.local(key))))
        root = storage.root if storage.is_local else None
        yield _opened(cohort, places[0], places[1], root, *map(_identity, places))


@lru_cache(maxsize=8)
def _opened(
    cohort: str, registry: str, online: str, root: str | None, *_identities: object
) -> tuple[FeatureStore, Catalogue]:
    """Open a store once for as long as its files are the same: reading a wide registry takes longer than a row."""
    store = FeatureStore(config=repo_config(cohort, registry=registry, online=online, root=root))
    return store, Catalogue.of(store)


def _identity(place: str) -> tuple[int, ...]:
    """Return what changes when a file is replaced. Of a database nothing is known, so it is read anew each minute."""
    if "://" in place:
        return (int(time.time() // 60),)
    found = Path(place).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class Catalogue:
    """Which feature belongs to which view, and which features make a service."""

    view_of_feature: dict[str, str]
    services: dict[str, tuple[str, ...]]

    @staticmethod
    def of(store: FeatureStore) -> Catalogue:
        """Return what a store has registered."""
        registry = store.registry.proto()
        views = {f.name: view.spec.name for view in registry.feature_views for f in view.spec.features}
        services = {
            s.spec.name: tuple(column.name for part in s.spec.features for column in part.feature_columns)
            for s in registry.feature_services
        }
        return Catalogue(views, services)

    def resolve(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the features that names of features, views and services stand for, by view.

        Raises
        ------
        NotFound
            Naming what is unknown and what comes near.
        """
        views = set(self.view_of_feature.values())
        chosen: dict[str, None] = {}
        for name in names:
            if name in self.view_of_feature:
                chosen[name] = None
            elif name in self.services:
                chosen.update(dict.fromkeys(self.services[name]))
            elif name in views:
                chosen.update(dict.fromkeys(f for f, view in self.view_of_feature.items() if view == name))
            else:
                known = [*self.view_of_feature, *views, *self.services]
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                raise NotFound(
                    "there is no feature, view or feature service of that name",
                    field="names",
                    got=name,
                    expected=("one near it: " + ", ".join(near)) if near else "one of " + ", ".join(sorted(views)),
                    remedy="names are <Sequence>_<Region>_<feature>, as T1c_TC_original_glcm_Contrast",
                )
        grouped: dict[str, list[str]] = {}
        for feature in chosen:
            grouped.setdefault(self.view_of_feature[feature], []).append(feature)
        return grouped


@_databases_answer()
def historical_frame(storage: Storage, cohort: str, rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return what was known of cases at given moments: a point-in-time join.

    Parameters
    ----------
    rows
        Columns ``case_id`` and ``event_timestamp`` (with time zone).
    names
        Names of features, views or feature services.

    Returns
    -------
    DataFrame
        One row for each of ``rows``, in their order; features whose moment is later than the row's are missing.

    Raises
    ------
    NotFound
        Where the cohort is not registered, or a case or a name is unknown.
    Unavailable
        Where a database that the settings name fails.
    """
    with open_store(storage, cohort) as (store, catalogue):
        by_view = catalogue.resolve(names)
        _check_cases(set(rows[CASE_ID]) - read_case_ids(storage, cohort), cohort)
        asked = _in_utc(rows[_KEYS]).reset_index(drop=True)
        once = asked.drop_duplicates(ignore_index=True)
        # One join a view: Feast drops a row that has nothing but future values in one view, and with it what the
        # other views know. Each answer is therefore joined back to the rows that were asked for.
        parts = [asked]
        for view, features in by_view.items():
            job = store.get_historical_features(entity_df=once.copy(), features=[f"{view}:{f}" for f in features])
            answer = _in_utc(job.to_df())
            parts.append(asked.merge(answer, on=_KEYS, how="left", validate="many_to_one")[features])
    return pd.concat(parts, axis=1)


def _in_utc(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(event_timestamp=pd.to_datetime(frame[EVENT_TIMESTAMP], utc=True).dt.as_unit("us"))


def historical_features(storage: Storage, request: HistoricalRequest) -> FeatureRows:
    """As :func:`historical_frame`, for a request."""
    rows = pd.DataFrame([row.model_dump() for row in request.rows])
    frame = historical_frame(storage, request.cohort, rows, request.names)
    features = [column for column in frame.columns if column not in _KEYS]
    records = frame[features].to_dict("records")
    return FeatureRows(
        rows=tuple(
            FeatureRow(
                case_id=row.case_id,
                event_timestamp=row.event_timestamp,
                features={str(name): present(value) for name, value in record.items()},
            )
            for row, record in zip(request.rows, records, strict=True)
        )
    )


@_databases_answer()
def online_features(storage: Storage, request: OnlineRequest) -> FeatureRows:
    """Return the newest features of cases, one row for each id asked for, in their order.

    Raises
    ------
    NotFound
        Where the cohort is not registered, or a case or a name is unknown.
    Unavailable
        Where a database that the settings name fails.
    """
    with open_store(storage, request.cohort) as (store, catalogue):
        by_view = catalogue.resolve(request.names)
        features = [feature for group in by_view.values() for feature in group]
        references = [f"{view}:{feature}" for view, group in by_view.items() for feature in group]
        always = f"{CLINICAL}:{HAS_RADIOMICS}"
        answer = store.get_online_features(
            features=references if always in references else [*references, always],
            entity_rows=[{CASE_ID: case_id} for case_id in request.case_ids],
        ).to_dict()
    _check_cases(
        {i for i, flag in zip(request.case_ids, answer[HAS_RADIOMICS], strict=True) if flag is None}, request.cohort
    )
    return FeatureRows(
        rows=tuple(
            FeatureRow(case_id=case_id, features={name: present(answer[name][i]) for name in features})
            for i, case_id in enumerate(request.case_ids)
        )
    )


def _check_cases(unknown: set[str], cohort: str) -> None:
    if unknown:
        raise NotFound(
            "a case is not registered in the feature store",
            field="case_id",
            expected=f"a case of {cohort}",
            got=", ".join(sorted(unknown)[:5]),
            remedy="extract and register the case first",
        )
