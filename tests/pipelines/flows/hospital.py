"""A hospital's repository: a small study on tables, whose patients and parameters change and are committed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from pipelines.versioning.repository import Repository
from services.shared.settings import settings
from services.shared.storage import Storage

MODEL = "grading-home"
NOW = "2031-03-03T03:00:00"
FEATURES = tuple(f"T1c_TC_original_glcm_F{i}" for i in range(6))
PIPELINE = """\
stages:
  raw:
    cmd: python make_raw.py
    deps: [make_raw.py, source.csv]
    outs: [workspace/raw/home]
  grading:
    cmd: gliaflow study grading --cohort home
    deps: [workspace/raw/home]
    params: [seed, grading]
    outs:
      - workspace/models/registry/grading-home: {persist: true}
      - workspace/studies/home/grading
"""
PARAMETERS = """\
cohort: home
seed: 7
grading: {folds: 3, inner_folds: 3, permutations: 1, bootstraps: 20, held_out_share: 0.35}
retrain:
  model: grading-home
  min_new_cases: 10
  serving: {watch_s: 0.3, ready_s: 5.0, min_requests: 1}
"""
MAKE_RAW = """\
import pandas as pd

from pipelines.datasets.release import Release, write_release
from services.shared.storage import Storage

table = pd.read_csv("source.csv", dtype={"case_id": str}).set_index("case_id")
features = table[[name for name in table if name.startswith("T1c")]]
clinic = table.drop(columns=features.columns).reset_index()
clinic = clinic.assign(participant_id="sub-" + clinic.pop("case_id"))
release = Release("made", clinic, matrices={"features": features}, scale={"features": "made"})
write_release(Storage("workspace"), "home", release)
"""


def patients(count: int, *, seed: int = 1, shift: float = 0.0) -> pd.DataFrame:
    """Patients whose grade shows in two features; the same seed gives the same first patients."""
    rows = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        x = rng.normal(size=len(FEATURES))
        grade = 4 if x[0] + x[1] + rng.normal(0, 0.4) > 0 else 2
        rows.append(
            {
                "case_id": f"p{number:03d}",
                "source_id": f"p{number:03d}",
                "age_years": round(float(rng.uniform(25, 80)), 1),
                "sex": "FM"[int(rng.integers(2))],
                "grade": grade,
                **dict(zip(FEATURES, np.round(x + shift, 6), strict=True)),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Hospital:
    """A repository whose model was trained on the first patients."""

    root: Path

    @property
    def storage(self) -> Storage:
        return Storage(self.root / "workspace")

    @property
    def repository(self) -> Repository:
        return Repository.open(self.root)

    def write(self, name: str, text: str, *, commit: bool = True) -> None:
        (self.root / name).write_text(text)
        if commit:
            git(self.root, "commit", "--quiet", "--all", "--message", f"changed {name}")

    def admit(self, count: int, **options: float) -> None:
        """Bring more patients, and commit the table of them."""
        self.write("source.csv", patients(count, **options).to_csv(index=False))  # type: ignore[arg-type]

    def change_parameters(self, before: str, after: str) -> None:
        text = (self.root / "params.yaml").read_text()
        assert before in text
        self.write("params.yaml", text.replace(before, after))


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def enter(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    """Work in the hospital's repository."""
    monkeypatch.chdir(hospital.root)
    monkeypatch.setenv("GLIAFLOW_STORAGE_ROOT", str(hospital.root / "workspace"))
    settings.cache_clear()
    return hospital


def start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """Start a process with a group of its own."""
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def wait_until(condition: Callable[[], object], *, seconds: float) -> None:
    """Wait until a condition holds; what cannot be reached yet does not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (httpx.TransportError, OSError):
            pass
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.2)
