"""UPENN-GBM (Bakas et al., Sci Data 2022;9:453): 630 glioblastomas with survival and CaPTk radiomics, DTI among them.

TCIA doi:10.7937/TCIA.709X-DN49, CC BY 4.0. A scan is ``UPENN-GBM-NNNNN_11`` before the first operation and ``_21`` at
recurrence; the cohort holds the first. Survival counts from surgery. Alive patients, those lost to follow-up and those
whose day of death is uncertain are censored at ``Survival_Censor``.

Features are named as published, ``<MAP>_<REGION>_<name>``: maps T1, T1GD, T2, FLAIR, DTI_AD, DTI_FA, DTI_RD, DTI_TR and
DSC maps where there are such; regions ED, ET, NC (BraTS 2, 4, 1). The publisher calls DTI_TR the trace, but its values
are on the scale of mean diffusivity: in every patient its region mean is (AD + 2 RD) / 3 within 10 %. Regions come from
an automatic segmentation, and for some patients also from one that experts corrected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import participants_of
from pipelines.datasets.codings import coded, methylations, months_of_days, mutations, numbers, sexes, text
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import index_by, not_there, read_text_table, require_columns
from services.shared.contracts import case_label
from services.shared.errors import IdMismatch, InvalidTable, NotFound
from services.shared.storage import sha256_of

NAME = "upenn_gbm"
STEP = f"import {NAME}"
LICENCE = "CC BY 4.0 (TCIA doi:10.7937/TCIA.709X-DN49). Cite Bakas et al., Sci Data 2022;9:453."
Segmentation = Literal["automatic", "corrected_where_present"]
_SCAN = re.compile(r"UPENN-GBM-\d+_\d+")
_PREOPERATIVE = "_11"
_FEATURES = re.compile(r".*?(?P<region>ED|ET|NC)\.csv(\.gz)?", re.I)
_FOLLOW_UP = ("Survival_Status", "Survival_Censor")
_DAYS = "Survival_from_surgery_days"
_COLUMNS = (
    "ID",
    *_FOLLOW_UP,
    "Age_at_scan_years",
    "Age",
    "Gender",
    "Sex",
    "IDH1",
    "MGMT",
    "KPS",
    "GTR_over90percent",
    "Time_since_baseline_preop",
    "PsP_TP_score",
)
_SAME = {"Age_at_scan_years": "Age", "Age": "Age_at_scan_years", "Gender": "Sex", "Sex": "Gender"}
_STATUS = {
    "deceased": "dead",
    "alive": "alive",
    "lost to follow-up": "alive",
    "deceased - uncertain date of death": "alive",
}
MEANINGS = {
    "kps": "Karnofsky performance score before surgery, 0 to 100",
    "gtr_over_90_percent": "Y where more than 90 % of the enhancing tumour was resected, else N",
    "survival_status": "As published; 'Deceased - uncertain date of death' is censored at the last day known alive",
    "time_since_baseline_days": "Days from the first pre-operative scan to this one",
    "psp_tp_score": "Pseudoprogression (1) to true progression (6) at a recurrence, by histology",
    "idh1_published": "IDH1 as published: NOS/NEC is not tested or not conclusive, and missing in idh",
    "mgmt_published": "MGMT as published: Indeterminate is missing in mgmt",
    "segmentation": "Which segmentation the features are of: automatic or corrected",
    "corrected_segmentation": "1 where the release also has features of an expert-corrected segmentation",
}


def read_release(
    source: Path, *, participants: Path | None = None, segmentation: Segmentation = "automatic"
) -> Release:
    """Return the release's patients before their first operation.

    Parameters
    ----------
    source
        Folder with ``*clinical_info*.csv`` and, in it or below, the CaPTk tables, plain or gzip.
    participants
        Not used: the release has its own clinical table.
    segmentation
        See :func:`select_segmentation`.

    Raises
    ------
    NotFound
        Where there is no clinical table or no features.
    InvalidTable, DuplicateId, UnreadableFile
        Where a table is malformed, a code is not known, or a scan stands twice.
    IdMismatch
        Where features and clinical table share no patient.
    """
    if participants is not None:
        raise InvalidTable(
            "the release has a clinical table of its own", step=STEP, field="participants", remedy="leave it out"
        )
    path = _clinical_file(source)
    written = read_text_table(path, step=STEP, columns=_COLUMNS)
    require_columns(written, (*_FOLLOW_UP, _days_column(written)), file=path.name, step=STEP)
    table = index_by(written, "ID", file=path.name, step=STEP)
    _check_scans(table.index, path.name)
    before = table[table.index.str.endswith(_PREOPERATIVE)]
    if before.empty:
        raise InvalidTable(
            "the table has no scan before surgery",
            step=STEP,
            field=path.name,
            expected=f"IDs ending in {_PREOPERATIVE}",
        )
    dropped = {
        str(scan): "scan at recurrence"
        if _patient(scan) in set(map(_patient, before.index))
        else "scan at recurrence, and no scan before surgery"
        for scan in table.index.difference(before.index)
    }
    frame = _clinical(before)
    automatic, corrected, files = _features(source)
    features, used = select_segmentation(automatic, corrected, choice=segmentation)
    strangers = features.index.difference(before.index)
    dropped |= {
        str(scan): "scan at recurrence" if not scan.endswith(_PREOPERATIVE) else "features without a clinical row"
        for scan in strangers
    }
    features = features.drop(index=strangers)
    if features.empty:
        raise IdMismatch(
            "features and clinical table share no patient",
            step=STEP,
            field=path.name,
            expected=str(before.index[0]),
            got=str(strangers[0]),
        )
    infinite = int(np.isinf(features.to_numpy()).sum())
    features = features.replace([np.inf, -np.inf], np.nan)
    frame["segmentation"] = used.reindex(frame.index)
    frame["corrected_segmentation"] = frame.index.isin(corrected.index).astype(int)
    features.index = pd.Index([case_label(scan) for scan in features.index], name="case_id")
    release = Release(
        name=NAME,
        participants=participants_of(frame),
        meanings={name: meaning for name, meaning in MEANINGS.items() if name in frame},
        matrices={"features": features},
        scale={"features": f"CaPTk radiomics as published, {segmentation} segmentation; DTI_TR is on the scale of MD"},
        dropped=dropped,
        counted={
            **not_there(table, (name for name in _COLUMNS[1:] if _SAME.get(name) not in table)),
            "scans at recurrence": int((~table.index.str.endswith(_PREOPERATIVE)).sum()),
            "patients without features": int((~frame.index.isin(used.index)).sum()),
            "patients censored": int((frame["event"] == 0).sum()),
            "deaths of uncertain date censored": int(
                (frame["survival_status"] == "Deceased - uncertain date of death").sum()
            ),
            "patients without follow-up": int(frame["os_months"].isna().sum()),
            "infinite entries taken as missing": infinite,
            "missing entries": int(features.isna().to_numpy().sum()),
        },
        sources={path.name: sha256_of(path)} | {str(file.relative_to(source)): sha256_of(file) for file in files},
        licence=LICENCE,
    )
    return check_release(release)


def select_segmentation(
    automatic: pd.DataFrame, corrected: pd.DataFrame, *, choice: Segmentation
) -> tuple[pd.DataFrame, pd.Series]:
    """Return one row of features a scan, and which segmentation it is of.

    Everybody's features come from the automatic segmentation unless asked otherwise. Corrected ones where there are
    such mix two ways of outlining within a cohort: who was corrected is not chance, so the way is a confounder and
    should be looked at beside the result.

    Parameters
    ----------
    automatic, corrected
        Features by scan.
    choice
        ``automatic``, or ``corrected_where_present``.
    """
    if choice == "automatic":
        return automatic.copy(), pd.Series("automatic", index=automatic.index)
    both = pd.concat([corrected, automatic.loc[automatic.index.difference(corrected.index)]]).sort_index()
    used = np.where(both.index.isin(corrected.index), "corrected", "automatic")
    return both, pd.Series(used, index=both.index)


def _clinical_file(source: Path) -> Path:
    found = sorted(source.glob("*clinical_info*.csv*")) if source.is_dir() else []
    if len(found) != 1:
        raise NotFound(
            "the clinical table is not there" if not found else "several files could be the clinical table",
            step=STEP,
            field="source",
            expected="a folder with one *clinical_info*.csv",
            got=", ".join(path.name for path in found) or source.name,
        )
    return found[0]


def _check_scans(scans: pd.Index, field: str) -> None:
    strange = [str(scan) for scan in scans if not _SCAN.fullmatch(str(scan))]
    if strange:
        raise InvalidTable(
            "an identifier is no scan's", step=STEP, field=field, expected="UPENN-GBM-NNNNN_11", got=strange[0]
        )


def _patient(scan: str) -> str:
    return scan.rsplit("_", 1)[0]


def _days_column(table: pd.DataFrame) -> str:
    """The column of days, whatever version of the release its name ends in."""
    begin = _DAYS.lower()
    return next((n for n in map(str, table) if n.lower().replace(" ", "_").startswith(begin)), f"{_DAYS}_UPDATED")


def _clinical(table: pd.DataFrame) -> pd.DataFrame:
    def column(name: str, *also: str) -> pd.Series:
        found = next((other for other in (name, *also) if other in table), None)
        return table[found] if found else pd.Series("", index=table.index, name=name)

    days_column = _days_column(table)
    days = numbers(table[days_column], step=STEP, field=days_column)
    censored = numbers(column("Survival_Censor"), step=STEP, field="Survival_Censor")
    event = coded(
        column("Survival_Status"),
        {k: "1" if v == "dead" else "0" for k, v in _STATUS.items()},
        field="Survival_Status",
        step=STEP,
    )
    event = pd.to_numeric(event).astype("Int64")
    followed = days.where(event == 1, censored)
    known = event.notna() & (followed > 0)
    return pd.DataFrame(
        {
            "age_years": numbers(column("Age_at_scan_years", "Age"), step=STEP, field="Age_at_scan_years"),
            "sex": sexes(column("Gender", "Sex"), step=STEP, field="Gender"),
            "grade": 4,
            "histology": "glioblastoma",
            "idh": mutations(column("IDH1"), step=STEP, field="IDH1", also={"nos/nec": None}),
            "mgmt": methylations(column("MGMT"), step=STEP, field="MGMT", also={"indeterminate": None}),
            "os_months": months_of_days(followed).where(known),
            "event": event.where(known),
            "kps": numbers(column("KPS"), step=STEP, field="KPS"),
            "gtr_over_90_percent": coded(
                column("GTR_over90percent"), {"y": "Y", "n": "N"}, field="GTR_over90percent", step=STEP
            ),
            "survival_status": text(column("Survival_Status")),
            "time_since_baseline_days": numbers(
                column("Time_since_baseline_preop"), step=STEP, field="Time_since_baseline_preop"
            ),
            "psp_tp_score": numbers(column("PsP_TP_score"), step=STEP, field="PsP_TP_score"),
            "idh1_published": text(column("IDH1")),
            "mgmt_published": text(column("MGMT")),
        },
        index=table.index,
    )


def _features(source: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Features of the automatic and of the corrected segmentation, by scan, and the files they come from."""
    files: dict[bool, list[Path]] = {True: [], False: []}
    for path in sorted(p for p in source.rglob("*.csv*") if p.is_file() and _FEATURES.fullmatch(p.name)):
        where = "/".join(path.relative_to(source).parts).lower()
        if "segm" in where:
            files["automatic" in where].append(path)
    if not files[True]:
        raise NotFound(
            "there are no features of the automatic segmentation",
            step=STEP,
            field="source",
            expected="CaPTk tables such as captk_automaticsegm/DTI_FA_ET.csv",
            got=source.name,
        )
    return _joined(files[True]), _joined(files[False]), [*files[True], *files[False]]


def _joined(files: list[Path]) -> pd.DataFrame:
    tables = []
    for path in files:
        written = read_text_table(path, step=STEP, columns=("SubjectID",))
        table = index_by(written, "SubjectID", file=path.name, step=STEP)
        _check_scans(table.index, path.name)
        values = table.apply(pd.to_numeric, errors="coerce")
        # CaPTk writes -nan where a feature is not defined.
        strange = values.isna() & ~table.isin(["-nan", "nan", "NaN", "", "NA"])
        if strange.to_numpy().any():
            row, number = np.argwhere(strange.to_numpy())[0]
            raise InvalidTable(
                "a feature is no number",
                case=str(table.index[row]),
                step=STEP,
                field=f"{path.name}: {table.columns[number]}",
                got=str(table.iat[row, number]),
            )
        tables.append(values.astype(np.float64))
    if not tables:
        return pd.DataFrame(index=pd.Index([], dtype=object))
    repeated = [name for n, table in enumerate(tables) for name in table if any(name in other for other in tables[:n])]
    if repeated:
        raise InvalidTable("a feature stands in two files", step=STEP, field=str(repeated[0]), expected="one file each")
    joined: pd.DataFrame = pd.concat(tables, axis=1).sort_index()
    return joined
