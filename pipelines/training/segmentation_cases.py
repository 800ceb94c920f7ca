"""The cases that a segmentation network learns from: read, checked, and split by patient."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from services.segmentation.inference import stack_channels
from services.segmentation.network import NetworkSpec, class_indices
from services.segmentation.segment import read_expert_segmentation
from services.shared.cohort import CaseKeys, require_sequences
from services.shared.contracts import CaseRef
from services.shared.errors import DuplicateId, GliaflowError, InvalidMask, SpaceMismatch, TooFewCases
from services.shared.storage import Storage
from services.shared.volume import describe_grid, read_volume

_SPACING_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class PreparedCase:
    """One case inside the box of its brain.

    Attributes
    ----------
    inputs : float32, channels × z × y × x
    brain : bool, z × y × x
    classes : uint8, z × y × x
        Position of each voxel's label among the network's classes.
    """

    case: CaseRef
    inputs: npt.NDArray[np.float32]
    brain: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.uint8]


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
    """Read one prepared case with its expert segmentation; an error names the case.

    Raises
    ------
    MissingSequence, NotFound
        Where it is not prepared or has no expert segmentation.
    SpaceMismatch, InvalidMask, InvalidVolume, UnreadableFile
        Where volumes cannot be used together, or the segmentation is empty.
    """
    try:
        return _read_case(storage, case, spec)
    except GliaflowError as error:
        raise error.with_context(case=str(case), step="train segmentation") from None


def _read_case(storage: Storage, case: CaseRef, spec: NetworkSpec) -> PreparedCase:
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
    classes = class_indices(torch.from_numpy(values), spec.classes).numpy().astype(np.uint8)
    return PreparedCase(case, inputs, sitk.GetArrayFromImage(brain)[box] > 0, classes)


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
