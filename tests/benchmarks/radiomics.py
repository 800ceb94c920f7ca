"""Times feature extraction beside stock PyRadiomics on a real case at 1 mm, and compares every value."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor

from pipelines.datasets.nifti import import_nifti
from services.feature_store.contracts import ExtractParameters
from services.feature_store.radiomics import extract_case, read_row
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.segment import segment_case
from services.shared.cohort import REGION_LABELS, CaseKeys, Region, Sequence
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_volume
from tests.benchmarks.page import BENCHMARKS, write_section

CASE = "mri_brats_cases/BraTS2021_00495"
Answer = TypeVar("Answer")


def timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
    started = time.process_time()
    answer = call()
    return answer, time.process_time() - started


def stock(storage: Storage, keys: CaseKeys, parameters: ExtractParameters) -> dict[str, float]:
    """Return PyRadiomics' own values, region by region on the whole volume."""
    extractor = RadiomicsFeatureExtractor(binCount=parameters.bin_count, force2D=False, correctMask=False)
    labels = read_volume(storage, keys.segmentation, pixel_type=sitk.sitkUInt8)
    found: dict[str, float] = {}
    for sequence in Sequence:
        image = read_volume(storage, keys.preprocessed_image(sequence))
        for region in Region:
            mask = sitk.Image(labels.GetSize(), sitk.sitkUInt8)
            mask.CopyInformation(labels)
            for label in REGION_LABELS[region]:
                mask = mask | (labels == int(label))
            for name, value in extractor.execute(image, mask).items():
                if name.startswith("original_"):
                    prefix = f"mask_{region}" if "_shape_" in name else f"{sequence}_{region}"
                    found[f"{prefix}_{name}"] = float(value)
    return found


def main() -> None:
    logging.getLogger("radiomics").setLevel(logging.ERROR)
    source = settings().real_data / CASE
    if not source.is_dir():
        print(f"skipped: no {CASE} in the folder that GLIAFLOW_REAL_DATA names")
        return
    from services.preprocessing.contracts import PrepareParameters
    from services.preprocessing.steps import prepare_case

    with TemporaryDirectory() as folder, itk_threads(1):
        storage = Storage(Path(folder))
        ((imported,), _) = import_nifti(storage, source, "brats")
        prepare_case(storage, imported.case, PrepareParameters())
        segment_case(storage, SegmentRequest(case=imported.case, parameters=SegmentParameters(source="expert")))
        keys = CaseKeys(imported.case)
        parameters = ExtractParameters()
        theirs, stock_seconds = timed(lambda: stock(storage, keys, parameters))
        _, seconds = timed(lambda: extract_case(storage, imported.case, parameters))
        ours = read_row(storage, keys.features).values
    common = sorted(set(ours) & set(theirs))
    apart = max(
        abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-12)
        for name in common
        if not math.isnan(float(ours[name]))
    )
    lines = [
        f"BraTS2021_00495 at 1 mm, 4 sequences × 4 regions, {len(common):,} unfiltered features; seconds of one core.",
        "",
        "| | seconds | largest relative difference |",
        "| --- | --- | --- |",
        f"| PyRadiomics, region by region | {stock_seconds:.1f} | |",
        f"| gliaflow | {seconds:.1f} ({stock_seconds / seconds:.1f}× faster) | {np.float64(apart):.1g} |",
    ]
    write_section(BENCHMARKS, "radiomics", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
