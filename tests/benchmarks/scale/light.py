"""Light cases: what the fan-out itself costs a case, in time and in memory. ``light NAME COUNT`` reports as JSON."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import numpy as np
import pandas as pd
import SimpleITK as sitk

from pipelines.flows.segment import segment_cohort
from pipelines.runners import call_service, close_runners
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.shared.cohort import SEQUENCES, CaseKeys, write_participants
from services.shared.contracts import CaseRef
from services.shared.storage import Storage, open_storage
from services.shared.volume import write_volume
from tests.benchmarks.scale.child import resident_mb, seconds

SIZE = 12
EXPERT = SegmentParameters(source="expert")
DIRECT = 100


def write_cohort(storage: Storage, name: str, count: int) -> list[CaseRef]:
    """Write prepared cases of a few voxels with an expert's mask; all are the same bytes."""
    cases = [CaseRef(cohort=name, id=f"{number:06d}") for number in range(count)]
    first = CaseKeys(cases[0])
    values = np.ones((SIZE, SIZE, SIZE), np.float32)
    mask = np.zeros(values.shape, np.uint8)
    mask[2:8, 2:8, 2:8] = 4
    for sequence in SEQUENCES:
        write_volume(storage, first.preprocessed_image(sequence), sitk.GetImageFromArray(values))
    write_volume(storage, first.brain_mask, sitk.GetImageFromArray(np.ones(values.shape, np.uint8)))
    write_volume(storage, first.preprocessed_segmentation, sitk.GetImageFromArray(mask))
    contents = {
        key: storage.read_bytes(key) for key in storage.files(f"derivatives/preprocessed/{name}/sub-{cases[0].id}")
    }
    for case in cases:
        storage.write_text(CaseKeys(case).raw_image(SEQUENCES[0]), "")
        for key, content in contents.items():
            storage.write_bytes(key.replace(f"sub-{cases[0].id}", f"sub-{case.id}"), content)
    write_participants(storage, name, pd.DataFrame({"participant_id": [f"sub-{case.id}" for case in cases]}))
    return cases


def time_direct(storage: Storage) -> float:
    """Return the seconds that the service takes for one such case, called in this process."""
    cases = write_cohort(storage, "direct", DIRECT + 1)
    started = 0.0
    for number, case in enumerate(cases):
        if number == 1:  # the first call loads the service
            started = time.perf_counter()
        call_service("segmentation", "segment", SegmentRequest(case=case, parameters=EXPERT))
    return (time.perf_counter() - started) / DIRECT


def main(count: int) -> None:
    storage = open_storage()
    write_cohort(storage, "warm", 4)
    write_cohort(storage, "light", count)
    direct = time_direct(storage)
    segment_cohort("warm", EXPERT)
    halfway: list[float] = []

    def look(done: int, total: int, label: str) -> None:
        if done == total // 2:
            halfway.append(resident_mb())

    memory, before, started = resident_mb(), seconds(), time.perf_counter()
    outcomes = segment_cohort("light", EXPERT, progress=look)
    wall = time.perf_counter() - started
    spent = seconds().since(before)
    after = resident_mb()
    assert all(outcome.problem is None for outcome in outcomes)
    close_runners()
    grown = {"memory": memory, "grown": after - memory, "grown_late": after - halfway[0]}
    print(json.dumps({"wall": wall, "direct": direct, **grown, **asdict(spent)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
