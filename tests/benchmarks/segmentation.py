"""Times segmentation beside MONAI's default sliding window, same weights, on a real case at 1 mm; and its memory."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from pipelines.datasets.nifti import import_nifti
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import prepare_case
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.inference import load_predictor, predict_probabilities, stack_channels
from services.segmentation.network import NetworkSpec, build_network
from services.segmentation.regions import region_dice
from services.segmentation.segment import segment_case
from services.segmentation.weights import load_network, save_network
from services.shared.cohort import CaseKeys
from services.shared.contracts import CaseRef
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_volume
from tests.benchmarks.page import BENCHMARKS, write_section

CASE = "mri_brats_cases/BraTS2021_00495"
MODEL = "models/segmentation"
THREADS = 2
WINDOW = (128, 128, 128)


@dataclass(frozen=True)
class Measured:
    """One way to segment the case: labels of the whole volume, seconds, and the process's peak memory."""

    labels: np.ndarray
    wall: float
    cpu: float
    peak_mb: int


def images_of(storage: Storage, keys: CaseKeys) -> tuple[dict, sitk.Image]:
    brain = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
    return {c: read_volume(storage, keys.preprocessed_image(c)) for c in NetworkSpec().channels}, brain


def settle(storage: Storage, keys: CaseKeys) -> None:
    """Write the default network with weights of one seed, its batch statistics those of this case."""
    torch.manual_seed(0)
    network = build_network(NetworkSpec()).train()
    inputs, _ = stack_channels(*images_of(storage, keys), NetworkSpec().channels)
    middle = tuple(slice(n // 2 - 32, n // 2 + 32) for n in inputs.shape[1:])
    with torch.no_grad():
        for _ in range(20):
            logits = network(torch.from_numpy(inputs[:, *middle])[None])
        network.head.bias -= logits.mean(dim=(0, 2, 3, 4))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.momentum = None
    save_network(storage, MODEL, NetworkSpec(), network.state_dict(), training={"seed": 0})


def monai_default(storage: Storage, keys: CaseKeys) -> Callable[[], np.ndarray]:
    """Whole volume, windows of 128³, half overlap, constant blending: ``sliding_window_inference`` as it comes."""
    from monai.inferers.utils import sliding_window_inference

    _, network = load_network(storage, MODEL)
    images, brain = images_of(storage, keys)
    inputs, box = stack_channels(images, brain, NetworkSpec().channels)
    whole = np.zeros((len(inputs), *brain.GetSize()[::-1]), dtype=np.float32)
    whole[(slice(None), *box)] = inputs

    def run() -> np.ndarray:
        with torch.inference_mode():
            logits = sliding_window_inference(torch.from_numpy(whole)[None], WINDOW, 1, network, overlap=0.5)
        return logits[0].argmax(dim=0).numpy().astype(np.uint8)

    return run


def ours(storage: Storage, keys: CaseKeys, memory_mb: int) -> Callable[[], np.ndarray]:
    """The brain's box, in one pass or in slabs."""
    predictor = load_predictor(storage, MODEL)
    images, brain = images_of(storage, keys)
    inputs, box = stack_channels(images, brain, NetworkSpec().channels)
    print("brain box", inputs.shape[1:], flush=True)

    def run() -> np.ndarray:
        found = predict_probabilities(predictor, inputs, memory_mb=memory_mb)
        labels = np.zeros(brain.GetSize()[::-1], dtype=np.uint8)
        labels[box] = found.probabilities.argmax(axis=0)
        return labels

    return run


def whole_case(storage: Storage, keys: CaseKeys) -> Callable[[], np.ndarray]:
    """All that the service does: reading, network, clean-up, writing."""
    load_predictor(storage, MODEL)
    parameters = SegmentParameters(source="network", threads=THREADS, memory_mb=2048)

    def run() -> np.ndarray:
        storage.remove(keys.segmentation_folder)
        segment_case(storage, SegmentRequest(case=keys.case, parameters=parameters))
        return sitk.GetArrayFromImage(read_volume(storage, keys.segmentation))

    return run


def measure(way: str, root: str, case: CaseRef, channel: multiprocessing.connection.Connection) -> None:
    storage, keys = Storage(Path(root)), CaseKeys(case)
    torch.set_num_threads(THREADS)
    run = {
        "monai": lambda: monai_default(storage, keys),
        "one pass": lambda: ours(storage, keys, 4096),
        "slabs": lambda: ours(storage, keys, 256),
        "case": lambda: whole_case(storage, keys),
    }[way]()
    found = []
    for _ in range(1 if way == "monai" else 3):
        wall, cpu = time.perf_counter(), time.process_time()
        labels = run()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    channel.send(Measured(labels, min(w for w, _ in found), min(c for _, c in found), peak))


def in_own_process(way: str, storage: Storage, case: CaseRef) -> Measured:
    """Measure in a process of its own, so that the peak of memory is that way's alone."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(way, str(storage.root), case, there))
    child.start()
    there.close()
    found: Measured = here.recv()
    child.join()
    print(f"{way}: {found.wall:.1f} s, {found.cpu:.1f} s of CPU, {found.peak_mb} MB", flush=True)
    return found


def main() -> None:
    source = settings().real_data / CASE
    if not source.is_dir():
        print(f"skipped: no {CASE} in the folder that GLIAFLOW_REAL_DATA names")
        return
    with TemporaryDirectory() as folder, itk_threads(1):
        storage = Storage(Path(folder))
        ((imported,), _) = import_nifti(storage, source, "brats")
        case, keys = imported.case, CaseKeys(imported.case)
        prepare_case(storage, case, PrepareParameters())
        settle(storage, keys)
        inside = sitk.GetArrayFromImage(read_volume(storage, keys.brain_mask)) > 0
        found = {way: in_own_process(way, storage, case) for way in ("one pass", "slabs", "case", "monai")}
    values = np.array(NetworkSpec().classes, dtype=np.uint8)
    reference = values[found["one pass"].labels] * inside

    def row(name: str, way: str) -> str:
        one = found[way]
        dice = region_dice(values[one.labels] * inside, reference) if way != "case" else {}
        least = min((value for value in dice.values() if value is not None), default=None)
        times = "" if way == "monai" else f"{found['monai'].cpu / one.cpu:.1f}×"
        agreement = "" if least is None or way == "one pass" else f"{least:.4f}"
        return f"| {name} | {one.wall:.1f} | {one.cpu:.1f} | {one.peak_mb / 1024:.1f} | {times} | {agreement} |"

    conditions = (
        f"BraTS2021_00495 at 1 mm, {os.cpu_count()} processors, {THREADS} threads, float32, load "
        f"{os.getloadavg()[0]:.1f} at the end: CPU counts all threads and says more than wall time. The default "
        "network (residual-unet-3d, width 16), weights of one seed, the same everywhere; Dice is the lowest of the "
        "four regions against one pass. Untrained weights are the hardest case: near-ties turn at the zero padding of "
        "MONAI's windows."
    )
    lines = [
        conditions,
        "",
        "| | wall, s | CPU, s | peak, GiB | MONAI's CPU ÷ this | Dice |",
        "| --- | --- | --- | --- | --- | --- |",
        row("MONAI sliding window, whole volume, 128³, overlap 0.5", "monai"),
        row("gliaflow, brain's box in one pass", "one pass"),
        row("gliaflow, in slabs (256 MB allowed)", "slabs"),
        row("gliaflow, a whole case: read, segment, clean up, write", "case"),
    ]
    print("\n".join(lines))
    if "--dry" not in sys.argv:
        write_section(BENCHMARKS, "segmentation", lines)


if __name__ == "__main__":
    from tests.benchmarks import segmentation  # a spawned process finds functions by the name of their module

    segmentation.main()
