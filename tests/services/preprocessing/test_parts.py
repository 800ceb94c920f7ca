"""Orientation, atlas, bias field, registration, intensities and quality numbers, each by itself."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from services.preprocessing import intensity, quality, registration
from services.preprocessing.atlas import load_atlas
from services.preprocessing.bias_field import correct_bias
from services.preprocessing.brain_extraction import find_head, is_skull_stripped, volume_ml
from services.preprocessing.orientation import anisotropy, coarsen, orient, resampled_grid
from services.shared.cohort import CaseKeys, Sequence, atlas_space
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidVolume, NotFound
from services.shared.settings import settings


def test_orienting_moves_no_voxel(head):
    image = head.images[Sequence.T1]
    turned = sitk.DICOMOrient(image, "PIR")
    back = orient(turned)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    assert back.GetOrigin() == pytest.approx(image.GetOrigin())
    index = (10, 20, 30)
    place = back.TransformIndexToPhysicalPoint(index)
    assert turned.GetPixel(turned.TransformPhysicalPointToIndex(place)) == back.GetPixel(index)


def test_a_resampled_grid_covers_the_same_box():
    image = sitk.Image((30, 40, 20), sitk.sitkFloat32)
    image.SetSpacing((1.0, 1.0, 3.0))
    grid = resampled_grid(image, (3.0, 2.0, 3.0))
    assert grid.GetSize() == (10, 20, 20)
    assert grid.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5)) == pytest.approx((-0.5, -0.5, -1.5))
    assert anisotropy(grid.GetSpacing()) == 1.5


def test_coarsening_keeps_the_mean_and_never_refines():
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(10, 1, (20, 40, 40)).astype(np.float32))
    image.SetSpacing((1.0, 1.0, 5.0))
    coarse = coarsen(image, 4.0)
    assert coarse.GetSpacing() == (4.0, 4.0, 5.0)
    array = sitk.GetArrayFromImage(coarse)
    assert array.mean() == pytest.approx(10, abs=0.1)
    assert array.std() < 0.4


def test_the_bundled_atlas_is_a_brain_in_a_head():
    atlas = load_atlas("icbm152", 3.0)
    assert atlas.space == "MNI152"
    assert 1700 < volume_ml(atlas.mask) < 2100
    assert atlas.grid.GetSize() == (66, 78, 63)
    head, mask = sitk.GetArrayFromImage(atlas.head), sitk.GetArrayFromImage(atlas.mask) > 0
    assert (head[~mask] > 0.5 * head[mask].mean()).sum() > 0.1 * mask.sum()


def test_an_atlas_by_folder(tmp_path, monkeypatch):
    with pytest.raises(NotFound, match="spgr"):
        load_atlas(str(tmp_path))
    brain = sitk.Mask(load_atlas("icbm152").brain + 1.0, load_atlas("icbm152").mask)
    sitk.WriteImage(brain, str(tmp_path / "spgr.nii.gz"))
    atlas = load_atlas(str(tmp_path), 3.0)
    assert (atlas.name, atlas.space) == ("sri24", "SRI24")
    assert volume_ml(atlas.mask) == pytest.approx(volume_ml(load_atlas("icbm152").mask), rel=0.02)
    assert atlas_space() == "MNI152"
    monkeypatch.setenv("GLIAFLOW_ATLAS", str(tmp_path))
    settings.cache_clear()
    assert "space-SRI24" in CaseKeys(CaseRef(cohort="a", id="b")).brain_mask
    settings.cache_clear()


def test_bias_field_is_taken_out(head):
    """The shading of the synthetic coil runs over exp(±0.3) along x; most of its slope must go."""
    image = orient(head.images[Sequence.T1])
    corrected = correct_bias(image, find_head(image), grid_mm=8.0)
    inside = sitk.GetArrayFromImage(find_head(image)) > 0
    before = sitk.GetArrayFromImage(image)[inside]
    after = sitk.GetArrayFromImage(corrected.image)[inside]
    x = np.nonzero(inside)[2]
    usable = (before > 50) & (after > 0)

    def slope(values: np.ndarray) -> float:
        return abs(float(np.polyfit(x[usable], np.log(values[usable]), 1)[0]))

    assert slope(after) < 0.5 * slope(before)
    assert corrected.field_range > 1.1


def test_only_stripped_volumes_count_as_stripped(head, stripped_head):
    assert not is_skull_stripped(head.images[Sequence.T1C])
    assert is_skull_stripped(stripped_head.images[Sequence.T1C])


def test_a_known_move_is_found(head):
    fixed = head.images[Sequence.T1]
    moved = sitk.Euler3DTransform((0, 10, 0), 0.15, -0.1, 0.2, (9.0, -7.0, 6.0))
    moving = sitk.Resample(fixed, fixed, moved.GetInverse(), sitk.sitkBSpline)
    mask = find_head(fixed)
    found = registration.register_rigid(fixed, moving, mask=mask, seed=0)
    points = registration.mask_points(mask)
    assert registration.mean_displacement_mm(found, moved, points) < 0.3
    again = registration.register_rigid(fixed, moving, mask=mask, seed=0)
    assert found.GetParameters() == again.GetParameters()


def test_aligned_volumes_stay_where_they_are(head):
    image = head.images[Sequence.T1]
    other = sitk.Sqrt(image)
    found = registration.register_rigid(image, other, mask=find_head(image), seed=0)
    points = registration.mask_points(find_head(image))
    assert registration.mean_displacement_mm(found, sitk.Transform(3, sitk.sitkIdentity), points) < 0.15


def test_the_nearest_rigid_transform_drops_size_and_keeps_the_centre():
    rotation = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, -0.1, (4.0, 5.0, 6.0))
    grown = registration.compose(rotation, registration.affine(1.1 * np.eye(3), (0, 0, 0), centre=(1.0, 2.0, 3.0)))
    rigid = registration.nearest_rigid(grown, centre=(1.0, 2.0, 3.0))
    points = np.random.default_rng(0).normal(0, 50, (10, 3))
    assert registration.mean_displacement_mm(rigid, rotation, points) < 1e-9


def test_mutual_information_has_its_bounds():
    identical = np.diag([3, 4, 5])
    independent = np.outer([1, 2], [3, 3])
    assert registration.normalised_mutual_information(identical) == pytest.approx(2)
    assert registration.normalised_mutual_information(independent) == pytest.approx(1)


@pytest.fixture
def brain() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 30, 30), bool)
    mask[4:26, 4:26, 4:26] = True
    tissue = np.where(rng.random(mask.shape) < 0.5, 60.0, 100.0)
    array = np.where(mask, rng.normal(tissue, 5), 0).astype(np.float32)
    return array, mask


def test_z_score_does_not_follow_outliers(brain):
    array, mask = brain
    spoilt = array.copy()
    spoilt[5, 5, 5:10] = 1e6
    clean, robust = intensity.z_score(array, mask).array, intensity.z_score(spoilt, mask).array
    np.testing.assert_allclose(robust[20], clean[20], atol=0.02)
    assert clean[mask].mean() == pytest.approx(0, abs=0.02)


def test_white_stripe_centres_on_white_matter(brain):
    array, mask = brain
    stripe = intensity.white_stripe_voxels(array, mask)
    assert array[stripe].mean() == pytest.approx(100, abs=2)
    scaled = intensity.white_stripe(array, mask, stripe=stripe).array
    assert scaled[stripe].mean() == pytest.approx(0, abs=1e-3)
    assert scaled[stripe].std() == pytest.approx(1, abs=1e-3)


def test_percentile_scale_clips_one_in_a_thousand(brain):
    array, mask = brain
    scaled = intensity.percentile_0_255(array, mask)
    assert scaled.array[mask].min() == 0
    assert scaled.array.max() == 255
    assert scaled.fraction_clipped == pytest.approx(0.001, abs=2e-4)


def test_a_brain_without_contrast_is_an_error():
    mask = np.ones((5, 5, 5), bool)
    flat = np.ones((5, 5, 5), np.float32)
    for scale in (intensity.z_score, intensity.percentile_0_255):
        with pytest.raises(InvalidVolume, match="one intensity"):
            scale(flat, mask)


def test_signal_to_noise_of_known_noise():
    rng = np.random.default_rng(0)
    array = (100 + rng.normal(0, 4, (20, 40, 40))).astype(np.float32)
    mask = np.ones(array.shape, bool)
    assert quality.signal_to_noise(array, mask) == pytest.approx(25, rel=0.05)
    assert quality.signal_to_noise(np.ones_like(array), mask) is None


def test_agreement_of_a_volume_with_itself_and_with_a_constant(brain):
    array, mask = brain
    nmi, correlation = quality.agreement(array, array, mask)
    assert nmi == pytest.approx(2)
    assert correlation == pytest.approx(1)
    assert quality.agreement(array, np.zeros_like(array), mask) == (None, None)


def test_flags_name_what_is_wrong(prepared):
    good = prepared.result.quality.sequences
    fine = {"brain_volume_ml": 1500.0, "atlas_dice": 0.95, "atlas_scale": 1.0}
    assert quality.find_flags(**fine, sequences=good) == []
    bad = {**good, Sequence.T2: good[Sequence.T2].model_copy(update={"anisotropy": 9.0, "fraction_seen": 0.5})}
    flags = quality.find_flags(**{**fine, "brain_volume_ml": 400.0, "atlas_dice": 0.5}, sequences=bad)
    assert flags == ["brain_volume_implausible", "atlas_overlap_low", "T2w:brain_cut_off", "T2w:thick_slices"]
