"""Published expression of gliomas with survival: GlioVis exports and PORPOISE's table of TCGA.

GlioVis (Bowman et al., Neuro-Oncology 2017) gives log2 expression, samples x genes, beside a table of patients with
months and 1 = dead. PORPOISE (Chen et al., Cancer Cell 2022) gives RNA z-scores of TCGA beside months and 1 = censored,
one row a slide. Gene names stay as written: exports from R spell ``HLA-A`` as ``HLA.A``.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.genomics.expression import check_expression, merge_duplicates
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound, UnreadableFile

_GRADES = {"II": 2, "III": 3, "IV": 4, "2": 2, "3": 3, "4": 4}
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_GLIOVIS_COLUMNS = {
    "survival": "os_months",
    "status": "event",
    "Age": "age_years",
    "Gender": "sex",
    "Grade": "grade",
    "Histology": "histology",
}
_RNA = "_rnaseq"


@dataclass(frozen=True)
class ExpressionCohort:
    """Expression and clinical data of the same patients.

    Parameters
    ----------
    expression
        Samples x genes, sorted by sample.
    clinical
        Same index: ``os_months``, ``event`` (1 death) and, where the release has them, ``age_years``, ``sex`` (F, M),
        ``grade`` (2 to 4), ``histology``.
    dropped
        Reason by sample that stands in the release and not here.
    merged
        Columns by gene that stood more than once.
    scale
        What a value is.
    """

    expression: pd.DataFrame
    clinical: pd.DataFrame
    dropped: dict[str, str]
    merged: dict[str, int]
    scale: str


def read_gliovis(expression: Path, clinical: Path) -> ExpressionCohort:
    """Read a GlioVis export; patients without months or status are dropped and named.

    Raises
    ------
    NotFound, UnreadableFile, DuplicateId, IdMismatch, InvalidTable
        Where a file, a column or the patients' identifiers are not what they should be.
    """
    step = "read_gliovis"
    values = _indexed(_read_csv(expression, step), "Sample", expression, step)
    table = _indexed(_read_csv(clinical, step), "Sample", clinical, step)
    _require(table, ("survival", "status"), clinical, step)
    kept = table[[name for name in _GLIOVIS_COLUMNS if name in table]].rename(columns=_GLIOVIS_COLUMNS)
    return _join(values, kept, scale="log2 intensity", step=step)


def read_porpoise(path: Path) -> ExpressionCohort:
    """Read PORPOISE's TCGA table (CSV, or zipped): RNA z-scores, one patient where several slides stand.

    Raises
    ------
    NotFound, UnreadableFile, InvalidTable
        Where the file or a column is not there, or slides of a patient differ in what belongs to the patient.
    """
    step = "read_porpoise"
    frame = _read_csv(path, step)
    columns = {"survival_months": "os_months", "age": "age_years", "oncotree_code": "histology"}
    _require(frame, ("case_id", "survival_months", "censorship", "is_female", *columns), path, step)
    rna = [name for name in frame if str(name).endswith(_RNA)]
    if not rna:
        raise InvalidTable("The table has no expression.", step=step, field=path.name, expected=f"columns *{_RNA}")
    own = frame[["case_id", *columns, "censorship", "is_female", *rna]].drop_duplicates()
    repeated = own["case_id"][own["case_id"].duplicated()]
    if len(repeated):
        raise InvalidTable(
            "Slides of one patient differ in what belongs to the patient.",
            case=str(repeated.iloc[0]),
            step=step,
            field=path.name,
            got=f"{repeated.nunique()} such patients",
        )
    own = own.set_index("case_id")
    clinical = own[list(columns)].rename(columns=columns)
    clinical["event"] = 1 - own["censorship"]
    clinical["sex"] = own["is_female"].map({1: "F", 0: "M"})
    values = own[rna].rename(columns=lambda name: str(name).removesuffix(_RNA))
    return _join(values, clinical, scale="z-score of RNA-seq (cBioPortal)", step=step)


def _join(values: pd.DataFrame, clinical: pd.DataFrame, *, scale: str, step: str) -> ExpressionCohort:
    clinical = _normalised(clinical, step)
    common = values.index.intersection(clinical.index)
    if common.empty:
        raise IdMismatch(
            "Expression and clinical table share no sample.",
            step=step,
            expected=str(values.index[0]),
            got=str(clinical.index[0]),
        )
    dropped = dict.fromkeys(values.index.difference(clinical.index), "no clinical row")
    dropped |= dict.fromkeys(clinical.index.difference(values.index), "no expression")
    followed = clinical.loc[common, ["os_months", "event"]].notna().all(axis=1)
    dropped |= dict.fromkeys(common[~followed], "no follow-up")
    begun = clinical.loc[common, "os_months"] > 0
    dropped |= dict.fromkeys(common[followed & ~begun], "follow-up of 0 months or less")
    kept = common[followed & begun].sort_values()
    counted = values.columns[values.columns.duplicated(keep=False)].value_counts()
    expression = merge_duplicates(values.loc[kept])
    check_expression(expression, step=step)
    return ExpressionCohort(
        expression=expression,
        clinical=clinical.loc[kept].astype({"event": int}),
        dropped={str(name): dropped[name] for name in sorted(dropped)},
        merged={str(gene): int(count) for gene, count in sorted(counted.items())},
        scale=scale,
    )


def _normalised(clinical: pd.DataFrame, step: str) -> pd.DataFrame:
    table = clinical.copy()
    for column in ("os_months", "event", "age_years"):
        if column in table:
            numbers = pd.to_numeric(table[column], errors="coerce")
            strange = table[column][numbers.isna() & table[column].notna()]
            if len(strange):
                raise InvalidTable(
                    "A value is no number.",
                    case=str(strange.index[0]),
                    step=step,
                    field=column,
                    expected="a number or nothing",
                    got=str(strange.iloc[0]),
                )
            table[column] = numbers.astype(np.float64)
    if not table["event"].dropna().isin([0, 1]).all():
        raise InvalidTable(
            "The status is not coded as expected.",
            step=step,
            field="event",
            expected="0 or 1",
            got=", ".join(f"{value:g}" for value in sorted(table["event"].dropna().unique())[:5]),
        )
    for column, codes in (("sex", _SEXES), ("grade", _GRADES)):
        if column in table:
            written = table[column].astype("string").str.strip()
            coded = written.str.lower().map(codes) if column == "sex" else written.map(codes)
            strange = written[coded.isna() & written.notna()]
            if len(strange):
                raise InvalidTable(
                    f"The {column} is not coded as expected.",
                    case=str(strange.index[0]),
                    step=step,
                    field=column,
                    expected=", ".join(codes),
                    got=str(strange.iloc[0]),
                )
            table[column] = coded.astype("Int64") if column == "grade" else coded
    return table


def _read_csv(path: Path, step: str) -> pd.DataFrame:
    if not path.is_file():
        raise NotFound("There is no such table.", step=step, field=str(path))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise UnreadableFile(
                        "The archive must hold one table.", step=step, field=path.name, got=f"{len(members)} files"
                    )
                source: io.BytesIO | Path = io.BytesIO(archive.read(members[0]))
        else:
            source = path
        header = pd.read_csv(
            source, header=None, nrows=1, dtype=str, compression=None if isinstance(source, io.BytesIO) else "infer"
        )
        if isinstance(source, io.BytesIO):
            source.seek(0)
        frame = pd.read_csv(source, low_memory=False, na_values=["NA"])
    except (UnicodeDecodeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as exc:
        raise UnreadableFile("The table cannot be read.", step=step, field=path.name, got=str(exc)) from exc
    # pandas renames a repeated column; the name as written tells that it is a repeat.
    frame.columns = pd.Index([str(name) for name in header.iloc[0]])
    return frame


def _indexed(frame: pd.DataFrame, column: str, path: Path, step: str) -> pd.DataFrame:
    _require(frame, (column,), path, step)
    table = frame.set_index(column)
    table.index = table.index.astype(str).str.strip()
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise DuplicateId("A sample stands twice.", case=str(repeated[0]), step=step, field=path.name)
    return table


def _require(frame: pd.DataFrame, columns: tuple[str, ...], path: Path, step: str) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        raise InvalidTable(
            "A column is not there.",
            step=step,
            field=path.name,
            expected=", ".join(missing),
            got=", ".join(map(str, frame.columns[:6])),
        )
