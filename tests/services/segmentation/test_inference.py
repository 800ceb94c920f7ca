from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from services.segmentation.contracts import SegmentParameters
from services.segmentation.inference import (
    Predictor,
    brain_box,
    load_predictor,
    predict_labels,
    predict_probabilities,
    stack_channels,
)
from services.segmentation.network import RECOMBINATION_UNET, RESIDUAL_UNET, Architecture, NetworkSpec, build_network
from services.segmentation.regions import dice
from services.shared.cohort import SEQUENCES, CaseKeys, Region, Sequence, region_mask
from services.shared.errors import InvalidMask, InvalidVolume, MissingSequence, NotFound, SpaceMismatch, TooLarge
from services.shared.storage import Storage
from services.shared.volume import read_volume, same_grid

MODEL = "models/segmentation"
WHOLE = SegmentParameters(min_component_mm3=0.0)


class Contrast(nn.Module):
    """Reads the class from smoothed channels: a network whose answer is local and known."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.AvgPool3d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.smooth(x)
        return torch.cat([torch.full_like(x[:, :1], 0.8), x[:, :3]], dim=1) * 4


def contrast_predictor(voxel_mm: float, levels: int = 2) -> Predictor:
    spec = NetworkSpec(width=64, levels=levels, voxel_mm=voxel_mm)
    return Predictor(spec, Contrast(), torch.device("cpu"), sha256="0" * 64)


def read(storage: Storage, keys: CaseKeys) -> tuple[dict[Sequence, sitk.Image], sitk.Image]:
    images = {sequence: read_volume(storage, keys.preprocessed_image(sequence)) for sequence in SEQUENCES}
    return images, read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)


def test_channels_are_standardised_inside_the_brain_whatever_their_scale(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    stacked, box = stack_channels(images, brain, SEQUENCES)
    inside = sitk.GetArrayFromImage(brain)[box] > 0
    assert stacked.shape == (4, *inside.shape)
    assert not stacked[:, ~inside].any()
    np.testing.assert_allclose(stacked[:, inside].mean(axis=1), 0, atol=0.05)
    brighter = {sequence: image * 37.0 + 1000.0 for sequence, image in images.items()}
    np.testing.assert_allclose(stack_channels(brighter, brain, SEQUENCES)[0], stacked, atol=1e-3)


def test_channels_come_in_the_order_that_the_network_wants(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    forward, _ = stack_channels(images, brain, SEQUENCES)
    backward, _ = stack_channels(images, brain, SEQUENCES[::-1])
    np.testing.assert_array_equal(forward, backward[::-1])


def test_a_constant_channel_is_zero_not_nan(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    images[Sequence.T2] = images[Sequence.T2] * 0 + 5
    assert not stack_channels(images, brain, SEQUENCES)[0][2].any()


def test_missing_sequence_wrong_grid_and_empty_brain_are_errors(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    with pytest.raises(MissingSequence, match="without FLAIR"):
        stack_channels({k: v for k, v in images.items() if k != Sequence.FLAIR}, brain, SEQUENCES)
    with pytest.raises(InvalidMask, match="brain mask is empty"):
        stack_channels(images, brain * 0, SEQUENCES)
    images[Sequence.T1] = images[Sequence.T1][1:, :, :]
    with pytest.raises(SpaceMismatch, match="T1w"):
        stack_channels(images, brain, SEQUENCES)


def test_box_holds_the_whole_brain_and_no_more() -> None:
    brain = np.zeros((6, 7, 8), dtype=bool)
    brain[1:3, 2:7, 5] = True
    assert brain_box(brain) == (slice(1, 3), slice(2, 7), slice(5, 6))


def test_known_network_finds_the_tumour(storage: Storage, make_case) -> None:
    keys = make_case()
    images, brain = read(storage, keys)
    labels = predict_labels(contrast_predictor(6.0), images, brain, WHOLE).labels
    expert = sitk.GetArrayFromImage(read_volume(storage, keys.preprocessed_segmentation))
    assert same_grid(labels, brain)
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert dice(region_mask(sitk.GetArrayFromImage(labels), Region.WT), region_mask(expert, Region.WT)) > 0.8


def test_network_of_another_voxel_size_answers_on_the_cases_grid(storage: Storage, make_case) -> None:
    keys = make_case(spacing_mm=3.0)
    images, brain = read(storage, keys)
    labels = predict_labels(contrast_predictor(6.0), images, brain, WHOLE).labels
    expert = sitk.GetArrayFromImage(read_volume(storage, keys.preprocessed_segmentation))
    assert same_grid(labels, brain)
    assert dice(region_mask(sitk.GetArrayFromImage(labels), Region.WT), region_mask(expert, Region.WT)) > 0.8


def test_windows_agree_with_one_pass(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case(spacing_mm=2.0))
    inputs, _ = stack_channels(images, brain, SEQUENCES)
    predictor = contrast_predictor(2.0)
    whole = predict_probabilities(predictor, inputs, memory_mb=2048)
    windows = predict_probabilities(predictor, inputs, memory_mb=64)
    assert (whole.in_windows, windows.in_windows) == (False, True)
    agreement = dice(whole.probabilities.argmax(axis=0) > 0, windows.probabilities.argmax(axis=0) > 0)
    assert agreement is not None
    assert agreement >= 0.995
    np.testing.assert_allclose(windows.probabilities.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 7, 9), (8, 8, 8), (3, 17, 4)])
def test_any_size_is_padded_and_cut_back(storage: Storage, make_model, size: tuple[int, int, int]) -> None:
    make_model()
    inputs = np.random.default_rng(0).standard_normal((4, *size)).astype(np.float32)
    probabilities = predict_probabilities(load_predictor(storage, MODEL), inputs, memory_mb=2048).probabilities
    assert probabilities.shape == (4, *size)
    assert np.isfinite(probabilities).all()


def test_inference_is_deterministic_and_confined_to_the_brain(storage: Storage, make_case, make_model) -> None:
    make_model()
    images, brain = read(storage, make_case())
    first, second = (
        sitk.GetArrayFromImage(predict_labels(load_predictor(storage, MODEL), images, brain, WHOLE).labels)
        for _ in "ab"
    )
    np.testing.assert_array_equal(first, second)
    assert first.any()
    assert not first[sitk.GetArrayFromImage(brain) == 0].any()


def test_threads_are_given_back(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    before = torch.get_num_threads()
    predict_labels(contrast_predictor(6.0), images, brain, SegmentParameters(threads=2))
    assert torch.get_num_threads() == before


def test_predictor_stays_loaded_until_its_weights_change(storage: Storage, make_model) -> None:
    make_model()
    first = load_predictor(storage, MODEL)
    assert load_predictor(storage, MODEL) is first
    card = make_model(seed=1)
    assert load_predictor(storage, MODEL).sha256 == card.weights_sha256 != first.sha256
    with pytest.raises(NotFound):
        load_predictor(storage, "models/other")


def predictor_of(**spec: object) -> Predictor:
    torch.manual_seed(0)
    chosen = NetworkSpec.model_validate({"width": 8, "levels": 2, "voxel_mm": 2.0, **spec})
    return Predictor(chosen, build_network(chosen).eval(), torch.device("cpu"), sha256="0" * 64)


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, *size)).astype(np.float32)


@pytest.mark.parametrize("architecture", [RESIDUAL_UNET, RECOMBINATION_UNET])
def test_a_network_answers_alike_in_one_pass_and_in_parts(architecture: Architecture) -> None:
    inputs = noise(90, 70, 61)
    predictor = predictor_of(architecture=architecture, width=16)
    whole = predict_probabilities(predictor, inputs, memory_mb=2048)
    parts = predict_probabilities(predictor, inputs, memory_mb=64)
    assert (whole.in_windows, parts.in_windows) == (False, True)
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-5)
    assert np.mean(parts.probabilities.argmax(axis=0) == whole.probabilities.argmax(axis=0)) > 0.9999


class Limited(nn.Module):
    """Runs out of memory as torch does, above a number of voxels."""

    def __init__(self, most_voxels: int) -> None:
        super().__init__()
        self.within = Contrast()
        self.most_voxels = most_voxels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[0, 0].numel() > self.most_voxels:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return self.within(x)


def limited(most_voxels: int) -> Predictor:
    return replace(contrast_predictor(2.0), network=Limited(most_voxels))


def test_where_memory_runs_out_windows_take_over_and_the_result_says_so() -> None:
    inputs = noise(40, 44, 48)
    found = predict_probabilities(limited(40 * 44 * 40), inputs, memory_mb=2048)
    assert found.in_windows
    assert "memory ran out" in found.notes[0]
    whole = predict_probabilities(contrast_predictor(2.0), inputs, memory_mb=2048)
    assert not whole.in_windows
    assert not whole.notes
    assert np.mean(found.probabilities.argmax(axis=0) == whole.probabilities.argmax(axis=0)) > 0.97


def test_where_no_window_fits_the_error_says_what_to_do() -> None:
    with pytest.raises(TooLarge, match="fewer cases at a time"):
        predict_probabilities(limited(10), noise(20, 20, 20), memory_mb=2048)


def test_another_fault_of_a_network_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        predict_probabilities(predictor_of(channels=("T1w",)), noise(8, 8, 8), memory_mb=2048)


def test_flips_are_the_mean_over_mirrored_inputs() -> None:
    inputs, predictor = noise(16, 12, 20), predictor_of()
    found = predict_probabilities(predictor, inputs, memory_mb=2048, test_time_flips=True)
    by_hand = np.zeros((4, 16, 12, 20))
    for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]:
        once = predict_probabilities(predictor, np.flip(inputs, axes), memory_mb=2048)
        by_hand += np.flip(once.probabilities, axes) / 8
        assert once.view_entropy is None
    np.testing.assert_allclose(found.probabilities, by_hand, atol=1e-5)
    mirrored = predict_probabilities(predictor, np.flip(inputs, 2), memory_mb=2048, test_time_flips=True)
    np.testing.assert_allclose(np.flip(mirrored.probabilities, 2), found.probabilities, atol=1e-5)


def test_uncertainty_lies_inside_the_brain_and_has_its_bounds(storage: Storage, make_case, make_model) -> None:
    make_model()
    images, brain = read(storage, make_case())
    predictor = load_predictor(storage, MODEL)
    asked = SegmentParameters(uncertainty=True, test_time_flips=True)
    found = predict_labels(predictor, images, brain, asked)
    assert found.entropy is not None
    assert found.mutual_information is not None
    entropy, information = sitk.GetArrayFromImage(found.entropy), sitk.GetArrayFromImage(found.mutual_information)
    outside = sitk.GetArrayFromImage(brain) == 0
    assert not entropy[outside].any()
    assert not information[outside].any()
    assert entropy[~outside].min() > 0
    assert entropy.max() <= np.log(4) + 1e-6
    assert (information <= entropy + 1e-5).all()
    assert information.max() > 0
    plain = predict_labels(predictor, images, brain, SegmentParameters())
    assert (plain.entropy, plain.mutual_information) == (None, None)


def test_a_constant_sequence_is_named(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    images[Sequence.T2] = images[Sequence.T2] * 0 + 5
    found = predict_labels(contrast_predictor(6.0), images, brain, WHOLE)
    assert found.notes == ("T2w is constant inside the brain and says nothing",)


def test_a_brain_that_touches_every_side_is_segmented(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    assert predict_labels(contrast_predictor(6.0), images, brain * 0 + 1, WHOLE).labels.GetSize() == brain.GetSize()


def test_nan_inside_the_brain_is_refused(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    middle = [n // 2 for n in brain.GetSize()]
    images[Sequence.FLAIR][middle] = float("nan")
    with pytest.raises(InvalidVolume, match="FLAIR"):
        stack_channels(images, brain, SEQUENCES)


def test_an_optional_sequence_may_be_missing_but_not_every_one(storage: Storage, make_case) -> None:
    images, brain = read(storage, make_case())
    predictor = replace(contrast_predictor(6.0), spec=NetworkSpec(voxel_mm=6.0, optional=SEQUENCES))
    del images[Sequence.FLAIR]
    found = predict_labels(predictor, images, brain, WHOLE)
    assert found.missing_sequences == (Sequence.FLAIR,)
    assert found.notes == ()
    with pytest.raises(MissingSequence, match="at least one"):
        predict_labels(predictor, {}, brain, WHOLE)
