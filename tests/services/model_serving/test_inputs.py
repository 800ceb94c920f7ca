from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from services.model_serving.inputs import crop_diffusion_maps, crop_region, lay_back, slice_region, standardise
from services.shared.cohort import Region, Sequence
from services.shared.errors import InvalidMask, InvalidVolume, MissingSequence, SpaceMismatch

SHAPE = (30, 40, 36)  # z, y, x


def image(array: np.ndarray, spacing=(1.0, 1.0, 2.0)) -> sitk.Image:
    found = sitk.GetImageFromArray(array)
    found.SetSpacing(spacing)
    found.SetOrigin((-10.0, 5.0, 3.0))
    found.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return found


@pytest.fixture
def coordinates() -> np.ndarray:
    """Return x, y and z of each voxel's centre in space: a crop that is right holds its own coordinates."""
    reference = image(np.zeros(SHAPE, np.uint8))
    found = np.zeros((3, *SHAPE), dtype=np.float32)
    for z in range(SHAPE[0]):
        for y in range(SHAPE[1]):
            for x in range(SHAPE[2]):
                found[:, z, y, x] = reference.TransformIndexToPhysicalPoint((x, y, z))
    return found


@pytest.fixture
def labels() -> np.ndarray:
    found = np.zeros(SHAPE, dtype=np.uint8)
    found[10:16, 12:24, 8:18] = 2
    found[12:14, 14:20, 10:14] = 4
    return found


SEQUENCES = (Sequence.T1, Sequence.T1C, Sequence.FLAIR)


def spatial(coordinates: np.ndarray) -> dict[Sequence, sitk.Image]:
    return dict(zip(SEQUENCES, map(image, coordinates), strict=True))


def test_a_crop_holds_what_lies_at_its_own_coordinates(coordinates, labels) -> None:
    found = crop_region(
        spatial(coordinates), image(labels), Region.WT, sequences=SEQUENCES, size_voxels=(12, 16, 8), voxel_mm=1.0,
        beyond="keep",
    )  # fmt: skip
    assert found.values.shape == (3, 8, 16, 12)
    (grid,) = found.grids
    for index in ((0, 0, 0), (5, 7, 3), (11, 15, 7)):
        x, y, z = index
        assert found.values[:, z, y, x] == pytest.approx(grid.TransformIndexToPhysicalPoint(index), abs=1e-3)
    middle = grid.TransformContinuousIndexToPhysicalPoint([5.5, 7.5, 3.5])
    assert middle == pytest.approx(image(labels).TransformContinuousIndexToPhysicalPoint([12.5, 17.5, 12.5]))


def test_a_crop_by_the_mask_is_zero_beyond_it_and_says_what_it_leaves_out(coordinates, labels) -> None:
    ones = {Sequence.T1: image(np.ones(SHAPE, np.float32))}
    whole = crop_region(
        ones, image(labels), Region.WT, sequences=[Sequence.T1], size_voxels=(20, 20, 16), voxel_mm=1.0, beyond="zero"
    )
    assert whole.outside_share == 0.0
    assert whole.values.sum() * 1.0 == pytest.approx((labels > 0).sum() * 2.0, rel=0.02)  # volume in mm³
    narrow = crop_region(
        ones, image(labels), Region.WT, sequences=[Sequence.T1], size_voxels=(5, 20, 16), voxel_mm=1.0, beyond="zero"
    )
    assert narrow.outside_share == pytest.approx(0.5, abs=0.11)


def test_the_slice_is_the_one_with_the_largest_area(coordinates, labels) -> None:
    labels[13, 11:26, 6:20] = 2
    cut = slice_region(
        spatial(coordinates), image(labels), Region.WT, sequences=SEQUENCES, size_pixels=(28, 30), pixel_mm=None
    )
    assert cut.values.shape == (3, 30, 28)
    reference = image(labels)
    corner = reference.TransformContinuousIndexToPhysicalPoint([6 - 0.5 + 0.25, 11 - 0.5 + 0.25, 13.0])
    assert cut.grids[0].GetOrigin() == pytest.approx(corner)  # two pixels a voxel: half a pixel inside the edge
    assert cut.values[2] == pytest.approx(corner[2], abs=1e-3)
    whole = slice_region(
        spatial(coordinates), image(labels), Region.WT, sequences=SEQUENCES, size_pixels=(50, 50), pixel_mm=1.0
    )
    assert whole.values.shape == (3, 50, 50)
    assert (whole.values[2] == 0).any()  # beyond the volume


def test_sixteen_diffusion_crops_run_map_by_map_from_below_upward(coordinates, labels) -> None:
    maps = {name: image(coordinates[2] * scale) for name, scale in (("FA", 1), ("MD", 10), ("AD", 100), ("RD", 1000))}
    found = crop_diffusion_maps(
        maps, image(labels), names=("FA", "MD", "AD", "RD"), slices=4, size_pixels=(16, 18)
    )  # fmt: skip
    assert found.values.shape == (16, 18, 16)
    heights = [grid.GetOrigin()[2] for grid in found.grids]
    assert np.diff(heights) == pytest.approx([2.4] * 3)  # 12 mm of tumour, four slices inside
    assert [float(v.mean()) for v in found.values[:4]] == pytest.approx(heights, abs=1e-3)
    assert found.values[4:8].mean() == pytest.approx(10 * np.mean(heights), rel=1e-4)
    with pytest.raises(MissingSequence, match="diffusion map"):
        crop_diffusion_maps({"FA": maps["FA"]}, image(labels), names=("FA", "MD"), slices=4, size_pixels=(8, 8))


def test_a_map_laid_back_lies_where_its_input_was(coordinates, labels) -> None:
    reference = image(labels)
    block = crop_region(
        spatial(coordinates), reference, Region.WT, sequences=SEQUENCES, size_voxels=(12, 16, 16), voxel_mm=1.0,
        beyond="keep",
    )  # fmt: skip
    back = sitk.GetArrayFromImage(lay_back(block.values[0], block.grids[0], reference))
    inside = back != 0
    assert inside[12, 17, 12]
    assert back[inside] == pytest.approx(coordinates[0][inside], abs=0.6)
    flat = slice_region(
        spatial(coordinates), reference, Region.WT, sequences=SEQUENCES, size_pixels=(20, 24), pixel_mm=None
    )
    found = sitk.GetArrayFromImage(lay_back(np.ones((24, 20)), flat.grids[0], reference))
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [10]  # the first of equally large slices
    assert found[10, 12:24, 8:18] == pytest.approx(1.0)


def test_standardised_sequences_do_not_depend_on_their_unit() -> None:
    rng = np.random.default_rng(0)
    brain = np.zeros(SHAPE, np.uint8)
    brain[5:25, 5:35, 5:30] = 1
    values = rng.normal(100, 20, SHAPE).astype(np.float32)
    one = standardise({Sequence.T1: image(values)}, image(brain), [Sequence.T1])[Sequence.T1]
    two = standardise({Sequence.T1: image(7 * values + 3)}, image(brain), [Sequence.T1])[Sequence.T1]
    a, b = sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(two)
    assert a == pytest.approx(b, abs=1e-4)
    assert a[brain == 1].std() == pytest.approx(1, abs=0.01)
    assert not a[brain == 0].any()


def test_inputs_that_cannot_be_used_are_refused(labels) -> None:
    brain = image(np.ones(SHAPE, np.uint8))
    flat = {Sequence.T1: image(np.ones(SHAPE, np.float32))}
    with pytest.raises(MissingSequence, match="FLAIR"):
        standardise(flat, brain, [Sequence.FLAIR])
    with pytest.raises(InvalidVolume, match="constant"):
        standardise(flat, brain, [Sequence.T1])
    broken = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    broken[3, 3, 3] = np.nan
    with pytest.raises(InvalidVolume, match="NaN"):
        standardise({Sequence.T1: image(broken)}, brain, [Sequence.T1])
    with pytest.raises(SpaceMismatch):
        standardise({Sequence.T1: image(broken, spacing=(2.0, 2.0, 2.0))}, brain, [Sequence.T1])
    with pytest.raises(InvalidMask, match="region is empty"):
        crop_region(flat, image(np.where(labels == 4, 0, labels)), Region.ET, sequences=[Sequence.T1],
                    size_voxels=(8, 8, 8), voxel_mm=1.0, beyond="keep")  # fmt: skip
