"""Heads: the ICBM152 atlas's brain inside cerebrospinal fluid, skull and scalp, deformed for each subject.

The atlas is read and the head is built once per process at the working spacing; a subject is that head under an
affine map and a smooth deformation. All coordinates are LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from services.shared.errors import MissingDependency

Array = npt.NDArray[np.floating]

HEAD_MIN_MM = (-98.0, -106.0, -112.0)
HEAD_MAX_MM = (98.0, 130.0, 112.0)
_CENTRE_MM = (0.0, 15.0, 10.0)


class Tissue(IntEnum):
    """Tissues of a head, in the order of the fraction arrays; what is left to 1 is air."""

    CSF = 0
    GREY = 1
    WHITE = 2
    BONE = 3
    FAT = 4
    MUSCLE = 5


@dataclass(frozen=True)
class Head:
    """Tissue fractions, shape (tissue, z, y, x), on a working grid."""

    fractions: Array
    grid: sitk.Image

    @property
    def brain(self) -> Array:
        """Fraction of brain tissue, the ventricles included."""
        result: Array = self.fractions[: Tissue.WHITE + 1].sum(axis=0)
        return result

    def image(self, array: Array) -> sitk.Image:
        """Return an array of this head's shape as an image on its grid."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(array, dtype=np.float32))
        image.CopyInformation(self.grid)
        return image

    def points_mm(self) -> tuple[Array, Array, Array]:
        """Return the x, y and z coordinates of the grid, each of a shape that broadcasts to (z, y, x)."""
        return grid_points_mm(self.grid)


def grid_points_mm(grid: sitk.Image) -> tuple[Array, Array, Array]:
    """Return LPS coordinates of an axis-aligned grid, broadcastable to (z, y, x)."""
    x, y, z = (
        (origin + spacing * np.arange(n)).astype(np.float32)
        for origin, spacing, n in zip(grid.GetOrigin(), grid.GetSpacing(), grid.GetSize(), strict=True)
    )
    return x[None, None, :], y[None, :, None], z[:, None, None]


def make_grid(minimum_mm: tuple[float, ...], maximum_mm: tuple[float, ...], spacing_mm: float) -> sitk.Image:
    """Return an empty axis-aligned image that covers a box."""
    size = [int(np.ceil((b - a) / spacing_mm)) + 1 for a, b in zip(minimum_mm, maximum_mm, strict=True)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin(minimum_mm)
    grid.SetSpacing((spacing_mm,) * 3)
    return grid


def _atlas_folder() -> Path:
    # The package is located, not imported: importing it takes seconds and only its data files are needed.
    spec = find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("nilearn, which ships the atlas, is not installed", remedy="pip install nilearn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


@lru_cache(maxsize=2)
def load_head(spacing_mm: float) -> Head:
    """Return the average head at a working spacing.

    The brain is the ICBM152 2009a symmetric atlas (Fonov et al., NeuroImage 2011). Outside it lie shells by distance:
    fluid, skull, scalp; below it neck and face, with eyes and a nasal cavity.
    """
    folder = _atlas_folder()
    t1, grey, white = (
        sitk.Cast(
            sitk.ReadImage(str(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")), sitk.sitkFloat32
        )
        for name in ("t1", "gm", "wm")
    )
    grid = make_grid(HEAD_MIN_MM, HEAD_MAX_MM, spacing_mm)

    def to_grid(image: sitk.Image) -> Array:
        smooth = sitk.SmoothingRecursiveGaussian(image, max(0.4 * spacing_mm, 0.3))
        array: Array = sitk.GetArrayFromImage(sitk.Resample(smooth, grid, sitk.Transform(), sitk.sitkLinear, 0.0))
        return array.clip(0)

    brain = to_grid(sitk.Cast(sitk.Or(t1 > 0, (grey + white) > 128), sitk.sitkFloat32)).clip(0, 1)
    grey_fraction, white_fraction = to_grid(grey) / 255, to_grid(white) / 255
    total = np.maximum(grey_fraction + white_fraction, 1e-6)
    keep = np.minimum(brain / total, 1)
    grey_fraction, white_fraction = grey_fraction * keep, white_fraction * keep

    fractions = np.zeros((len(Tissue), *brain.shape), np.float32)
    fractions[Tissue.GREY], fractions[Tissue.WHITE] = grey_fraction, white_fraction
    fractions[Tissue.CSF] = (brain - grey_fraction - white_fraction).clip(0)
    _add_shells(fractions, brain, grid, spacing_mm)
    fractions.setflags(write=False)
    return Head(fractions, grid)


def _add_shells(fractions: Array, brain: Array, grid: sitk.Image, spacing_mm: float) -> None:
    """Fill the fractions outside the brain, in place."""
    x, y, z = grid_points_mm(grid)

    def inside(distance_mm: Array) -> Array:
        ramp: Array = (0.5 - distance_mm / spacing_mm).clip(0, 1)
        return ramp

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
        r = np.sqrt(sum(((p - c) / s) ** 2 for p, c, s in zip((x, y, z), centre, radii, strict=True)))
        distance: Array = (r - 1) * np.float32(min(radii))
        return distance

    closed = _distance_mm(_distance_mm(brain > 0.5, spacing_mm) < 12, spacing_mm) + 12
    from_brain = np.minimum(_distance_mm(brain > 0.5, spacing_mm), closed)
    neck = ellipsoid((0, 28, -110), (54, 60, 90))
    face = ellipsoid((0, -36, -72), (60, 50, 58))
    soft = _smooth_minimum(_smooth_minimum(neck, face, width_mm=20), from_brain - 14, width_mm=20)
    head = inside(soft)
    cranium = inside(from_brain - 2.5)
    skull = inside(from_brain - 8.5)
    deep = inside(np.minimum(from_brain - 10.5, soft + 5))
    air = inside(ellipsoid((0, -62, -60), (11, 20, 22)))
    eyes = np.maximum(*(inside(ellipsoid((side * 31.0, -66, -36), (12, 12, 12))) for side in (-1, 1)))
    outside = (1 - brain).clip(0)
    fractions[Tissue.CSF] += cranium * outside
    rest = outside * (1 - cranium)
    fractions[Tissue.BONE] = skull * rest
    rest = (rest - fractions[Tissue.BONE]).clip(0)
    eyes = eyes * rest
    fractions[Tissue.CSF] += eyes
    rest = (rest - eyes) * (1 - air)
    fractions[Tissue.MUSCLE] = (deep * rest).clip(0)
    fractions[Tissue.FAT] = (head * rest - fractions[Tissue.MUSCLE]).clip(0)


def _smooth_minimum(a: Array, b: Array, *, width_mm: float) -> Array:
    """Return the smaller of two distances, rounded where they are within ``width_mm`` of each other."""
    near = (1 - np.abs(a - b) / width_mm).clip(0)
    return np.minimum(a, b) - near**2 * width_mm / 4


def _distance_mm(mask: npt.NDArray[np.bool_], spacing_mm: float) -> Array:
    """Return the signed distance to a mask's surface, negative inside."""
    outside = ndimage.distance_transform_edt(~mask)
    within = ndimage.distance_transform_edt(mask)
    distance: Array = ((outside - within) * spacing_mm).astype(np.float32)
    return distance


def draw_subject(rng: np.random.Generator, *, spacing_mm: float) -> Head:
    """Return one subject's head: the average head, scaled, turned, shifted and smoothly deformed (2 mm SD)."""
    average = load_head(spacing_mm)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(_CENTRE_MM)
    rotation = sitk.Euler3DTransform(_CENTRE_MM, *np.deg2rad(rng.uniform(-4, 4, 3)))
    scale = 1 / rng.normal(1.0, 0.03, 3).clip(0.93, 1.07)
    affine.SetMatrix((np.reshape(rotation.GetMatrix(), (3, 3)) * scale).ravel().tolist())
    affine.SetTranslation(rng.uniform(-4, 4, 3).tolist())

    lattice = make_grid(HEAD_MIN_MM, HEAD_MAX_MM, 12.0)
    shape = lattice.GetSize()[::-1]
    waves = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 2.0) for _ in range(3)], axis=-1)
    field = sitk.GetImageFromArray(waves / waves.std() * 2.0, isVector=True)
    field.CopyInformation(lattice)
    transform = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])

    stacked = sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(average.fractions, 0, -1)), isVector=True)
    stacked.CopyInformation(average.grid)
    warped = sitk.GetArrayFromImage(sitk.Resample(stacked, average.grid, transform, sitk.sitkLinear, 0.0))
    return Head(np.ascontiguousarray(np.moveaxis(warped, -1, 0)), average.grid)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], *, length_mm: float, spacing_mm: float) -> Array:
    """Return Gaussian noise of zero mean and unit variance with a correlation length (the filter's SD)."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), length_mm / spacing_mm, mode="wrap")
    result: Array = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return result
