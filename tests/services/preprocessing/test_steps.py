"""The whole preparation of a head whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from services.preprocessing.atlas import load_atlas
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.intensity import Normalisation
from services.preprocessing.quality import dice
from services.preprocessing.registration import compose, mask_points, mean_displacement_mm
from services.preprocessing.steps import carry_labels, invert_to_native, prepare_case
from services.shared.cohort import SEQUENCES, Sequence
from services.shared.contracts import CaseRef
from services.shared.volume import same_grid

VOXEL_MM = 4.0
PARAMETERS = PrepareParameters(voxel_mm=VOXEL_MM)


def true_brain(prepared) -> np.ndarray:
    """The brain mask of the head that was scanned, on the grid of prepared volumes."""
    atlas = load_atlas("icbm152", VOXEL_MM)
    to_t1c = sitk.ReadTransform(prepared.storage.url(prepared.keys.transform(Sequence.T1C, prepared.keys.space)))
    mask = sitk.Cast(atlas.mask, sitk.sitkFloat32)
    laid = sitk.Resample(mask, atlas.grid, compose(prepared.head.to_head[Sequence.T1C], to_t1c))
    return sitk.GetArrayFromImage(laid) > 0.5


def test_every_output_lies_on_the_atlas_grid(prepared):
    grid = load_atlas("icbm152", VOXEL_MM).grid
    result = prepared.result
    assert set(result.images) == set(SEQUENCES)
    for key in [*result.images.values(), result.brain_mask, result.segmentation]:
        assert same_grid(prepared.read(key), grid)
    assert not result.cached
    assert result.quality.status == "done"
    assert result.quality.space == "MNI152"


def test_the_brain_is_found(prepared):
    mask = prepared.array(prepared.result.brain_mask) > 0
    assert dice(mask, true_brain(prepared)) > 0.95


def test_sequences_are_brought_to_t1c(prepared):
    brain = mask_points(prepared.read(prepared.result.brain_mask))
    for sequence in (Sequence.T1, Sequence.T2, Sequence.FLAIR):
        found = sitk.ReadTransform(prepared.storage.url(prepared.keys.transform(sequence, "T1c")))
        true = compose(prepared.head.to_head[sequence].GetInverse(), prepared.head.to_head[Sequence.T1C])
        assert mean_displacement_mm(found, true, brain) < 1.0, sequence
        quality = prepared.result.quality.sequences[sequence]
        assert quality.nmi_after > quality.nmi_before


def test_t1c_is_brought_to_the_atlas(prepared):
    """Rigid alignment of a head of another size leaves that size, and nothing but that size, apart."""
    to_t1c = sitk.ReadTransform(prepared.storage.url(prepared.keys.transform(Sequence.T1C, "MNI152")))
    back = compose(prepared.head.to_head[Sequence.T1C], to_t1c)
    matrix = np.array(back.GetMatrix()).reshape(3, 3)
    np.testing.assert_allclose(matrix, 0.96 * np.eye(3), atol=0.02)
    centre = mask_points(load_atlas("icbm152", VOXEL_MM).mask).mean(axis=0)
    assert np.linalg.norm(np.array(back.TransformPoint(centre)) - centre) < 1.5


def test_intensities_are_standard_scores_inside_the_brain(prepared):
    brain = prepared.array(prepared.result.brain_mask) > 0
    for key in prepared.result.images.values():
        array = prepared.array(key)
        assert np.all(array[~brain] == 0)
        low, high = np.percentile(array[brain], (1, 99))
        trusted = array[brain & (array >= low) & (array <= high)]
        assert trusted.mean() == pytest.approx(0, abs=0.02)
        assert trusted.std() == pytest.approx(1, abs=0.02)


def test_expert_mask_follows_t1c(prepared):
    carried = prepared.array(prepared.result.segmentation)
    assert set(np.unique(carried)) == {0, 1, 2, 4}
    native = (sitk.GetArrayFromImage(prepared.head.labels) > 0).sum() * np.prod(prepared.head.labels.GetSpacing())
    assert (carried > 0).sum() * VOXEL_MM**3 == pytest.approx(native, rel=0.1)
    t1c = prepared.array(prepared.result.images[Sequence.T1C])
    assert t1c[carried == 4].mean() > t1c[carried == 2].mean() + 1


def test_an_atlas_image_goes_back_to_the_native_grid(prepared):
    carried = prepared.read(prepared.result.segmentation)
    back = invert_to_native(prepared.storage, prepared.keys.case, Sequence.T1C, carried, labels=True)
    assert same_grid(back, prepared.head.labels)
    array, native = sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(prepared.head.labels)
    assert dice(array > 0, native > 0) > 0.9
    mask = prepared.read(prepared.result.brain_mask)
    flair = invert_to_native(prepared.storage, prepared.keys.case, Sequence.FLAIR, mask)
    assert same_grid(flair, prepared.head.images[Sequence.FLAIR])


def test_points_survive_the_round_trip(prepared):
    for sequence in SEQUENCES:
        there = sitk.ReadTransform(prepared.storage.url(prepared.result.transforms[sequence]))
        back = there.GetInverse()
        for point in mask_points(prepared.read(prepared.result.brain_mask), count=20):
            np.testing.assert_allclose(back.TransformPoint(there.TransformPoint(point)), point, atol=1e-6)


def test_same_input_gives_the_same_bytes_and_a_second_run_does_nothing(prepared, prepare):
    again = prepare(prepared.head)
    for key in again.storage.files(again.keys.preprocessed):
        if not key.endswith("manifest.json"):
            assert again.storage.sha256(key) == prepared.storage.sha256(key), key
    cached = prepare_case(again.storage, again.keys.case, PARAMETERS)
    assert cached.cached
    assert cached == again.result.model_copy(update={"cached": True})


def test_skull_stripped_input_keeps_its_own_brain(prepare, stripped_head):
    stripped = prepare(stripped_head)
    assert stripped.result.quality.skull_stripped
    assert dice(stripped.array(stripped.result.brain_mask) > 0, true_brain(stripped)) > 0.97


def test_affine_alignment_fits_the_size(prepare, head):
    fitted = prepare(head, alignment="affine", normalisation=Normalisation.PERCENTILE_0_255)
    atlas = load_atlas("icbm152", VOXEL_MM)
    grid_mask = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(atlas.mask, sitk.sitkFloat32), atlas.grid)) > 0.5
    assert dice(fitted.array(fitted.result.brain_mask) > 0, grid_mask) > 0.95
    for key in fitted.result.images.values():
        array = fitted.array(key)
        assert array.min() == 0
        assert array.max() == 255


def test_a_mask_that_went_away_leaves_no_segmentation(prepared, storage):
    prepared.copied_to(storage).remove(prepared.keys.raw_segmentation)
    result = prepare_case(storage, prepared.keys.case, PARAMETERS)
    assert not result.cached
    assert result.segmentation is None
    assert not storage.exists(prepared.keys.preprocessed_segmentation)


def test_quality_is_written_beside_the_volumes(prepared):
    written = json.loads(prepared.storage.read_text(prepared.keys.quality))
    assert written["status"] == "done"
    assert written["brain_volume_ml"] == pytest.approx(prepared.result.quality.brain_volume_ml)
    assert 1200 < written["brain_volume_ml"] < 2200
    assert written["flags"] == []


def test_carrying_labels_takes_the_largest_share():
    labels = np.zeros((4, 4, 8), np.uint8)
    labels[:, :, 4:] = 4
    labels[:, :, 2:4] = 1
    image = sitk.GetImageFromArray(labels)
    grid = sitk.Image((8, 4, 4), sitk.sitkUInt8)
    shift = sitk.TranslationTransform(3, (0.4, 0.0, 0.0))
    carried = sitk.GetArrayFromImage(carry_labels(image, grid, shift))
    np.testing.assert_array_equal(carried[:, :, :7], labels[:, :, :7])


def test_a_case_is_named_in_its_result(prepared):
    assert prepared.result.case == CaseRef(cohort="demo", id="a")
