"""Real work on phantom cases: ``preparing KILL`` prepares a cohort and reports seconds and a hash of the images.

With KILL 1 a worker is killed while it computes a case.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from pipelines.flows.prepare import prepare_cohort
from pipelines.runners import close_runners
from services.preprocessing.contracts import PrepareParameters
from services.shared.storage import open_storage
from tests.benchmarks.scale.child import WORKER, busy_seconds, children, hash_images, seconds

COHORT = "phantom"
WARM = "warm"
PARAMETERS = PrepareParameters(voxel_mm=3.0)
OUTPUTS = "derivatives/preprocessed"


def main(*, kill: bool) -> None:
    storage = open_storage()
    storage.remove(OUTPUTS)
    prepare_cohort(WARM, PARAMETERS)
    killed: list[int] = []

    def kill_one(done: int, total: int, label: str) -> None:
        if kill and not killed:
            busiest = max(children(WORKER), key=lambda process: process.cpu_percent(interval=0.2))
            busiest.kill()
            killed.append(busiest.pid)

    before, busy, started = seconds(), busy_seconds(), time.perf_counter()
    outcomes = prepare_cohort(COHORT, PARAMETERS, progress=kill_one)
    wall = time.perf_counter() - started
    spent, busy = seconds().since(before), busy_seconds() - busy
    close_runners()
    print(
        json.dumps(
            {
                "cases": len({outcome.case for outcome in outcomes}),
                "quarantined": sum(outcome.problem is not None for outcome in outcomes),
                "killed": len(killed),
                "wall": wall,
                "others": max(0.0, busy - spent.own - spent.server - spent.workers) / wall,
                "hash": hash_images(storage, f"{OUTPUTS}/{COHORT}"),
                **asdict(spent),
            }
        )
    )


if __name__ == "__main__":
    main(kill=sys.argv[1] == "1")
