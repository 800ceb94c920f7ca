"""Take the coil's slow shading out of a volume: N4 (Tustison et al., IEEE TMI 2010)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from services.preprocessing.orientation import coarsen

FINEST_GRID_MM, COARSEST_GRID_MM = 6.0, 10.0
"""The field varies over centimetres, so it is fitted on a coarse grid; a coarser one saves most of N4's time."""


@dataclass(frozen=True)
class Corrected:
    """A corrected volume, and the field's 2nd to 98th percentile span as a ratio (1 is no shading)."""

    image: sitk.Image
    field_range: float


def field_grid_mm(voxel_mm: float) -> float:
    """Return the spacing on which the field is fitted for volumes prepared at a voxel size."""
    return min(max(3.5 * voxel_mm, FINEST_GRID_MM), COARSEST_GRID_MM)


def correct_bias(
    image: sitk.Image,
    mask: sitk.Image,
    *,
    grid_mm: float = FINEST_GRID_MM,
    iterations: tuple[int, ...] = (12, 10, 10),
) -> Corrected:
    """Return a volume without its multiplicative bias field.

    Parameters
    ----------
    mask
        Where the field is fitted, on the volume's grid.
    grid_mm
        Spacing on which the field is fitted.
    iterations
        At most as many at each of N4's fitting levels; the control points double from one to the next.
    """
    coarse = coarsen(image, grid_mm)
    inside = sitk.Resample(mask, coarse, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0)
    array = sitk.GetArrayFromImage(coarse)
    chosen = (sitk.GetArrayFromImage(inside) > 0) & (array > 0)
    if np.count_nonzero(chosen) < 500:
        return Corrected(image, 1.0)
    fit_mask = sitk.GetImageFromArray(chosen.astype(np.uint8))
    fit_mask.CopyInformation(coarse)
    method = sitk.N4BiasFieldCorrectionImageFilter()
    method.SetMaximumNumberOfIterations(iterations)
    method.SetConvergenceThreshold(5e-4)
    method.Execute(sitk.Cast(coarse, sitk.sitkFloat32), fit_mask)
    log_field = method.GetLogBiasFieldAsImage(coarse)
    values = sitk.GetArrayFromImage(log_field)[chosen]
    low, high = np.percentile(values, (2, 98))
    log_field = _on_grid(log_field - float(values.mean()), image)
    return Corrected(image / sitk.Exp(sitk.Cast(log_field, sitk.sitkFloat32)), float(np.exp(high - low)))


def _on_grid(field: sitk.Image, grid: sitk.Image) -> sitk.Image:
    method = sitk.ResampleImageFilter()
    method.SetReferenceImage(grid)
    method.SetInterpolator(sitk.sitkLinear)
    method.UseNearestNeighborExtrapolatorOn()
    return method.Execute(field)
