"""What a network sees of a case: its channels in order, and errors where it cannot see."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from services.model_serving.case_input import check_input, prepare_input, read_input, read_volumes
from services.model_serving.networks.specification import PAPER_SPECS
from services.shared.cohort import CaseKeys, Region, Sequence
from services.shared.errors import InvalidMask, InvalidVolume, MissingSequence, NotFound, SpaceMismatch
from services.shared.volume import read_volume, write_volume

GRADE = PAPER_SPECS["grade"].model_copy(update={"size": (32, 32, 16), "voxel_mm": 8.0})
SLICE = PAPER_SPECS["slice_classifier"].model_copy(update={"source": "prepared", "size": (48, 48), "absent": "refuse"})


def test_channels_come_in_the_order_of_the_specification(storage, write_imaging_case):
    case = write_imaging_case(1, bright=200)
    found = read_input(storage, case, GRADE)
    assert found.values.shape == GRADE.input_shape == (3, 16, 32, 32)
    core = [channel.max() for channel in found.values]
    assert int(np.argmax(core)) == GRADE.sequences.index(Sequence.T1C)
    turned = GRADE.model_copy(update={"sequences": GRADE.sequences[::-1]})
    assert np.array_equal(read_input(storage, case, turned).values, found.values[::-1])


def test_a_patch_larger_than_the_volume_is_zero_beyond_it(storage, write_imaging_case):
    case = write_imaging_case(1)
    large = GRADE.model_copy(update={"size": (96, 96, 64)})
    found = read_input(storage, case, large).values
    assert found.shape == (3, 64, 96, 96)
    assert not found[:, :10].any()
    assert found.any()


def test_the_whole_brain_is_seen_whatever_the_tumour(storage, write_imaging_case):
    case = write_imaging_case(1, tumour=False)
    whole = GRADE.model_copy(update={"view": "whole", "size": (32, 32, 32)})
    found = read_input(storage, case, whole).values
    brain = read_volume(storage, CaseKeys(case).brain_mask)
    assert np.count_nonzero(found[0]) == pytest.approx(sitk.GetArrayFromImage(brain).sum(), rel=0.35)
    with pytest.raises(InvalidMask, match="region is empty"):
        read_input(storage, case, GRADE)


def test_a_mask_cuts_the_patch(storage, write_imaging_case):
    case = write_imaging_case(1)
    kept = read_input(storage, case, GRADE).values
    cut = read_input(storage, case, GRADE.model_copy(update={"beyond": "zero", "region": Region.TC})).values
    assert 0 < np.count_nonzero(cut) < np.count_nonzero(kept) / 10


def test_sections_of_diffusion_maps(storage, write_imaging_case):
    case = write_imaging_case(1)
    keys = CaseKeys(case)
    spec = PAPER_SPECS["diffusion_survival"]
    with pytest.raises(MissingSequence, match="lacks an image"):
        read_input(storage, case, spec)
    image = read_volume(storage, keys.preprocessed_image(Sequence.T2))
    for name in spec.maps:
        write_volume(storage, keys.diffusion_map(name), image)
    found = read_input(storage, case, spec).values
    assert found.shape == (16, 96, 96)
    assert np.array_equal(found[:4], found[12:])


def test_a_missing_sequence_is_refused_or_zero(storage, write_imaging_case):
    case = write_imaging_case(1)
    storage.remove(CaseKeys(case).preprocessed_image(Sequence.T1))
    with pytest.raises(MissingSequence, match="lacks an image"):
        read_input(storage, case, SLICE)
    found = read_input(storage, case, SLICE.model_copy(update={"absent": "zero"})).values
    assert not found[SLICE.sequences.index(Sequence.T1)].any()
    assert found[SLICE.sequences.index(Sequence.FLAIR)].any()
    for sequence in SLICE.sequences[1:]:
        storage.remove(CaseKeys(case).preprocessed_image(sequence))
    with pytest.raises(MissingSequence, match="lacks an image"):
        read_input(storage, case, SLICE.model_copy(update={"absent": "zero"}))


def test_volumes_that_cannot_be_used_are_refused(storage, write_imaging_case):
    case = write_imaging_case(1)
    volumes = read_volumes(storage, case, GRADE)
    flat = dict(volumes.images) | {Sequence.T2: volumes.images[Sequence.T2] * 0 + 7}
    with pytest.raises(InvalidVolume, match="constant"):
        prepare_input(GRADE, flat, volumes.brain, volumes.labels)
    broken = sitk.Image(volumes.images[Sequence.T2])
    broken[8, 8, 8] = float("nan")
    with pytest.raises(InvalidVolume, match="NaN"):
        prepare_input(GRADE, dict(volumes.images) | {Sequence.T2: broken}, volumes.brain, volumes.labels)
    with pytest.raises(SpaceMismatch):
        prepare_input(GRADE, volumes.images, volumes.brain, volumes.labels[1:, :, :])
    storage.remove(CaseKeys(case).segmentation)
    with pytest.raises(NotFound, match="mask"):
        read_input(storage, case, GRADE)


def test_an_input_of_other_channels_or_size_or_with_nan_is_refused():
    values = np.zeros(GRADE.input_shape, np.float32)
    check_input(GRADE, values)
    for wrong in (values[:2], values[None], values.transpose(0, 3, 2, 1)[:, :, :, :8]):
        with pytest.raises(InvalidVolume, match="shape"):
            check_input(GRADE, wrong)
    values[0, 0, 0, 0] = np.nan
    with pytest.raises(InvalidVolume, match="NaN"):
        check_input(GRADE, values)
