"""Outline where FLAIR is abnormal in one imported case, slice by slice, and compare with its mask where it has one."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from services.segmentation.contracts import (
    AbnormalityFinding,
    AbnormalityParameters,
    AbnormalityRequest,
    AbnormalityResult,
)
from services.segmentation.regions import dice
from services.shared.cohort import CaseKeys, Label, Sequence, normalise_labels
from services.shared.errors import GliaflowError, MissingSequence
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.trained_network import card_key, verified_sha256, weights_key
from services.shared.volume import read_volume, require_same_grid, write_volume

if TYPE_CHECKING:
    import torch
    from monai.networks.nets.segresnet import SegResNet

    from services.segmentation.slice_network import SliceNetworkSpec

STEP = "segment FLAIR abnormality"
VERSION = "2"
SEQUENCES = (Sequence.T1, Sequence.FLAIR, Sequence.T1C)

Mask = npt.NDArray[np.bool_]


def segment_abnormality(storage: Storage, request: AbnormalityRequest) -> AbnormalityResult:
    """Write a case's mask, what it says beside it, and its manifest; do nothing where they are up to date.

    Raises
    ------
    MissingSequence
        Where the case has no FLAIR.
    NotFound, ChangedFile, InvalidValue
        Where there is no trained network, or it is not what its card says.
    SpaceMismatch, InvalidVolume, InvalidMask, UnreadableFile
        Where an image cannot be used.
    """
    keys = CaseKeys(request.case)
    try:
        return _segment(storage, keys, request.parameters)
    except GliaflowError as error:
        raise error.with_context(case=str(keys.case), step=STEP) from None


def mask_key(keys: CaseKeys) -> str:
    """Key of a case's outlined abnormality."""
    return f"{keys.segmentation_folder}/anat/{keys.subject}_desc-flairabnormality_dseg.nii.gz"


def read_sequences(storage: Storage, keys: CaseKeys) -> tuple[dict[Sequence, npt.NDArray[np.float32]], sitk.Image]:
    """Return a case's imported sequences as slices × rows × columns, and FLAIR as it is.

    Raises
    ------
    MissingSequence
        Where there is no FLAIR.
    SpaceMismatch
        Where another sequence does not lie on its grid.
    """
    if not storage.exists(keys.raw_image(Sequence.FLAIR)):
        raise MissingSequence(
            "the case has no FLAIR",
            expected=keys.raw_image(Sequence.FLAIR),
            remedy="import the sequence, or leave the case out",
        )
    flair = read_volume(storage, keys.raw_image(Sequence.FLAIR))
    found = {Sequence.FLAIR: sitk.GetArrayFromImage(flair).astype(np.float32)}
    for sequence in SEQUENCES:
        key = keys.raw_image(sequence)
        if sequence is not Sequence.FLAIR and storage.exists(key):
            image = read_volume(storage, key)
            require_same_grid(image, flair, name=key, reference_name=Sequence.FLAIR)
            found[sequence] = sitk.GetArrayFromImage(image).astype(np.float32)
    return found, flair


def read_mask(storage: Storage, keys: CaseKeys, flair: sitk.Image) -> Mask | None:
    """Return where a case's imported mask holds any label, or None where it has no mask."""
    if not storage.exists(keys.raw_segmentation):
        return None
    image = read_volume(storage, keys.raw_segmentation)
    require_same_grid(image, flair, name=keys.raw_segmentation, reference_name=Sequence.FLAIR)
    return np.asarray(normalise_labels(sitk.GetArrayFromImage(image).astype(np.int64)) > 0)


def hausdorff_95(a: Mask, b: Mask, spacing_mm: ListOf[float]) -> float | None:
    """Return the 95th percentile of the distances between two surfaces, both ways, or None where a mask is empty.

    Parameters
    ----------
    spacing_mm
        Along x, y, z; masks are z × y × x.
    """
    if not a.any() or not b.any():
        return None
    box = tuple(slice(max(int(i.min()) - 1, 0), int(i.max()) + 2) for i in np.nonzero(a | b))
    spacing = tuple(spacing_mm)[::-1]
    surfaces = [_surface(mask[box]) for mask in (a, b)]
    away = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    distances = np.concatenate([away[1][surfaces[0]], away[0][surfaces[1]]])
    return float(np.percentile(distances, 95))


def outline(probabilities: npt.NDArray[np.float32], parameters: AbnormalityParameters) -> Mask:
    """Return where FLAIR counts as abnormal: voxels that are probable enough, without specks.

    A part (26 neighbours) is kept from a share of the largest one's size on: a second focus is not a speck.
    """
    mask: Mask = probabilities >= parameters.threshold
    components, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= parameters.min_component_share * sizes.max())[components] & mask)


def _surface(mask: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=0))


@lru_cache(maxsize=2)
def _resident(root: str, model: str, sha256: str) -> tuple[SliceNetworkSpec, SegResNet, torch.device]:  # noqa: ARG001
    from services.segmentation.slice_network import SliceNetworkSpec, build_slice_network
    from services.shared.device import choose_device
    from services.shared.trained_network import load_network

    card, network = load_network(Storage(root), model, SliceNetworkSpec, build_slice_network)
    device = choose_device()
    return card.spec, network.to(device), device


def _segment(storage: Storage, keys: CaseKeys, parameters: AbnormalityParameters) -> AbnormalityResult:
    # Torch takes seconds to import: only who asks for this pays.
    from services.segmentation.slice_network import SliceNetworkSpec
    from services.shared.device import choose_device

    sha256 = verified_sha256(storage, parameters.model, SliceNetworkSpec)
    images = [keys.raw_image(sequence) for sequence in SEQUENCES if storage.exists(keys.raw_image(sequence))]
    expert = [keys.raw_segmentation] if storage.exists(keys.raw_segmentation) else []
    outputs = [mask_key(keys), mask_key(keys).replace(".nii.gz", ".json")]

    def compute() -> list[str]:
        for key in outputs:
            storage.remove(key)
        mask, flair, missing = _outline(storage, keys, parameters, sha256)
        labels = sitk.GetImageFromArray(mask.astype(np.uint8) * np.uint8(Label.OEDEMA))
        labels.CopyInformation(flair)
        reference = read_mask(storage, keys, flair)
        finding = AbnormalityFinding(
            abnormality_found=bool(mask.any()),
            voxels=int(mask.sum()),
            volume_ml=round(float(mask.sum() * np.prod(flair.GetSpacing()) / 1000), 4),
            missing_sequences=missing,
            dice=None if reference is None else dice(mask, reference),
            hd95_mm=None if reference is None else hausdorff_95(mask, reference, flair.GetSpacing()),
            model_sha256=sha256,
        )
        write_volume(storage, outputs[0], labels)
        storage.write_text(outputs[1], finding.model_dump_json(indent=2) + "\n")
        return outputs

    manifest, cached = run_step(
        storage,
        f"{keys.segmentation_folder}/flair-abnormality.json",
        step=STEP,
        step_version=VERSION,
        case=str(keys.case),
        inputs=[*images, *expert, card_key(parameters.model), weights_key(parameters.model)],
        parameters=parameters.model_dump(mode="json", exclude={"threads"}),
        packages=["SimpleITK", "monai", "numpy", "scipy", "torch"],
        compute=compute,
        device=str(choose_device()),
    )
    finding = AbnormalityFinding.model_validate_json(storage.read_bytes(outputs[1]))
    return AbnormalityResult(
        case=keys.case, cached=cached, segmentation=outputs[0], seconds=manifest.seconds, **finding.model_dump()
    )


def _outline(
    storage: Storage, keys: CaseKeys, parameters: AbnormalityParameters, sha256: str
) -> tuple[Mask, sitk.Image, tuple[Sequence, ...]]:
    from services.segmentation.slice_network import slice_probabilities, stack_slices
    from services.shared.device import torch_threads

    volumes, flair = read_sequences(storage, keys)
    spec, network, device = _resident(storage.root, parameters.model, sha256)
    inputs = stack_slices(volumes, spec)
    with torch_threads(parameters.threads):
        found = slice_probabilities(network, inputs, volumes[Sequence.FLAIR].shape[1:], device=device)
    return outline(found, parameters), flair, tuple(sequence for sequence in spec.channels if sequence not in volumes)
