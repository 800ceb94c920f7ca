"""What an imaging network sees of one case: from the case's volumes in storage to the network's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from services.model_serving.inputs import (
    NetworkInput,
    crop_diffusion_maps,
    crop_region,
    slice_region,
    standardise,
)
from services.model_serving.networks.specification import ImagingSpec
from services.shared.cohort import CaseKeys, Label, Region, Sequence, normalise_labels
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidVolume, MissingSequence, NotFound
from services.shared.storage import Storage
from services.shared.volume import read_volume, require_same_grid


@dataclass(frozen=True)
class CaseVolumes:
    """A case's volumes on one grid: sequences and maps that are there, brain mask, and labels 0, 1, 2, 4."""

    images: Mapping[Sequence, sitk.Image]
    brain: sitk.Image
    labels: sitk.Image
    maps: Mapping[str, sitk.Image]


def input_keys(storage: Storage, case: CaseRef, spec: ImagingSpec) -> dict[str, str]:
    """Return the storage keys that a network's input is made of, by what they are.

    Names are those of sequences and maps, ``brain`` (of prepared cases) and ``labels``.

    Raises
    ------
    MissingSequence, NotFound
        Where one that the network needs is not there.
    """
    keys = CaseKeys(case)
    prepared = spec.source == "prepared"
    image = keys.preprocessed_image if prepared else keys.raw_image
    found: dict[str, str] = {name: image(name) for name in spec.sequences if storage.exists(image(name))}
    found |= {name: key for name in spec.maps if storage.exists(key := keys.diffusion_map(name))}
    missing = [str(name) for name in (*spec.sequences, *spec.maps) if name not in found]
    if missing and (spec.absent == "refuse" or not found):
        raise MissingSequence(
            "the case lacks an image that the network needs",
            case=str(case),
            expected=", ".join((*spec.sequences, *spec.maps)),
            got="without " + ", ".join(missing),
            remedy="prepare or import the image, or use a network that does without",
        )
    masks = {"labels": keys.segmentation if prepared else keys.raw_segmentation}
    if prepared:
        masks["brain"] = keys.brain_mask
    for key in masks.values():
        if not storage.exists(key):
            raise NotFound(
                "the case has no mask for the network to find its tumour by",
                case=str(case),
                field=key,
                remedy="prepare and segment the case" if prepared else "import a mask with the images",
            )
    return found | masks


def read_volumes(storage: Storage, case: CaseRef, spec: ImagingSpec) -> CaseVolumes:
    """Return the volumes of a case that a network's input is made of.

    Of a case as imported, the brain is wherever a sequence is not 0.

    Raises
    ------
    MissingSequence, NotFound, UnreadableFile, InvalidVolume, InvalidMask, SpaceMismatch
        Where they cannot be used.
    """
    keys = input_keys(storage, case, spec)
    images = {name: read_volume(storage, keys[name]) for name in spec.sequences if name in keys}
    maps: dict[str, sitk.Image] = {name: read_volume(storage, keys[name]) for name in spec.maps if name in keys}
    given = read_volume(storage, keys["labels"])
    labels = sitk.GetImageFromArray(normalise_labels(np.rint(sitk.GetArrayViewFromImage(given)).astype(np.int64)))
    labels.CopyInformation(given)
    if "brain" in keys:
        brain = read_volume(storage, keys["brain"], pixel_type=sitk.sitkUInt8)
    else:
        head = np.logical_or.reduce([sitk.GetArrayViewFromImage(image) != 0 for image in images.values()])
        brain = sitk.GetImageFromArray(head.astype(np.uint8))
        brain.CopyInformation(next(iter(images.values())))
    return CaseVolumes(images, brain, labels, maps)


def prepare_input(
    spec: ImagingSpec,
    images: Mapping[Sequence, sitk.Image],
    brain: sitk.Image,
    labels: sitk.Image,
    maps: Mapping[str, sitk.Image] | None = None,
) -> NetworkInput:
    """Return what a network sees of a patient: standardised in the brain, cut out about the tumour.

    Parameters
    ----------
    images, maps
        Volumes by sequence and by name of the diffusion map, on the grid of the brain mask.
    labels
        Segmentation with labels 0, 1, 2, 4 on that grid.

    Raises
    ------
    MissingSequence
        Where a channel is not there and the specification refuses that.
    InvalidVolume
        Where a channel is constant in the brain, or holds NaN.
    SpaceMismatch
        Where volumes do not share a grid.
    InvalidMask
        Where no tumour of the region was found.
    """
    require_same_grid(labels, brain, name="the segmentation", reference_name="the brain mask")
    given: dict[str, sitk.Image] = {str(name): image for name, image in images.items()} | dict(maps or {})
    names = [*spec.sequences, *spec.maps]
    there = [name for name in names if name in given or spec.absent == "refuse" or not given]
    channels: dict[str, sitk.Image] = dict(standardise(given, brain, there))
    for name in names:
        channels.setdefault(name, sitk.Cast(brain * 0, sitk.sitkFloat32))
    if spec.view == "sections":
        made = crop_diffusion_maps(channels, labels, names=names, slices=spec.sections, size_pixels=_pair(spec.size))
    elif spec.view in ("slice", "rectangle"):
        made = slice_region(
            channels,
            labels,
            spec.region,
            sequences=names,
            size_pixels=_pair(spec.size),
            pixel_mm=spec.voxel_mm if spec.view == "slice" else None,
        )
    else:
        whole = spec.view == "whole"
        about = sitk.Cast(brain > 0, sitk.sitkUInt8) * int(Label.OEDEMA) if whole else labels
        made = crop_region(
            channels,
            about,
            Region.WT if whole else spec.region,
            sequences=names,
            size_voxels=(spec.size[0], spec.size[1], spec.size[2]),
            voxel_mm=spec.voxel_mm or 1.0,
            beyond=spec.beyond,
        )
    check_input(spec, made.values)
    return made


def check_input(spec: ImagingSpec, values: np.ndarray) -> None:
    """Check that an array can be a network's input.

    Raises
    ------
    InvalidVolume
        Where it has other channels or another size, or holds NaN.
    """
    if values.shape != spec.input_shape:
        raise InvalidVolume(
            "the input does not have the shape that the network was made for",
            field="input",
            expected=f"{spec.input_shape}: {', '.join((*spec.sequences, *spec.maps))}",
            got=values.shape,
            remedy="make the input with prepare_input",
        )
    if not np.isfinite(values).all():
        raise InvalidVolume("the input holds NaN or infinite values", field="input", expected="finite values")


def read_input(storage: Storage, case: CaseRef, spec: ImagingSpec) -> NetworkInput:
    """Return what a network sees of a case in storage; see :func:`read_volumes` and :func:`prepare_input`."""
    volumes = read_volumes(storage, case, spec)
    return prepare_input(spec, volumes.images, volumes.brain, volumes.labels, volumes.maps)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0], size[1]
