"""What a case costs at 1 mm, step by step: processor seconds, bytes, and requests to an object store.

``stages IMAGES`` reports as JSON. Storage is an object store in memory, whose calls are counted.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.datasets.nifti import import_nifti
from services.feature_store.contracts import ExtractParameters, RegisterRequest
from services.feature_store.radiomics import extract_case
from services.feature_store.store import register_cohort
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import prepare_case
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.inference import load_predictor
from services.segmentation.segment import segment_case
from services.shared.cohort import CaseKeys, read_cohort, write_participants
from services.shared.contracts import CaseRef
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import itk_threads
from tests.benchmarks.segmentation import MODEL, settle

READS = frozenset({"exists", "isfile", "get_file"})
WRITES = frozenset({"put_file", "ls", "find", "rm"})
COPIES = (100, 400)


class CountedStore:
    """A file system that counts what would be requests, by the price class of an object store."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> object:
        if name in READS or name in WRITES:
            self.requests["reads" if name in READS else "writes"] += 1
        return getattr(self._inner, name)


def size_gb(storage: Storage) -> float:
    return sum(storage._fs.size(storage._path(key)) for key in all_files(storage)) / 1e9


def all_files(storage: Storage) -> list[str]:
    return [key for top in ("raw", "derivatives", "features") for key in storage.files(top)]


def measure(storage: Storage, name: str, compute: Callable[[], object]) -> dict[str, object]:
    """Return what one step took and wrote."""
    before = size_gb(storage)
    store = CountedStore(storage._fs)
    storage._fs = store
    wall, cpu = time.perf_counter(), time.process_time()
    compute()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    storage._fs = store._inner
    return {"step": name, "wall": wall, "cpu": cpu, "gb": size_gb(storage) - before, **store.requests}


def measure_register(storage: Storage, case: CaseRef) -> dict[str, float]:
    """Return seconds and memory that each further case costs when a cohort's features are gathered."""
    source = CaseKeys(case)
    row, manifest = storage.read_bytes(source.features), storage.read_bytes(source.manifest("extract"))
    table = read_cohort(storage, case.cohort).participants
    found = []
    store = CountedStore(storage._fs)
    for count in COPIES:
        cases = [CaseRef(cohort=f"copies{count}", id=f"{number:06d}") for number in range(count)]
        write_participants(
            storage,
            cases[0].cohort,
            table.iloc[[0] * count].assign(participant_id=[f"sub-{one.id}" for one in cases]),
        )
        for one in cases:
            storage.write_bytes(CaseKeys(one).features, row)
            storage.write_bytes(CaseKeys(one).manifest("extract"), manifest)
        storage._fs, store.requests, cpu = store, Counter(), time.process_time()
        register_cohort(storage, RegisterRequest(cohort=cases[0].cohort))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        found.append((time.process_time() - cpu, peak_mb, store.requests["reads"]))
        storage._fs = store._inner
    further = COPIES[1] - COPIES[0]
    cpu, mb, reads = ((more - less) / further for less, more in zip(*found, strict=True))
    return {"cpu": cpu, "mb": mb, "reads": reads}


def main(images: Path) -> None:
    torch.set_num_threads(1)
    storage = Storage("memory://scale")
    with itk_threads(1):
        steps = [measure(storage, "import", lambda: import_nifti(storage, images, "brats"))]
        case = CaseRef(cohort="brats", id=storage.folders("raw/brats")[0].removeprefix("sub-"))
        steps.append(measure(storage, "prepare", lambda: prepare_case(storage, case, PrepareParameters())))
        settle(storage, CaseKeys(case))
        load_predictor(storage, MODEL)
        network = SegmentRequest(case=case, parameters=SegmentParameters(source="network", threads=1))
        steps.append(measure(storage, "segment", lambda: segment_case(storage, network)))
        extracting = case
        steps.append(measure(storage, "extract", lambda: extract_case(storage, extracting, ExtractParameters())))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and settings().device != "cpu" else None
    print(json.dumps({"steps": steps, "register": measure_register(storage, case), "gpu": device}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
