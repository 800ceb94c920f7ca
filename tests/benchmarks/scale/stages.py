"""What a case costs at 1 mm, step by step: processor seconds, bytes, and requests to an object store.

``stages IMAGES`` reports as JSON. Storage is an object store in memory, whose calls are counted; what gathering
features needs of the case is left in the storage of the settings.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.datasets.nifti import import_nifti
from pipelines.training.segmentation import TrainParameters
from services.feature_store.contracts import ExtractParameters
from services.feature_store.radiomics import extract_case
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import prepare_case
from services.segmentation.contracts import DEFAULT_MODEL, SegmentParameters, SegmentRequest
from services.segmentation.inference import load_predictor
from services.segmentation.network import NetworkSpec, build_network
from services.segmentation.segment import segment_case
from services.shared.cohort import CaseKeys, participants_key
from services.shared.contracts import CaseRef
from services.shared.settings import settings
from services.shared.storage import Storage, open_storage
from services.shared.trained_network import save_network
from services.shared.volume import itk_threads
from tests.benchmarks.scale.counted import CountedStore

SEED = 1


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


def write_network(storage: Storage) -> None:
    """Write a network of the shape that ``gliaflow train`` makes, untrained: its weights cost what others do."""
    plan = TrainParameters()
    shape = {name: getattr(plan, name) for name in ("architecture", "width", "levels", "normalisation")}
    spec = NetworkSpec.model_validate(shape)
    torch.manual_seed(SEED)
    save_network(storage, DEFAULT_MODEL, spec, build_network(spec).state_dict(), training={"seed": SEED})


def main(images: Path) -> None:
    torch.set_num_threads(1)
    storage = Storage("memory://scale")
    with itk_threads(1):
        steps = [measure(storage, "import", lambda: import_nifti(storage, images, "brats"))]
        case = CaseRef(cohort="brats", id=storage.folders("raw/brats")[0].removeprefix("sub-"))
        steps.append(measure(storage, "prepare", lambda: prepare_case(storage, case, PrepareParameters())))
        write_network(storage)
        load_predictor(storage, DEFAULT_MODEL)
        by_network, by_expert = (
            SegmentRequest(case=case, parameters=SegmentParameters(source=source, threads=1))
            for source in ("network", "expert")
        )
        steps.append(measure(storage, "segment", lambda: segment_case(storage, by_network)))
        segment_case(storage, by_expert)  # features are of a tumour's shape, which an untrained network does not find
        steps.append(measure(storage, "extract", lambda: extract_case(storage, case, ExtractParameters())))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and settings().device != "cpu" else None
    keys, kept = CaseKeys(case), open_storage()
    for key in (participants_key(case.cohort), keys.features, keys.manifest("extract")):
        kept.write_bytes(key, storage.read_bytes(key))
    print(json.dumps({"cohort": case.cohort, "case": case.id, "steps": steps, "gpu": device}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
