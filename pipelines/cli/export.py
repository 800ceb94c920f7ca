"""Commands that hand results to other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.app import CohortOption, ParamsOption, cohort_name, console, out

FORMATS = ("dicom-seg",)


def export(
    what: Annotated[str, typer.Argument(help="What to write: " + ", ".join(FORMATS))],
    case: Annotated[str, typer.Argument(help="Case: COHORT/sub-ID, or sub-ID with --cohort")],
    series: Annotated[
        Path, typer.Option(help="Folder with the DICOM slices that the case's sequence was imported from")
    ],
    sequence: Annotated[str, typer.Option(help="Sequence that the series is: T1w, T1c, T2w or FLAIR")] = "T1c",
    cohort: CohortOption = None,
    params: ParamsOption = None,
) -> None:
    """**Export** a segmented case as a DICOM Segmentation object, on the slices of the series that it came from.

    The labels go back from the atlas to the patient's own space. Segments: 1 necrotic core, 2 oedema, 3 enhancing
    tumour. The object names the patient and study of the series and is as identifiable as they are; it lies beside
    the case's segmentation, and its key is printed.

    Example: `gliaflow export dicom-seg hospital/sub-017 --series /archive/017/T1c`
    """
    from services.segmentation.dicom_seg import STEP, read_series, write_dicom_seg
    from services.shared.cohort import SEQUENCES, CaseKeys, Sequence
    from services.shared.contracts import CaseRef
    from services.shared.errors import GliaflowError, NotFound
    from services.shared.storage import open_storage

    if what not in FORMATS:
        raise NotFound("there is nothing to export of this name", got=what, expected=", ".join(FORMATS))
    if sequence not in SEQUENCES:
        raise NotFound("there is no such sequence", field="--sequence", got=sequence, expected=", ".join(SEQUENCES))
    if not series.is_dir():
        raise NotFound(
            "there is no such folder", field="--series", got=str(series), expected="a folder of DICOM slices"
        )
    folder, _, label = case.rpartition("/")
    reference = CaseRef(cohort=folder or cohort_name(cohort, params), id=label.removeprefix("sub-"))
    try:
        with console.status("Reading the series"):
            slices = read_series(series)
    except GliaflowError as error:
        raise error.with_context(case=str(reference), step=STEP) from None
    with console.status(f"Writing onto {len(slices)} slices"):
        key = write_dicom_seg(open_storage(), CaseKeys(reference), slices, sequence=Sequence(sequence))
    out.print(key, highlight=False, soft_wrap=True)
