"""A prepared case with a tumour that stands out, and untrained networks whose output is smooth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from services.segmentation.network import NetworkSpec, build_network
from services.segmentation.weights import NetworkCard, save_network
from services.shared.cohort import SEQUENCES, CaseKeys
from services.shared.contracts import CaseRef
from services.shared.storage import Storage
from services.shared.volume import write_volume

VOXEL_MM = 6.0
SHAPE = (20, 26, 22)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def volume(array: np.ndarray, spacing_mm: float = VOXEL_MM) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin([-60.0, -70.0, -55.0])
    return image


def anatomy(shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return a brain mask and labels 0, 1, 2, 4 of nested spheres in it."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    brain = sum(axis**2 for axis in axes) < 0.85
    radius = np.sqrt(sum((axis - 0.2) ** 2 for axis in axes))
    labels = np.select([radius < 0.15, radius < 0.3, radius < 0.5], [1, 4, 2], 0).astype(np.uint8) * brain
    return brain.astype(np.uint8), labels


MakeCase = Callable[..., CaseKeys]


@pytest.fixture
def make_case(storage: Storage) -> MakeCase:
    """Writes a prepared case and returns its keys."""

    def make(case_id: str = "a", *, expert: bool = True, spacing_mm: float = VOXEL_MM, seed: int = 0) -> CaseKeys:
        keys = CaseKeys(CaseRef(cohort="demo", id=case_id))
        brain, labels = anatomy(tuple(round(n * VOXEL_MM / spacing_mm) for n in SHAPE))
        rng = np.random.default_rng(seed)
        for index, sequence in enumerate(SEQUENCES):
            contrast = np.zeros(5, dtype=np.float32)
            contrast[[1, 2, 4]] = np.roll([3.0, 2.0, -2.0], index)
            values = (contrast[labels] + 0.3 * rng.standard_normal(labels.shape)) * brain
            write_volume(storage, keys.preprocessed_image(sequence), volume(values.astype(np.float32), spacing_mm))
        write_volume(storage, keys.brain_mask, volume(brain, spacing_mm))
        if expert:
            write_volume(storage, keys.preprocessed_segmentation, volume(labels, spacing_mm))
        return keys

    return make


MakeModel = Callable[..., NetworkCard]


@pytest.fixture
def make_model(storage: Storage) -> MakeModel:
    """Writes a network with random weights and returns its card."""

    def make(
        model: str = "models/segmentation", *, seed: int = 0, always: int | None = None, **spec: object
    ) -> NetworkCard:
        chosen = NetworkSpec.model_validate({"width": 4, "levels": 2, "voxel_mm": VOXEL_MM, **spec})
        torch.manual_seed(seed)
        network = build_network(chosen)
        if always is not None:
            with torch.no_grad():
                network.head.bias[always] += 1000
        return save_network(storage, model, chosen, network.state_dict(), training={"seed": seed})

    return make
