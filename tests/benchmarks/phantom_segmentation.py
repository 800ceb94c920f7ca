"""How well a network outlines phantoms that it never saw, beside how well anybody could, for each voxel size.

A perfect reader knows the phantom's tumour exactly and labels each voxel of the prepared grid by it. The expert's mask
was drawn on the scan's grid and carried to the prepared one: what separates the two is the mask's own grain, and no
network can be expected to agree with the mask better. ``--root FOLDER`` keeps what was made.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from pipelines.phantom.anatomy import draw_subject
from pipelines.phantom.clinic import draw_patient, participant_label
from pipelines.phantom.effects import Stream, random_stream
from pipelines.phantom.scanner import plan_acquisitions
from pipelines.phantom.tumour import draw_tumour_plan, place_tumour
from pipelines.simulate import SimulateParameters, simulate_cohort, working_spacing_mm
from pipelines.training.segmentation import EpochFigures, TrainParameters, train_segmentation
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import carry_labels, prepare_case
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.regions import region_dice
from services.segmentation.segment import segment_case
from services.shared.cohort import CaseKeys, Label, Region, Sequence
from services.shared.contracts import CaseRef
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_volume
from tests.benchmarks.page import BENCHMARKS, write_section
from tests.benchmarks.segmentation import workplace

SEED = 20240601
UNSEEN_SEED = SEED + 1
LEARNT, UNSEEN = 12, 20
THREADS = 1
SHOWN = (Region.TC, Region.WT, Region.ET)
PLANS = {
    3.0: TrainParameters(),
    2.0: TrainParameters(epochs=60, crops_per_case=6),
}

Dice = dict[Region, float | None]


def prepared(storage: Storage, cohort: str, parameters: SimulateParameters, *, seed: int) -> list[CaseRef]:
    """Return a phantom cohort's cases, made and prepared where they are not yet."""
    if not storage.exists(f"raw/{cohort}/participants.tsv"):
        simulate_cohort(storage, cohort, parameters=parameters, seed=seed)
    cases = [CaseRef(cohort=cohort, id=participant_label(index)) for index in range(parameters.total)]
    for case in cases:
        prepare_case(storage, case, PrepareParameters(voxel_mm=parameters.voxel_mm))
        print("prepared", case, flush=True)
    return cases


def perfect_labels(storage: Storage, keys: CaseKeys, index: int, mask: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Return the phantom's tumour on the prepared grid, voxel centre by voxel centre."""
    head = draw_subject(random_stream(UNSEEN_SEED, index, Stream.ANATOMY), spacing_mm=working_spacing_mm(voxel_mm))
    biology = draw_patient(UNSEEN_SEED, index, subset="study").biology
    tumour = place_tumour(UNSEEN_SEED, index, draw_tumour_plan(UNSEEN_SEED, index, biology), head)
    scan = plan_acquisitions(UNSEEN_SEED, index, voxel_mm=voxel_mm)[Sequence.T1C]
    with storage.local(keys.transform(Sequence.T1C, keys.space)) as path:
        to_scan = sitk.ReadTransform(str(path))
    return tumour.labels_on(head, mask, sitk.CompositeTransform([scan.to_head, to_scan]))


def array_of(image: sitk.Image) -> npt.NDArray[np.uint8]:
    values: npt.NDArray[np.uint8] = sitk.GetArrayFromImage(image).astype(np.uint8)
    return values


def surface_share(labels: npt.NDArray[np.uint8]) -> float | None:
    """Return the share of enhancing voxels with a face on something else; None without such."""
    enhancing = labels == Label.ENHANCING
    inner = ndimage.binary_erosion(enhancing)
    return 1 - float(inner.sum()) / float(enhancing.sum()) if enhancing.any() else None


def medians(found: list[Dice]) -> str:
    columns = ([d for one in found if (d := one[region]) is not None] for region in SHOWN)
    return " / ".join(f"{np.median(values):.3f}" for values in columns)


def row(storage: Storage, voxel_mm: float) -> str:
    """Return one voxel size's row of the table."""
    name = f"{voxel_mm:g}".replace(".", "")
    learnt = prepared(
        storage, f"learnt{name}", SimulateParameters(cases=1, segmentation_cases=LEARNT, voxel_mm=voxel_mm), seed=SEED
    )[:LEARNT]
    unseen = prepared(
        storage,
        f"unseen{name}",
        SimulateParameters(cases=UNSEEN, segmentation_cases=0, voxel_mm=voxel_mm),
        seed=UNSEEN_SEED,
    )

    def told(figures: EpochFigures, epochs: int) -> None:
        print(f"epoch {figures.epoch} of {epochs}: tuning Dice {figures.tuning_dice_mean:.3f}", flush=True)

    model, started = f"models/phantom{name}", time.process_time()
    train_segmentation(
        storage, learnt, parameters=PLANS[voxel_mm], seed=SEED, model=model, threads=THREADS, progress=told
    )
    seconds = time.process_time() - started
    perfect, moved, network, surface = [], [], [], []
    for index, case in enumerate(unseen):
        keys = CaseKeys(case)
        mask = read_volume(storage, keys.preprocessed_segmentation, pixel_type=sitk.sitkUInt8)
        values = array_of(mask)
        perfect.append(region_dice(array_of(perfect_labels(storage, keys, index, mask, voxel_mm)), values))
        half = carry_labels(mask, mask, sitk.TranslationTransform(3, [voxel_mm / 2] * 3))
        moved.append(region_dice(array_of(half), values))
        surface.append(surface_share(values))
        parameters = SegmentParameters(source="network", model=model, threads=THREADS)
        dice = segment_case(storage, SegmentRequest(case=case, parameters=parameters)).dice
        assert dice is not None
        network.append(dice)
        print(case, {str(region): dice[region] for region in SHOWN}, flush=True)
    share = np.median([s for s in surface if s is not None])
    enhancing = sum(one[Region.ET] is not None for one in network)
    return (
        f"| {voxel_mm:g} mm | {share:.0%} | {medians(moved)} | {medians(perfect)} | {medians(network)} | "
        f"{len(unseen)} ({enhancing}) | {seconds:.0f} s |"
    )


def lines(storage: Storage, sizes: list[float]) -> Iterator[str]:
    yield (
        f"Median Dice TC / WT / ET with the expert's mask of {UNSEEN} phantoms of a seed that no network saw; each "
        f"network learnt from {LEARNT} phantoms (recombination-unet-3d, width 16; PLANS says how). "
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start."
    )
    yield ""
    yield (
        "| voxel | ET voxels on its surface | the mask moved by half a voxel | a perfect reader | network | "
        "phantoms (with ET) | training, CPU |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for voxel_mm in sizes:
        yield row(storage, voxel_mm)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="write no page")
    parser.add_argument("--root", type=Path, help="folder that keeps phantoms and networks")
    parser.add_argument("--voxel-mm", type=float, nargs="+", choices=sorted(PLANS), default=[3.0, 2.0])
    options = parser.parse_args(arguments)
    with workplace(options.root) as storage, itk_threads(THREADS):
        found = list(lines(storage, options.voxel_mm))
    print("\n".join(found))
    if not options.dry:
        write_section(BENCHMARKS, "phantom-segmentation", found)


if __name__ == "__main__":
    main(sys.argv[1:])
