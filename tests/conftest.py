"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from services.shared.contracts import CaseRef
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


@pytest.fixture
def write_imaging_case(storage: Storage) -> Callable[..., CaseRef]:
    """What writes a small prepared and segmented case, whose core is brighter on T1c by ``bright``."""
    import SimpleITK as sitk

    from services.shared.cohort import SEQUENCES, CaseKeys, Sequence
    from services.shared.volume import write_volume

    shape = (20, 24, 22)  # z, y, x

    def volume(values: np.ndarray) -> sitk.Image:
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((8.0, 8.0, 8.0))
        return image

    def write(number: int, *, bright: float = 0.0, tumour: bool = True) -> CaseRef:
        rng = np.random.default_rng(number)
        case = CaseRef(cohort="demo", id=f"p{number:03d}")
        keys = CaseKeys(case)
        brain = np.zeros(shape, np.uint8)
        brain[2:18, 2:22, 2:20] = 1
        labels = np.zeros(shape, np.uint8)
        z, y, x = (int(start) for start in rng.integers(4, 8, 3))
        if tumour:
            labels[z : z + 7, y : y + 8, x : x + 7] = 2
            labels[z + 2 : z + 5, y + 2 : y + 6, x + 2 : x + 5] = 4
        for sequence in SEQUENCES:
            values = rng.normal(100, 10, shape) * brain
            values[labels > 0] += 15
            values[labels == 4] += bright * (sequence is Sequence.T1C)
            write_volume(storage, keys.preprocessed_image(sequence), volume(values.astype(np.float32)))
        write_volume(storage, keys.brain_mask, volume(brain))
        write_volume(storage, keys.segmentation, volume(labels))
        return case

    return write
