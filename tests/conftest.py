"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.settings import Settings, quiet_libraries, settings
from services.shared.storage import Storage


def pytest_configure() -> None:
    """Give libraries their defaults before anything imports them."""
    os.environ.setdefault("PREFECT_HOME", str(Path(os.environ.get("TMPDIR", "/tmp")) / "gliaflow-test-prefect"))
    quiet_libraries()


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """An empty storage root that is also what the settings name."""
    root = tmp_path / "workspace"
    root.mkdir()
    monkeypatch.setenv("GLIAFLOW_STORAGE_ROOT", str(root))
    settings.cache_clear()
    yield Storage(root)
    settings.cache_clear()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data, or a skip that says what is missing."""
    folder = Settings().real_data.resolve()
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}: set GLIAFLOW_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect API with an empty database. Tests that use it carry the mark ``xdist_group("prefect")``."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
