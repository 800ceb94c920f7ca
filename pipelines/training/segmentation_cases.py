"""The cases that a segmentation network learns from: read, split by patient, cropped and varied at random."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, SpatialPadd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandFlipd
from torch.utils.data import Dataset

from services.segmentation.inference import stack_channels
from services.segmentation.network import NetworkSpec, class_indices
from services.segmentation.segment import read_expert_segmentation
from services.shared.cohort import CaseKeys, require_sequences
from services.shared.contracts import CaseRef
from services.shared.errors import DuplicateId, GliaflowError, InvalidMask, SpaceMismatch, TooFewCases
from services.shared.storage import Storage
from services.shared.volume import describe_grid, read_volume

_SPACING_TOLERANCE_MM = 1e-3
_TUMOUR_TO_BACKGROUND = (2, 1)  # how often a patch is centred on tumour, and how often elsewhere


@dataclass(frozen=True)
class PreparedCase:
    """One case inside the box of its brain.

    Attributes
    ----------
    inputs : float32, channels × z × y × x
    brain : bool, z × y × x
    classes : int64, z × y × x
        Position of each voxel's label among the network's classes.
    """

    case: CaseRef
    inputs: npt.NDArray[np.float32]
    brain: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.int64]


def voxel_size_mm(storage: Storage, cases: ListOf[CaseRef]) -> float:
    """Return the edge of the cubic voxels that all cases share.

    Raises
    ------
    SpaceMismatch
        Where voxels are not cubic, or not of one size.
    """
    edge_mm: float | None = None
    for case in cases:
        keys = CaseKeys(case)
        image = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
        edge_mm = edge_mm or float(image.GetSpacing()[0])
        if max(abs(s - edge_mm) for s in image.GetSpacing()) > _SPACING_TOLERANCE_MM:
            raise SpaceMismatch(
                "the cases to train on do not share one size of cubic voxels",
                case=str(case),
                field=keys.brain_mask,
                expected=f"{edge_mm:g} mm",
                got=describe_grid(image),
                remedy="prepare every case with the same voxel size",
            )
    if edge_mm is None:
        raise TooFewCases("there is no case to train on", expected="at least 2", got=0)
    return edge_mm


def read_case(storage: Storage, case: CaseRef, spec: NetworkSpec) -> PreparedCase:
    """Read one prepared case with its expert segmentation.

    Raises
    ------
    MissingSequence, NotFound
        Where it is not prepared or has no expert segmentation.
    SpaceMismatch, InvalidMask, InvalidVolume, UnreadableFile
        Where volumes cannot be used together, or the segmentation is empty.
    """
    keys = CaseKeys(case)
    require_sequences(storage, keys, step="train segmentation", prepared=True)
    brain = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
    labels = read_expert_segmentation(storage, keys, brain)
    images = {channel: read_volume(storage, keys.preprocessed_image(channel)) for channel in spec.channels}
    inputs, box = stack_channels(images, brain, spec.channels)
    values = sitk.GetArrayFromImage(labels)[box]
    if not values.any():
        raise InvalidMask(
            "the expert segmentation holds no tumour inside the brain",
            case=str(case),
            field=keys.preprocessed_segmentation,
            expected="at least one voxel",
            got="none",
            remedy="correct the segmentation or leave the case out of training",
        )
    classes = class_indices(torch.from_numpy(values), spec.classes).numpy()
    return PreparedCase(case, inputs, sitk.GetArrayFromImage(brain)[box] > 0, classes)


def read_cases(storage: Storage, cases: ListOf[CaseRef], spec: NetworkSpec) -> list[PreparedCase]:
    """Read every case; an error names its case."""
    found = []
    for case in cases:
        try:
            found.append(read_case(storage, case, spec))
        except GliaflowError as error:
            raise error.with_context(case=str(case), step="train segmentation") from None
    return found


def split_for_tuning(
    cases: ListOf[CaseRef], *, tuning_fraction: float, seed: int
) -> tuple[tuple[CaseRef, ...], tuple[CaseRef, ...]]:
    """Return the cases to learn from and those set aside for tuning, each sorted; a case is one patient.

    Raises
    ------
    DuplicateId
        Where a case is named twice: it could stand on both sides.
    TooFewCases
        Where there are fewer than two.
    """
    ordered = sorted(cases, key=str)
    repeated = sorted({str(case) for case in ordered if ordered.count(case) > 1})
    if repeated:
        raise DuplicateId("a case to train on is named twice", expected="each case once", got=", ".join(repeated))
    if len(ordered) < 2:
        raise TooFewCases(
            "a segmentation network needs cases to learn from and cases to tune on",
            expected="at least 2 cases with an expert segmentation",
            got=len(ordered),
            remedy="name more cases, or use expert segmentations without a network",
        )
    count = min(max(round(tuning_fraction * len(ordered)), 1), len(ordered) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    learn = tuple(case for index, case in enumerate(ordered) if index not in chosen)
    return learn, tuple(ordered[index] for index in sorted(chosen))


class TrainingCrops(Dataset[dict[str, torch.Tensor]]):
    """One random crop a case: mirrored, brighter or darker, noisier, of another contrast; zero outside the brain.

    Parameters
    ----------
    patch_voxels
        Longest side of a crop; a smaller case comes whole. All crops are padded to one size.
    drop_sequence
        Share of crops that lose one sequence or more, never all; what is lost is 0, as it is to the service.
    """

    def __init__(
        self,
        cases: ListOf[PreparedCase],
        spec: NetworkSpec,
        *,
        patch_voxels: int,
        seed: int,
        drop_sequence: float = 0.0,
    ) -> None:
        self._cases = [
            {
                "inputs": torch.from_numpy(case.inputs),
                "brain": torch.from_numpy(case.brain[None].astype(np.float32)),
                "classes": torch.from_numpy(case.classes[None]),
            }
            for case in cases
        ]
        everything = ("inputs", "brain", "classes")
        largest = [max(case.brain.shape[axis] for case in cases) for axis in range(3)]
        size = [-(-min(n, patch_voxels) // spec.multiple) * spec.multiple for n in largest]
        positive, negative = _TUMOUR_TO_BACKGROUND
        self._vary = Compose(
            [
                RandCropByPosNegLabeld(
                    everything,
                    label_key="classes",
                    spatial_size=(patch_voxels,) * 3,
                    pos=positive,
                    neg=negative,
                    num_samples=1,
                    allow_smaller=True,
                ),
                SpatialPadd(everything, spatial_size=size),
                *(RandFlipd(everything, prob=0.5, spatial_axis=axis) for axis in range(3)),
                RandScaleIntensityd("inputs", factors=0.15, prob=0.8, channel_wise=True),
                RandShiftIntensityd("inputs", offsets=0.15, prob=0.8),
                RandAdjustContrastd("inputs", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
                RandGaussianNoised("inputs", prob=0.3, std=0.1),
            ]
        )
        self._vary.set_random_state(seed)
        self._drop_sequence = drop_sequence
        self._chance = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        crop = self._vary(self._cases[index])[0]
        inputs = torch.as_tensor(crop["inputs"]) * torch.as_tensor(crop["brain"])
        if self._drop_sequence:
            inputs = inputs * self._kept(len(inputs)).to(inputs)
        return {"inputs": inputs.as_subclass(torch.Tensor), "classes": crop["classes"].as_subclass(torch.Tensor)}

    def _kept(self, channels: int) -> torch.Tensor:
        """Return for each channel whether the next crop has it (channels × 1 × 1 × 1)."""
        kept = np.ones(channels, dtype=bool)
        if channels > 1 and self._chance.random() < self._drop_sequence:
            lost = self._chance.permutation(channels)[: self._chance.integers(1, channels)]
            kept[lost] = False
        return torch.from_numpy(kept)[:, None, None, None]
