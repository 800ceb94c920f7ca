"""Published radiomics of TCGA gliomas: expert segmentations of 102 GBM and 65 LGG (Bakas et al., Sci Data 2017).

doi:10.7937/K9/TCIA.2017.KLXWJJ1Q (GBM) and .GJQ7R0EF (LGG), CC BY 3.0. One file a class; 724 features of enhancing
tumour, non-enhancing tumour and oedema, empty where a region is absent.

The files tell glioblastoma from lower-grade glioma and nothing else: ``grade_group`` is HGG or LGG by file, ``grade``
is 4 for a glioblastoma and stays empty for a lower-grade glioma unless TCGA's clinical tables are joined.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import as_published, read_text_table, tables_in
from pipelines.modelling.tables import feature_table
from services.shared.contracts import case_label
from services.shared.errors import DuplicateId, NotFound

LICENCE = (
    "CC BY 3.0 (TCIA). Cite Bakas et al., Sci Data 2017;4:170117, doi:10.7937/K9/TCIA.2017.KLXWJJ1Q and "
    "doi:10.7937/K9/TCIA.2017.GJQ7R0EF."
)
MEANINGS = {
    "grade_group": "HGG or LGG: whether the patient stands in the file of glioblastomas or of lower-grade gliomas"
}
CLASS_OF_FILE = {"GBM": "HGG", "LGG": "LGG"}
STEP = "import bakas"


@dataclass(frozen=True)
class BakasTables:
    """Both tables as one.

    Parameters
    ----------
    features
        Indexed by ``case_id`` (TCGA barcode), one column a feature.
    labels
        ``HGG`` or ``LGG``, by the file that a patient stands in.
    left_out
        Reason by column that is no feature (the scan's date).
    in_one_file
        Features that one of the files lacks; they are missing for its patients.
    infinite
        Number of infinite entries (a ratio to an absent region), which count as missing.
    """

    features: pd.DataFrame
    labels: pd.Series
    left_out: dict[str, str]
    in_one_file: tuple[str, ...]
    infinite: int


def read_bakas(folder: Path) -> BakasTables:
    """Read ``TCGA_GBM_…csv`` and ``TCGA_LGG_…csv`` of a folder, plain or gzip.

    A feature that the second file spells in another case is the first file's.

    Raises
    ------
    NotFound
        Where one of the files is not there, or several could be meant.
    DuplicateId, InvalidTable, UnreadableFile
        Where a patient stands in both, or a table is malformed.
    """
    if not folder.is_dir():
        raise NotFound("there is no such folder", step=STEP, field="source", got=folder.name)
    tables = {}
    for name in CLASS_OF_FILE:
        files = _files(folder, name)
        if len(files) != 1:
            raise NotFound(
                "the table of one class is not there" if not files else "several files could be one class's table",
                step=STEP,
                field="source",
                expected=f"one file TCGA_{name}_*.csv",
                got=", ".join(file.name for file in files) or "none",
            )
        tables[name] = feature_table(read_text_table(files[0], step=STEP), field=files[0].name)
    both = tables["GBM"].features.index.intersection(tables["LGG"].features.index)
    if len(both):
        raise DuplicateId(
            "a patient stands in both tables",
            step=STEP,
            field="ID",
            expected="GBM or LGG",
            got=", ".join(sorted(both)[:5]),
        )
    first, second = (table.features for table in tables.values())
    frames = [first, as_published(second, map(str, first), file="TCGA_LGG", step=STEP)]
    features = pd.concat(frames).sort_index()
    infinite = int(np.isinf(features.to_numpy()).sum())
    labels = pd.concat([pd.Series(CLASS_OF_FILE[name], index=table.features.index) for name, table in tables.items()])
    return BakasTables(
        features=features.replace([np.inf, -np.inf], np.nan),
        labels=labels.sort_index().rename("grade"),
        left_out=tables["GBM"].left_out | tables["LGG"].left_out,
        in_one_file=tuple(sorted(set(frames[0].columns) ^ set(frames[1].columns))),
        infinite=infinite,
    )


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Return both tables as a release; see :class:`pipelines.datasets.Importer`.

    Parameters
    ----------
    source
        Folder with both tables.
    participants
        TCGA's clinical release, which gives grade 2 and 3, age, sex, markers and survival.

    Raises
    ------
    NotFound, DuplicateId, InvalidTable
        As :func:`read_bakas`, and where two identifiers differ in neither letters nor digits.
    """
    tables = read_bakas(source)
    features = tables.features.copy(deep=False)
    features.index = pd.Index([case_label(name) for name in features.index], name="case_id")
    frame = pd.DataFrame(
        {
            "participant_id": [f"sub-{label}" for label in features.index],
            "source_id": tables.features.index,
            "grade_group": tables.labels.to_numpy(),
        }
    )
    release = Release(
        name="bakas",
        participants=frame,
        meanings=MEANINGS,
        matrices={"features": features},
        scale={"features": "radiomic features as published, of expert-corrected BraTS regions"},
        counted={
            **{f"patients {group}": int((tables.labels == group).sum()) for group in CLASS_OF_FILE.values()},
            "columns that are no features": len(tables.left_out),
            "features in one file only": len(tables.in_one_file),
            "infinite entries taken as missing": tables.infinite,
            "missing entries": int(features.isna().to_numpy().sum()),
        },
        sources=hashes(path for name in CLASS_OF_FILE for path in _files(source, name)),
        licence=LICENCE,
    )
    return check_release(_with_grade(join_clinical(release, participants)))


def _with_grade(release: Release) -> Release:
    """Fill in grade 4 for the patients in the file of glioblastomas, where no clinical table states a grade."""
    frame = release.participants.copy()
    glioblastoma = frame["grade_group"] == "HGG"
    stated = pd.Series(frame["grade"], frame.index) if "grade" in frame else pd.Series(pd.NA, frame.index)
    stated = pd.to_numeric(stated).astype("Int64")
    frame["grade"] = stated.mask(glioblastoma & stated.isna(), 4)
    counted = {
        "glioblastomas given grade 4": int((glioblastoma & stated.isna()).sum()),
        "patients whose grade and group differ": int(((frame["grade"] == 4) != glioblastoma)[stated.notna()].sum()),
    }
    return dataclasses.replace(release, participants=frame, counted={**release.counted, **counted})


def _files(folder: Path, name: str) -> list[Path]:
    return [path for path in tables_in(folder) if path.name.lower().startswith(f"tcga_{name.lower()}_")]
