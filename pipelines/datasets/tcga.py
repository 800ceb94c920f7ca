"""Clinical, molecular and survival data of the gliomas of The Cancer Genome Atlas, joined on the patient's barcode.

Ceccarelli et al. (Cell 2016) Table S1 gives age, sex, grade, histology and molecular status of 1,122 patients, with an
older follow-up in months. The TCGA Clinical Data Resource (TCGA-CDR; Liu et al., Cell 2018) gives overall survival in
days. Optional tables beside them: further clinical data of UCSC Xena, mutation calls of the UCI Machine Learning
Repository (Tasci et al. 2022), and diagnoses after the WHO classification of 2021.

A patient's follow-up comes whole from TCGA-CDR, else whole from Table S1. Mutation calls and WHO 2021 diagnoses are
columns of their own and override nothing; patients for whom they contradict Table S1 are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipelines.datasets import codings
from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of, whole_follow_up
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import (
    index_by,
    plain_name,
    read_header,
    read_text_table,
    require_columns,
    tables_in,
    unrecognised,
    with_plain_names,
)
from services.shared.errors import DuplicateId, InvalidTable, NotFound

STEP = "import tcga"
BARCODE = r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}"
"""A patient's barcode: the first 12 characters of a sample's."""

_LICENCE = (
    "TCGA open-access data (NIH): cite Ceccarelli et al., Cell 2016;164:550 and Liu et al., Cell 2018;173:400;"
    " mutation calls of the UCI repository CC BY 4.0."
)
_SIGNATURES: dict[str, tuple[str, ...]] = {
    "table_s1": ("idhcodelsubtype", "survivalmonths"),
    "survival": ("os", "ostime"),
    "demography": ("cancer", "code", "gender"),
    "mutations": ("caseid", "idh1", "atrx", "project"),
    "who_2021": ("caseid", "whocns5diagnosis"),
}
"""What columns tell which table a file is, by :func:`pipelines.datasets.source_tables.plain_name`."""

_NEEDED_TABLE = re.compile(r"cdr|survival|xena|table_?s1|clinical_?(fine|matrix)", re.I)
_PATIENT = ("patient", "case", "caseid", "sample", "bcrpatientbarcode")
_TABLE_S1: dict[str, str] = {
    "ageyearsatdiagnosis": "age_years",
    "gender": "sex",
    "grade": "grade",
    "histology": "histology",
    "idhstatus": "idh",
    "1p19qcodeletion": "codeletion_1p19q",
    "mgmtpromoterstatus": "mgmt",
    "atrxstatus": "atrx",
    "survivalmonths": "os_months",
    "vitalstatus1dead": "event",
    "study": "study",
    "karnofskyperformancescore": "karnofsky",
    "idhcodelsubtype": "idh_codel_subtype",
    "tertpromoterstatus": "tert_promoter",
    "chr7gainchr10loss": "chr_7_gain_10_loss",
    "absolutepurity": "purity",
    "transcriptomesubtype": "transcriptome_subtype",
}
_NEEDED = ("age_years", "sex", "grade", "histology", "idh", "codeletion_1p19q", "atrx", "os_months", "event")
MEANINGS: dict[str, str] = {
    "study": "TCGA study: glioblastoma multiforme or brain lower grade glioma",
    "karnofsky": "Karnofsky performance score, 0 to 100",
    "idh_codel_subtype": "IDHwt, IDHmut-codel or IDHmut-non-codel (Ceccarelli 2016)",
    "tert_promoter": "TERT promoter, WT or Mutant",
    "chr_7_gain_10_loss": "Combined gain of chromosome 7 and loss of chromosome 10",
    "purity": "Share of tumour cells by ABSOLUTE, 0 to 1",
    "transcriptome_subtype": "Expression subtype: PN proneural, NE neural, CL classical, ME mesenchymal",
    "follow_up_source": "Table that os_months and event come from: TCGA-CDR or Table S1",
    "atrx_mutation": "ATRX by mutation call alone (UCI repository), WT or Mutant",
    "idh_mutation": "IDH1 or IDH2 by mutation call alone (UCI repository), WT or Mutant",
    "who_2021_diagnosis": "Diagnosis after the WHO classification of 2021 (CNS5)",
    "who_2021_grade": "Grade after the WHO classification of 2021, 2 to 4",
    "who_2021_atrx": "ATRX as the table of WHO 2021 diagnoses states it, WT or Mutant",
}


@dataclass
class _Found:
    """What was counted and left out on the way."""

    counted: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def count(self, what: str, number: int) -> None:
        """Note a number above 0."""
        if number:
            self.counted[what] = self.counted.get(what, 0) + int(number)


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Read the clinical release of TCGA's gliomas; it has no matrix.

    Parameters
    ----------
    source
        A folder with Table S1 and, where there are such, the other tables, plain or gzipped; their columns tell which
        is which. Or the file of Table S1 alone.
    participants
        A further clinical table.

    Raises
    ------
    NotFound
        Where there is no Table S1.
    InvalidTable, DuplicateId, UnreadableFile
        Where a table is malformed or has other columns than its name promises, a patient stands twice, or a code is
        unknown.
    """
    files, others = _tables(source)
    found = _Found(counted=unrecognised(others, telling=_NEEDED_TABLE, step=STEP))
    clinical = _read_table_s1(files["table_s1"])
    if "demography" in files:
        _fill(clinical, _read_demography(files["demography"]), found)
    clinical["follow_up_source"] = pd.Series("Table S1", index=clinical.index).where(
        clinical["os_months"].notna(), None
    )
    if "survival" in files:
        clinical = _with_cdr(clinical, _read_survival(files["survival"], found), found)
    clinical, lost = whole_follow_up(clinical)
    clinical["follow_up_source"] = clinical["follow_up_source"].where(clinical["os_months"].notna(), None)
    found.counted.update(lost)
    for role, read in (("mutations", _read_mutations), ("who_2021", _read_who_2021)):
        if role in files:
            clinical = _beside(clinical, read(files[role]), role, found)
    release = Release(
        name="tcga",
        participants=participants_of(clinical),
        meanings={name: meaning for name, meaning in MEANINGS.items() if name in clinical},
        dropped=found.dropped,
        counted=found.counted,
        sources=hashes(files.values()),
        licence=_LICENCE,
    )
    return check_release(join_clinical(release, participants))


def patient_barcodes(written: pd.Series, *, file: str, step: str = STEP) -> pd.Series:
    """Return the patients' barcodes (12 characters) of samples' or patients' barcodes.

    Raises
    ------
    InvalidTable
        Where a value is no TCGA barcode.
    """
    text = written.astype("string").str.strip().str.upper().str.replace("_", "-").str.replace(".", "-", regex=False)
    barcode = text.str.extract(f"^({BARCODE})(?:$|-)")[0]
    if barcode.isna().any():
        raise InvalidTable(
            "a value is no TCGA barcode",
            step=step,
            field=file,
            expected="TCGA-XX-XXXX",
            got=", ".join(sorted(set(written[barcode.isna()].astype(str)))[:5]),
        )
    return barcode.astype(object)


def is_tcga_folder(folder: Path) -> bool:
    """Return whether a folder holds Table S1."""
    return folder.is_dir() and any(_role(path) == "table_s1" for path in tables_in(folder))


def _tables(source: Path) -> tuple[dict[str, Path], list[Path]]:
    """The tables of the release by what they are, and the folder's other tables."""
    if not source.exists():
        raise NotFound("there is no such file or folder", step=STEP, field=source.name)
    files: dict[str, Path] = {}
    others: list[Path] = []
    for path in tables_in(source) if source.is_dir() else [source]:
        role = _role(path)
        if role is None:
            others.append(path)
            continue
        if role in files:
            raise InvalidTable(
                "two files of the folder hold the same table",
                step=STEP,
                field=role,
                expected="one file",
                got=f"{files[role].name}, {path.name}",
                remedy="keep one of them in the folder",
            )
        files[role] = path
    if "table_s1" not in files:
        raise NotFound(
            "there is no Table S1",
            step=STEP,
            field=source.name,
            expected="a table with IDH.codel.subtype and Survival..months. (Ceccarelli 2016)",
            got=", ".join(path.name for path in files.values()) or "no table of this release",
        )
    return files, others


def _role(path: Path) -> str | None:
    columns = set(map(plain_name, read_header(path, step=STEP)))
    return next((role for role, needed in _SIGNATURES.items() if columns.issuperset(needed)), None)


def _read(path: Path) -> pd.DataFrame:
    """A table with plain column names and a column ``patient`` of barcodes."""
    frame = with_plain_names(read_text_table(path, step=STEP), file=path.name, step=STEP)
    found = next((name for name in _PATIENT if name in frame), None)
    if found is None:
        raise InvalidTable(
            "no column names the patients",
            step=STEP,
            field=path.name,
            expected=" or ".join(_PATIENT),
            got=", ".join(frame.columns[:8]),
        )
    frame["patient"] = patient_barcodes(frame[found], file=f"{path.name}: {found}")
    return frame


def _read_table_s1(path: Path) -> pd.DataFrame:
    frame = _read(path)
    needed = [written for written, name in _TABLE_S1.items() if name in _NEEDED]
    require_columns(frame, ("patient", *needed), file=path.name, step=STEP)
    table = index_by(frame, "patient", file=path.name, step=STEP)
    table = table[[name for name in _TABLE_S1 if name in table]].rename(columns=_TABLE_S1)
    return _in_our_terms(table)


def _in_our_terms(table: pd.DataFrame) -> pd.DataFrame:
    """Every column by its converter; further ones as text."""
    numeric = ("age_years", "os_months", "karnofsky", "purity")
    converters: Mapping[str, Callable[[pd.Series], pd.Series]] = {
        "sex": lambda column: codings.sexes(column, step=STEP),
        "grade": lambda column: codings.grades(column, step=STEP),
        "event": lambda column: codings.events(column, step=STEP),
        "codeletion_1p19q": lambda column: codings.codeletions(column, step=STEP),
        "mgmt": lambda column: codings.methylations(column, step=STEP),
        **{name: _mutation(name) for name in ("idh", "atrx", "tert_promoter")},
    }
    columns: dict[str, pd.Series] = {}
    for name in map(str, table):
        if name in numeric:
            columns[name] = codings.numbers(table[name], step=STEP, field=name)
        else:
            columns[name] = converters.get(name, codings.text)(table[name])
    return pd.DataFrame(columns, index=table.index)


def _mutation(name: str) -> Callable[[pd.Series], pd.Series]:
    return lambda column: codings.mutations(column, step=STEP, field=name)


def _read_demography(path: Path) -> pd.DataFrame:
    """Age, sex and grade of primary tumours (sample type TP)."""
    frame = _read(path)
    frame = frame[frame["code"].str.upper() == "TP"].drop_duplicates("patient")
    names = {"age": "age_years", "gender": "sex", "grade": "grade"}
    kept = frame.set_index("patient")[[name for name in names if name in frame]].rename(columns=names)
    return _in_our_terms(kept)


def _fill(clinical: pd.DataFrame, other: pd.DataFrame, found: _Found) -> None:
    for name in other:
        theirs = other[name].reindex(clinical.index)
        empty = clinical[name].isna() & theirs.notna()
        clinical[name] = clinical[name].where(~empty, theirs)
        found.count(f"patients whose {name} is UCSC Xena's, since Table S1 has none", int(empty.sum()))


def _read_survival(path: Path, found: _Found) -> pd.DataFrame:
    """Months and event of TCGA-CDR, one row a patient; samples of a patient must agree."""
    frame = _read(path)
    if "type" in frame:
        frame = frame[frame["type"].str.upper().isin(["LGG", "GBM"])]
    if "redaction" in frame:
        redacted = codings.text(frame["redaction"]).notna()
        found.count("patients whom TCGA-CDR marks as redacted, its follow-up not taken", int(redacted.sum()))
        frame = frame[~redacted]
    rows = frame.set_index("patient")
    table = pd.DataFrame(
        {
            "os_months": codings.months_of_days(codings.numbers(rows["ostime"], step=STEP, field="OS.time")),
            "event": codings.events(rows["os"], step=STEP, field="OS"),
        }
    )
    found.count("samples of TCGA-CDR beyond the first of a patient", int(table.index.duplicated().sum()))
    unique = table.reset_index().drop_duplicates().set_index("patient")
    repeated = unique.index[unique.index.duplicated()]
    if len(repeated):
        raise DuplicateId(
            "samples of one patient have different follow-up",
            case=str(repeated[0]),
            step=STEP,
            field=path.name,
            got=f"{repeated.nunique()} such patients",
        )
    return unique


def _with_cdr(clinical: pd.DataFrame, cdr: pd.DataFrame, found: _Found) -> pd.DataFrame:
    known = cdr[cdr.notna().all(axis=1) & (cdr["os_months"] >= 0)]
    found.count("patients of TCGA-CDR without days and status, or with negative days", len(cdr) - len(known))
    new = known.index.difference(clinical.index)
    found.count("patients of TCGA-CDR who are not in Table S1", len(new))
    table = clinical.reindex(clinical.index.union(new))
    both = known.index.intersection(clinical.index[clinical["os_months"].notna()])
    apart = (known.loc[both, "os_months"] - clinical.loc[both, "os_months"]).abs() > 1
    found.count("patients whose follow-up differs by more than a month between TCGA-CDR and Table S1", int(apart.sum()))
    table.loc[known.index, "os_months"] = known["os_months"]
    table.loc[known.index, "event"] = known["event"]
    table.loc[known.index, "follow_up_source"] = "TCGA-CDR"
    found.count("patients with follow-up of TCGA-CDR", len(known))
    return table


def _read_mutations(path: Path) -> pd.DataFrame:
    rows = index_by(_read(path), "patient", file=path.name, step=STEP)
    atrx = codings.mutations(rows["atrx"], step=STEP, field="ATRX")
    genes = [codings.mutations(rows[name], step=STEP, field=name.upper()) for name in ("idh1", "idh2") if name in rows]
    mutant = (pd.concat(genes, axis=1) == "Mutant").any(axis=1)
    return pd.DataFrame({"atrx_mutation": atrx, "idh_mutation": mutant.map({True: "Mutant", False: "WT"})})


def _read_who_2021(path: Path) -> pd.DataFrame:
    """One row a patient of a table with one row a slide; slides of a patient must agree."""
    frame = _read(path)
    table = pd.DataFrame({"patient": frame["patient"], "who_2021_diagnosis": codings.text(frame["whocns5diagnosis"])})
    table.index = pd.Index(frame["patient"])
    if "whocns5grade" in frame:
        grade = frame["whocns5grade"].set_axis(table.index)
        table["who_2021_grade"] = codings.grades(
            grade, step=STEP, field="WHO_CNS5_grade", also={"na": None, "grade na": None}
        )
    if "atrxstatus" in frame:
        table["who_2021_atrx"] = codings.mutations(
            frame["atrxstatus"].set_axis(table.index), step=STEP, field="ATRX status"
        )
    unique = table.drop_duplicates().drop(columns="patient")
    repeated = unique.index[unique.index.duplicated()]
    if len(repeated):
        raise DuplicateId(
            "slides of one patient have different diagnoses",
            case=str(repeated[0]),
            step=STEP,
            field=path.name,
            got=f"{repeated.nunique()} such patients",
        )
    return unique


def _beside(clinical: pd.DataFrame, other: pd.DataFrame, role: str, found: _Found) -> pd.DataFrame:
    new = other.index.difference(clinical.index)
    found.dropped.update(dict.fromkeys(map(str, new), f"in the table of {role} alone"))
    joined = clinical.join(other)
    for theirs, own in (("atrx_mutation", "atrx"), ("idh_mutation", "idh"), ("who_2021_atrx", "atrx")):
        if theirs in other:
            apart = joined[own].notna() & joined[theirs].notna() & (joined[own] != joined[theirs])
            found.count(f"patients whose {theirs} contradicts {own} of Table S1", int(apart.sum()))
    return joined
