"""The LGG segmentation set (Buda et al., Comput Biol Med 2019): slices of 110 TCGA-LGG patients with FLAIR masks.

Kaggle ``mateuszbuda/lgg-mri-segmentation``, CC BY-NC-SA 4.0. The slices become one volume a sequence on a common grid:
voxel (i, j, n) is column i, row j of the n-th slice there is; its published number stands in the sidecar JSON, so that
:func:`read_slices` gives back the very slices. The publisher states no spacing, no orientation and no slice thickness:
the header says 1 x 1 x 1 mm and axial slices, ``spacing_known`` is 0, and millimetres of these volumes mean pixels.

Masks outline the FLAIR abnormality as a whole. They are stored as label 2, so that the region WT is right; TC and ET
are empty because the set does not tell them apart.

Sex, grade and histology are coded without a code book. The codes read here (sex 1 F, 2 M; grade 1 is WHO 2, 2 is WHO 3;
histology 1 astrocytoma, 2 oligoastrocytoma, 3 oligodendroglioma) agree with Table S1 of Ceccarelli et al. (Cell 2016)
for every one of 83 patients. What nothing confirms stays as it is coded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical
from pipelines.datasets.codings import Codes, coded, numbers, text
from pipelines.datasets.nifti import SEGMENTATION, ImportedCase
from pipelines.datasets.release import Release, write_release
from pipelines.datasets.slice_stacks import Pixels, Scan, SliceStack, find_scans, read_stack
from pipelines.datasets.source_tables import counting_blank_rows, index_by, not_there, read_text_table
from services.shared.cohort import CaseKeys, Label, Sequence, participants_key
from services.shared.contracts import CaseRef, case_label
from services.shared.errors import DuplicateId, GliaflowError, IdMismatch, NotFound
from services.shared.storage import Storage

NAME = "lgg_segmentation"
STEP = "import_lgg_segmentation"
LICENCE = (
    "CC BY-NC-SA 4.0 (Kaggle mateuszbuda/lgg-mri-segmentation); images TCIA TCGA-LGG, CC BY 3.0. Cite Buda et al., "
    "Comput Biol Med 2019;109:218, and Mazurowski et al., J Neuro-Oncol 2017;133:27."
)
CHANNELS = (Sequence.T1, Sequence.FLAIR, Sequence.T1C)
"""Sequences in the order of the published channels."""
_CODES: dict[str, tuple[str, Codes]] = {
    "gender": ("sex", {"1": "F", "2": "M"}),
    "neoplasm_histologic_grade": ("grade", {"1": "2", "2": "3"}),
    "histological_type": ("histology", {"1": "astrocytoma", "2": "oligoastrocytoma", "3": "oligodendroglioma"}),
    "death01": ("death_recorded", {"0": "0", "1": "1"}),
}
_AS_CODED = {
    "RNASeqCluster": "rnaseq_cluster",
    "MethylationCluster": "methylation_cluster",
    "miRNACluster": "mirna_cluster",
    "CNCluster": "cn_cluster",
    "RPPACluster": "rppa_cluster",
    "OncosignCluster": "oncosign_cluster",
    "COCCluster": "coc_cluster",
    "tumor_tissue_site": "tumor_tissue_site",
    "laterality": "laterality",
    "tumor_location": "tumor_location",
    "race": "race",
    "ethnicity": "ethnicity",
}
MEANINGS = {
    **{new: f"{old} as coded by the publisher, who states no code book" for old, new in _AS_CODED.items()},
    "death_recorded": "1 where the publisher records a death; there is no time, so this is no follow-up",
    "slices": "Slices in the cohort",
    "tumour_slices": "Slices whose mask is not empty",
    "t1w_copies_flair": "1 where the pre-contrast channel repeats FLAIR, so that there is no T1w",
    "t1c_copies_flair": "1 where the post-contrast channel repeats FLAIR, so that there is no T1c",
    "spacing_known": "0: the publisher states no spacing; the 1 x 1 x 1 mm of the headers are pixels and slices",
}


def slices_key(case: CaseRef) -> str:
    """Key of the sidecar with a case's slice numbers."""
    return CaseKeys(case).raw_image(Sequence.FLAIR).replace(".nii.gz", ".json")


def import_lgg_segmentation(
    storage: Storage,
    source: Path,
    cohort: str,
    *,
    participants: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[list[ImportedCase], list[GliaflowError]]:
    """Write the slices of a release as volumes, with the clinical table that lies beside them.

    Parameters
    ----------
    storage
        Where the cohort will stand.
    source
        The release: folders or ZIP files ``TCGA_XX_NNNN_YYYYMMDD`` in it or in its folders. ``data*.csv`` is looked
        for in it, then beside the scans, then beside it.
    cohort
        Name of a cohort that does not exist yet.
    participants
        A clinical release of TCGA to join: WHO grade, markers, survival.
    progress
        Called with finished, total and the case's label.

    Returns
    -------
    tuple of lists
        The imported cases, and the problems of those that were left out.

    Raises
    ------
    NotFound
        Where there is no scan.
    DuplicateId
        Where the cohort exists, or a patient stands twice.
    InvalidTable, UnreadableFile
        Where the clinical table is malformed or holds a code that is not known.
    """
    if storage.exists(participants_key(cohort)):
        raise DuplicateId(
            "the cohort exists already",
            step=STEP,
            field="cohort",
            got=cohort,
            remedy="import into another cohort, or remove this one first",
        )
    scans = find_scans(source)
    release = _read_tables(source, scans, participants)
    imported: list[ImportedCase] = []
    problems: list[GliaflowError] = []
    rows: list[dict[str, object]] = []
    dropped: dict[str, str] = {}
    sources: dict[str, str] = {}
    for done, scan in enumerate(scans, start=1):
        case = CaseRef(cohort=cohort, id=case_label(scan.patient))
        try:
            stack = read_stack(scan)
            imported.append(write_stack(storage, case, stack, source_id=scan.patient))
            rows.append(_row(case, stack))
            sources[scan.place.name] = stack.sha256
        except GliaflowError as error:
            storage.remove(CaseKeys(case).raw)
            problems.append(error.with_context(case=str(case), step=STEP))
            dropped[scan.patient] = error.detail
        if progress is not None:
            progress(done, len(scans), case.id)
    if imported:
        write_release(storage, cohort, _with_images(release, pd.DataFrame(rows), dropped, sources))
    return imported, problems


def write_stack(storage: Storage, case: CaseRef, stack: SliceStack, *, source_id: str) -> ImportedCase:
    """Write a stack as volumes on one grid, without the channels that only repeat FLAIR."""
    keys = CaseKeys(case)
    found = []
    for channel, sequence in enumerate(CHANNELS):
        if sequence is Sequence.FLAIR or not stack.copies_flair(channel):
            _write(storage, keys.raw_image(sequence), stack.channels[..., channel])
            found.append(sequence.value)
    if stack.mask is not None:
        _write(storage, keys.raw_segmentation, stack.mask.astype(np.uint8) * np.uint8(Label.OEDEMA))
        found.append(SEGMENTATION)
    sidecar = {"SliceNumbers": list(stack.numbers), "SpacingKnown": False, "OrientationKnown": False}
    storage.write_text(slices_key(case), json.dumps(sidecar) + "\n")
    return ImportedCase(case=case, source_id=source_id, found=tuple(sorted(found)))


def _write(storage: Storage, key: str, values: Pixels) -> None:
    with storage.publish(key) as path:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path), useCompression=True)


def read_slices(storage: Storage, case: CaseRef) -> SliceStack:
    """Return the slices of an imported case as they were published.

    Raises
    ------
    NotFound
        Where the case was not imported from slices.
    """
    keys = CaseKeys(case)
    if not storage.exists(slices_key(case)):
        raise NotFound("the case has no slices", case=str(case), step="read_slices", field=slices_key(case))
    numbers = tuple(map(int, json.loads(storage.read_text(slices_key(case)))["SliceNumbers"]))
    flair = _read(storage, keys.raw_image(Sequence.FLAIR))
    there = [keys.raw_image(sequence) for sequence in CHANNELS]
    channels = np.stack([_read(storage, key) if storage.exists(key) else flair for key in there], axis=-1)
    mask = _read(storage, keys.raw_segmentation) > 0 if storage.exists(keys.raw_segmentation) else None
    return SliceStack(numbers, channels, mask, storage.sha256(slices_key(case)))


def _read(storage: Storage, key: str) -> Pixels:
    with storage.local(key) as path:
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkUInt8)), dtype=np.uint8)


def _row(case: CaseRef, stack: SliceStack) -> dict[str, object]:
    return {
        "participant_id": f"sub-{case.id}",
        "slices": len(stack.numbers),
        "tumour_slices": None if stack.mask is None else int(stack.mask.any(axis=(1, 2)).sum()),
        "t1w_copies_flair": int(stack.copies_flair(0)),
        "t1c_copies_flair": int(stack.copies_flair(2)),
        "spacing_known": 0,
    }


def find_clinical_tables(source: Path, scans: list[Scan]) -> list[Path]:
    """Return ``data*.csv`` of a release: in ``source``, else beside the scans, else beside ``source``."""
    places = [[source], sorted({scan.place.parent for scan in scans}), [source.parent]]
    found = ([path for folder in folders for path in sorted(folder.glob("data*.csv"))] for folders in places)
    return next((paths for paths in found if paths), [])


def read_clinical_tables(paths: list[Path]) -> pd.DataFrame:
    """Return the publisher's tables in our terms as one, indexed by ``participant_id``.

    Raises
    ------
    UnreadableFile, InvalidTable, DuplicateId
        Where a table is malformed, a code is not known, or a patient stands twice.
    """
    frame = pd.concat([_read_clinical_table(path) for path in paths])
    repeated = frame.index[frame.index.duplicated()]
    if len(repeated):
        raise DuplicateId(
            "a patient stands twice",
            case=str(repeated[0]),
            step=STEP,
            field=", ".join(path.name for path in paths),
            expected="one row a patient",
        )
    return frame


def _read_clinical_table(path: Path) -> pd.DataFrame:
    known = ("Patient", "age_at_initial_pathologic", *_CODES, *_AS_CODED)
    table = index_by(read_text_table(path, step=STEP, columns=known), "Patient", file=path.name, step=STEP)
    columns = {
        new: coded(table[old], codes, field=old, step=STEP) for old, (new, codes) in _CODES.items() if old in table
    }
    if "age_at_initial_pathologic" in table:
        columns["age_years"] = numbers(table["age_at_initial_pathologic"], field="age_at_initial_pathologic", step=STEP)
    columns |= {new: text(table[old]) for old, new in _AS_CODED.items() if old in table}
    frame = pd.DataFrame(columns, index=table.index)
    frame.index = pd.Index([f"sub-{case_label(name)}" for name in table.index], name="participant_id")
    return frame


def _read_tables(source: Path, scans: list[Scan], participants: Path | None) -> Release:
    """What is known of the scans' patients before any image is read, so that a bad table leaves nothing behind."""
    frame = pd.DataFrame(
        {
            "participant_id": f"sub-{case_label(s.patient)}",
            "source_id": s.patient,
            "subset": "study",
            "scan_date": s.date,
        }
        for s in scans
    )
    paths = find_clinical_tables(source, scans)
    counted: dict[str, int] = {}
    if paths:
        with counting_blank_rows() as counted:
            clinical = read_clinical_tables(paths)
        counted |= not_there(clinical, (*(new for new, _ in _CODES.values()), "age_years", *_AS_CODED.values()))
        counted["patients without clinical row"] = int((~frame["participant_id"].isin(clinical.index)).sum())
        counted["clinical rows without images"] = int((~clinical.index.isin(frame["participant_id"])).sum())
        if counted["patients without clinical row"] == len(frame):
            raise IdMismatch(
                "the clinical table names none of the scans' patients",
                step=STEP,
                field=", ".join(path.name for path in paths),
                expected=str(frame["source_id"].iloc[0]),
                got=f"{len(clinical)} other patients",
            )
        frame = frame.merge(clinical, left_on="participant_id", right_index=True, how="left", validate="one_to_one")
    release = Release(
        name=NAME,
        participants=frame,
        meanings={column: meaning for column, meaning in MEANINGS.items() if column in frame},
        counted=counted,
        sources=hashes(paths),
        licence=LICENCE,
    )
    return check_release(join_clinical(release, participants))


def _with_images(release: Release, rows: pd.DataFrame, dropped: dict[str, str], sources: dict[str, str]) -> Release:
    counted = {
        "patients without T1w": int(rows["t1w_copies_flair"].sum()),
        "patients without T1c": int(rows["t1c_copies_flair"].sum()),
        "patients without masks": int(rows["tumour_slices"].isna().sum()),
        "slices": int(rows["slices"].sum()),
    }
    return dataclasses.replace(
        release,
        participants=release.participants.merge(rows, on="participant_id", how="inner", validate="one_to_one"),
        meanings={**release.meanings, **{column: MEANINGS[column] for column in rows.columns[1:]}},
        dropped={**release.dropped, **dropped},
        counted={**release.counted, **counted},
        sources={**release.sources, **sources},
    )
