"""Slices that a network learns from: read once, kept on disk at the network's side, taken batch by batch."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence as ListOf
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from services.segmentation.abnormality import SEQUENCES, read_mask, read_sequences
from services.segmentation.slice_network import SliceNetworkSpec, stack_masks, stack_slices
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, TooFewCases
from services.shared.storage import Storage


class SliceStore:
    """Slices of many cases in one file of half-precision numbers; memory does not grow with the cohort."""

    def __init__(self, spec: SliceNetworkSpec) -> None:
        self.spec = spec
        self._rows: dict[str, range] = {}
        self._folder: Path | None = None
        self._data: npt.NDArray[np.float16] | None = None

    def __enter__(self) -> SliceStore:
        self._folder = Path(tempfile.mkdtemp(prefix="gliaflow-slices-"))
        return self

    def __exit__(self, *_: object) -> None:
        self._data = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, case: CaseRef, inputs: torch.Tensor, masks: torch.Tensor) -> None:
        """Add a case: inputs (slices, channels, side, side) and masks (slices, 1, side, side)."""
        first = max((rows.stop for rows in self._rows.values()), default=0)
        with (self._path).open("ab") as file:
            file.write(torch.cat([inputs, masks], dim=1).numpy().astype(np.float16).tobytes())
        self._rows[str(case)] = range(first, first + len(inputs))
        self._data = None

    @property
    def _path(self) -> Path:
        if self._folder is None:
            raise RuntimeError("the store is not open")
        return self._folder / "slices"

    def rows(self, cases: ListOf[CaseRef]) -> npt.NDArray[np.int64]:
        """Return where the slices of some cases stand."""
        return np.concatenate([np.arange(r.start, r.stop) for r in (self._rows[str(case)] for case in cases)])

    def slices(self, cases: ListOf[CaseRef]) -> int:
        """Return how many slices some cases have."""
        return sum(len(self._rows[str(case)]) for case in cases)

    def sha256(self, rows: npt.NDArray[np.int64]) -> str:
        """Return the hash of some slices."""
        digest = hashlib.sha256()
        for part in np.array_split(rows, max(len(rows) // 64, 1)):
            for tensor in self.take(part):
                digest.update(tensor.numpy().astype(np.float16).tobytes())
        return digest.hexdigest()

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and masks of some slices, float32."""
        if self._data is None:
            channels, side = len(self.spec.channels) + 1, self.spec.side
            total = max(r.stop for r in self._rows.values())
            self._data = np.memmap(self._path, np.float16, "r", shape=(total, channels, side, side))
        both = torch.from_numpy(self._data[rows].astype(np.float32))
        return both[:, :-1], both[:, -1:]


def fill_store(store: SliceStore, storage: Storage, cases: ListOf[CaseRef]) -> None:
    """Read every case into a store."""
    for case in cases:
        keys = CaseKeys(case)
        volumes, flair = read_sequences(storage, keys)
        mask = read_mask(storage, keys, flair)
        if mask is not None:
            store.append(case, stack_slices(volumes, store.spec), stack_masks(mask, store.spec))


def usable_cases(storage: Storage, cases: ListOf[CaseRef], *, folds: int) -> tuple[tuple[CaseRef, ...], dict[str, str]]:
    """Return the cases with FLAIR and a filled mask, sorted, and the reason by case why others are left out.

    Raises
    ------
    TooFewCases
        Where fewer than ``folds`` are left.
    """
    usable, left_out = [], {}
    for case in sorted(cases, key=str):
        keys = CaseKeys(case)
        if not storage.exists(keys.raw_image(Sequence.FLAIR)):
            left_out[str(case)] = "no FLAIR"
            continue
        try:
            _, flair = read_sequences(storage, keys)
            mask = read_mask(storage, keys, flair)
        except GliaflowError as error:
            left_out[str(case)] = error.detail
            continue
        if mask is None or not mask.any():
            left_out[str(case)] = "no mask" if mask is None else "an empty mask"
        else:
            usable.append(case)
    if len(usable) < folds:
        raise TooFewCases(
            "there are fewer patients with FLAIR and a mask than needed",
            step="train",
            expected=f"at least {folds}",
            got=f"{len(usable)} of {len(cases)}",
            remedy="import masks with the images, or use fewer folds",
        )
    return tuple(usable), left_out


def slice_inputs(storage: Storage, case: CaseRef) -> list[str]:
    """Return the keys of a case's sequences and mask."""
    keys = CaseKeys(case)
    images = [keys.raw_image(sequence) for sequence in SEQUENCES if storage.exists(keys.raw_image(sequence))]
    return [*images, keys.raw_segmentation]


def patient_folds(count: int, *, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each patient's fold, as even in size as can be."""
    fold = np.empty(count, dtype=np.int64)
    fold[np.random.default_rng(seed).permutation(count)] = np.arange(count) % folds
    return fold
