"""Times segmentation at 1 mm beside MONAI's default sliding window: both networks, trained weights, the same for both.

The networks are trained here on phantoms whose scans of 3 mm were prepared to 1 mm; what is measured is a phantom that
they never saw, and BraTS2021_00495 where it is. ``--root FOLDER`` keeps what was made, so that a second run is shorter.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from pipelines.datasets.nifti import import_nifti
from pipelines.simulate import SimulateParameters, simulate_cohort
from pipelines.training.segmentation import EpochFigures, TrainParameters, train_segmentation
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import prepare_case
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.inference import load_predictor, predict_probabilities, stack_channels
from services.segmentation.network import CLASSES
from services.segmentation.regions import region_dice
from services.segmentation.segment import segment_case
from services.segmentation.weights import load_network
from services.shared.cohort import CaseKeys, Region, Sequence, participants_key, read_cohort
from services.shared.contracts import CaseRef
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_volume
from tests.benchmarks.page import BENCHMARKS, write_section
from tests.benchmarks.segmentation_gpu import gpu_lines

REAL = "mri_brats_cases/BraTS2021_00495"
SEED = 20240601
THREADS = 2
WINDOW = (128, 128, 128)
SHORT_MB = 256
PHANTOMS = SimulateParameters(cases=1, segmentation_cases=6, voxel_mm=3.0)
_SHARED = {"crops_per_case": 8, "patch_voxels": 64, "schedule": "cosine"}
PLANS = {
    "residual-unet-3d": TrainParameters(architecture="residual-unet-3d", levels=3, epochs=8, **_SHARED),
    "recombination-unet-3d": TrainParameters(architecture="recombination-unet-3d", levels=4, epochs=8, **_SHARED),
}
LIMITS_S_GIB = (8, 4)

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Measured:
    """One way to segment a case: labels of the whole volume, seconds, and the process's peak memory."""

    labels: Labels
    wall: float
    cpu: float
    peak_mb: int


def model_of(architecture: str) -> str:
    return f"models/{architecture}"


def prepare_phantoms(storage: Storage) -> tuple[list[CaseRef], CaseRef]:
    """Return phantoms to train on and one that no network sees."""
    if not storage.exists("raw/speed/participants.tsv"):
        simulate_cohort(storage, "speed", parameters=PHANTOMS, seed=SEED)
    cases = [CaseRef(cohort="speed", id=f"phantom{n:04d}") for n in range(1, PHANTOMS.total + 1)]
    for case in cases:
        prepare_case(storage, case, PrepareParameters(voxel_mm=1.0))
        print("prepared", case, flush=True)
    return cases[:-1], cases[-1]


def prepare_real(storage: Storage) -> CaseRef | None:
    source = settings().real_data / REAL
    if not source.is_dir():
        print(f"no {REAL} in the folder that GLIAFLOW_REAL_DATA names: measured on the phantom alone")
        return None
    if not storage.exists(participants_key("brats")):
        import_nifti(storage, source, "brats")
    (case,) = read_cohort(storage, "brats").cases
    prepare_case(storage, case, PrepareParameters())
    return case


def train(storage: Storage, cases: list[CaseRef], architectures: list[str]) -> None:
    def told(figures: EpochFigures, epochs: int) -> None:
        print(f"epoch {figures.epoch} of {epochs}: tuning Dice {figures.tuning_dice_mean:.3f}", flush=True)

    for architecture in architectures:
        train_segmentation(
            storage,
            cases,
            parameters=PLANS[architecture],
            seed=SEED,
            model=model_of(architecture),
            threads=THREADS,
            progress=told,
        )


def inputs_of(storage: Storage, keys: CaseKeys) -> tuple[npt.NDArray[np.float32], tuple[slice, ...], sitk.Image]:
    """Return what networks read of a case inside its brain's box, that box, and the brain mask."""
    brain = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
    images = {c: read_volume(storage, keys.preprocessed_image(c)) for c in Sequence}
    return *stack_channels(images, brain, tuple(Sequence)), brain


def sliding_window(storage: Storage, keys: CaseKeys, model: str) -> Callable[[], Labels]:
    """Whole volume, windows of 128³, half overlap, constant blending: ``sliding_window_inference`` as it comes."""
    from monai.inferers.utils import sliding_window_inference

    _, network = load_network(storage, model)
    inputs, box, brain = inputs_of(storage, keys)
    whole = np.zeros((len(inputs), *brain.GetSize()[::-1]), dtype=np.float32)
    whole[(slice(None), *box)] = inputs

    def run() -> Labels:
        with torch.inference_mode():
            logits = sliding_window_inference(torch.from_numpy(whole)[None], WINDOW, 1, network, overlap=0.5)
        return logits[0].argmax(dim=0).numpy().astype(np.uint8)

    return run


def brain_box(storage: Storage, keys: CaseKeys, model: str, *, memory_mb: int) -> Callable[[], Labels]:
    """The brain's box, in one pass or part by part."""
    predictor = load_predictor(storage, model)
    inputs, box, brain = inputs_of(storage, keys)

    def run() -> Labels:
        found = predict_probabilities(predictor, inputs, memory_mb=memory_mb)
        labels = np.zeros(brain.GetSize()[::-1], dtype=np.uint8)
        labels[box] = found.probabilities.argmax(axis=0)
        return labels

    return run


def whole_case(storage: Storage, keys: CaseKeys, model: str) -> Callable[[], Labels]:
    """All that the service does: reading, network, clean-up, writing."""
    load_predictor(storage, model)
    parameters = SegmentParameters(source="network", model=model, threads=THREADS, memory_mb=4096)

    def run() -> Labels:
        storage.remove(keys.segmentation_folder)
        segment_case(storage, SegmentRequest(case=keys.case, parameters=parameters))
        labels = sitk.GetArrayFromImage(read_volume(storage, keys.segmentation, pixel_type=sitk.sitkUInt8))
        return np.searchsorted(np.array(CLASSES), labels).astype(np.uint8)

    return run


WAYS: dict[str, Callable[[Storage, CaseKeys, str], Callable[[], Labels]]] = {
    "MONAI sliding window, whole volume, 128³, overlap 0.5": sliding_window,
    "gliaflow, brain's box in one pass": lambda *a: brain_box(*a, memory_mb=8192),
    f"gliaflow, part by part ({SHORT_MB} MB allowed)": lambda *a: brain_box(*a, memory_mb=SHORT_MB),
    "gliaflow, a whole case: read, segment, clean up, write": whole_case,
}
MONAI, ONE_PASS, PARTS, CASE = WAYS


def measure(way: str, root: str, case: CaseRef, model: str, channel: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(THREADS)
    run = WAYS[way](Storage(Path(root)), CaseKeys(case), model)
    found = []
    for _ in range(1 if way == MONAI else 3):
        wall, cpu = time.perf_counter(), time.process_time()
        labels = run()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    channel.send(Measured(labels, min(w for w, _ in found), min(c for _, c in found), peak_mb()))


def peak_mb() -> int:
    """Return this process's peak memory; getrusage's would be no less than that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10


def in_own_process(way: str, storage: Storage, case: CaseRef, architecture: str) -> Measured:
    """Measure in a process of its own, so that the peak of memory is that way's alone."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(way, str(storage.root), case, model_of(architecture), there))
    child.start()
    there.close()
    found: Measured = here.recv()
    child.join()
    print(
        f"{architecture}, {case}, {way}: {found.wall:.1f} s, {found.cpu:.1f} s of CPU, {found.peak_mb} MB", flush=True
    )
    return found


def rows(storage: Storage, case: CaseRef, architecture: str) -> Iterator[str]:
    """Yield one network's rows of the table for one case."""
    keys, values = CaseKeys(case), np.array(CLASSES, dtype=np.uint8)
    inside = sitk.GetArrayFromImage(read_volume(storage, keys.brain_mask)) > 0
    mask = sitk.GetArrayFromImage(read_volume(storage, keys.preprocessed_segmentation, pixel_type=sitk.sitkUInt8))
    found = {way: in_own_process(way, storage, case, architecture) for way in WAYS}
    labels = {way: values[one.labels] * inside for way, one in found.items()}
    for way, one in found.items():
        true = region_dice(labels[way], mask)
        same = [d for d in region_dice(labels[way], labels[ONE_PASS]).values() if d is not None]
        times = "" if way == MONAI else f"{found[MONAI].cpu / one.cpu:.1f}×"
        true_dice = " / ".join("–" if (d := true[r]) is None else f"{d:.3f}" for r in (Region.TC, Region.WT, Region.ET))
        yield (
            f"| {way} | {one.wall:.1f} | {one.cpu:.1f} | {one.peak_mb / 1024:.1f} | {times} | {true_dice} | "
            f"{'' if way in (ONE_PASS, CASE) else f'{min(same, default=1.0):.4f}'} |"
        )


@contextmanager
def workplace(folder: Path | None) -> Iterator[Storage]:
    """Yield storage that stays where a folder is named, and else goes."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield Storage(folder)
        return
    with TemporaryDirectory() as scratch:
        yield Storage(Path(scratch))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="write no page")
    parser.add_argument("--root", type=Path, help="folder that keeps phantoms and networks")
    parser.add_argument("--network", nargs="+", choices=list(PLANS), default=list(PLANS), help="networks to measure")
    options = parser.parse_args(arguments)
    with workplace(options.root) as storage, itk_threads(THREADS):
        cases, unseen = prepare_phantoms(storage)
        train(storage, cases, options.network)
        measured = [("a phantom that it never saw", unseen)]
        if (real := prepare_real(storage)) is not None:
            measured.append(("BraTS2021_00495, which a network of phantoms does not know", real))
        lines = [
            (
                f"Volumes at 1 mm, {os.cpu_count()} processors, {THREADS} threads, float32, load "
                "{load}: CPU counts all threads and says more than wall time. Networks have width 16 and were "
                f"trained by this command on {len(cases)} phantoms (PLANS says how); every way reads the same weights. "
                f"Goals: a case in {LIMITS_S_GIB[0]} s and {LIMITS_S_GIB[1]} GiB with the fast network, both 4 "
                "times faster than MONAI's window with equal Dice. Dice: TC / WT / ET with the mask; last column: the "
                "lowest Dice of the four regions with one pass."
            ),
            "",
        ]
        for architecture in options.network:
            for name, case in measured:
                lines += [
                    f"{architecture}, {name}:",
                    "",
                    "| | wall, s | CPU, s | peak, GiB | MONAI's CPU ÷ this | Dice with the mask | Dice with one pass |",
                    "| --- | --- | --- | --- | --- | --- | --- |",
                    *rows(storage, case, architecture),
                    "",
                ]
        inputs, _, brain = inputs_of(storage, CaseKeys(unseen))
        lines += gpu_lines(
            storage, [model_of(architecture) for architecture in options.network], inputs, brain.GetSize()[::-1]
        )
    lines[0] = lines[0].format(load=f"{os.getloadavg()[0]:.1f} at the end")
    print("\n".join(lines))
    if not options.dry:
        write_section(BENCHMARKS, "segmentation", lines)


if __name__ == "__main__":
    from tests.benchmarks import segmentation  # a spawned process finds functions by the name of their module

    segmentation.main(sys.argv[1:])
