"""Small synthetic cases in the storage layout: noise inside a head, a tumour of nested balls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import SimpleITK as sitk

from services.feature_store.contracts import ExtractParameters
from services.shared.cohort import CaseKeys, Label, Sequence, write_participants
from services.shared.contracts import CaseRef
from services.shared.storage import Storage
from services.shared.volume import write_volume


class Synthetic:
    """Volumes and segmentations made from numbers."""

    @staticmethod
    def image(
        array: npt.NDArray[np.generic], spacing_mm: float = 3.0, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> sitk.Image:
        """An image on a grid of cubic voxels."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([spacing_mm] * 3)
        image.SetOrigin(origin)
        return image

    @staticmethod
    def labels(
        size: int = 24, centre: tuple[float, float, float] = (12.5, 11.5, 10.5), scale: float = 1.0
    ) -> npt.NDArray[np.uint8]:
        """Necrotic core of radius 3 voxels (times scale), enhancing shell to 5, oedema to 7."""
        axes = np.indices((size, size, size))
        radius = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))) / scale
        return np.select([radius < 3, radius < 5, radius < 7], [1, 4, 2], 0).astype(np.uint8)

    @staticmethod
    def volume(labels: npt.NDArray[np.uint8], seed: int = 0) -> npt.NDArray[np.float32]:
        """Noise, brighter where the tumour enhances, darker in its core."""
        noise = np.random.default_rng(seed).normal(size=labels.shape)
        return (noise + 1.5 * (labels == Label.ENHANCING) - (labels == Label.NECROTIC_CORE)).astype(np.float32)


@pytest.fixture(scope="session")
def synthetic() -> type[Synthetic]:
    """Makers of volumes and segmentations."""
    return Synthetic


@pytest.fixture
def parameters() -> ExtractParameters:
    return ExtractParameters(sequences=("T1c", "FLAIR"), feature_classes=("shape", "firstorder", "glcm"))


@pytest.fixture(scope="session")
def write_case() -> Callable[..., CaseRef]:
    """Write a prepared and segmented case."""

    def write(
        storage: Storage,
        case_id: str,
        *,
        cohort: str = "demo",
        labels: npt.NDArray[np.uint8] | None = None,
        seed: int = 0,
    ) -> CaseRef:
        case = CaseRef(cohort=cohort, id=case_id)
        keys = CaseKeys(case)
        labels = Synthetic.labels() if labels is None else labels
        for offset, sequence in enumerate(Sequence):
            image = Synthetic.image(Synthetic.volume(labels, seed + offset))
            write_volume(storage, keys.preprocessed_image(sequence), image)
        write_volume(storage, keys.segmentation, Synthetic.image(labels))
        storage.write_text(f"{keys.raw}/README", "the images that this case was prepared from\n")
        return case

    return write


@pytest.fixture(scope="session")
def write_clinical() -> Callable[..., None]:
    """Write a cohort's table of participants."""

    def write(storage: Storage, rows: list[dict[str, object]], *, cohort: str = "demo") -> None:
        write_participants(storage, cohort, pd.DataFrame(rows))

    return write
