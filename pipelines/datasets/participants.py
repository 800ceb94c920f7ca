"""Read a clinical table, whatever its column of identifiers is called."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipelines.datasets.source_tables import identifiers, read_text_table
from services.shared.cohort import PARTICIPANT_COLUMNS
from services.shared.contracts import case_label
from services.shared.errors import DuplicateId, InvalidTable

STEP = "read participants"
_MISSING = ("", "n/a", "N/A", "NA", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None")
_ID_COLUMNS = ("participant_id", "source_id", "case_id", "BraTS21ID", "BraTS_2020_subject_ID", "Brats17ID", "ID")


def read_participants(path: Path) -> pd.DataFrame:
    """Return a clinical table with ``participant_id`` (``sub-`` and letters and digits) and ``source_id`` (as written).

    Raises
    ------
    NotFound
        Where there is no such file.
    UnreadableFile, InvalidTable, DuplicateId
        Where it is no table, no column holds identifiers, or one occurs more than once.
    """
    frame = read_text_table(path, step=STEP, columns=(*_ID_COLUMNS, *PARTICIPANT_COLUMNS))
    frame = frame.mask(frame.isin(_MISSING))
    column = next((name for name in _ID_COLUMNS if name in frame), None)
    if column is None:
        raise InvalidTable(
            "the table has no column of identifiers",
            field=path.name,
            expected=" or ".join(_ID_COLUMNS),
            got=", ".join(frame.columns[:8]),
        )
    written = identifiers(frame, column, file=path.name, step=STEP)
    labels = "sub-" + written.str.removeprefix("sub-").map(case_label)
    repeated = labels[labels.duplicated()]
    if not repeated.empty:
        raise DuplicateId(
            "a participant occurs more than once",
            field=path.name,
            expected="one row a participant",
            got=", ".join(sorted(set(repeated))[:5]),
        )
    rest = frame.drop(columns=[name for name in (column, "participant_id", "source_id") if name in frame])
    return pd.concat([labels.rename("participant_id"), written.rename("source_id"), rest], axis=1)
