"""What is registered with Feast: the entity, the tables, views of named features, and services for studies."""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass(frozen=True)
class Definitions:
    """Everything to register for one cohort."""

    entity: Entity
    sources: tuple[FileSource, ...]
    views: tuple[FeatureView, ...]
    services: tuple[FeatureService, ...]


def view_of(feature: str) -> str:
    """Return the view that a radiomic feature belongs to, ``<Sequence>_<Region>`` or ``mask_<Region>``.

    >>> view_of("T1c_TC_original_glcm_Contrast")
    'T1c_TC'
    """
    return "_".join(feature.split("_", 2)[:2])


def define_cohort(storage: Storage, tables: CohortTables) -> Definitions:
    """Return the definitions over a cohort's tables."""
    case = Entity(name="case", join_keys=[CASE_ID], value_type=ValueType.STRING, description="One scan of one patient")
    radiomics = _source(storage, RADIOMICS, tables.radiomics)
    clinical_source = _source(storage, CLINICAL, tables.clinical)
    grouped: dict[str, list[Field]] = {}
    for feature in tables.features:
        grouped.setdefault(view_of(feature), []).append(Field(name=feature, dtype=Float64))
    views = [_view(name, case, fields, radiomics) for name, fields in sorted(grouped.items())]
    clinical = _view(
        CLINICAL,
        case,
        [Field(name=f.name, dtype=String if pa.types.is_string(f.type) else Float64) for f in tables.clinical_columns],
        clinical_source,
    )
    services = [FeatureService(name=RADIOMICS, features=[*views])]
    for study, (sequences, regions) in STUDY_SOURCES.items():
        wanted = {f"{start}_{region}" for start in ("mask", *sequences) for region in regions}
        chosen = [view for view in views if view.name in wanted]
        if chosen:
            services.append(FeatureService(name=study, features=[*chosen]))
    return Definitions(case, (radiomics, clinical_source), (*views, clinical), tuple(services))


def _source(storage: Storage, name: str, key: str) -> FileSource:
    return FileSource(name=name, path=storage.url(key), timestamp_field=EVENT_TIMESTAMP)


def _view(name: str, case: Entity, fields: Iterable[Field], source: FileSource) -> FeatureView:
    # A lifetime of zero means that a feature never expires: a scan of years ago is still this case's scan.
    schema = [Field(name=CASE_ID, dtype=String), *fields]
    return FeatureView(name=name, entities=[case], ttl=timedelta(0), schema=schema, source=source, online=True)
