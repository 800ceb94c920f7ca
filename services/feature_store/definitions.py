"""What is registered with Feast: the entity, the tables, views of named features, and services for studies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

from services.feature_store.tables import CASE_ID, EVENT_TIMESTAMP, CohortTables
from services.shared.cohort import Region, Sequence
from services.shared.storage import Storage

CLINICAL = "clinical"
RADIOMICS = "radiomics"

# What each study reads: sequences and regions. Shape belongs to a region alone.
STUDY_SOURCES: dict[str, tuple[tuple[Sequence, ...], tuple[Region, ...]]] = {
    "grading": ((Sequence.T1, Sequence.T1C, Sequence.T2), (Region.TC, Region.WT)),
    "atrx": ((Sequence.T1C, Sequence.FLAIR), (Region.ED, Region.ET, Region.WT)),
}


def study_service(study: str) -> str:
    """Return the name of a study's feature service; a study may share its name with a clinical column."""
    return f"{RADIOMICS}_{study}"


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
    radiomics = [view for view in views if view.name != CLINICAL]
    services = [FeatureService(name=RADIOMICS, features=[*radiomics])]
    for study, (sequences, regions) in STUDY_SOURCES.items():
        wanted = {f"{start}_{region}" for start in ("mask", *sequences) for region in regions}
        chosen = [view for view in radiomics if view.name in wanted]
        if chosen:
            services.append(FeatureService(name=study_service(study), features=[*chosen]))
    return Definitions(case, tuple(sources), tuple(views), tuple(services))


def _field(column: pa.Field) -> Field:
    return Field(name=column.name, dtype=String if pa.types.is_string(column.type) else Float64)
