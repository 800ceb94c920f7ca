"""Gathering features: ``gathering COHORT CASE COUNT`` registers so many copies of a case and reports as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time

import pandas as pd

from services.feature_store.contracts import RegisterRequest
from services.feature_store.store import register_cohort
from services.shared.cohort import CaseKeys, participants_key, write_participants
from services.shared.contracts import CaseRef
from services.shared.storage import Storage, open_storage
from tests.benchmarks.scale.child import resident_mb
from tests.benchmarks.scale.counted import CountedStore

WARM = 2


def write_copies(storage: Storage, name: str, source: Storage, case: CaseRef, count: int) -> None:
    """Write a cohort whose cases all have one case's features."""
    copies = [CaseRef(cohort=name, id=f"{number:06d}") for number in range(count)]
    with source.local(participants_key(case.cohort)) as path:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    rows = table.iloc[[0] * count].assign(participant_id=[f"sub-{copy.id}" for copy in copies])
    write_participants(storage, name, rows)
    own = CaseKeys(case)
    for copy in copies:
        keys = CaseKeys(copy)
        storage.write_bytes(keys.features, source.read_bytes(own.features))
        storage.write_bytes(keys.manifest("extract"), source.read_bytes(own.manifest("extract")))


def main(case: CaseRef, count: int) -> None:
    storage = Storage("memory://gathering")
    for name, copies in (("warm", WARM), ("copies", count)):
        write_copies(storage, name, open_storage(), case, copies)
    register_cohort(storage, RegisterRequest(cohort="warm"))  # what it imports is no case's memory
    store = CountedStore(storage._fs)
    storage._fs = store
    memory, cpu = resident_mb(), time.process_time()
    register_cohort(storage, RegisterRequest(cohort="copies"))
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"cases": count, "cpu": cpu, "mb": peak - memory, "reads": store.requests["reads"]}))


if __name__ == "__main__":
    main(CaseRef(cohort=sys.argv[1], id=sys.argv[2]), int(sys.argv[3]))
