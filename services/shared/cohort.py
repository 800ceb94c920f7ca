"""Cases and cohorts in the BIDS layout: where files stand, what sequences and labels are called.

::

    raw/<cohort>/participants.tsv, participants.json, and where there are such: import.json (what was read and dropped),
    raw/<cohort>/expression.parquet, counts.parquet, features.parquet (one row a case, index case_id)
    raw/<cohort>/sub-<id>/anat/sub-<id>_{T1w,T1c,T2w,FLAIR}.nii.gz, sub-<id>_dseg.nii.gz (expert mask, T1c grid)
    raw/<cohort>/sub-<id>/dwi/sub-<id>_dwi.{nii.gz,bval,bvec}
    derivatives/preprocessed/<cohort>/sub-<id>/…
    derivatives/segmentation/<cohort>/sub-<id>/…
    features/<cohort>/…
    studies/<cohort>/<study>/…
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from services.shared.contracts import CaseRef
from services.shared.errors import DuplicateId, IdMismatch, InvalidMask, InvalidTable, MissingSequence, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage

if TYPE_CHECKING:
    import pandas as pd


class Sequence(StrEnum):
    """MRI sequences by their BIDS suffix."""

    T1 = "T1w"
    T1C = "T1c"
    T2 = "T2w"
    FLAIR = "FLAIR"


SEQUENCES: tuple[Sequence, ...] = tuple(Sequence)


class Label(IntEnum):
    """BraTS labels of a tumour segmentation. Releases from 2023 on write 3 for enhancing tumour; we store 4."""

    BACKGROUND = 0
    NECROTIC_CORE = 1
    OEDEMA = 2
    ENHANCING = 4


class Region(StrEnum):
    """Regions of interest that studies speak of, made of labels."""

    TC = "TC"
    WT = "WT"
    ET = "ET"
    ED = "ED"


REGION_LABELS: dict[Region, tuple[Label, ...]] = {
    Region.TC: (Label.NECROTIC_CORE, Label.ENHANCING),
    Region.WT: (Label.NECROTIC_CORE, Label.OEDEMA, Label.ENHANCING),
    Region.ET: (Label.ENHANCING,),
    Region.ED: (Label.OEDEMA,),
}


def normalise_labels(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Return a segmentation with labels 0, 1, 2, 4, accepting 3 for enhancing tumour.

    Raises
    ------
    InvalidMask
        Where another label occurs, or both 3 and 4.
    """
    present = {int(value) for value in np.unique(labels)}
    if not present <= {0, 1, 2, 3, 4} or {3, 4} <= present:
        raise InvalidMask(
            "the segmentation holds a label that is not defined",
            expected="0, 1, 2 and 4 (or 3 in place of 4)",
            got=", ".join(map(str, sorted(present))),
            remedy="map the labels to necrotic core 1, oedema 2, enhancing tumour 4",
        )
    result = labels.astype(np.uint8)
    result[result == 3] = Label.ENHANCING
    return result


def region_mask(labels: npt.NDArray[np.integer], region: Region) -> npt.NDArray[np.bool_]:
    """Return where a region lies in a segmentation with labels 0, 1, 2, 4."""
    return np.isin(labels, REGION_LABELS[region])


def atlas_space() -> str:
    """Label of the space of prepared volumes: ``MNI152`` for the bundled atlas, ``SRI24`` for one given by folder."""
    return "MNI152" if settings().atlas == "icbm152" else "SRI24"


@dataclass(frozen=True)
class CaseKeys:
    """Storage keys of everything that belongs to one case."""

    case: CaseRef
    space: str = field(default_factory=atlas_space)

    @property
    def subject(self) -> str:
        """BIDS folder name of the case."""
        return f"sub-{self.case.id}"

    @property
    def raw(self) -> str:
        """Folder of the images as they were imported."""
        return f"raw/{self.case.cohort}/{self.subject}"

    def raw_image(self, sequence: Sequence) -> str:
        """Imported image of one sequence."""
        return f"{self.raw}/anat/{self.subject}_{sequence}.nii.gz"

    @property
    def raw_segmentation(self) -> str:
        """Expert segmentation on the grid of the imported T1c."""
        return f"{self.raw}/anat/{self.subject}_dseg.nii.gz"

    def raw_dwi(self, extension: str) -> str:
        """Diffusion series: ``nii.gz``, ``bval`` or ``bvec``."""
        return f"{self.raw}/dwi/{self.subject}_dwi.{extension}"

    @property
    def preprocessed(self) -> str:
        """Folder of prepared volumes."""
        return f"derivatives/preprocessed/{self.case.cohort}/{self.subject}"

    def preprocessed_image(self, sequence: Sequence) -> str:
        """Prepared volume of one sequence, on the atlas grid."""
        return f"{self.preprocessed}/anat/{self.subject}_space-{self.space}_desc-preproc_{sequence}.nii.gz"

    @property
    def brain_mask(self) -> str:
        """Brain mask on the atlas grid."""
        return f"{self.preprocessed}/anat/{self.subject}_space-{self.space}_desc-brain_mask.nii.gz"

    @property
    def preprocessed_segmentation(self) -> str:
        """Expert segmentation carried to the atlas grid, where the case has one."""
        return f"{self.preprocessed}/anat/{self.subject}_space-{self.space}_desc-expert_dseg.nii.gz"

    def diffusion_map(self, name: str) -> str:
        """Diffusion map (FA, MD, AD, RD) on the atlas grid."""
        return f"{self.preprocessed}/dwi/{self.subject}_space-{self.space}_desc-preproc_{name}.nii.gz"

    def transform(self, sequence: Sequence, target: str) -> str:
        """Rigid or affine transform (ITK format) that takes points of ``target`` to points of the sequence."""
        return f"{self.preprocessed}/anat/{self.subject}_from-{sequence}_to-{target}_xfm.tfm"

    @property
    def quality(self) -> str:
        """Quality numbers, or the reason why the case is quarantined."""
        return f"{self.preprocessed}/qc.json"

    @property
    def segmentation_folder(self) -> str:
        """Folder of segmentations."""
        return f"derivatives/segmentation/{self.case.cohort}/{self.subject}"

    @property
    def segmentation(self) -> str:
        """The segmentation that later steps use, on the atlas grid."""
        return f"{self.segmentation_folder}/anat/{self.subject}_space-{self.space}_dseg.nii.gz"

    @property
    def features(self) -> str:
        """This case's radiomic features, one row."""
        return f"features/{self.case.cohort}/cases/{self.subject}_radiomics.parquet"

    @property
    def deep_features(self) -> str:
        """This case's deep features, one row."""
        return f"features/{self.case.cohort}/cases/{self.subject}_deep.parquet"

    def manifest(self, step: str) -> str:
        """Manifest of one step of this case."""
        folder = {
            "prepare": self.preprocessed,
            "diffusion": f"{self.preprocessed}/dwi",
            "segment": self.segmentation_folder,
        }.get(step)
        if folder is None:
            return f"features/{self.case.cohort}/cases/{self.subject}_{step}.json"
        return f"{folder}/manifest.json"


PARTICIPANT_COLUMNS: dict[str, str] = {
    "participant_id": "BIDS subject folder, sub-<letters and digits>",
    "source_id": "Identifier in the release that the case comes from",
    "subset": "'study', or 'segmentation' for cases that only train the segmentation network",
    "scan_date": "ISO 8601 date of the scan (shifted or synthetic dates are fine; order is what counts)",
    "age_years": "Age at diagnosis, years",
    "sex": "F or M",
    "grade": "WHO grade 2, 3 or 4",
    "histology": "Histological type as the release words it",
    "idh": "WT or Mutant",
    "codeletion_1p19q": "codel or non-codel",
    "mgmt": "Methylated or Unmethylated",
    "atrx": "WT or Mutant",
    "risk_group": "Ferroptosis-gene risk group, high or low",
    "os_months": "Overall survival or follow-up, months",
    "event": "1 death, 0 censored",
}


@dataclass(frozen=True)
class Cohort:
    """A cohort's table of participants, sorted by ``participant_id``, and the cases with a folder."""

    name: str
    participants: pd.DataFrame

    @property
    def cases(self) -> tuple[CaseRef, ...]:
        """Every case in the table's order."""
        return tuple(CaseRef(cohort=self.name, id=i.removeprefix("sub-")) for i in self.participants["participant_id"])

    def subset(self, name: str) -> Cohort:
        """Return the cases whose ``subset`` is ``name``; a table without the column is all ``study``."""
        if "subset" not in self.participants:
            return self if name == "study" else Cohort(self.name, self.participants.iloc[:0])
        chosen = self.participants[self.participants["subset"] == name]
        return Cohort(self.name, chosen.reset_index(drop=True))


def participants_key(cohort: str) -> str:
    """Key of a cohort's table of participants."""
    return f"raw/{cohort}/participants.tsv"


def read_cohort(storage: Storage, name: str) -> Cohort:
    """Read and check a cohort's table against its folders; a cohort without any folder is one of tables alone.

    Raises
    ------
    NotFound
        Where there is no such cohort.
    InvalidTable, DuplicateId
        Where the table lacks ``participant_id``, repeats one, or writes one that is not a BIDS subject.
    IdMismatch
        Where a folder has no row or a row has no folder.
    """
    import pandas as pd  # contracts name sequences and regions: only who reads a table pays for it

    key = participants_key(name)
    if not storage.exists(key):
        known = ", ".join(storage.folders("raw")) or "none"
        raise NotFound(
            "there is no such cohort", field=key, got=name, expected=known, remedy="run 'gliaflow import' or 'simulate'"
        )
    frame = pd.read_csv(io.StringIO(storage.read_text(key)), sep="\t", dtype={"participant_id": str, "source_id": str})
    check_participants(frame, field=key)
    rows = set(frame["participant_id"])
    folders = {folder for folder in storage.folders(f"raw/{name}") if folder.startswith("sub-")}
    if folders and rows != folders:
        parts = [
            f"{len(ids)} {what}: {', '.join(sorted(ids)[:5])}"
            for ids, what in ((folders - rows, "folders without a row"), (rows - folders, "rows without a folder"))
            if ids
        ]
        raise IdMismatch(
            "the clinical table and the image folders do not name the same cases",
            field=key,
            expected="one row for each folder sub-*",
            got="; ".join(parts),
            remedy="correct participant_id, or import the missing images",
        )
    return Cohort(name, frame.sort_values("participant_id", ignore_index=True))


def check_participants(frame: pd.DataFrame, *, field: str) -> None:
    """Check that a table has one well-formed ``participant_id`` a row."""
    if "participant_id" not in frame:
        raise InvalidTable(
            "the table has no participant_id", field=field, expected="participant_id", got=", ".join(frame.columns[:8])
        )
    ids = frame["participant_id"].astype(str)
    repeated = sorted(set(ids[ids.duplicated()]))
    if repeated:
        raise DuplicateId(
            "a participant occurs more than once",
            field=field,
            expected="one row a participant",
            got=", ".join(repeated[:5]),
            remedy="remove or rename the repeated rows",
        )
    malformed = sorted(ids[~ids.str.fullmatch(r"sub-[A-Za-z0-9]+")])
    if malformed:
        raise InvalidTable(
            "a participant_id is not a BIDS subject",
            field=field,
            expected="sub-<letters and digits>",
            got=", ".join(malformed[:5]),
        )


def write_participants(
    storage: Storage, name: str, frame: pd.DataFrame, *, meanings: Mapping[str, str] | None = None
) -> None:
    """Write a cohort's table, sorted, with its data dictionary beside it.

    Parameters
    ----------
    meanings
        What the columns beyond :data:`PARTICIPANT_COLUMNS` mean.
    """
    key = participants_key(name)
    check_participants(frame, field=key)
    ordered = [c for c in PARTICIPANT_COLUMNS if c in frame] + sorted(
        set(map(str, frame.columns)) - set(PARTICIPANT_COLUMNS)
    )
    table = frame.sort_values("participant_id")[ordered]
    storage.write_text(key, table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))
    known = {**(meanings or {}), **PARTICIPANT_COLUMNS}
    dictionary = {c: {"Description": known.get(c, "As in the source")} for c in ordered}
    storage.write_text(key.replace(".tsv", ".json"), json.dumps(dictionary, indent=2) + "\n")


def require_sequences(storage: Storage, keys: CaseKeys, *, step: str, prepared: bool) -> None:
    """Check that all four sequences of a case are there.

    Raises
    ------
    MissingSequence
        Naming every sequence that is missing.
    """
    where = keys.preprocessed_image if prepared else keys.raw_image
    missing = [sequence for sequence in SEQUENCES if not storage.exists(where(sequence))]
    if missing:
        raise MissingSequence(
            "the case lacks a sequence",
            case=str(keys.case),
            step=step,
            expected=", ".join(SEQUENCES),
            got="without " + ", ".join(missing),
            remedy="run 'gliaflow prepare' first" if prepared else f"add {where(missing[0])} or leave the case out",
        )
