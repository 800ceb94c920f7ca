"""PORPOISE's table of TCGA gliomas (Chen et al., Cancer Cell 2022): one row a slide, months, 1 = censored.

RNA-seq z-scores of cBioPortal (``*_rnaseq``), copy numbers (``*_cnv``) and mutation calls (``*_mut``) of 569 patients.
The z-scores are no log2(FPKM + 1): coefficients fitted on another scale do not carry over.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from pipelines.datasets import codings
from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of, whole_follow_up
from pipelines.datasets.expression_values import expression_values, join_expression
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import identifiers, read_header, read_value_table, require_columns, tables_in
from services.shared.errors import InvalidTable, NotFound

STEP = "import porpoise"
_RNA, _MUTATION, _COPY_NUMBER = "_rnaseq", "_mut", "_cnv"
_LICENCE = "TCGA open-access data by way of PORPOISE (GPL-3): cite Chen et al., Cancer Cell 2022;40:865."
_PATIENT = ("case_id", "age", "survival_months", "censorship", "is_female", "oncotree_code")


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Read PORPOISE's TCGA table: one row a patient where several slides stand.

    Parameters
    ----------
    source
        The CSV, plain, gzipped or zipped whatever its name says, or the folder that holds it.
    participants
        A further clinical table; TCGA's clinical folder adds grade, IDH, 1p/19q, MGMT and ATRX.

    Raises
    ------
    NotFound, UnreadableFile, InvalidTable
        Where the file or a column is not there, or slides of a patient differ in what belongs to the patient.
    """
    path = _file(source)
    frame = read_value_table(path, step=STEP, columns=_PATIENT)
    molecular = [str(name) for name in frame if str(name).endswith((_RNA, _MUTATION, _COPY_NUMBER))]
    rna = [name for name in molecular if name.endswith(_RNA)]
    require_columns(frame, (*_PATIENT, *(name for name in molecular if name not in rna)), file=path.name, step=STEP)
    frame["case_id"] = identifiers(frame, "case_id", file=path.name, step=STEP)
    if not rna:
        raise InvalidTable("the table has no expression", step=STEP, field=path.name, expected=f"columns *{_RNA}")
    own = frame[[*_PATIENT, *molecular]].drop_duplicates()
    repeated = own["case_id"][own["case_id"].duplicated()]
    if len(repeated):
        raise InvalidTable(
            "slides of one patient differ in what belongs to the patient",
            case=str(repeated.iloc[0]),
            step=STEP,
            field=path.name,
            expected="the same values in each row of a patient",
            got=f"{repeated.nunique()} such patients",
        )
    own = own.set_index("case_id", drop=False).rename_axis(None)
    clinical = _clinical(own)
    found = expression_values(_genes(own, rna, _RNA), unit="z-score", step=STEP)
    clinical, expression, dropped = join_expression(clinical, found.values, step=STEP)
    clinical, counted = whole_follow_up(clinical)
    slides = {"slides beyond the first of a patient": len(frame) - len(own)}
    release = Release(
        name="porpoise",
        participants=participants_of(clinical),
        meanings={
            name: f"{name.removesuffix(_MUTATION).upper()} by mutation call, WT or Mutant"
            for name in map(str, clinical)
            if name.endswith(_MUTATION)
        }
        | {
            name: f"Copy number of {name.removesuffix(_COPY_NUMBER).upper()} by GISTIC, -2 to 2"
            for name in map(str, clinical)
            if name.endswith(_COPY_NUMBER)
        },
        matrices={"expression": expression},
        scale={"expression": "z-score of RNA-seq (cBioPortal)"},
        dropped=dropped,
        counted={**counted, **found.counted, **{name: count for name, count in slides.items() if count}},
        sources=hashes([path]),
        licence=_LICENCE,
    )
    return check_release(join_clinical(release, participants))


def _file(source: Path) -> Path:
    if not source.is_dir():
        return source
    found = [path for path in tables_in(source) if _is_porpoise(path)]
    if len(found) != 1:
        raise NotFound(
            "the folder does not hold one PORPOISE table",
            step=STEP,
            field=source.name,
            expected="one tcga_*_all_clean.csv or .csv.zip, with censorship and columns *_rnaseq",
            got=", ".join(path.name for path in found) or "none",
            remedy="name the file",
        )
    return found[0]


def _is_porpoise(path: Path) -> bool:
    columns = read_header(path, step=STEP)
    return "censorship" in columns and any(name.endswith(_RNA) for name in columns)


def _clinical(own: pd.DataFrame) -> pd.DataFrame:
    """Clinical columns in our terms; ``censorship`` 1 is a patient alive."""
    columns = {
        "age_years": codings.numbers(own["age"], step=STEP, field="age"),
        "sex": codings.coded(own["is_female"], {"1": "F", "0": "M"}, field="is_female", step=STEP),
        "histology": codings.text(own["oncotree_code"]),
        "os_months": codings.numbers(own["survival_months"], step=STEP, field="survival_months"),
        "event": codings.coded(own["censorship"], {"1": "0", "0": "1"}, field="censorship", step=STEP),
    }
    table = pd.DataFrame(columns, index=own.index)
    table["event"] = pd.to_numeric(table["event"]).astype("Int64")
    mutations = {
        _snake(name): codings.mutations(own[name], step=STEP, field=str(name))
        for name in own
        if str(name).endswith(_MUTATION)
    }
    copies = {_snake(name): own[name] for name in own if str(name).endswith(_COPY_NUMBER)}
    return pd.concat([table, pd.DataFrame({**mutations, **copies}, index=own.index)], axis=1)


def _snake(name: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower())


def _genes(own: pd.DataFrame, columns: list[str], suffix: str) -> pd.DataFrame:
    return own[columns].rename(columns=lambda name: str(name).removesuffix(suffix))
