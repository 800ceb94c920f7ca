import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from services.shared.errors import InvalidVolume, SpaceMismatch, UnreadableFile
from services.shared.storage import Storage
from services.shared.volume import read_series, read_volume, require_same_grid, resample, same_grid, write_volume


def volume(values: np.ndarray, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin((-3.0, 4.0, 5.0))
    return image


def test_round_trip_keeps_values_and_geometry(storage: Storage) -> None:
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    write_volume(storage, "v.nii.gz", volume(values))
    image = read_volume(storage, "v.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    assert same_grid(image, volume(values))


def test_same_image_gives_the_same_bytes(storage: Storage) -> None:
    image = volume(np.ones((4, 4, 4), np.float32))
    write_volume(storage, "a.nii.gz", image)
    write_volume(storage, "b.nii.gz", image)
    assert storage.sha256("a.nii.gz") == storage.sha256("b.nii.gz")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["v.nii.gz", "v.nii"])
def test_values_that_are_not_finite_are_refused(storage: Storage, kind: type, value: float, name: str) -> None:
    values = np.zeros((4, 5, 6), kind)
    values[2, 3, 4] = value
    write_volume(storage, name, volume(values))
    with pytest.raises(InvalidVolume, match="1 of 120 voxels"):
        read_volume(storage, name)


def test_big_endian_values_are_checked_too(storage: Storage) -> None:
    header = bytearray(352)
    header[0:4] = (348).to_bytes(4, "big")
    header[40:56] = np.array([3, 2, 2, 2, 1, 1, 1, 1], ">i2").tobytes()
    header[70:74] = np.array([16, 32], ">i2").tobytes()
    header[76:108] = np.ones(8, ">f4").tobytes()
    header[108:112] = np.array([352], ">f4").tobytes()
    header[344:348] = b"n+1\0"
    values = np.ones(8, ">f4")
    storage.write_bytes("good.nii", bytes(header) + values.tobytes())
    assert sitk.GetArrayFromImage(read_volume(storage, "good.nii")).sum() == 8
    values[3] = np.nan
    storage.write_bytes("bad.nii", bytes(header) + values.tobytes())
    with pytest.raises(InvalidVolume, match="1 of 8"):
        read_volume(storage, "bad.nii")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_file_is_refused(storage: Storage, keep: float) -> None:
    write_volume(storage, "v.nii.gz", volume(np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)))
    content = storage.read_bytes("v.nii.gz")
    storage.write_bytes("v.nii.gz", content[: int(len(content) * keep)])
    with pytest.raises(UnreadableFile, match=r"v\.nii\.gz"):
        read_volume(storage, "v.nii.gz")


@pytest.mark.parametrize("content", [b"no image", gzip.compress(b"no image", mtime=0), b""])
def test_file_that_is_no_image_is_refused(storage: Storage, content: bytes) -> None:
    storage.write_bytes("v.nii.gz", content)
    with pytest.raises(UnreadableFile):
        read_volume(storage, "v.nii.gz")


def test_series_and_flat_volumes_are_refused(storage: Storage) -> None:
    image = volume(np.ones((4, 4, 4), np.float32))
    with storage.publish("series.nii.gz") as path:
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))
    write_volume(storage, "flat.nii.gz", volume(np.ones((1, 4, 4), np.float32)))
    with pytest.raises(InvalidVolume, match="single 3D volume"):
        read_volume(storage, "series.nii.gz")
    with pytest.raises(InvalidVolume):
        read_volume(storage, "flat.nii.gz")


def test_error_names_no_folder_of_the_machine(storage: Storage) -> None:
    storage.write_bytes("v.nii.gz", gzip.compress(b"no image", mtime=0))
    with pytest.raises(UnreadableFile) as caught:
        read_volume(storage, "v.nii.gz")
    assert str(Path(storage.root).parent) not in str(caught.value)


def test_other_grid_is_named() -> None:
    a = volume(np.ones((4, 4, 4), np.float32))
    b = volume(np.ones((4, 4, 4), np.float32), spacing=(1.0, 1.0, 1.0))
    require_same_grid(a, a, name="mask", reference_name="T1c")
    with pytest.raises(SpaceMismatch, match="1x2x3 mm"):
        require_same_grid(b, a, name="mask", reference_name="T1c")


def test_resampling_to_itself_is_exact() -> None:
    a = volume(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32))
    np.testing.assert_allclose(sitk.GetArrayFromImage(resample(a, a)), sitk.GetArrayFromImage(a), atol=1e-6)


def test_a_series_is_read_volume_by_volume(storage: Storage) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    write_volume(storage, "s.nii.gz", sitk.JoinSeries([volume(part) for part in values]))
    found = read_series(storage, "s.nii.gz")
    assert len(found) == 3
    for image, part in zip(found, values, strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), part)
        assert same_grid(image, volume(part))
    write_volume(storage, "v.nii.gz", volume(values[0]))
    with pytest.raises(InvalidVolume, match="not a series"):
        read_series(storage, "v.nii.gz")
    storage.write_bytes("b.nii.gz", b"no image")
    with pytest.raises(UnreadableFile):
        read_series(storage, "b.nii.gz")
    values[1, 2, 3, 4] = np.nan
    write_volume(storage, "n.nii.gz", sitk.JoinSeries([volume(part) for part in values]))
    with pytest.raises(InvalidVolume, match="NaN"):
        read_series(storage, "n.nii.gz")
