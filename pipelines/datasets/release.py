"""A release that was read: one clinical table in our terms, and the matrices that come with it.

Every importer of tables returns a :class:`Release`; :func:`write_release` stores it as a cohort. What a release holds
and we do not take is counted with its reason, so that nothing is dropped in silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pandas as pd

from services.shared.cohort import participants_key, write_participants
from services.shared.errors import NotFound
from services.shared.storage import Storage

MATRICES = ("expression", "counts", "features")


@dataclass(frozen=True)
class Release:
    """What an importer read.

    Parameters
    ----------
    name
        Name of the importer.
    participants
        One row a patient: ``participant_id`` (``sub-`` and letters and digits), ``source_id`` as the publisher writes
        it, the columns of :data:`services.shared.cohort.PARTICIPANT_COLUMNS` that the release has, and further ones in
        snake_case.
    meanings
        What each further column means, with its unit.
    matrices
        Some of :data:`MATRICES`: samples x genes or features, indexed by ``case_id`` (``participant_id`` without
        ``sub-``), NaN where missing.
    scale
        What a value of each matrix is, e.g. ``log2 intensity``.
    dropped
        Reason by ``source_id`` (or row) of what the release holds and the cohort does not.
    counted
        Further counts worth knowing: merged gene columns, infinite entries that count as missing …
    sources
        SHA-256 by name of the files that were read.
    licence
        Terms of the data and whom to cite.
    """

    name: str
    participants: pd.DataFrame
    meanings: dict[str, str] = field(default_factory=dict)
    matrices: dict[str, pd.DataFrame] = field(default_factory=dict)
    scale: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    licence: str = ""


def import_key(cohort: str) -> str:
    """Key of what an importer says about the cohort that it made."""
    return f"raw/{cohort}/import.json"


def matrix_key(cohort: str, matrix: str) -> str:
    """Key of a cohort's ``expression``, ``counts`` or ``features``."""
    return f"raw/{cohort}/{matrix}.parquet"


def write_release(storage: Storage, cohort: str, release: Release) -> list[str]:
    """Store a release as a cohort and return the keys; the same release gives the same bytes.

    The clinical table comes last: a cohort that has one is whole.
    """
    keys = []
    for matrix in MATRICES:
        key = matrix_key(cohort, matrix)
        if matrix in release.matrices:
            with storage.publish(key) as path:
                release.matrices[matrix].sort_index().rename_axis("case_id").to_parquet(path)
            keys.append(key)
        else:
            storage.remove(key)
    write_statement(storage, cohort, release)
    write_participants(storage, cohort, release.participants, meanings=release.meanings)
    return [*keys, import_key(cohort), participants_key(cohort)]


def write_statement(storage: Storage, cohort: str, release: Release) -> None:
    """Write what an importer says about a cohort: where it comes from, what was left out, what values are."""
    statement = {
        "importer": release.name,
        "patients": len(release.participants),
        "scale": release.scale,
        "dropped": dict(sorted(release.dropped.items())),
        "counted": dict(sorted(release.counted.items())),
        "sources": dict(sorted(release.sources.items())),
        "licence": release.licence,
    }
    storage.write_text(import_key(cohort), json.dumps(statement, indent=2) + "\n")


def matrix_scale(storage: Storage, cohort: str, matrix: str) -> str:
    """Return what a value of a cohort's matrix is, as its importer says; empty where nobody said."""
    key = import_key(cohort)
    if not storage.exists(key):
        return ""
    return str(json.loads(storage.read_text(key)).get("scale", {}).get(matrix, ""))


def read_matrix(storage: Storage, cohort: str, matrix: str) -> pd.DataFrame:
    """Return a cohort's matrix, samples x genes or features, sorted by ``case_id``.

    Raises
    ------
    NotFound
        Where the cohort has none.
    """
    key = matrix_key(cohort, matrix)
    if not storage.exists(key):
        raise NotFound(
            f"the cohort has no {matrix}",
            field=key,
            got=cohort,
            expected=", ".join(name for name in MATRICES if storage.exists(matrix_key(cohort, name))) or "a matrix",
            remedy="import a release that has it",
        )
    with storage.local(key) as path:
        table = pd.read_parquet(path)
    table.index = pd.Index([str(label).removeprefix("sub-") for label in table.index], name="case_id")
    return table.sort_index()
