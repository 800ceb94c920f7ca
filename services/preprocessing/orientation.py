"""Bring a volume's axes to one order, and say how its grid is built. Nothing is interpolated here."""

from __future__ import annotations

import SimpleITK as sitk

ORIENTATION = "LPS"
"""Axes run to the patient's left, posterior, superior: ITK's LPS, which other tools call RAI by where axes start."""


def orient(image: sitk.Image) -> sitk.Image:
    """Return the volume with its axes flipped and permuted to run nearest to left, posterior, superior.

    Every voxel keeps its physical place and value; an oblique acquisition stays oblique.
    """
    return sitk.DICOMOrient(image, ORIENTATION)


def anisotropy(spacing_mm: tuple[float, ...]) -> float:
    """Return the largest spacing over the smallest; 1 for an isotropic grid."""
    return max(spacing_mm) / min(spacing_mm)


def resampled_grid(image: sitk.Image, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """Return an empty grid with another spacing over the same field of view.

    The outer faces of the first voxels stay where they are, so no half-voxel shift creeps in.
    """
    size = [max(2, round(n * s / t)) for n, s, t in zip(image.GetSize(), image.GetSpacing(), spacing_mm, strict=True)]
    first_centre = [(t / s - 1) / 2 for s, t in zip(image.GetSpacing(), spacing_mm, strict=True)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first_centre))
    return grid


def smooth_for(image: sitk.Image, spacing_mm: tuple[float, ...]) -> sitk.Image:
    """Return the volume low-passed along each axis that a coarser grid samples more sparsely.

    The Gaussian's standard deviation is 0.42 times the quadratic difference of the spacings, which takes a voxel
    profile of the old width to one of the new width; finer axes are left alone.
    """
    for axis, (old, new) in enumerate(zip(image.GetSpacing(), spacing_mm, strict=True)):
        if new > 1.2 * old and image.GetSize()[axis] >= 4:
            sigma = 0.42 * (new**2 - old**2) ** 0.5
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    return image


def coarsen(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Return the volume low-passed and resampled so that no axis is finer than ``spacing_mm``; none is made finer."""
    wanted = tuple(max(spacing_mm, s) for s in image.GetSpacing())
    if all(w <= 1.2 * s for w, s in zip(wanted, image.GetSpacing(), strict=True)):
        return image
    grid = resampled_grid(image, wanted)
    return sitk.Resample(smooth_for(image, wanted), grid, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, 0.0)
