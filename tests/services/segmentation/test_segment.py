from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from services.segmentation.contracts import SegmentParameters, SegmentRequest, SegmentResult
from services.segmentation.segment import finding_key
from services.segmentation.service import Segmentation
from services.shared.cohort import CaseKeys, Region, Sequence
from services.shared.errors import (
    ChangedFile,
    InvalidMask,
    InvalidVolume,
    MissingSequence,
    NotFound,
    SpaceMismatch,
)
from services.shared.storage import Storage
from services.shared.volume import read_volume, write_volume


def segment(keys: CaseKeys, **parameters: object) -> SegmentResult:
    request = SegmentRequest(case=keys.case, parameters=SegmentParameters.model_validate(parameters))
    return Segmentation().segment(request)


def expert(storage: Storage, keys: CaseKeys) -> sitk.Image:
    return read_volume(storage, keys.preprocessed_segmentation, pixel_type=sitk.sitkUInt8)


def test_auto_takes_the_expert_and_needs_no_network(storage: Storage, make_case) -> None:
    keys = make_case()
    result = segment(keys)
    written = read_volume(storage, keys.segmentation, pixel_type=sitk.sitkUInt8)
    values = sitk.GetArrayFromImage(expert(storage, keys))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), values)
    assert (result.source, result.cached, result.dice, result.model_sha256) == ("expert", False, None, None)
    assert result.tumour_found
    assert result.volumes_ml[Region.WT] == pytest.approx(np.count_nonzero(values) * 0.216)
    assert json.loads(storage.read_text(finding_key(keys)))["source"] == "expert"


def test_network_is_used_without_an_expert(storage: Storage, make_case, make_model) -> None:
    card = make_model(always=3)
    result = segment(make_case(expert=False))
    assert (result.source, result.dice, result.model_sha256) == ("network", None, card.weights_sha256)
    assert result.volumes_ml[Region.ET] == result.volumes_ml[Region.WT] > 0


def test_network_beside_an_expert_reports_their_agreement(storage: Storage, make_case, make_model) -> None:
    make_model(always=2)
    result = segment(make_case(), source="network")
    assert result.dice is not None
    assert 0 < result.dice[Region.WT] < 1
    assert result.dice[Region.ET] == 0.0


def test_no_tumour_is_an_answer(storage: Storage, make_case, make_model) -> None:
    make_model(always=0)
    keys = make_case(expert=False)
    result = segment(keys)
    assert not result.tumour_found
    assert result.volumes_ml == dict.fromkeys(Region, 0.0)
    assert not sitk.GetArrayFromImage(read_volume(storage, keys.segmentation)).any()


def test_second_run_does_nothing_until_an_input_or_a_parameter_changes(storage: Storage, make_case, make_model) -> None:
    make_model()
    keys = make_case()
    first = segment(keys, source="network")
    again = segment(keys, source="network", threads=2)
    assert again == first.model_copy(update={"cached": True})
    assert not segment(keys, source="network", min_component_mm3=1.0).cached
    make_model(seed=1)
    assert not segment(keys, source="network", min_component_mm3=1.0).cached
    assert not segment(keys).cached
    assert segment(keys, source="expert").cached
    storage.remove(keys.segmentation)
    assert not segment(keys).cached
    assert storage.exists(keys.segmentation)


def test_label_3_is_stored_as_4(storage: Storage, make_case) -> None:
    keys = make_case()
    labels = expert(storage, keys)
    values = sitk.GetArrayFromImage(labels)
    other = sitk.GetImageFromArray(np.where(values == 4, 3, values))
    other.CopyInformation(labels)
    write_volume(storage, keys.preprocessed_segmentation, other)
    segment(keys)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(storage, keys.segmentation)), values)


def _empty(storage: Storage, keys: CaseKeys) -> None:
    write_volume(storage, keys.preprocessed_segmentation, expert(storage, keys) * 0)


def _other_label(storage: Storage, keys: CaseKeys) -> None:
    write_volume(storage, keys.preprocessed_segmentation, expert(storage, keys) + 3)


def _between_labels(storage: Storage, keys: CaseKeys) -> None:
    write_volume(storage, keys.preprocessed_segmentation, sitk.Cast(expert(storage, keys), sitk.sitkFloat32) * 0.5)


def _moved_mask(storage: Storage, keys: CaseKeys) -> None:
    labels = expert(storage, keys)
    labels.SetOrigin([0, 0, 0])
    write_volume(storage, keys.preprocessed_segmentation, labels)


def _other_grid(storage: Storage, keys: CaseKeys) -> None:
    key = keys.preprocessed_image(Sequence.T2)
    write_volume(storage, key, read_volume(storage, key)[:-1, :, :])


def _nan(storage: Storage, keys: CaseKeys) -> None:
    key = keys.preprocessed_image(Sequence.FLAIR)
    image = read_volume(storage, key)
    image[3, 3, 3] = float("nan")
    write_volume(storage, key, image)


def _no_sequence(storage: Storage, keys: CaseKeys) -> None:
    storage.remove(keys.preprocessed_image(Sequence.T1C))


def _no_brain(storage: Storage, keys: CaseKeys) -> None:
    storage.remove(keys.brain_mask)


def _no_expert(storage: Storage, keys: CaseKeys) -> None:
    storage.remove(keys.preprocessed_segmentation)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_empty, InvalidMask, "empty"),
        (_other_label, InvalidMask, "label that is not defined"),
        (_between_labels, InvalidMask, "not made of labels"),
        (_moved_mask, SpaceMismatch, "expert_dseg"),
        (_other_grid, SpaceMismatch, "T2w"),
        (_nan, InvalidVolume, "NaN"),
        (_no_sequence, MissingSequence, "without T1c"),
        (_no_brain, NotFound, "no brain mask"),
        (_no_expert, NotFound, "no expert segmentation"),
    ],
)
def test_bad_input_names_case_and_step_and_leaves_nothing(storage, make_case, spoil, kind, words) -> None:
    keys = make_case()
    spoil(storage, keys)
    with pytest.raises(kind, match=words) as caught:
        segment(keys, source="expert")
    assert (caught.value.case, caught.value.step) == ("demo/sub-a", "segment")
    assert storage.files(keys.segmentation_folder) == []


def test_a_failure_takes_the_outdated_segmentation_away(storage: Storage, make_case) -> None:
    keys = make_case()
    segment(keys)
    _empty(storage, keys)
    with pytest.raises(InvalidMask):
        segment(keys)
    assert storage.files(keys.segmentation_folder) == []


def test_an_empty_expert_mask_does_not_stop_the_network(storage: Storage, make_case, make_model) -> None:
    make_model(always=2)
    keys = make_case()
    _empty(storage, keys)
    result = segment(keys, source="network")
    assert result.dice == {Region.TC: 0.0, Region.WT: 0.0, Region.ET: None, Region.ED: None} | {
        Region.TC: None if result.volumes_ml[Region.TC] == 0 else 0.0,
        Region.ED: None if result.volumes_ml[Region.ED] == 0 else 0.0,
    }


def test_neither_expert_nor_network_says_what_to_do(storage: Storage, make_case) -> None:
    with pytest.raises(NotFound, match="no trained network") as caught:
        segment(make_case(expert=False))
    assert caught.value.case == "demo/sub-a"
    assert "expert segmentation" in (caught.value.remedy or "")


def test_changed_weights_are_refused_even_when_loaded(storage: Storage, make_case, make_model) -> None:
    make_model()
    keys = make_case()
    segment(keys, source="network")
    storage.write_bytes("models/segmentation/weights.npz", b"other")
    with pytest.raises(ChangedFile) as caught:
        segment(keys, source="network")
    assert caught.value.case == "demo/sub-a"


def test_a_model_outside_the_storage_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="relative path"):
        SegmentParameters(model="../elsewhere")


def test_uncertainty_is_written_when_asked_and_goes_when_not(storage: Storage, make_case, make_model) -> None:
    make_model()
    keys = make_case()
    plain = segment(keys, source="network")
    assert (plain.entropy, plain.mutual_information, plain.passes) == (None, None, "one")
    assert plain.expected_dice is not None
    once = segment(keys, source="network", uncertainty=True)
    assert once.entropy is not None
    assert once.entropy.endswith("_desc-entropy.nii.gz")
    assert once.mutual_information is None
    flipped = segment(keys, source="network", uncertainty=True, test_time_flips=True)
    assert flipped.mutual_information is not None
    assert read_volume(storage, flipped.mutual_information).GetSize() == expert(storage, keys).GetSize()
    assert segment(keys, source="network", uncertainty=True, test_time_flips=True).entropy == flipped.entropy
    segment(keys, source="network")
    assert not storage.exists(once.entropy)
    assert not storage.exists(flipped.mutual_information)


def test_a_missing_sequence_is_refused_unless_the_network_learnt_without(storage, make_case, make_model) -> None:
    make_model()
    keys = make_case(expert=False)
    storage.remove(keys.preprocessed_image(Sequence.T1C))
    with pytest.raises(MissingSequence, match="without T1c"):
        segment(keys)
    make_model(optional=("T1c",))
    assert segment(keys).missing_sequences == (Sequence.T1C,)
    storage.remove(keys.preprocessed_image(Sequence.FLAIR))
    with pytest.raises(MissingSequence, match="FLAIR"):
        segment(keys)
