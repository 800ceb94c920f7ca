"""Preparation of public cases: a raw clinical head with thick slices, and one that comes stripped and aligned."""

from __future__ import annotations

import pytest

from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import prepare_case
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef

FILES = {
    "BraTS202100495": (
        "mri_brats_cases/BraTS2021_00495/BraTS2021_00495_{}.nii.gz",
        {Sequence.T1: "t1", Sequence.T1C: "t1ce", Sequence.T2: "t2", Sequence.FLAIR: "flair"},
    ),
    "TCGA020054": (
        "mri_raw_tcga/TCGA-02-0054/TCGA-02-0054_{}.nii.gz",
        {Sequence.T1: "T1", Sequence.T1C: "T1c", Sequence.T2: "T2", Sequence.FLAIR: "FLAIR"},
    ),
}


def prepare(storage, real_data, case_id):
    keys = CaseKeys(CaseRef(cohort="real", id=case_id))
    pattern, names = FILES[case_id]
    for sequence, name in names.items():
        storage.write_bytes(keys.raw_image(sequence), (real_data / pattern.format(name)).read_bytes())
    if case_id.startswith("BraTS"):
        storage.write_bytes(keys.raw_segmentation, (real_data / pattern.format("seg")).read_bytes())
    return prepare_case(storage, keys.case, PrepareParameters(voxel_mm=3.0))


@pytest.mark.real
@pytest.mark.slow
def test_a_raw_head_with_thick_slices(storage, real_data):
    quality = prepare(storage, real_data, "TCGA020054").quality
    assert not quality.skull_stripped
    assert 1200 < quality.brain_volume_ml < 1600
    assert quality.atlas_dice > 0.87
    assert 0.85 < quality.atlas_scale < 1.0
    assert quality.sequences[Sequence.T1].anisotropy > 8
    assert "T1c:thick_slices" in quality.flags


@pytest.mark.real
@pytest.mark.slow
def test_a_stripped_and_aligned_case_is_not_moved(storage, real_data):
    result = prepare(storage, real_data, "BraTS202100495")
    assert result.quality.skull_stripped
    assert result.quality.brain_volume_ml == pytest.approx(1479, rel=0.02)
    assert all(q.shift_mm < 0.5 for q in result.quality.sequences.values())
    assert result.segmentation is not None
