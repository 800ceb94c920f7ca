"""Say where the head is and where the brain is.

The atlas's brain mask, laid over the head by an affine transform, is a first answer that misses by some millimetres
wherever a head is not shaped like the template. It is refined where it is in doubt: the intensities of all sequences
well inside and well outside the first answer tell brain from skull, scalp and air, voxel by voxel; the distance to
the first answer is the prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from services.preprocessing.atlas import brain_from_nonzero, close_and_fill, largest_part

STRIPPED_BACKGROUND = 0.4
"""At least this share of a skull-stripped volume is exactly zero."""
STRIPPED_VOLUME_ML = (600.0, 2300.0)
"""A brain with its fluid spaces has a volume in this range; a head has more."""


def find_head(image: sitk.Image) -> sitk.Image:
    """Return the mask of the head: its largest part above a tenth of the robust intensity range, closed and filled.

    The threshold is that of BET (Smith, Hum Brain Mapp 2002).
    """
    smooth = sitk.SmoothingRecursiveGaussian(image, [max(1.0, s) for s in image.GetSpacing()])
    low, high = np.percentile(sitk.GetArrayFromImage(smooth), (2, 98))
    mask = sitk.Cast(smooth > float(low + 0.1 * (high - low)), sitk.sitkUInt8)
    return close_and_fill(largest_part(mask), radius_mm=6.0)


def is_skull_stripped(image: sitk.Image) -> bool:
    """Return whether a volume shows the brain alone: exact zeros around an object of a brain's volume."""
    array = sitk.GetArrayFromImage(image)
    if float((array == 0).mean()) < STRIPPED_BACKGROUND:
        return False
    low, high = STRIPPED_VOLUME_ML
    return low <= volume_ml(brain_from_nonzero(image)) <= high


def volume_ml(mask: sitk.Image) -> float:
    """Return a mask's volume in millilitres."""
    return float((sitk.GetArrayFromImage(mask) > 0).sum()) * float(np.prod(mask.GetSpacing())) / 1000.0


def expected_brain_centres(head: sitk.Image, brain_height_mm: float) -> list[tuple[float, float, float]]:
    """Return where the centre of a head's brain may be, in mm, from the crown of the head downwards.

    Parameters
    ----------
    head
        Head mask in LPS.
    brain_height_mm
        Height of the atlas's brain; its centre lies half of it, and 12 mm of scalp and skull, below the crown.
    """
    array = sitk.GetArrayFromImage(head) > 0
    spacing = head.GetSpacing()
    rows = np.flatnonzero(array.sum(axis=(1, 2)) * spacing[0] * spacing[1] > 400.0)
    if rows.size == 0:
        rows = np.array([0, array.shape[0] - 1])
    depth = round((12.0 + brain_height_mm / 2) / spacing[2])
    slab = array[max(rows[0], rows[-1] - 2 * depth) : rows[-1] + 1]
    _, y, x = ndimage.center_of_mass(slab) if slab.any() else (0, *(n / 2 for n in array.shape[1:]))
    index = (float(x), float(y), float(rows[-1] - depth))
    return [head.TransformContinuousIndexToPhysicalPoint(index)]


def refine_brain(
    prior: sitk.Image,
    sequences: Sequence[sitk.Image],
    *,
    seen: sitk.Image,
    core_mm: float = 8.0,
    reach_mm: float = 8.0,
    prior_mm: float = 2.0,
) -> sitk.Image:
    """Return a brain mask that follows the intensities near the edge of a first answer.

    Parameters
    ----------
    prior
        First answer: the atlas's mask on the working grid.
    sequences
        Volumes on the same grid.
    seen
        Where on that grid the sequences have data.
    core_mm, reach_mm
        Voxels deeper than this inside the first answer stay, and those farther outside stay out.
    prior_mm
        Distance over which the prior's odds change by a factor e.
    """
    distance_image = sitk.SignedMaurerDistanceMap(
        prior, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    distance = sitk.GetArrayFromImage(distance_image)
    data = sitk.GetArrayFromImage(seen) > 0
    sure_in, sure_out = (distance < -6.0) & data, (distance > 6.0) & (distance < 22.0) & data
    evidence = np.zeros(distance.shape, np.float32)
    if min(sure_in.sum(), sure_out.sum()) >= 500:
        evidence = _log_likelihood_ratio([sitk.GetArrayFromImage(s) for s in sequences], sure_in, sure_out)
        evidence[~data] = 0.0
    sigma = [1.5 / s for s in prior.GetSpacing()[::-1]]
    odds = ndimage.gaussian_filter(np.clip(evidence, -3.0, 3.0), sigma) - distance / prior_mm
    inside = ((odds > 0) | (distance < -core_mm)) & (distance < reach_mm)
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(prior)
    radius = [max(1, round(2.0 / s)) for s in prior.GetSpacing()]
    opened = sitk.BinaryMorphologicalOpening(mask, radius, sitk.sitkBall)
    return close_and_fill(largest_part(opened | sitk.Cast(distance_image < -core_mm, sitk.sitkUInt8)), radius_mm=4.0)


def _log_likelihood_ratio(
    volumes: Sequence[npt.NDArray[np.float32]],
    inside: npt.NDArray[np.bool_],
    outside: npt.NDArray[np.bool_],
    *,
    levels: int = 10,
) -> npt.NDArray[np.float32]:
    """Return log p(intensities | inside) - log p(intensities | outside) of every voxel from joint histograms.

    Intensities are cut into levels at quantiles of both regions together, so that their scale does not matter. Four
    sequences at once would need more samples than there are, so the ratios of all pairs are averaged.
    """
    both = inside | outside
    cut = []
    for volume in volumes:
        edges = np.unique(np.quantile(volume[both], np.linspace(0, 1, levels + 1)[1:-1]))
        cut.append(np.digitize(volume, edges))
    pairs = [(a, b) for i, a in enumerate(cut) for b in cut[i + 1 :]] or [(cut[0], cut[0])]
    total = np.zeros(inside.shape, np.float32)
    for a, b in pairs:
        joint = a * levels + b
        table = [np.bincount(joint[region], minlength=levels * levels) + 1.0 for region in (inside, outside)]
        ratio = np.log(table[0] / table[0].sum()) - np.log(table[1] / table[1].sum())
        total += ratio[joint].astype(np.float32)
    return total / np.float32(len(pairs))
