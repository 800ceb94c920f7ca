"""Published radiomics of TCGA gliomas: expert segmentations of 102 GBM and 65 LGG (Bakas et al., Sci Data 2017).

doi:10.7937/K9/TCIA.2017.KLXWJJ1Q (GBM) and .GJQ7R0EF (LGG), CC BY 3.0. One file a class; 724 features of enhancing
tumour, non-enhancing tumour and oedema, empty where a region is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.modelling.tables import read_feature_table
from services.shared.errors import DuplicateId, NotFound

CLASS_OF_FILE = {"GBM": "HGG", "LGG": "LGG"}


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


def is_bakas_folder(folder: Path) -> bool:
    """Return whether a folder holds both tables."""
    return all(len(_files(folder, name)) == 1 for name in CLASS_OF_FILE)


def read_bakas(folder: Path) -> BakasTables:
    """Read ``TCGA_GBM_…csv`` and ``TCGA_LGG_…csv`` of a folder.

    Raises
    ------
    NotFound
        Where one of the files is not there, or several could be meant.
    DuplicateId, InvalidTable
        Where a patient stands in both, or a table is malformed.
    """
    tables = {}
    for name in CLASS_OF_FILE:
        files = _files(folder, name)
        if len(files) != 1:
            raise NotFound(
                "the table of one class is not there" if not files else "several files could be one class's table",
                field=str(folder),
                expected=f"one file TCGA_{name}_*.csv",
                got=", ".join(file.name for file in files) or "none",
            )
        tables[name] = read_feature_table(files[0])
    both = tables["GBM"].features.index.intersection(tables["LGG"].features.index)
    if len(both):
        raise DuplicateId(
            "a patient stands in both tables", field="ID", expected="GBM or LGG", got=", ".join(sorted(both)[:5])
        )
    frames = [table.features for table in tables.values()]
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


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"TCGA_{name}_*.csv"))
