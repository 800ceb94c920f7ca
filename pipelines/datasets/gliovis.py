"""GlioVis exports (Bowman et al., Neuro-Oncology 2017): log2 expression, samples x genes, beside a table of samples.

Months of survival, status 1 = dead. One row a patient: where a patient has several samples (Joo: primary and recurrent
tumour of twelve patients), the primary one stays. Samples that are no tumour stay, marked in ``tissue``, without
follow-up.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from pipelines.datasets import codings
from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of, whole_follow_up
from pipelines.datasets.expression_values import expression_values, join_expression, mend_r_names
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import (
    index_by,
    plain_name,
    read_text_table,
    read_value_table,
    require_columns,
    tables_in,
)
from services.shared.errors import NotFound

STEP = "import gliovis"
_LICENCE = "GEO public data by way of GlioVis: cite the original study and Bowman et al., Neuro-Oncology 2017;19:139."
_NAME = re.compile(
    r"(?P<cohort>.+)_(?P<kind>expr|expression|pdata|pheno)\.(csv|tsv|txt)(\.gz|\.zip)?$",
    re.I,
)
_EXPRESSION = ("expr", "expression")
_COLUMNS: dict[str, str] = {
    "survival": "os_months",
    "status": "event",
    "age": "age_years",
    "gender": "sex",
    "sex": "sex",
    "grade": "grade",
    "histology": "histology",
    "idhstatus": "idh",
    "idh1status": "idh",
    "mgmtstatus": "mgmt",
    "1p19qcodeletion": "codeletion_1p19q",
    "1p19qstatus": "codeletion_1p19q",
    "atrxstatus": "atrx",
}
"""Our column by the export's, by :func:`pipelines.datasets.source_tables.plain_name`."""

_NORMAL = ("non-tumor", "non tumor", "non-tumour", "normal", "normal brain", "nontumor")
_PRIMARY = ("primary", "initial")
_EMPTY = "columns of the clinical table that are empty"


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Read a GlioVis export.

    Parameters
    ----------
    source
        One of the two files ``<name>_expr.csv`` and ``<name>_pdata.csv`` (or .gz), their common path up to ``<name>``,
        or a folder that holds one such pair.
    participants
        A further clinical table.

    Raises
    ------
    NotFound, UnreadableFile, DuplicateId, IdMismatch, InvalidTable
        Where a file, a column, a code or the samples' identifiers are not what they should be.
    """
    expression_path, clinical_path = _pair(source)
    dropped: dict[str, str] = {}
    counted: dict[str, int] = {}
    written = read_text_table(clinical_path, step=STEP, columns=("Sample", "survival", "status"))
    table = index_by(written, "Sample", file=clinical_path.name, step=STEP)
    require_columns(table, ("survival", "status"), file=clinical_path.name, step=STEP)
    table = _without_grade_1(table, dropped)
    clinical, meanings = _clinical(table, counted)
    matrix = read_value_table(expression_path, step=STEP, columns=("Sample",))
    values = index_by(matrix, "Sample", file=expression_path.name, step=STEP)
    further = [name for name in values if name in table]
    if further:
        counted["columns of the matrix that are clinical"] = len(further)
        values = values.drop(columns=further)
    names, mended = mend_r_names(values.columns)
    if mended:
        counted["gene names whose hyphen R had turned into a dot"] = mended
    found = expression_values(values.set_axis(names, axis="columns"), unit="log2", step=STEP)
    clinical, expression, unjoined = join_expression(clinical, found.values, step=STEP)
    dropped = {**unjoined, **dropped}
    clinical, repeated = _one_sample_a_patient(clinical)
    dropped |= repeated
    clinical, lost = whole_follow_up(clinical)
    participants_table = participants_of(clinical)
    kept = pd.Index(participants_table["participant_id"].str.removeprefix("sub-"))
    release = Release(
        name="gliovis",
        participants=participants_table,
        meanings=meanings,
        matrices={"expression": expression.loc[kept]},
        scale={"expression": "log2 expression (GlioVis)"},
        dropped=dropped,
        counted={**counted, **lost, **found.counted},
        sources=hashes([expression_path, clinical_path]),
        licence=_LICENCE,
    )
    return check_release(join_clinical(release, participants))


def _pair(source: Path) -> tuple[Path, Path]:
    """The files of expression and samples that a file, a prefix or a folder means."""
    folder = source if source.is_dir() else source.parent
    named = _NAME.fullmatch(source.name) if not source.is_dir() else None
    wanted = None if source.is_dir() else (named["cohort"] if named else source.name)
    found: dict[str, dict[str, list[Path]]] = {}
    for path in tables_in(folder) if folder.is_dir() else []:
        match = _NAME.fullmatch(path.name)
        if match and wanted in (None, match["cohort"]):
            kind = "expression" if match["kind"].lower() in _EXPRESSION else "samples"
            found.setdefault(match["cohort"], {}).setdefault(kind, []).append(path)
    whole = {
        name: files
        for name, files in found.items()
        if {len(paths) for paths in files.values()} == {1} and len(files) == 2
    }
    if len(whole) != 1 or (wanted is not None and len(found) != 1):
        several = len(whole) > 1
        raise NotFound(
            "the folder holds several GlioVis exports" if several else "there is no GlioVis export of two files",
            step=STEP,
            field=source.name,
            expected="one pair <name>_expr.csv and <name>_pdata.csv (or .csv.gz)",
            got=", ".join(sorted(whole))
            if several
            else ", ".join(sorted(p.name for f in found.values() for ps in f.values() for p in ps)) or "none",
            remedy=f"name one of them, such as {source / min(whole)}"
            if several
            else "name the file, or the path up to <name>",
        )
    files = next(iter(whole.values()))
    return files["expression"][0], files["samples"][0]


def _without_grade_1(table: pd.DataFrame, dropped: dict[str, str]) -> pd.DataFrame:
    column = next((name for name in table if plain_name(name) == "grade"), None)
    if column is None:
        return table
    circumscribed = codings.text(table[column]).isin(["I", "1", "WHO I", "Grade I"])
    dropped |= dict.fromkeys(map(str, table.index[circumscribed]), "grade 1, no diffuse glioma")
    return table[~circumscribed]


def _clinical(table: pd.DataFrame, counted: dict[str, int]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Columns in our terms, further ones as text, and what those mean."""
    columns: dict[str, pd.Series] = {}
    meanings: dict[str, str] = {}
    for written in table.columns:
        ours = _COLUMNS.get(plain_name(written))
        column = table[written]
        if codings.text(column).isna().all() and ours not in ("os_months", "event"):
            counted[_EMPTY] = counted.get(_EMPTY, 0) + 1
            continue
        if ours is not None and ours not in columns:
            columns[ours] = _converted(ours, column)
            continue
        name = re.sub(r"[^a-z0-9]+", "_", str(written).lower()).strip("_")
        if name and name[0].isalpha() and name not in columns:
            columns[name] = codings.text(column)
            meanings[name] = f"{written}, as GlioVis states it"
    clinical = pd.DataFrame(columns, index=table.index)
    if "histology" in clinical:
        normal = clinical["histology"].str.lower().isin(_NORMAL).to_numpy(dtype=bool)
        if normal.any():
            clinical["tissue"] = ["normal" if other else "tumour" for other in normal]
            meanings["tissue"] = "tumour or normal"
            clinical.loc[normal, ["os_months", "event"]] = None
    return clinical, meanings


def _converted(ours: str, column: pd.Series) -> pd.Series:
    if ours in ("os_months", "age_years"):
        return codings.numbers(column, step=STEP, field=str(column.name))
    if ours == "event":
        return codings.events(column, step=STEP, field=str(column.name))
    if ours == "sex":
        return codings.sexes(column, step=STEP)
    if ours == "grade":
        return codings.grades(column, step=STEP)
    if ours == "codeletion_1p19q":
        return codings.codeletions(column, step=STEP)
    if ours == "mgmt":
        return codings.methylations(column, step=STEP)
    if ours == "idh":
        # Substitutions stand for a mutation: IDH1 R132H, IDH2 R172K.
        column = column.mask(column.str.strip().str.fullmatch(r"(IDH[12]\s*)?(p\.)?R(132|172)[A-Z]"), "Mutant")
    if ours in ("idh", "atrx"):
        return codings.mutations(column, step=STEP, field=ours)
    return codings.text(column)


def _one_sample_a_patient(clinical: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """The primary, else the first sample of each patient where the export names patients."""
    if "patient_id" not in clinical:
        return clinical, {}
    state = clinical["recurrence"] if "recurrence" in clinical else pd.Series(None, index=clinical.index, dtype=object)
    order = pd.DataFrame(
        {"later": ~state.str.lower().isin(_PRIMARY).to_numpy(dtype=bool), "sample": clinical.index},
        index=clinical.index,
    )
    ordered = clinical.loc[order.sort_values(["later", "sample"]).index]
    further = ordered.index[ordered["patient_id"].duplicated() & ordered["patient_id"].notna()]
    return clinical.drop(index=further), dict.fromkeys(map(str, further), "a further sample of a patient who stays")
