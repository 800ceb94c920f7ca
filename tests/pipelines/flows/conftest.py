"""A hospital's repository after its first training, and a Prefect server and worker of its own."""

from __future__ import annotations

import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.flows.retrain import retrain
from pipelines.versioning.repository import Repository
from services.shared.settings import settings
from tests.pipelines.flows.hospital import (
    MAKE_RAW,
    NOW,
    PARAMETERS,
    PIPELINE,
    Hospital,
    enter,
    git,
    patients,
    start,
    stop,
    wait_until,
)


@pytest.fixture(scope="session")
def trained_hospital(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """The repository after its first training, to be copied."""
    root = tmp_path_factory.mktemp("hospital") / "first" / "repository"
    (root / ".dvc").mkdir(parents=True)
    files = {
        ".dvc/config": "[core]\n    remote = beside\n['remote \"beside\"']\n    url = ../../kept\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/workspace/\n",
        "dvc.yaml": PIPELINE,
        "params.yaml": PARAMETERS,
        "make_raw.py": MAKE_RAW,
        "source.csv": patients(110).to_csv(index=False),
    }
    for name, text in files.items():
        (root / name).write_text(text)
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "config", "user.name", "Tester")
    git(root, "config", "user.email", "tester@example.org")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "site"))
        repository = Repository.open(root)
        repository.reproduce()
        repository.push()
        repository.commit("first version", ["dvc.lock"])
    return root.parent


@pytest.fixture
def hospital(trained_hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hospital]:
    """A copy of the repository with its remote, which is also the working folder and what the settings name."""
    shutil.copytree(trained_hospital, tmp_path / "copy", symlinks=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "copy" / "site"))
    yield enter(Hospital(tmp_path / "copy" / "repository"), monkeypatch)
    settings.cache_clear()


@pytest.fixture(scope="session")
def promoted_hospital(trained_hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """The repository after more patients came and a retraining that nothing disturbed; to be copied."""
    folder = tmp_path_factory.mktemp("promoted") / "copy"
    shutil.copytree(trained_hospital, folder, symlinks=True)
    found = Hospital(folder / "repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
        enter(found, patch)
        found.admit(160)
        retrain(trigger="test", now=NOW)
    settings.cache_clear()
    return found


@pytest.fixture
def promoted(promoted_hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hospital]:
    """A copy of the repository after its first promotion, in which the test works."""
    shutil.copytree(promoted_hospital.root.parent, tmp_path / "copy", symlinks=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "copy" / "site"))
    yield enter(Hospital(tmp_path / "copy" / "repository"), monkeypatch)
    settings.cache_clear()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Prefect server on loopback, which this process and those that it starts use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    patch = pytest.MonkeyPatch()
    patch.setenv("PREFECT_HOME", str(home))
    patch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{home}/prefect.db")
    server = start([sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)])
    try:
        wait_until(lambda: httpx.get(f"{url}/health", trust_env=False).is_success, seconds=300)
        patch.setenv("PREFECT_API_URL", url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        stop(server)
        patch.undo()


@pytest.fixture
def worker(prefect_api: str, hospital: Hospital) -> Iterator[str]:
    """A process work pool with a worker in the hospital's repository; the pool's name."""
    name = f"pool-{uuid.uuid4().hex[:8]}"
    made = httpx.post(
        f"{prefect_api}/work_pools/", json={"name": name, "type": "process"}, trust_env=False
    ).raise_for_status()
    assert made.json()["name"] == name
    process = start(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", name, "--type", "process"],
        PREFECT_WORKER_QUERY_SECONDS="1",
    )
    try:
        yield name
    finally:
        stop(process)
