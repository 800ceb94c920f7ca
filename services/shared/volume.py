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

_NIFTI_HEADER_SIZE = 348
_NIFTI_HEADER_BYTES = 352
_CHUNK_BYTES = 1 << 22


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
    _check_nifti(path, name)
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
            got=str(error).strip().splitlines()[-1].strip().replace(str(path), name)[:160],
            remedy="export the image again",
        ) from error
    if min(image.GetSize()) < 2:
        raise InvalidVolume(
            "the volume is flat", field=name, expected="at least 2 voxels along each axis", got=image.GetSize()
        )
    return image


def read_series(storage: Storage, key: str, *, pixel_type: int = sitk.sitkFloat32) -> list[sitk.Image]:
    """Read a 4D NIfTI series as volumes on one grid, in their order.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no file, or it is truncated or not NIfTI.
    InvalidVolume
        Where it is not 4D, has fewer than two volumes or voxels along an axis, or holds NaN or Inf.
    """
    with storage.local(key) as path:
        _check_nifti(path, key)
        try:
            image = sitk.ReadImage(str(path), pixel_type)
        except RuntimeError as error:
            raise UnreadableFile(
                "the file cannot be read as a series",
                field=key,
                expected="NIfTI",
                got=str(error).strip().splitlines()[-1].strip().replace(str(path), key)[:160],
                remedy="export the series again",
            ) from error
    if image.GetDimension() != 4 or min(image.GetSize()) < 2:
        raise InvalidVolume(
            "the image is not a series of volumes",
            field=key,
            expected="4 dimensions, at least 2 volumes and 2 voxels along each axis",
            got=image.GetSize(),
            remedy="give the whole series in one file",
        )
    return [image[:, :, :, number] for number in range(image.GetSize()[3])]


def _check_nifti(path: Path, name: str) -> None:
    """Check that a NIfTI file is whole and that its values are finite.

    ITK's reader silently turns NaN and Inf into zero and pads a truncated file, so the bytes are checked here.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            header = file.read(_NIFTI_HEADER_BYTES)
            data_type = _float_type(header)
            broken = values = 0
            file.seek(_data_offset(header))
            while chunk := file.read(_CHUNK_BYTES):
                if data_type is not None:
                    numbers = np.frombuffer(chunk[: len(chunk) // data_type.itemsize * data_type.itemsize], data_type)
                    values += numbers.size
                    broken += numbers.size - int(np.count_nonzero(np.isfinite(numbers)))
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        raise UnreadableFile(
            "the compressed file is damaged",
            field=name,
            expected="a whole .nii.gz",
            got=str(error),
            remedy="copy or export the file again",
        ) from error
    if broken:
        raise InvalidVolume(
            "the volume holds NaN or infinite values",
            field=name,
            expected="finite values",
            got=f"{broken} of {values} voxels",
            remedy="export the image again, or replace these voxels knowingly",
        )


def _byte_order(header: bytes) -> str:
    return "<" if header[:4] == _NIFTI_HEADER_SIZE.to_bytes(4, "little") else ">"


def _float_type(header: bytes) -> np.dtype[np.floating] | None:
    """Return the type of the stored values where it can hold NaN (NIfTI-1 datatype codes 16 and 64)."""
    if len(header) < _NIFTI_HEADER_BYTES:
        return None
    order = _byte_order(header)
    code = int(np.frombuffer(header, f"{order}i2", 1, 70)[0])
    kind = {16: "f4", 64: "f8"}.get(code)
    return np.dtype(f"{order}{kind}") if kind else None


def _data_offset(header: bytes) -> int:
    if len(header) < _NIFTI_HEADER_BYTES:
        return len(header)
    offset = float(np.frombuffer(header, f"{_byte_order(header)}f4", 1, 108)[0])
    return int(offset) if offset >= _NIFTI_HEADER_BYTES else _NIFTI_HEADER_BYTES


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
