"""What a segmentation says: volumes of its regions, agreement with another one, and its connected parts."""

from __future__ import annotations

from collections.abc import Sequence as ListOf

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from services.shared.cohort import Label, Region, region_mask

Labels = npt.NDArray[np.integer]
_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


def region_volumes_ml(labels: Labels, spacing_mm: ListOf[float]) -> dict[Region, float]:
    """Return the volume of each region in millilitres; an absent region has volume 0."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    return {region: round(int(region_mask(labels, region).sum()) * voxel_ml, 4) for region in Region}


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float | None:
    """Return the Dice coefficient 2|A∩B| / (|A|+|B|) of two masks.

    It is None where both are empty: nothing was there to agree on. It is 0 where one of them is.

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else None


def region_dice(labels: Labels, reference: Labels) -> dict[Region, float | None]:
    """Return the Dice coefficient of each region of two segmentations on one grid."""
    return {region: dice(region_mask(labels, region), region_mask(reference, region)) for region in Region}


def remove_small_components(
    labels: npt.NDArray[np.uint8], spacing_mm: ListOf[float], *, min_component_mm3: float
) -> npt.NDArray[np.uint8]:
    """Return a segmentation without the connected parts of the whole tumour that are smaller than a volume.

    Voxels are connected through faces, edges and corners (26 neighbours).
    """
    box = _tumour_box(labels)
    if box is None:
        return labels
    components, _ = ndimage.label(labels[box] > 0, structure=_NEIGHBOURS_26)
    volumes_mm3 = np.bincount(components.ravel()) * float(np.prod(spacing_mm))
    small = volumes_mm3 < min_component_mm3
    small[0] = False
    result = labels.copy()
    result[box][small[components]] = 0
    return result


def fill_holes(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a segmentation without cavities: those closed in by the core become core, other ones oedema.

    A cavity is background that no path through faces joins to the outside.
    """
    box = _tumour_box(labels)
    if box is None:
        return labels
    result = labels.copy()
    part = result[box]
    for region, label in ((Region.TC, Label.NECROTIC_CORE), (Region.WT, Label.OEDEMA)):
        part[ndimage.binary_fill_holes(region_mask(part, region)) & (part == 0)] = label
    return result


def absorb_small_enhancing(
    labels: npt.NDArray[np.uint8], spacing_mm: ListOf[float], *, min_enhancing_mm3: float
) -> npt.NDArray[np.uint8]:
    """Return a segmentation whose enhancing part is necrotic core where it is smaller than a volume in all.

    The rule of BraTS participants (Isensee et al., arXiv 2011.00848): a few enhancing voxels are mostly false.
    """
    enhancing = labels == Label.ENHANCING
    if int(np.count_nonzero(enhancing)) * float(np.prod(spacing_mm)) >= min_enhancing_mm3:
        return labels
    result = labels.copy()
    result[enhancing] = Label.NECROTIC_CORE
    return result


def _tumour_box(labels: npt.NDArray[np.uint8]) -> tuple[slice, ...] | None:
    """Return the smallest box around the tumour, or None where there is none."""
    found = ndimage.find_objects((labels > 0).astype(np.uint8))
    return found[0] if found else None
