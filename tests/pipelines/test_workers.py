from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.workers import WorkerLanes
from services.shared.errors import Unavailable

PARENT = """
import os, time
from pipelines.workers import start_workers
if __name__ == "__main__":
    pool = start_workers(1)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_workers_end_with_a_killed_parent(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the worker lives on")


def wait_for(path: Path) -> int:
    path.with_suffix(".pid").write_text(str(os.getpid()))
    while not path.exists():
        time.sleep(0.01)
    return os.getpid()


def test_killed_worker_takes_no_other_call_with_it(tmp_path: Path) -> None:
    lanes = WorkerLanes(2)
    with ThreadPoolExecutor(2) as threads:
        killed, spared = (threads.submit(lanes.call, wait_for, tmp_path / name) for name in ("killed", "spared"))
        while not all((tmp_path / f"{name}.pid").exists() for name in ("killed", "spared")):
            assert not killed.done() or killed.result()
            time.sleep(0.01)
        os.kill(int((tmp_path / "killed.pid").read_text()), signal.SIGKILL)
        with pytest.raises(Unavailable, match="ended from outside"):
            killed.result()
        (tmp_path / "spared").touch()
        assert spared.result() == int((tmp_path / "spared.pid").read_text())
        assert threads.submit(lanes.call, os.getpid).result() != int((tmp_path / "killed.pid").read_text())
    lanes.close()
