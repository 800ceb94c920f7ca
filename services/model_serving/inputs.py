"""What the imaging networks see of a patient: crops and slices of prepared volumes about the tumour.

Each input keeps the grid that it was sampled on, so that a map over it can be laid back onto the patient's volumes.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from services.shared.cohort import Region, region_mask
from services.shared.errors import InvalidMask, InvalidVolume, MissingSequence
from services.shared.volume import require_same_grid

Array = npt.NDArray[np.float32]
Name = TypeVar("Name", bound=str)
Images = Mapping[Name, sitk.Image]
"""Volumes by name of their channel."""

_CLIP = 5.0


@dataclass(frozen=True)
class NetworkInput:
    """What a network sees of one patient.

    Parameters
    ----------
    values
        Channels × z × y × x of a volume, or channels × y × x of slices.
    grids
        Geometry of the volume, or of each slice that channels were taken from (one voxel thick).
    outside_share
        Share of the region that the crop leaves out.
    """

    values: Array
    grids: tuple[sitk.Image, ...]
    outside_share: float = 0.0


def standardise(images: Images[Name], brain: sitk.Image, sequences: ListOf[Name]) -> dict[Name, sitk.Image]:
    """Return sequences with mean 0 and standard deviation 1 inside the brain, cut at ±5, 0 outside.

    Raises
    ------
    MissingSequence
        Where one is not there.
    SpaceMismatch
        Where one does not lie on the brain mask's grid.
    InvalidVolume
        Where one holds NaN, or is the same everywhere in the brain.
    """
    missing = [sequence for sequence in sequences if sequence not in images]
    if missing:
        raise MissingSequence(
            "the network needs a sequence that is not there",
            expected=", ".join(sequences),
            got="without " + ", ".join(missing),
            remedy="add the sequence, or use a model that does without",
        )
    inside = sitk.GetArrayViewFromImage(brain) > 0
    found = {}
    for sequence in sequences:
        require_same_grid(images[sequence], brain, name=str(sequence), reference_name="the brain mask")
        values = sitk.GetArrayViewFromImage(images[sequence])[inside].astype(np.float64)
        spread = float(values.std()) if values.size else 0.0
        if not np.isfinite(spread) or spread == 0.0:
            raise InvalidVolume(
                "a sequence is constant in the brain" if spread == 0.0 else "a sequence holds NaN or infinite values",
                field=str(sequence),
                expected="finite intensities that differ",
                got=f"standard deviation {spread:g} over {values.size} voxels",
                remedy="look at the case's images and prepare it again",
            )
        scaled = np.zeros(inside.shape, dtype=np.float32)
        scaled[inside] = np.clip((values - values.mean()) / spread, -_CLIP, _CLIP)
        image = sitk.GetImageFromArray(scaled)
        image.CopyInformation(brain)
        found[sequence] = image
    return found


def crop_region(
    images: Images[Name],
    labels: sitk.Image,
    region: Region,
    *,
    sequences: ListOf[Name],
    size_voxels: tuple[int, int, int],
    voxel_mm: float,
    beyond: Literal["keep", "zero"],
) -> NetworkInput:
    """Return a block of fixed size about the centre of a region's bounding box.

    Parameters
    ----------
    images
        Standardised volumes on one grid.
    labels
        Segmentation (0, 1, 2, 4) on that grid.
    size_voxels
        Size along x, y, z.
    beyond
        Whether voxels that are not of the region keep their value or become 0 (an image "cropped by the mask").

    Raises
    ------
    InvalidMask
        Where the region is empty.
    """
    mask = _mask_image(labels, region)
    low, high = _bounding_box(mask, region)
    centre = mask.TransformContinuousIndexToPhysicalPoint([(a + b) / 2 for a, b in zip(low, high, strict=True)])
    grid = _grid(mask, centre, size_voxels, (voxel_mm,) * 3)
    there = sitk.GetArrayFromImage(_resample(mask, grid, sitk.sitkNearestNeighbor)) > 0
    values = np.stack([_sampled(images[sequence], grid) for sequence in sequences])
    if beyond == "zero":
        values *= there
    return NetworkInput(values, (grid,), _share_outside(mask, grid))


def slice_region(
    images: Images[Name],
    labels: sitk.Image,
    region: Region,
    *,
    sequences: ListOf[Name],
    size_pixels: tuple[int, int],
    pixel_mm: float | None,
) -> NetworkInput:
    """Return the axial slice in which a region's area is largest, one channel a sequence.

    Parameters
    ----------
    size_pixels
        Width and height.
    pixel_mm
        Size of a pixel of the whole slice about the volume's centre; None cuts the region's bounding rectangle out
        and stretches it bilinearly to the size.

    Raises
    ------
    InvalidMask
        Where the region is empty.
    """
    mask = _mask_image(labels, region)
    _bounding_box(mask, region)
    present = sitk.GetArrayViewFromImage(mask) > 0
    z = int(present.sum(axis=(1, 2)).argmax())
    if pixel_mm is None:
        rows, columns = np.nonzero(present[z])
        grid = _stretched(mask, (columns.min(), columns.max()), (rows.min(), rows.max()), z, size_pixels)
    else:
        middle = [(n - 1) / 2 for n in mask.GetSize()[:2]]
        centre = mask.TransformContinuousIndexToPhysicalPoint([*middle, float(z)])
        grid = _grid(mask, centre, (*size_pixels, 1), (pixel_mm, pixel_mm, mask.GetSpacing()[2]))
    return NetworkInput(np.stack([_sampled(images[sequence], grid)[0] for sequence in sequences]), (grid,))


def crop_diffusion_maps(
    maps: Mapping[str, sitk.Image],
    labels: sitk.Image,
    *,
    names: ListOf[str],
    slices: int,
    size_pixels: tuple[int, int],
) -> NetworkInput:
    """Return equally spaced axial slices inside the tumour's bounding box, cut out by it, of each diffusion map.

    Channels run map by map, slices of a map from below upward (EBioMedicine 2021, 103583, section 2.3).

    Raises
    ------
    MissingSequence, SpaceMismatch
        Where a map is not there or lies on another grid.
    InvalidMask
        Where there is no tumour.
    """
    missing = [name for name in names if name not in maps]
    if missing:
        raise MissingSequence(
            "a diffusion map is not there",
            expected=", ".join(names),
            got="without " + ", ".join(missing),
            remedy="fit the tensor of the diffusion series, or add the map",
        )
    for name in names:
        require_same_grid(maps[name], labels, name=name, reference_name="the segmentation")
    mask = _mask_image(labels, Region.WT)
    low, high = _bounding_box(mask, Region.WT)
    heights = np.linspace(low[2], high[2], slices + 2)[1:-1]
    grids = tuple(
        _stretched(mask, (low[0] + 0.5, high[0] - 0.5), (low[1] + 0.5, high[1] - 0.5), float(z), size_pixels)
        for z in heights
    )
    values = np.stack([_sampled(maps[name], grid)[0] for name in names for grid in grids])
    return NetworkInput(values, grids)


def lay_back(values: npt.NDArray[np.floating], grid: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """Return a map over a network's input on the grid of the patient's volume, 0 where the network saw nothing.

    Parameters
    ----------
    values
        z × y × x on ``grid``; y × x for a slice.
    """
    image = sitk.GetImageFromArray(np.asarray(values, dtype=np.float32).reshape(grid.GetSize()[::-1]))
    image.CopyInformation(grid)
    return _resample(image, reference, sitk.sitkLinear)


def _mask_image(labels: sitk.Image, region: Region) -> sitk.Image:
    image = sitk.GetImageFromArray(region_mask(sitk.GetArrayViewFromImage(labels), region).astype(np.uint8))
    image.CopyInformation(labels)
    return image


def _bounding_box(mask: sitk.Image, region: Region) -> tuple[list[float], list[float]]:
    """Return the outer edges of a mask's box, in continuous indices along x, y, z."""
    present = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    if len(present) == 0:
        raise InvalidMask(
            "the region is empty",
            field=str(region),
            expected="at least one voxel",
            got="none",
            remedy="no tumour of this kind was found; leave the patient out or use another region",
        )
    return (present.min(axis=0) - 0.5).tolist(), (present.max(axis=0) + 0.5).tolist()


def _grid(
    like: sitk.Image, centre: ListOf[float], size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> sitk.Image:
    """Return an empty volume about a point, with the axes of another."""
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing)
    grid.SetDirection(like.GetDirection())
    half = np.array([(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)])
    direction = np.array(like.GetDirection()).reshape(3, 3)
    grid.SetOrigin((np.asarray(centre) - direction @ half).tolist())
    return grid


def _stretched(
    mask: sitk.Image, x: tuple[float, float], y: tuple[float, float], z: float, size_pixels: tuple[int, int]
) -> sitk.Image:
    """Return a slice that spans pixels ``x`` and ``y`` (first and last, whole) at height ``z`` with any pixel count."""
    spacing = mask.GetSpacing()
    span = ((x[1] - x[0] + 1) * spacing[0], (y[1] - y[0] + 1) * spacing[1])
    centre = mask.TransformContinuousIndexToPhysicalPoint([float(sum(x)) / 2, float(sum(y)) / 2, float(z)])
    width, height = size_pixels
    return _grid(mask, centre, (width, height, 1), (span[0] / width, span[1] / height, spacing[2]))


def _resample(image: sitk.Image, grid: sitk.Image, interpolator: int) -> sitk.Image:
    return sitk.Resample(image, grid, sitk.Transform(3, sitk.sitkIdentity), interpolator, 0.0)


def _sampled(image: sitk.Image, grid: sitk.Image) -> Array:
    values: Array = sitk.GetArrayFromImage(_resample(image, grid, sitk.sitkLinear)).astype(np.float32)
    return values


def _share_outside(mask: sitk.Image, grid: sitk.Image) -> float:
    whole = sitk.Image(grid)
    whole += 1
    covered = sitk.GetArrayFromImage(_resample(whole, mask, sitk.sitkNearestNeighbor)) > 0
    present = sitk.GetArrayViewFromImage(mask) > 0
    return float((present & ~covered).sum() / present.sum())
