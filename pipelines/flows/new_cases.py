"""Import what came since into the cohort of a model, before anything is computed from it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipelines.datasets import IMAGE_IMPORTERS, image_importer, importer
from pipelines.datasets.participants import read_participants
from pipelines.datasets.release import Release, matrix_key, read_matrix, write_release
from pipelines.promotion.findings import Imported
from pipelines.promotion.parameters import NewCases
from pipelines.versioning.errors import SchemaChanged
from pipelines.versioning.tables import compare_schemas, schema_of
from services.shared.cohort import participants_key, read_cohort
from services.shared.storage import Storage


def import_new_cases(
    storage: Storage, cohort: str, source: NewCases | None, *, allow_schema_change: bool = False
) -> Imported:
    """Read a release anew into a cohort; the same release changes nothing.

    Columns are compared with those of the cohort before anything is written.

    Raises
    ------
    NotFound
        Where the release is not where the parameters say, or there is no such importer or cohort.
    SchemaChanged
        Where columns came, went or changed their kind.
    """
    if source is None:
        return Imported()
    place = Path(source.source)
    before = len(read_cohort(storage, cohort).cases)
    participants = None if source.participants is None else Path(source.participants)
    if source.importer in IMAGE_IMPORTERS:
        if participants is not None and not allow_schema_change:
            _require_known_columns(storage, cohort, read_participants(participants))
        _, problems = image_importer(source.importer)(storage, place, cohort, participants=participants)
        left_out = len(problems)
    else:
        release = importer(source.importer).read_release(place, participants=participants, **source.options)
        if not allow_schema_change:
            _require_same_release(storage, cohort, release)
        write_release(storage, cohort, release)
        left_out = len(release.dropped)
    after = len(read_cohort(storage, cohort).cases)
    return Imported(importer=source.importer, cases_before=before, cases=after, left_out=left_out)


def _require_same_release(storage: Storage, cohort: str, release: Release) -> None:
    known = read_cohort(storage, cohort).participants
    require_same_columns(known, release.participants, table=participants_key(cohort))
    for matrix, table in sorted(release.matrices.items()):
        if storage.exists(matrix_key(cohort, matrix)):
            require_same_columns(read_matrix(storage, cohort, matrix), table, table=matrix_key(cohort, matrix))


def _require_known_columns(storage: Storage, cohort: str, added: pd.DataFrame) -> None:
    known = read_cohort(storage, cohort).participants
    shared = [name for name in known if name in added]
    require_same_columns(known[shared], added, table=participants_key(cohort))


def require_same_columns(before: pd.DataFrame, after: pd.DataFrame, *, table: str) -> None:
    """Check that a table has the columns of the one before, of the same kinds.

    Raises
    ------
    SchemaChanged
        Naming what came, what went and what is of another kind.
    """
    change = compare_schemas(schema_of(before), schema_of(after), table=table)
    if change is not None:
        raise SchemaChanged(
            "the new cases come in a table of other columns",
            step="import",
            field=table,
            expected=f"the {len(before.columns)} columns that the cohort has",
            got=change.told,
            remedy="bring the release to the columns of before, or set 'retrain.allow_schema_change' in params.yaml "
            "once a person has looked at it; nothing was imported",
        )
