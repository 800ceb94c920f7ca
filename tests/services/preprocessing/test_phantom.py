"""Preparation of a phantom patient, whose heads and poses the phantom knows."""

from __future__ import annotations

import pytest
import SimpleITK as sitk

from pipelines.phantom.scanner import plan_acquisitions
from pipelines.simulate import participant_label, write_case
from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.registration import compose, mask_points, mean_displacement_mm
from services.preprocessing.steps import prepare_case
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef


@pytest.mark.slow
def test_a_phantom_patient_is_aligned_to_a_third_of_a_voxel(storage):
    write_case(storage, "phantom", 0, seed=3, voxel_mm=3.0)
    keys = CaseKeys(CaseRef(cohort="phantom", id=participant_label(0)))
    result = prepare_case(storage, keys.case, PrepareParameters(voxel_mm=3.0))
    assert result.quality.flags == []
    assert result.quality.atlas_dice > 0.95
    acquired = plan_acquisitions(3, 0, voxel_mm=3.0)
    to_t1c = sitk.ReadTransform(storage.url(result.transforms[Sequence.T1C]))
    brain = mask_points(sitk.ReadImage(storage.url(result.brain_mask)))
    for sequence in (Sequence.T1, Sequence.T2, Sequence.FLAIR):
        true = compose(acquired[sequence].to_head.GetInverse(), compose(acquired[Sequence.T1C].to_head, to_t1c))
        found = sitk.ReadTransform(storage.url(result.transforms[sequence]))
        assert mean_displacement_mm(found, true, brain) < 1.0
