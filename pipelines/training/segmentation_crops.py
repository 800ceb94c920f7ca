"""What a segmentation network sees of its cases: crops read from disk, mirrored and varied at random.

A crop follows from (seed, epoch, number) alone: neither a training that was killed nor how many processes make crops
changes it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandFlipd
from torch.utils.data import Dataset

from pipelines.modelling.validation import derive_seed
from pipelines.training.segmentation_cases import PreparedCase
from services.segmentation.network import NetworkSpec

_TUMOUR_SHARE = (
    2 / 3
)  # of crops are centred on tumour; rare labels drawn as often as others are found where they are not
_EVERYTHING = ("inputs", "brain", "classes")

Arrays = dict[str, npt.NDArray[np.generic]]
Kind = TypeVar("Kind", bound=np.generic)


class CaseStore:
    """Prepared cases in one folder of plain arrays that are read where they are looked at.

    Memory does not grow with the number of cases.
    """

    def __init__(self) -> None:
        self._cases: list[PreparedCase] = []
        self._places: list[tuple[npt.NDArray[np.int32], ...]] = []
        self._folder: Path | None = None

    def __enter__(self) -> CaseStore:
        self._folder = Path(tempfile.mkdtemp(prefix="gliaflow-cases-"))
        return self

    def __exit__(self, *_: object) -> None:
        self._cases.clear()
        self._places.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, case: PreparedCase) -> None:
        """Add a case."""
        number, tumour = len(self._cases), case.classes > 0
        places = [np.flatnonzero(where & case.brain).astype(np.int32) for where in (~tumour, tumour)]
        self._cases.append(
            PreparedCase(
                case.case,
                self._kept(f"{number}-inputs", case.inputs),
                self._kept(f"{number}-brain", case.brain),
                self._kept(f"{number}-classes", case.classes),
            )
        )
        self._places.append(tuple(self._kept(f"{number}-places-{i}", found) for i, found in enumerate(places)))

    def _kept(self, name: str, array: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
        if self._folder is None:
            raise RuntimeError("the store is not open")
        path = self._folder / f"{name}.npy"
        np.save(path, array, allow_pickle=False)
        kept: npt.NDArray[Kind] = np.load(path, mmap_mode="r", allow_pickle=False)
        return kept

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> PreparedCase:
        return self._cases[index]

    def draw_centre(self, index: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Return a voxel of a case's brain: two times of three of its tumour, wherever that is."""
        background, tumour = self._places[index]
        chosen = tumour if len(tumour) and rng.random() < _TUMOUR_SHARE else background
        place = int(chosen[int(rng.integers(len(chosen)))])
        return tuple(int(n) for n in np.unravel_index(place, self._cases[index].brain.shape))


class TrainingCrops(Dataset[dict[str, torch.Tensor]]):
    """Crops of one epoch: mirrored, brighter or darker, noisier, of another contrast; zero outside the brain.

    Parameters
    ----------
    patch_voxels
        Longest side of a crop; a smaller case comes whole. All crops are padded to one size.
    crops_per_case
        How many crops each case gives.
    drop_sequence
        Share of crops that lose one sequence or more, never all; what is lost is 0, as it is to the service.
    """

    def __init__(
        self,
        store: CaseStore,
        spec: NetworkSpec,
        *,
        patch_voxels: int,
        seed: int,
        epoch: int,
        crops_per_case: int = 1,
        drop_sequence: float = 0.0,
    ) -> None:
        self._store, self._patch_voxels, self._drop_sequence = store, patch_voxels, drop_sequence
        self._seed, self._epoch, self._crops_per_case = seed, epoch, crops_per_case
        largest = [max(store[i].brain.shape[axis] for i in range(len(store))) for axis in range(3)]
        self._size = [-(-min(n, patch_voxels) // spec.multiple) * spec.multiple for n in largest]
        self._vary = Compose(
            [
                *(RandFlipd(_EVERYTHING, prob=0.5, spatial_axis=axis) for axis in range(3)),
                RandScaleIntensityd("inputs", factors=0.15, prob=0.8, channel_wise=True),
                RandShiftIntensityd("inputs", offsets=0.15, prob=0.8),
                RandAdjustContrastd("inputs", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
                RandGaussianNoised("inputs", prob=0.3, std=0.1),
            ]
        )

    def __len__(self) -> int:
        return len(self._store) * self._crops_per_case

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        seed = derive_seed(self._seed, self._epoch, index)
        rng = np.random.default_rng(seed)
        self._vary.set_random_state(seed)
        crop = self._vary(self._cut(index % len(self._store), rng))
        inputs = torch.as_tensor(crop["inputs"]) * torch.as_tensor(crop["brain"])
        if self._drop_sequence:
            inputs = inputs * _kept_channels(len(inputs), self._drop_sequence, rng).to(inputs)
        classes = torch.as_tensor(crop["classes"]).as_subclass(torch.Tensor)
        return {"inputs": inputs.as_subclass(torch.Tensor), "classes": classes.long()}

    def _cut(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return a crop around a voxel of the brain, padded with zeros (channels × z × y × x)."""
        case = self._store[index]
        window = []
        for centre, n in zip(self._store.draw_centre(index, rng), case.brain.shape, strict=True):
            side = min(n, self._patch_voxels)
            start = min(max(centre - side // 2, 0), n - side)
            window.append(slice(start, start + side))
        found: Arrays = {
            "inputs": case.inputs[(slice(None), *window)],
            "brain": case.brain[tuple(window)][None].astype(np.float32),
            "classes": case.classes[tuple(window)][None],
        }
        lacking = [want - (part.stop - part.start) for want, part in zip(self._size, window, strict=True)]
        padding = [(0, 0), *((n // 2, n - n // 2) for n in lacking)]
        return {name: torch.from_numpy(np.pad(values, padding)) for name, values in found.items()}


def _kept_channels(channels: int, drop: float, rng: np.random.Generator) -> torch.Tensor:
    """Return for each channel whether a crop has it (channels × 1 × 1 × 1)."""
    kept = np.ones(channels, dtype=bool)
    if channels > 1 and rng.random() < drop:
        kept[rng.permutation(channels)[: int(rng.integers(1, channels))]] = False
    return torch.from_numpy(kept)[:, None, None, None]
