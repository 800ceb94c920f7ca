"""What is registered with Feast: the entity, the tables, views of named features, and services for studies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

from services.feature_store.studies import (
    DEEP,
    RADIOMICS,
    STUDY_DEEP,
    STUDY_SOURCES,
    deep_columns,
    radiomic_views,
    study_service,
)
from services.feature_store.tables import CASE_ID, EVENT_TIMESTAMP, CohortTables
from services.shared.storage import Storage

CLINICAL = "clinical"


@dataclass(frozen=True)
class Definitions:
    """Everything to register for one cohort."""

    entity: Entity
    sources: tuple[FileSource, ...]
    views: tuple[FeatureView, ...]
    services: tuple[FeatureService, ...]


def define_cohort(storage: Storage, tables: CohortTables) -> Definitions:
    """Return the definitions over a cohort's tables.

    In a folder the tables are named from the storage root, so that a registry that moves with its tables reads them.
    """
    case = Entity(name="case", join_keys=[CASE_ID], value_type=ValueType.STRING, description="One scan of one patient")
    sources = [
        FileSource(
            name=table.name,
            path=table.key if storage.is_local else storage.url(table.key),
            timestamp_field=EVENT_TIMESTAMP,
        )
        for table in tables.views
    ]
    views = [
        FeatureView(
            name=table.name,
            entities=[case],
            ttl=timedelta(0),  # never expires: a scan of years ago is still this case's scan
            schema=[Field(name=CASE_ID, dtype=String), *map(_field, table.columns)],
            source=source,
            online=True,
        )
        for table, source in zip(tables.views, sources, strict=True)
    ]
    deep = [view for view in views if view.name.endswith(f"_{DEEP}")]
    radiomics = [view for view in views if view.name != CLINICAL and view not in deep]
    services = [FeatureService(name=RADIOMICS, features=[*radiomics])]
    for study in dict.fromkeys((*STUDY_SOURCES, *STUDY_DEEP)):
        wanted = radiomic_views(study)
        its = [(view, deep_columns(study, [field.name for field in view.features])) for view in deep]
        chosen = {
            RADIOMICS: [view for view in radiomics if view.name in wanted],
            DEEP: [view[[*columns, *_makers(view)]] for view, columns in its if columns],
        }
        services += [
            FeatureService(name=study_service(study, kind), features=[*some]) for kind, some in chosen.items() if some
        ]
    return Definitions(case, tuple(sources), tuple(views), tuple(services))


def _makers(view: FeatureView) -> list[str]:
    return [field.name for field in view.features if field.dtype == String]


def _field(column: pa.Field) -> Field:
    return Field(name=column.name, dtype=String if pa.types.is_string(column.type) else Float64)
