"""Import folders of NIfTI images, whatever their release calls the sequences.

Known names are those of BraTS 2013–2021 (``_t1 _t1ce _t2 _flair _seg``), BraTS 2023 and later (``-t1n -t1c -t2w -t2f
-seg``), BIDS (``_T1w _ce-gadolinium_T1w _T2w _FLAIR _dseg``), and TCIA's (``_T1 _T1c _T1gad _T1GD _T2 _FLAIR _segm
_tumor_segmentation``; what is derived, such as ``_T1_bias`` or ``_brain_segmentation``, stays aside).
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.datasets.participants import read_participants
from services.shared.cohort import CaseKeys, Cohort, Sequence, participants_key, read_cohort, write_participants
from services.shared.contracts import CaseRef, case_label
from services.shared.errors import DuplicateId, GliaflowError, IdMismatch, InvalidValue, NotFound
from services.shared.storage import Storage

SEGMENTATION = "segmentation"
_SUFFIXES: dict[str, str] = {
    **dict.fromkeys(("t1", "t1w", "t1n", "t1pre"), Sequence.T1.value),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1gad", "t1post", "gadolinium_t1w", "gd_t1w"), Sequence.T1C.value),
    **dict.fromkeys(("t2", "t2w"), Sequence.T2.value),
    **dict.fromkeys(("flair", "t2f", "fla", "t2flair"), Sequence.FLAIR.value),
    **dict.fromkeys(("seg", "dseg", "segm", "segmentation", "tumor_segmentation", "tumormask"), SEGMENTATION),
}
_OF_THE_BRAIN = frozenset({"brain_segmentation", "parenchyma_segmentation"})
_FOLLOW_UP = re.compile(r"_FU\d+d$", re.IGNORECASE)
_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_QUALIFIERS = frozenset({"bet", "brain", "stripped", "preproc", "n4", "raw", "native"})


@dataclass(frozen=True)
class ImportedCase:
    """One imported case: its label, what was found, and what the release calls it."""

    case: CaseRef
    source_id: str
    found: tuple[str, ...]


def sequence_of(file_name: str) -> str | None:
    """Return the sequence (or ``segmentation``) that a file's name speaks of, or None.

    >>> sequence_of("BraTS2021_00495_t1ce.nii.gz")
    'T1c'
    >>> sequence_of("sub-01_ce-gadolinium_T1w.nii.gz")
    'T1c'
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", file_name, flags=re.IGNORECASE).lower()
    parts = re.split(r"[_\-. ]+", stem)
    while len(parts) > 1 and parts[-1] in _QUALIFIERS:
        parts.pop()
    if "_".join(parts[-2:]) in _OF_THE_BRAIN:
        return None
    return _SUFFIXES.get("_".join(parts[-2:])) or _SUFFIXES.get(parts[-1])


def find_cases(source: Path) -> list[Path]:
    """Return the case folders of a release: ``source`` itself if it holds images, else its folders that do.

    Where none does, the folders within these are looked at: BraTS parts its cases into HGG and LGG.

    Raises
    ------
    NotFound
        Where there is no image of a known name.
    """
    if not source.is_dir():
        raise NotFound("there is no such folder", field="source", got=source.name)
    below = _folders(source)
    levels = ([source], below, [inner for folder in below for inner in _folders(folder)])
    found = next((cases for folders in levels if (cases := [f for f in folders if _images(f)])), [])
    if not found:
        raise NotFound(
            "no image of a known name was found",
            field="source",
            got=source.name,
            expected="NIfTI files ending in " + ", ".join(sorted(_SUFFIXES)),
            remedy="rename the files, or point at the folder that holds the case folders",
        )
    return found


def _folders(folder: Path) -> list[Path]:
    """Folders of a folder, without those that an operating system or an archiver leaves behind."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def _images(folder: Path) -> dict[str, list[Path]]:
    images: dict[str, list[Path]] = {}
    places = [folder, folder / "anat"]
    for path in sorted(p for place in places if place.is_dir() for p in place.iterdir()):
        kind = sequence_of(path.name) if _NIFTI.search(path.name) else None
        if kind and path.is_file() and not path.name.startswith("."):
            images.setdefault(kind, []).append(path)
    return images


def import_nifti(
    storage: Storage,
    source: Path,
    cohort: str,
    *,
    participants: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[list[ImportedCase], list[GliaflowError]]:
    """Copy a release's images into a cohort, beside cases that it already has.

    Parameters
    ----------
    storage
        Where the cohort stands.
    source
        A case folder, or a folder of case folders.
    cohort
        Name of the cohort; it is made where it does not exist.
    participants
        A table (CSV or TSV) with one row a case and an identifier that matches the folders' names: ``participant_id``
        or another column ``…_id``, as a release's names of several years.
    progress
        Called with finished, total and the case's label.

    Returns
    -------
    tuple of lists
        The imported cases, and the problems of those that were left out.

    Raises
    ------
    DuplicateId, IdMismatch
        Where a case is already in the cohort, or the table and the folders do not name the same cases.
    """
    folders = find_cases(source)
    problems = [*_without_images(folders, cohort), *_follow_up_scans(folders, cohort)]
    labels = {folder: case_label(_source_id(folder)) for folder in folders if not _FOLLOW_UP.search(_source_id(folder))}
    known = read_cohort(storage, cohort) if storage.exists(participants_key(cohort)) else None
    _refuse_duplicates(list(labels.values()), known)
    table = None if participants is None else _matching_participants(participants, set(labels.values()))
    imported: list[ImportedCase] = []
    for done, (folder, label) in enumerate(labels.items(), start=1):
        case = CaseRef(cohort=cohort, id=label)
        try:
            imported.append(_import_case(storage, folder, case))
        except GliaflowError as error:
            storage.remove(CaseKeys(case).raw)
            problems.append(error.with_context(case=str(case), step="import"))
        if progress is not None:
            progress(done, len(labels), label)
    if imported:
        fresh = pd.DataFrame(
            {"participant_id": f"sub-{i.case.id}", "source_id": i.source_id, "subset": "study"} for i in imported
        )
        if table is not None:
            fresh = fresh.merge(table, on="participant_id", how="left", validate="one_to_one")
        frame = fresh if known is None else pd.concat([known.participants, fresh], ignore_index=True)
        write_participants(storage, cohort, frame, meanings=_meanings(participants))
    return imported, problems


def _source_id(folder: Path) -> str:
    return folder.name.removeprefix("sub-").removesuffix("_nifti")


def _without_images(folders: list[Path], cohort: str) -> list[GliaflowError]:
    """Folders beside those of cases that are empty, or whose images all have names that nobody knows."""
    beside = sorted({p for parent in {folder.parent for folder in folders} for p in _folders(parent)} - set(folders))
    return [
        NotFound(
            "a folder beside the cases' has no image of a known name",
            case=f"{cohort}/sub-{case_label(_source_id(folder))}",
            step="import",
            field=folder.name,
            expected="NIfTI files such as …_t1.nii.gz",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:3]) or "an empty folder",
        )
        for folder in (beside if len(folders) > 1 else [])
        if not any(folder.iterdir()) or any(_NIFTI.search(path.name) for path in folder.iterdir())
    ]


def _follow_up_scans(folders: list[Path], cohort: str) -> list[GliaflowError]:
    """UCSF-PDGM names a later scan of a patient ``…_FU003d``: in a cohort of patients it would count twice."""
    return [
        InvalidValue(
            "a later scan of a patient is left out",
            case=f"{cohort}/sub-{case_label(_source_id(folder))}",
            step="import",
            field="source",
            expected="one scan a patient",
            got=folder.name,
        )
        for folder in folders
        if _FOLLOW_UP.search(_source_id(folder))
    ]


def _meanings(participants: Path | None) -> dict[str, str]:
    """What the data dictionary beside a cohort's table says of its columns."""
    if participants is None or participants.name != "participants.tsv":
        return {}
    dictionary = participants.with_suffix(".json")
    entries = json.loads(dictionary.read_text("utf-8")) if dictionary.is_file() else {}
    return {name: str(entry["Description"]) for name, entry in entries.items() if "Description" in entry}


def _refuse_duplicates(labels: list[str], known: Cohort | None) -> None:
    there = set() if known is None else {case.id for case in known.cases}
    repeated = sorted({label for label in labels if labels.count(label) > 1} | (set(labels) & there))
    if repeated:
        raise DuplicateId(
            "a case would be imported twice",
            field="source",
            got=", ".join(repeated[:5]),
            expected="identifiers that differ in their letters and digits, and are not in the cohort yet",
            remedy="import into another cohort, or remove the case first",
        )


def _import_case(storage: Storage, folder: Path, case: CaseRef) -> ImportedCase:
    images = _images(folder)
    keys = CaseKeys(case)
    if set(images) == {SEGMENTATION}:
        raise NotFound("the case has a segmentation and no image", field=folder.name, expected="T1w, T1c, T2w or FLAIR")
    for kind, paths in images.items():
        if len(paths) > 1:
            raise InvalidValue(
                "two files claim to be the same sequence",
                field=kind,
                expected="one file",
                got=", ".join(path.name for path in paths),
                remedy="remove or rename one of them",
            )
        key = keys.raw_segmentation if kind == SEGMENTATION else keys.raw_image(Sequence(kind))
        with storage.publish(key) as target:
            _copy_compressed(paths[0], target)
    return ImportedCase(case=case, source_id=_source_id(folder), found=tuple(sorted(images)))


def _copy_compressed(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        packed_already = file.read(2) == b"\x1f\x8b"
    if packed_already:
        shutil.copyfile(source, target)
        return
    with source.open("rb") as plain, target.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        shutil.copyfileobj(plain, packed)


def _matching_participants(path: Path, labels: set[str]) -> pd.DataFrame:
    frame = read_participants(path)
    names = {
        column: frame[column].str.removeprefix("sub-").map(case_label, na_action="ignore")
        for column in map(str, frame)
        if column.endswith("_id")
    }
    column = max(names, key=lambda name: int(names[name].isin(labels).sum()))
    used = names[column][names[column].isin(labels)]
    if used.duplicated().any():
        raise DuplicateId(
            "a case has two rows", field=f"{path.name}: {column}", got=str(used[used.duplicated()].iloc[0])
        )
    frame["participant_id"] = ("sub-" + names[column]).fillna(frame["participant_id"])
    ids = set(names[column].dropna())
    if not labels <= ids:
        raise IdMismatch(
            "the clinical table and the image folders do not name the same cases",
            field=path.name,
            expected="a row for each of " + ", ".join(sorted(labels - ids)[:5]),
            got=", ".join(sorted(ids - labels)[:5]) or "no other identifiers",
            remedy="correct the identifiers; only their letters and digits are compared",
        )
    return frame.drop(columns=[c for c in ("source_id", "subset") if c in frame])
