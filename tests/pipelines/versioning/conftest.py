"""Real git and real DVC in temporary folders, with a pipeline whose stages are one line each."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.versioning.repository import Repository
from services.shared.settings import settings

PIPELINE = """\
stages:
  make:
    cmd: mkdir -p workspace/raw/hospital && cp source/* workspace/raw/hospital/
    deps: [source]
    outs: [workspace/raw/hospital]
  count:
    cmd: mkdir -p workspace/features && cat workspace/raw/hospital/* | wc -c > workspace/features/bytes.txt
    deps: [workspace/raw/hospital]
    params: [count.unit]
    outs: [workspace/features/bytes.txt]
  other:
    cmd: cp other.txt workspace/other.txt
    deps: [other.txt]
    outs: [workspace/other.txt]
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start(folder: Path, files: dict[str, str]) -> Repository:
    """A new repository with a remote folder beside it."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = beside\n['remote \"beside\"']\n    url = ../../kept\n"
    )
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / ".gitignore").write_text("/workspace/\n")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "user.name", "Tester")
    git(folder, "config", "user.email", "tester@example.org")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "start")
    return Repository.open(folder)


@pytest.fixture(autouse=True)
def own_site_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DVC's indexes of these repositories stand apart, and no setting of the machine names a remote."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
    monkeypatch.delenv("GLIAFLOW_DVC_REMOTE", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(scope="module")
def shared_server(prefect_server: None) -> Iterator[None]:
    """Stages find the Prefect server of the tests, so that none of them starts its own."""
    from prefect.settings import PREFECT_API_URL

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that has run its stages once and committed the result."""
    files = {
        "dvc.yaml": PIPELINE,
        "params.yaml": "count: {unit: byte}\n",
        "source/a.txt": "one\n",
        "source/b.txt": "two, which is longer\n",
        "other.txt": "other\n",
    }
    made = start(tmp_path_factory.mktemp("template") / "first", files)
    made.reproduce()
    made.commit("first version", ["dvc.lock"])
    return made.root


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Repository:
    """A copy of the repository that one test may change."""
    shutil.copytree(template, tmp_path / "first", symlinks=True)
    return Repository.open(tmp_path / "first")


@pytest.fixture
def clone(tmp_path: Path) -> Callable[[Repository], Repository]:
    """What clones a repository beside it: git's part, without any data."""

    def make(repository: Repository) -> Repository:
        folder = tmp_path / f"clone{len(list(tmp_path.glob('clone*')))}"
        git(tmp_path, "clone", "--quiet", str(repository.root), str(folder))
        git(folder, "config", "user.name", "Tester")
        git(folder, "config", "user.email", "tester@example.org")
        return Repository.open(folder)

    return make
