"""Measure in a process of its own: its memory is that measurement's alone, and settings are read afresh."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.shared.storage import Storage

SERVER = "prefect.server"
WORKER = "spawn_main"


@dataclass(frozen=True)
class Seconds:
    """Processor seconds so far: this process, its Prefect server, its workers."""

    own: float
    server: float
    workers: float

    def since(self, before: Seconds) -> Seconds:
        return Seconds(self.own - before.own, self.server - before.server, self.workers - before.workers)


def seconds() -> Seconds:
    own = psutil.Process().cpu_times()
    server, workers = (sum(sum(process.cpu_times()[:2]) for process in children(word)) for word in (SERVER, WORKER))
    return Seconds(own.user + own.system, server, workers)


def busy_seconds() -> float:
    """Processor seconds of everything that runs on this machine."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def children(word: str) -> list[psutil.Process]:
    """Return the processes below this one whose command line holds a word."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any(word in part for part in process.cmdline())
    ]


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def hash_images(storage: Storage, prefix: str) -> str:
    """Return one hash of all images below a prefix."""
    digest = hashlib.sha256()
    for key in storage.files(prefix, ".nii.gz"):
        digest.update(f"{key} {storage.sha256(key)}\n".encode())
    return digest.hexdigest()


def run(module: str, root: Path, *words: object, **variables: object) -> dict:
    """Run a module of this package on a storage root with settings of its own, and return what it reports."""
    environment = {
        **os.environ,
        "GLIAFLOW_STORAGE_ROOT": str(root),
        "PREFECT_HOME": str(root.parent / "prefect"),
        **{f"GLIAFLOW_{name.upper()}": str(value) for name, value in variables.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.scale.{module}", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(module, *words, variables, {name: value for name, value in found.items() if name != "hash"}, flush=True)
    return found
