"""UCSF-PDGM (Calabrese et al., Radiology: AI 2022;4:e220058): 495 diffuse gliomas before surgery, with survival.

TCIA doi:10.7937/tcia.bdgf-8v37, CC BY 4.0. The metadata table writes ``UCSF-PDGM-004`` where folders and files write
``UCSF-PDGM-0004``; the cohort uses the latter, so that ``gliaflow import nifti … --participants`` matches the images,
and those of BraTS 2021 by ``brats_2021_id``. Six scans are later ones of other patients: ``…_FU003d`` from version 3
on, plain identifiers before; both are left out. Survival counts in days from the first diagnosis.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, participants_of
from pipelines.datasets.codings import (
    coded,
    codeletions,
    events,
    grades,
    methylations,
    months_of_days,
    mutations,
    numbers,
    sexes,
    text,
)
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import index_by, not_there, read_text_table, require_columns, tables_in
from services.shared.errors import InvalidTable, NotFound

NAME = "ucsf_pdgm"
STEP = f"import {NAME}"
LICENCE = "CC BY 4.0 (TCIA doi:10.7937/tcia.bdgf-8v37). Cite Calabrese et al., Radiol Artif Intell 2022;4(6):e220058."
LATER_SCANS = {"0138": "0429", "0175": "0396", "0181": "0409", "0278": "0431", "0289": "0391", "0315": "0433"}
"""Number of the patient by the number that an early version gives to a later scan of the same patient."""
_ID = re.compile(r"UCSF-PDGM-(\d{3,4})(_FU\d+d)?", re.I)
_IDH_MUTATION = re.compile(r"idh[12] p\.[a-z]+\d+[a-z]+|mutated( \(nos\))?", re.I)
_REQUIRED = ("ID", "WHO CNS Grade", "IDH", "1-dead 0-alive", "OS")
_COLUMNS = (
    *_REQUIRED,
    "Age at MRI",
    "Sex",
    "Final pathologic diagnosis (WHO 2021)",
    "1p/19q",
    "MGMT status",
    "MGMT index",
    "EOR",
    "Biopsy prior to imaging",
    "BraTS21 ID",
    "BraTS21 Segmentation Cohort",
    "BraTS21 MGMT Cohort",
)
MEANINGS = {
    "idh_published": "IDH as published, with the amino acid exchange where it is known",
    "mgmt_published": "MGMT as published; indeterminate is missing in mgmt",
    "mgmt_index": "Methylated sites of the MGMT promoter, 0 to 17",
    "codeletion_published": "1p/19q as published; 'relative co-deletion' is missing in codeletion_1p19q",
    "resection": "GTR gross total, STR subtotal resection, or biopsy",
    "biopsy_before_imaging": "Yes where a biopsy preceded the scan",
    "brats_2021_id": "Name of the case in BraTS 2021",
    "brats_2021_segmentation_part": "Part of BraTS 2021's segmentation task that the case is in",
    "brats_2021_mgmt_part": "Part of BraTS 2021's MGMT task that the case is in",
}


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Return the clinical table of the release, one row a patient.

    Parameters
    ----------
    source
        The metadata table of any version, or the folder that holds it.
    participants
        Not used: the release has its own clinical table.

    Raises
    ------
    NotFound
        Where there is no metadata table.
    InvalidTable, DuplicateId, UnreadableFile
        Where it is malformed, a code is not known, or a patient stands twice.
    """
    if participants is not None:
        raise InvalidTable(
            "the release has a clinical table of its own", step=STEP, field="participants", remedy="leave it out"
        )
    path = _metadata(source)
    table = read_text_table(path, step=STEP, columns=_COLUMNS)
    require_columns(table, _REQUIRED, file=path.name, step=STEP)
    found = table["ID"].str.strip().map(_ID.fullmatch)
    if found.isna().any():
        raise InvalidTable(
            "an identifier is no patient's",
            step=STEP,
            field=f"{path.name}: ID",
            expected="UCSF-PDGM-004",
            got=str(table["ID"][found.isna()].iloc[0]),
        )
    number = found.map(lambda match: f"{int(match[1]):04d}")
    later = found.map(lambda match: match[2] is not None)
    there = set(number[~later])
    renamed = number.map(lambda n: LATER_SCANS.get(n) in there)
    dropped = {str(name): "later scan of a patient" for name in table["ID"][later | renamed]}
    table["ID"] = "UCSF-PDGM-" + number
    table = index_by(table[~(later | renamed)], "ID", file=path.name, step=STEP)
    frame = _clinical(table)
    release = Release(
        name=NAME,
        participants=participants_of(frame),
        meanings=MEANINGS,
        dropped=dropped,
        counted={
            **not_there(table, _COLUMNS[1:]),
            "later scans": len(dropped),
            "patients without follow-up": int(frame["os_months"].isna().sum()),
            "patients alive at last follow-up": int((frame["event"] == 0).sum()),
        },
        sources=hashes([path]),
        licence=LICENCE,
    )
    return check_release(release)


def _metadata(source: Path) -> Path:
    found = [p for p in tables_in(source) if "metadata" in p.name.lower()] if source.is_dir() else [source]
    if len(found) != 1:
        raise NotFound(
            "the metadata table is not there" if not found else "several files could be the metadata table",
            step=STEP,
            field="source",
            expected="one UCSF-PDGM-metadata*.csv",
            got=", ".join(path.name for path in found) or source.name,
        )
    return found[0]


def _clinical(table: pd.DataFrame) -> pd.DataFrame:
    def given(name: str) -> pd.Series:
        return table[name] if name in table else pd.Series("", index=table.index, name=name)

    idh = text(given("IDH")).map(lambda v: "mutant" if _IDH_MUTATION.fullmatch(v) else v, na_action="ignore")
    days = numbers(given("OS"), step=STEP, field="OS")
    event = events(given("1-dead 0-alive"), step=STEP, field="1-dead 0-alive")
    followed = (days > 0) & event.notna()
    return pd.DataFrame(
        {
            "age_years": numbers(given("Age at MRI"), step=STEP, field="Age at MRI"),
            "sex": sexes(given("Sex"), step=STEP, field="Sex"),
            "grade": grades(given("WHO CNS Grade"), step=STEP, field="WHO CNS Grade"),
            "histology": text(given("Final pathologic diagnosis (WHO 2021)")),
            "idh": mutations(idh, step=STEP, field="IDH"),
            "codeletion_1p19q": codeletions(
                given("1p/19q"), step=STEP, field="1p/19q", also={"relative co-deletion": None}
            ),
            "mgmt": methylations(
                given("MGMT status"),
                step=STEP,
                field="MGMT status",
                also={"positive": "Methylated", "negative": "Unmethylated", "indeterminate": None},
            ),
            "os_months": months_of_days(days).where(followed),
            "event": event.where(followed),
            "idh_published": text(given("IDH")),
            "mgmt_published": text(given("MGMT status")),
            "mgmt_index": numbers(given("MGMT index"), step=STEP, field="MGMT index"),
            "codeletion_published": text(given("1p/19q")),
            "resection": coded(given("EOR"), {"gtr": "GTR", "str": "STR", "biopsy": "biopsy"}, field="EOR", step=STEP),
            "biopsy_before_imaging": coded(
                given("Biopsy prior to imaging"), {"yes": "Yes", "no": "No"}, field="Biopsy prior to imaging", step=STEP
            ),
            "brats_2021_id": text(given("BraTS21 ID")),
            "brats_2021_segmentation_part": text(given("BraTS21 Segmentation Cohort")),
            "brats_2021_mgmt_part": text(given("BraTS21 MGMT Cohort")),
        },
        index=table.index,
    )
