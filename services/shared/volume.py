"""Read, check, write and resample 3D volumes.

Arrays follow SimpleITK: index order (z, y, x); sizes and spacings in (x, y, z), millimetres, LPS.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from services.shared.errors import InvalidVolume, SpaceMismatch, UnreadableFile
from services.shared.storage import Storage

GEOMETRY_TOLERANCE_MM = 1e-3


def read_volume(storage: Storage, key: str, *, pixel_type: int = sitk.sitkFloat32) -> sitk.Image:
    """Read a NIfTI volume and check that it can be worked with.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no file, or it is truncated or not NIfTI.
    InvalidVolume
        Where it is not 3D, has fewer than two voxels along an axis, a spacing that is not positive, or NaN or Inf.
    """
    with storage.local(key) as path:
        return read_volume_file(path, name=key, pixel_type=pixel_type)


def read_volume_file(path: Path, *, name: str | None = None, pixel_type: int = sitk.sitkFloat32) -> sitk.Image:
    """As :func:`read_volume`, from a file on this machine."""
    name = name or path.name
    if path.name.endswith(".gz"):
        _check_gzip(path, name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len([n for n in size if n > 1]) > 3 or len(size) < 3 or reader.GetNumberOfComponents() != 1:
            raise InvalidVolume(
                "the image is not a single 3D volume",
                field=name,
                expected="3 dimensions, one component",
                got=f"size {size}, {reader.GetNumberOfComponents()} component(s)",
                remedy="split a series into one file a volume",
            )
        if len(size) > 3:
            reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
        image = sitk.Cast(reader.Execute(), pixel_type)
    except RuntimeError as error:
        raise UnreadableFile(
            "the file cannot be read as an image",
            field=name,
            expected="NIfTI",
            got=str(error).strip().splitlines()[-1].strip()[:160],
            remedy="export the image again",
        ) from error
    if min(image.GetSize()) < 2:
        raise InvalidVolume(
            "the volume is flat", field=name, expected="at least 2 voxels along each axis", got=image.GetSize()
        )
    values = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(values.dtype, np.floating):
        broken = values.size - int(np.count_nonzero(np.isfinite(values)))
        if broken:
            raise InvalidVolume(
                "the volume holds NaN or infinite values",
                field=name,
                expected="finite values",
                got=f"{broken} of {values.size} voxels",
                remedy="export the image again, or replace these voxels knowingly",
            )
    return image


def _check_gzip(path: Path, name: str) -> None:
    try:
        with gzip.open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        raise UnreadableFile(
            "the compressed file is damaged",
            field=name,
            expected="a whole .nii.gz",
            got=str(error),
            remedy="copy or export the file again",
        ) from error


def write_volume(storage: Storage, key: str, image: sitk.Image) -> None:
    """Write a compressed NIfTI volume, whole or not at all. The same image gives the same bytes."""
    with storage.publish(key) as path:
        sitk.WriteImage(image, str(path), useCompression=True)


def same_grid(a: sitk.Image, b: sitk.Image, *, tolerance_mm: float = GEOMETRY_TOLERANCE_MM) -> bool:
    """Return whether two volumes share size, spacing, direction and origin."""
    return bool(
        a.GetSize() == b.GetSize()
        and np.allclose(a.GetSpacing(), b.GetSpacing(), atol=tolerance_mm)
        and np.allclose(a.GetDirection(), b.GetDirection(), atol=1e-4)
        and np.allclose(a.GetOrigin(), b.GetOrigin(), atol=max(tolerance_mm, 1e-2))
    )


def require_same_grid(image: sitk.Image, reference: sitk.Image, *, name: str, reference_name: str) -> None:
    """Check that a volume lies on the grid of another.

    Raises
    ------
    SpaceMismatch
        Stating both grids.
    """
    if not same_grid(image, reference):
        raise SpaceMismatch(
            f"{name} does not lie on the grid of {reference_name}",
            field=name,
            expected=describe_grid(reference),
            got=describe_grid(image),
            remedy=f"resample it to {reference_name}",
        )


def describe_grid(image: sitk.Image) -> str:
    """Return a volume's grid in one line."""
    size = "x".join(map(str, image.GetSize()))
    spacing = "x".join(f"{s:.3g}" for s in image.GetSpacing())
    origin = ", ".join(f"{o:.1f}" for o in image.GetOrigin())
    return f"{size} voxels of {spacing} mm at ({origin})"


def resample(
    image: sitk.Image,
    grid: sitk.Image,
    *,
    transform: sitk.Transform | None = None,
    interpolator: int = sitk.sitkLinear,
    outside: float = 0.0,
) -> sitk.Image:
    """Return a volume on another grid; ``transform`` takes points of the grid to points of the volume."""
    return sitk.Resample(image, grid, transform or sitk.Transform(3, sitk.sitkIdentity), interpolator, outside)


@contextmanager
def itk_threads(count: int) -> Iterator[None]:
    """Bound ITK's threads while the block lasts, so that parallel cases do not fight over cores."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
