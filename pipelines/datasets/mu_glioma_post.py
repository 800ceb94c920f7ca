"""MU-Glioma-Post (University of Missouri, TCIA doi:10.7937/7k9k-3c83, 2025): 203 diffuse gliomas after surgery.

Follow-up counts from diagnosis. A death has its day; a patient without a recorded death is censored at the last MRI,
the last day that the release shows the patient alive. A death dated before a later MRI is contradictory: such patients
have no follow-up here. Features belong to one MRI, the first that has any, so a patient whose ``scan_day`` is late has
lived until then by design; a survival analysis from diagnosis should take that day as its entry.

What the codes say beyond yes and no stays in columns ``…_code``: a mosaic ATRX is neither WT nor Mutant, the loss or
gain of one chromosome arm is no codeletion, an aneuploid karyotype tells nothing of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, participants_of
from pipelines.datasets.codings import Codes, coded, grades, months_of_days, numbers, sexes, text
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import identifiers, index_by, not_there, read_text_table, require_columns
from services.shared.contracts import case_label
from services.shared.errors import IdMismatch, InvalidTable, NotFound

NAME = "mu_glioma_post"
STEP = f"import {NAME}"
LICENCE = "CC BY 4.0 (TCIA doi:10.7937/7k9k-3c83). Cite MU-Glioma-Post, University of Missouri, 2025."
_PATIENT, _SUBJECT, _TIME_POINT = "Patient_ID", "subject_id", "timepoint"
_DEATH, _DEATH_DAY = "Overall Survival (Death)", "Number of days from Diagnosis to death (Days)"
_MRI_DAY = re.compile(r"Number of Days from Diagnosis to \d\w\w MRI \(Timepoint_(\d+)\)", re.I)
_NUMBER = re.compile(r"(\d+)$")
_NO_FEATURES = (_SUBJECT, _TIME_POINT, "Time to First Progression (Days)", "delta_days", "days_from_dx")
_YES_NO: Codes = {"0": "0", "1": "1", "2": None}
_ATRX: Codes = {"0": "WT", "1": "Mutant", "2": None, "3": None, "4": None}
_MGMT: Codes = {"0": "Unmethylated", "1": "Methylated", "2": None, "3": None, "4": None}
_CODELETION: Codes = {
    "1": "codel",
    **dict.fromkeys(("0", "2", "3", "4", "5", "6", "8"), "non-codel"),
    **dict.fromkeys(("7", "9", "10"), None),
}
MEANINGS = {
    "grade_published": "Grade as published; 1 and '3 vs 4' are missing in grade",
    "idh1": "IDH1 mutation: 1 present, 0 none",
    "idh2": "IDH2 mutation: 1 present, 0 none",
    "atrx_code": "ATRX as published: 0 none, 1 present, 2 mosaic, 3 possibly mosaic, 4 unknown; atrx lacks 2 to 4",
    "codeletion_code": "1p/19q as published: 0 none, 1 codeletion, 2 to 6 and 8 changes of one arm (non-codel), 7 "
    "tetraploid, 9 abnormal karyotype, 10 unknown (missing)",
    "mgmt_code": "MGMT as published: 0 no, 1 methylated, 2 indeterminate, 3 not assessable, 4 unknown",
    "tert": "TERT promoter mutation: 1 present, 0 none",
    "egfr_amplification": "EGFR amplification: 1 present, 0 none",
    "progression": "1 progression recorded, 0 none",
    "first_progression_days": "Days from diagnosis to first progression",
    "previous_brain_tumour": "Yes where the patient had a brain tumour before",
    "death_day": "Day of death from diagnosis, as published",
    "last_mri_day": "Day of the last MRI from diagnosis: the censoring day of patients without a recorded death, a "
    "lower bound of their follow-up",
    "time_point": "Number of the MRI that the features are of",
    "scan_day": "Day of that MRI from diagnosis; survival in os_months counts from diagnosis, not from this day",
}


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Return the release with the features of each patient's first MRI that has any.

    Parameters
    ----------
    source
        Folder with a clinical table (``*clinical*.csv``) and ``*radiomics*.csv``, plain or gzip.
    participants
        Not used: the release has its own clinical table.

    Raises
    ------
    NotFound
        Where one of the tables is not there.
    InvalidTable, DuplicateId, UnreadableFile
        Where a table is malformed, a code is not known, or a patient or a time point stands twice.
    IdMismatch
        Where features and clinical table share no patient.
    """
    if participants is not None:
        raise InvalidTable(
            "the release has a clinical table of its own", step=STEP, field="participants", remedy="leave it out"
        )
    clinical_path, features_path = _one_file(source, "clinical"), _one_file(source, "radiomics")
    written = read_text_table(clinical_path, step=STEP, columns=(_PATIENT, *_TAKEN))
    table = index_by(written, _PATIENT, file=clinical_path.name, step=STEP)
    require_columns(table, (_DEATH, _DEATH_DAY), file=clinical_path.name, step=STEP)
    frame, contradictory = _clinical(table)
    features, time_points, later = first_time_points(read_time_points(features_path))
    strangers = features.index.difference(frame.index)
    if len(strangers) == len(features):
        raise IdMismatch(
            "features and clinical table share no patient",
            step=STEP,
            field=features_path.name,
            expected=str(frame.index[0]),
            got=str(strangers[0]),
        )
    dropped = {str(patient): "features without a clinical row" for patient in strangers} | later
    features = features.drop(index=strangers)
    infinite = int(np.isinf(features.to_numpy()).sum())
    features = features.replace([np.inf, -np.inf], np.nan)
    frame["time_point"] = time_points.reindex(frame.index)
    days = _mri_days(table)
    frame["scan_day"] = days.stack().reindex(pd.MultiIndex.from_arrays([frame.index, frame["time_point"]])).to_numpy()
    without_features = int((~frame.index.isin(features.index)).sum())
    features.index = pd.Index([case_label(patient) for patient in features.index], name="case_id")
    release = Release(
        name=NAME,
        participants=participants_of(frame),
        meanings={name: meaning for name, meaning in MEANINGS.items() if name in frame},
        matrices={"features": features},
        scale={"features": "radiomic features as published, of one MRI a patient"},
        dropped=dropped,
        counted={
            **not_there(table, _TAKEN),
            "patients without features": without_features,
            "later time points": len(later),
            "patients censored at the last MRI": int((frame["event"] == 0).sum()),
            "patients without follow-up": int(frame["os_months"].isna().sum()),
            "deaths dated before a later MRI": contradictory,
            "grades other than WHO 2 to 4": int((frame["grade"].isna() & frame["grade_published"].notna()).sum()),
            "IDH1 wild type with IDH2 unknown": int(((frame["idh1"] == "0") & frame["idh2"].isna()).sum()),
            "ATRX mosaic": int(frame["atrx_code"].isin(["2", "3"]).sum()),
            "patients without scan day": int((frame["time_point"].notna() & frame["scan_day"].isna()).sum()),
            "clinical columns left out": sum(name not in _TAKEN for name in table),
            "infinite entries taken as missing": infinite,
            "missing entries": int(features.isna().to_numpy().sum()),
        },
        sources=hashes([clinical_path, features_path]),
        licence=LICENCE,
    )
    return check_release(release)


def read_time_points(path: Path) -> pd.DataFrame:
    """Return the features of every time point, indexed by patient and number of the MRI.

    Raises
    ------
    InvalidTable
        Where a time point is not numbered, stands twice, or a feature is no number.
    """
    table = read_text_table(path, step=STEP, columns=_NO_FEATURES)
    subject = identifiers(table, _SUBJECT, file=path.name, step=STEP)
    require_columns(table, (_TIME_POINT,), file=path.name, step=STEP)
    number = table[_TIME_POINT].str.strip().str.extract(_NUMBER, expand=False)
    if number.isna().any():
        raise InvalidTable(
            "a time point has no number",
            step=STEP,
            field=f"{path.name}: {_TIME_POINT}",
            expected="Timepoint_1",
            got=str(table[_TIME_POINT][number.isna()].iloc[0]),
        )
    index = pd.MultiIndex.from_arrays([subject, number.astype(int)], names=["patient", "time_point"])
    if index.has_duplicates:
        raise InvalidTable(
            "a time point stands twice", case=str(index[index.duplicated()][0][0]), step=STEP, field=path.name
        )
    columns = [name for name in table if name not in _NO_FEATURES]
    values = table[columns].set_axis(index)
    frame: pd.DataFrame = values.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    strange = frame.isna() & ~values.apply(lambda column: column.str.lower()).isin(["", "nan", "na", "n/a"])
    if strange.to_numpy().any():
        row, column = np.argwhere(strange.to_numpy())[0]
        raise InvalidTable(
            "a feature is no number",
            case=str(index[row][0]),
            step=STEP,
            field=f"{path.name}: {columns[column]}",
            got=str(values.iat[row, column]),
        )
    return frame


def first_time_points(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series, dict[str, str]]:
    """Return each patient's first row, the number of that time point, and the reason by row of the others."""
    table = table.sort_index()
    first = ~table.index.get_level_values("patient").duplicated()
    chosen = table[first]
    points = pd.Series(
        chosen.index.get_level_values("time_point"), index=chosen.index.get_level_values("patient"), dtype="Int64"
    )
    later = {f"{patient} Timepoint_{point}": "later time point" for patient, point in table.index[~first]}
    return chosen.droplevel("time_point"), points, later


def _one_file(source: Path, word: str) -> Path:
    found = [p for p in sorted(source.glob("*.csv*")) if word in p.name.lower()] if source.is_dir() else []
    if len(found) != 1:
        raise NotFound(
            "the table is not there" if not found else "several files could be the table",
            step=STEP,
            field="source",
            expected=f"a folder with one *{word}*.csv",
            got=", ".join(path.name for path in found) or source.name,
        )
    return found[0]


def _mri_days(table: pd.DataFrame) -> pd.DataFrame:
    """Day of each MRI from diagnosis, patients x number of the MRI."""
    columns = {int(found[1]): name for name in map(str, table) if (found := _MRI_DAY.fullmatch(name))}
    if not columns:
        raise InvalidTable(
            "the table has no day of an MRI, so nobody alive has follow-up",
            step=STEP,
            field="clinical",
            expected="Number of Days from Diagnosis to 1st MRI (Timepoint_1)",
        )
    return pd.DataFrame({n: numbers(table[name], step=STEP, field=name) for n, name in columns.items()}, table.index)


_TAKEN = (
    "Sex at Birth",
    "Age at diagnosis",
    "Primary Diagnosis",
    "Grade of Primary Brain Tumor",
    "IDH1 mutation",
    "IDH2 mutation",
    "ATRX mutation",
    "1p/19q",
    "MGMT methylation",
    "TERT promoter mutation",
    "EGFR amplification",
    "Progression",
    "Number of days from Diagnosis to date of First Progression",
    "Previous Brain Tumor",
    _DEATH,
    _DEATH_DAY,
)


def _clinical(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The clinical table in our terms, and how many deaths are dated before a later MRI."""
    given = {name: table[name] if name in table else pd.Series("", table.index, name=name) for name in _TAKEN}

    def codes(name: str, known: Codes) -> pd.Series:
        return coded(given[name], known, field=name, step=STEP)

    died = codes(_DEATH, {"0": "0", "1": "1"})
    death_day = numbers(given[_DEATH_DAY], step=STEP, field=_DEATH_DAY)
    last_mri = _mri_days(table).max(axis=1)
    contradictory = (died == "1") & (last_mri > death_day)
    days = death_day.where(died == "1", last_mri.where(died == "0"))
    followed = (days > 0) & ~contradictory
    idh1, idh2 = codes("IDH1 mutation", _YES_NO), codes("IDH2 mutation", _YES_NO)
    mutant, wild = (idh1 == "1") | (idh2 == "1"), (idh1 == "0") & (idh2 == "0")
    frame = pd.DataFrame(
        {
            "age_years": numbers(given["Age at diagnosis"], step=STEP, field="Age at diagnosis"),
            "sex": sexes(given["Sex at Birth"], step=STEP, field="Sex at Birth"),
            "grade": grades(
                given["Grade of Primary Brain Tumor"],
                step=STEP,
                field="Grade of Primary Brain Tumor",
                also={"1": None, "2 vs 3": None, "3 vs 4": None},
            ),
            "histology": text(given["Primary Diagnosis"]),
            "idh": pd.Series(np.select([mutant, wild], ["Mutant", "WT"], ""), table.index).replace("", None),
            "codeletion_1p19q": codes("1p/19q", _CODELETION),
            "mgmt": codes("MGMT methylation", _MGMT),
            "atrx": codes("ATRX mutation", _ATRX),
            "os_months": months_of_days(days).where(followed),
            "event": pd.to_numeric(died).astype("Int64").where(followed),
            "grade_published": text(given["Grade of Primary Brain Tumor"]),
            "idh1": idh1,
            "idh2": idh2,
            "atrx_code": text(given["ATRX mutation"]),
            "codeletion_code": text(given["1p/19q"]),
            "mgmt_code": text(given["MGMT methylation"]),
            "tert": codes("TERT promoter mutation", _YES_NO),
            "egfr_amplification": codes("EGFR amplification", _YES_NO),
            "progression": codes("Progression", {"0": "0", "1": "1"}),
            "first_progression_days": numbers(given[_TAKEN[12]], step=STEP, field=_TAKEN[12]),
            "previous_brain_tumour": text(given["Previous Brain Tumor"]),
            "death_day": death_day,
            "last_mri_day": last_mri,
        },
        index=table.index,
    )
    return frame, int(contradictory.sum())
