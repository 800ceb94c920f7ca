"""A synthetic head in four contrasts whose brain, tumour and poses are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk

from services.preprocessing.atlas import load_atlas
from services.preprocessing.contracts import PrepareParameters, PrepareResult
from services.preprocessing.registration import affine, compose
from services.preprocessing.steps import prepare_case
from services.shared.cohort import SEQUENCES, CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.storage import Storage
from services.shared.volume import itk_threads, write_volume

VOXEL_MM = 4.0
TUMOUR_MM = (30.0, 10.0, 25.0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    with itk_threads(1):
        yield


@dataclass(frozen=True)
class Head:
    """What a case was made of. ``to_head`` takes points of a sequence to points of the atlas."""

    images: dict[Sequence, sitk.Image]
    labels: sitk.Image
    to_head: dict[Sequence, sitk.Transform]


def pose(
    rotation: tuple[float, float, float], shift: tuple[float, float, float], *, scale: float = 1.0
) -> sitk.Transform:
    rigid = sitk.Euler3DTransform((0.0, 15.0, 5.0), *rotation, shift)
    return compose(affine(np.eye(3) * scale, (0, 0, 0), centre=(0.0, 15.0, 5.0)), rigid)


def make_head(
    *, seed: int = 0, spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.5), stripped: bool = False
) -> Head:
    """Return T1, T1c, T2 and FLAIR of the atlas's head, each in its own pose, with noise, shading and a tumour."""
    rng = np.random.default_rng(seed)
    atlas = load_atlas("icbm152", VOXEL_MM)
    t1 = sitk.GetArrayFromImage(atlas.head)
    inside = sitk.GetArrayFromImage(atlas.mask) > 0
    points = np.stack(np.meshgrid(*(np.arange(n) for n in atlas.mask.GetSize()), indexing="ij"), -1) * 2.0
    points = (points + np.array(atlas.mask.GetOrigin())).transpose(2, 1, 0, 3)
    radius = np.linalg.norm(points - TUMOUR_MM, axis=-1)
    labels = np.select([radius < 6, radius < 11, radius < 18], [1, 4, 2], 0) * inside
    tissue = t1 / np.percentile(t1[inside], 90)
    flipped = np.where(inside, 1.4 - tissue, 0.6 * tissue)
    values = {
        Sequence.T1: np.where(labels > 0, 0.45, tissue),
        Sequence.T1C: np.where(labels == 4, 1.6, np.where(labels > 0, 0.45, tissue**0.8)),
        Sequence.T2: np.where(labels > 0, 1.5, flipped),
        Sequence.FLAIR: np.where(labels > 0, 1.7, np.where(inside, 0.6 + 0.3 * flipped * (tissue > 0.3), 0.6 * tissue)),
    }
    base = pose((0.12, -0.06, 0.1), (4.0, -6.0, 8.0), scale=0.96)
    images, transforms = {}, {}
    for sequence in SEQUENCES:
        jitter = pose(tuple(rng.uniform(-0.05, 0.05, 3)), tuple(rng.uniform(-4, 4, 3)))
        to_head = base if sequence == Sequence.T1C else compose(base, jitter)
        grid = sitk.Image([int(216 / s) for s in spacing_mm], sitk.sitkFloat32)
        grid.SetSpacing(spacing_mm)
        grid.SetOrigin((-108.0, -95.0, -95.0))
        array = values[sequence] * inside if stripped else values[sequence]
        source = sitk.GetImageFromArray(array.astype(np.float32) * 400)
        source.CopyInformation(atlas.mask)
        signal = sitk.GetArrayFromImage(sitk.Resample(source, grid, to_head))
        shading = np.exp(0.3 * np.linspace(-1, 1, signal.shape[2]))[None, None, :]
        noise = np.hypot(rng.normal(0, 6, signal.shape), rng.normal(0, 6, signal.shape))
        noisy = signal * shading + noise
        if stripped:
            brain = sitk.Resample(sitk.Cast(atlas.mask, sitk.sitkFloat32), grid, to_head)
            noisy = np.where(sitk.GetArrayFromImage(brain) > 0.5, noisy + 1.0, 0.0)
        images[sequence] = sitk.GetImageFromArray(noisy.astype(np.float32))
        images[sequence].CopyInformation(grid)
        transforms[sequence] = to_head
    mask = sitk.GetImageFromArray(labels.astype(np.uint8))
    mask.CopyInformation(atlas.mask)
    t1c = images[Sequence.T1C]
    expert = sitk.Resample(mask, t1c, transforms[Sequence.T1C], sitk.sitkNearestNeighbor)
    return Head(images, expert, transforms)


def write_case(storage: Storage, head: Head, *, case_id: str = "a", expert: bool = True) -> CaseKeys:
    keys = CaseKeys(CaseRef(cohort="demo", id=case_id))
    for sequence, image in head.images.items():
        write_volume(storage, keys.raw_image(sequence), image)
    if expert:
        write_volume(storage, keys.raw_segmentation, head.labels)
    return keys


@pytest.fixture(scope="session")
def head() -> Head:
    return make_head()


@pytest.fixture(scope="session")
def stripped_head() -> Head:
    return make_head(stripped=True)


@pytest.fixture
def raw_case(storage: Storage, head: Head) -> CaseKeys:
    """A case that is imported and not prepared."""
    return write_case(storage, head)


@dataclass(frozen=True)
class Prepared:
    storage: Storage
    keys: CaseKeys
    result: PrepareResult
    head: Head

    def read(self, key: str) -> sitk.Image:
        return sitk.ReadImage(self.storage.url(key))

    def copied_to(self, storage: Storage) -> Storage:
        """Copy the case and what was made of it."""
        for key in self.storage.files("raw") + self.storage.files("derivatives"):
            storage.write_bytes(key, self.storage.read_bytes(key))
        return storage

    def array(self, key: str) -> np.ndarray:
        return sitk.GetArrayFromImage(self.read(key))


PARAMETERS = PrepareParameters(voxel_mm=VOXEL_MM)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Prepared:
    """The case after preparation."""
    storage = Storage(tmp_path_factory.mktemp("prepared"))
    keys = write_case(storage, head)
    return Prepared(storage, keys, prepare_case(storage, keys.case, PARAMETERS), head)


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare(storage: Storage) -> Prepare:
    """Writes and prepares a head."""

    def make(head: Head, **changes: object) -> Prepared:
        keys = write_case(storage, head)
        parameters = PARAMETERS.model_copy(update=changes)
        return Prepared(storage, keys, prepare_case(storage, keys.case, parameters), head)

    return make
