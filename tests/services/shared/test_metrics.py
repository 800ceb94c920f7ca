from __future__ import annotations

import subprocess
import sys

FIRST_COUNTS = """
import sys, threading
from services.shared.metrics import count_answer

sys.setswitchinterval(1e-6)
faults = []
gate = threading.Barrier(8)

def count():
    gate.wait()
    try:
        count_answer("segmentation", "segment", "computed")
    except Exception as error:
        faults.append(error)

threads = [threading.Thread(target=count) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not faults, faults
from prometheus_client import REGISTRY
labels = {"service_name": "segmentation", "endpoint": "segment", "outcome": "computed"}
assert REGISTRY.get_sample_value("gliaflow_answers_total", labels) == 8
"""


def test_threads_that_count_for_the_first_time_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_COUNTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
