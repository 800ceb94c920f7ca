"""RADIOHEAD (Mohammed et al., 2020): imaging densities of 61 TCGA-LGG as principal components, with pathway scores.

Features are 143 principal components of MRI intensity densities, ``<SEQUENCE>_<REGION>.<n>``: 4 sequences, 3 regions.
Their authors fitted the components on all 61 patients: a cross-validation on them has seen the held-out patients'
images, though not their outcomes. Pathway scores from expression come along as clinical columns ``pathway_…``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of
from pipelines.datasets.codings import numbers
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import index_by, read_text_table
from services.shared.contracts import case_label
from services.shared.errors import IdMismatch

NAME = "radiohead"
STEP = f"import {NAME}"
LICENCE = "GPL-3 (R package RADIOHEAD); TCGA and TCIA open data. Cite Mohammed et al., RADIOHEAD, 2020."


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Return the package's patients of lower-grade glioma.

    Parameters
    ----------
    source
        Folder with ``pc_scores.csv`` and ``c_pathway_scores.csv``, barcodes in the first column.
    participants
        TCGA's clinical release: grade, markers, survival.

    Raises
    ------
    NotFound, UnreadableFile, InvalidTable, DuplicateId
        Where a table is not there or malformed, or a patient stands twice.
    IdMismatch
        Where the tables share no patient.
    """
    paths = [source / "pc_scores.csv", source / "c_pathway_scores.csv"]
    components, pathways = (_read(path) for path in paths)
    common = components.index.intersection(pathways.index).sort_values()
    if common.empty:
        raise IdMismatch(
            "components and pathway scores share no patient",
            step=STEP,
            field=paths[1].name,
            expected=str(components.index[0]),
            got=str(pathways.index[0]),
        )
    dropped = dict.fromkeys(map(str, components.index.difference(common)), "no pathway scores")
    dropped |= dict.fromkeys(map(str, pathways.index.difference(common)), "no imaging")
    names = {name: "pathway_" + re.sub(r"[^a-z0-9]+", "_", name.lower()) for name in map(str, pathways)}
    features = components.loc[common]
    features.index = pd.Index([case_label(name) for name in common], name="case_id")
    clinical = pathways.loc[common].rename(columns=names).assign(grade_group="LGG")
    release = Release(
        name=NAME,
        participants=participants_of(clinical),
        meanings={
            "grade_group": "LGG: the patients are of TCGA-LGG",
            **{new: f"Score of {old} from expression, as published" for old, new in names.items()},
        },
        matrices={"features": features},
        scale={"features": "principal components of MRI intensity densities, fitted by the authors on all patients"},
        dropped=dropped,
        sources=hashes(paths),
        licence=LICENCE,
    )
    return check_release(join_clinical(release, participants))


def _read(path: Path) -> pd.DataFrame:
    table = read_text_table(path, step=STEP)
    table = index_by(table, str(table.columns[0]), file=path.name, step=STEP)
    return pd.DataFrame({str(n): numbers(table[n], step=STEP, field=f"{path.name}: {n}") for n in table}, table.index)
