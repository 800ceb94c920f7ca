from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from pipelines.training.segmentation import EpochFigures, TrainParameters, TrainResult, train_segmentation
from pipelines.training.segmentation_cases import read_case, split_for_tuning
from pipelines.training.segmentation_crops import CaseStore, TrainingCrops
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.inference import load_predictor, predict_probabilities
from services.segmentation.network import NetworkSpec, ResidualUNet
from services.segmentation.regions import region_dice
from services.segmentation.segment import segment_case
from services.shared.cohort import SEQUENCES, CaseKeys, Region, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import (
    DuplicateId,
    GliaflowError,
    InvalidMask,
    InvalidValue,
    InvalidVolume,
    NotFound,
    SpaceMismatch,
    TooFewCases,
)
from services.shared.storage import Storage
from services.shared.volume import read_volume, write_volume

SMALL = TrainParameters(
    architecture="residual-unet-3d", width=8, levels=2, epochs=2, schedule="cosine", learning_rate=5e-3
)
SPEC = NetworkSpec(levels=2, voxel_mm=8.0)
SHAPE = (15, 18, 17)


def write_case(storage: Storage, index: int, *, voxel_mm: float = 8.0) -> CaseRef:
    """Write a prepared case: an ellipsoid of brain, a tumour of nested spheres, brighter or darker by sequence."""
    rng = np.random.default_rng(index)
    keys = CaseKeys(CaseRef(cohort="demo", id=f"c{index}"))
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = (sum(axis**2 for axis in axes) < 0.9).astype(np.uint8)
    centre = rng.uniform(-0.3, 0.3, 3)
    radius = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)))
    labels = np.select([radius < 0.25, radius < 0.4, radius < 0.6], [1, 4, 2], 0).astype(np.uint8) * brain

    def write(key: str, array: np.ndarray) -> None:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([voxel_mm] * 3)
        write_volume(storage, key, image)

    for channel, sequence in enumerate(SEQUENCES):
        contrast = np.zeros(5, dtype=np.float32)
        contrast[[1, 2, 4]] = np.roll([3.0, 1.5, -2.0], channel)
        values = (contrast[labels] + 0.3 * rng.standard_normal(SHAPE)) * brain
        write(keys.preprocessed_image(sequence), values.astype(np.float32))
    write(keys.brain_mask, brain)
    write(keys.preprocessed_segmentation, labels)
    return keys.case


@pytest.fixture
def cases(storage: Storage) -> list[CaseRef]:
    return [write_case(storage, index) for index in range(3)]


def train(storage: Storage, cases: list[CaseRef], parameters: TrainParameters = SMALL, **more: object) -> TrainResult:
    return train_segmentation(storage, cases, parameters=parameters, seed=1, threads=1, **more)


def test_training_learns_the_tumour_and_the_service_finds_it(storage: Storage, cases: list[CaseRef]) -> None:
    unseen = write_case(storage, 9)
    seen: list[EpochFigures] = []
    result = train(
        storage,
        cases,
        SMALL.model_copy(update={"epochs": 40}),
        progress=lambda figures, epochs: seen.append(figures),
    )
    assert [figures.epoch for figures in seen] == list(range(1, 41))
    assert result.best_epoch == max(seen, key=lambda f: (f.tuning_dice_mean, -f.epoch)).epoch
    found = segment_case(storage, SegmentRequest(case=unseen, parameters=SegmentParameters(source="network")))
    assert found.model_sha256 == result.weights_sha256
    assert found.dice is not None
    assert found.dice[Region.WT] is not None
    assert found.dice[Region.WT] > 0.8
    # Trained weights say the same of a larger volume in one pass and in slabs.
    predictor = load_predictor(storage, result.model)
    inputs = read_case(storage, unseen, predictor.spec).inputs
    for axis in (1, 2, 3):
        inputs = inputs.repeat(3, axis=axis)
    once = predict_probabilities(predictor, inputs, memory_mb=2048)
    parts = predict_probabilities(predictor, inputs, memory_mb=8)
    assert (once.in_windows, parts.in_windows) == (False, True)
    values = np.array(predictor.spec.classes, dtype=np.uint8)
    agreement = region_dice(*(values[each.probabilities.argmax(axis=0)] for each in (parts, once)))
    assert min(value for value in agreement.values() if value is not None) >= 0.995


def test_the_kept_weights_are_those_of_the_best_epoch(storage: Storage, cases: list[CaseRef]) -> None:
    result = train(storage, cases, SMALL.model_copy(update={"epochs": 5}))
    _, tune = split_for_tuning(cases, tuning_fraction=SMALL.tuning_fraction, seed=1)
    found = segment_case(
        storage,
        SegmentRequest(case=tune[0], parameters=SegmentParameters(source="network", min_component_mm3=0)),
    )
    assert found.dice == pytest.approx(result.tuning_dice)
    metrics = json.loads(storage.read_text("models/segmentation/metrics.json"))
    assert metrics["best_epoch"] == result.best_epoch
    assert metrics["tuning_dice"] == pytest.approx({str(k): v for k, v in result.tuning_dice.items()})
    rows = list(csv.DictReader(io.StringIO(storage.read_text("models/segmentation/training.csv"))))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert {"training_loss", "tuning_loss", "tuning_dice_WT", "learning_rate"} <= set(rows[0])


def test_same_seed_gives_the_same_weights_and_another_seed_others(storage: Storage, cases: list[CaseRef]) -> None:
    torch.manual_seed(5)
    first = train(storage, cases, model="models/a")
    assert not first.cached
    torch.manual_seed(6)
    second = train(storage, cases[::-1], model="models/b")
    other = train_segmentation(storage, cases, parameters=SMALL, seed=2, threads=1, model="models/c")
    assert first.weights_sha256 == second.weights_sha256 != other.weights_sha256
    assert storage.read_bytes("models/a/training.csv") == storage.read_bytes("models/b/training.csv")


def test_training_again_does_nothing_until_a_case_is_added(storage: Storage, cases: list[CaseRef]) -> None:
    first = train(storage, cases)
    assert train(storage, cases) == first.model_copy(update={"cached": True})
    assert not train(storage, [*cases, write_case(storage, 3)]).cached


def test_training_leaves_this_process_and_folder_as_they_were(
    storage: Storage, cases: list[CaseRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(storage, cases)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()
    assert list(folder.iterdir()) == []
    assert storage.files("models") == [
        f"models/segmentation/{name}"
        for name in ("manifest.json", "metrics.json", "network.json", "training.csv", "weights.npz")
    ]


def test_instance_normalisation_trains_too(storage: Storage, cases: list[CaseRef]) -> None:
    assert train(storage, cases, SMALL.model_copy(update={"normalisation": "instance"})).training_cases == 2


def test_learning_rate_is_halved_without_improvement(storage: Storage, cases: list[CaseRef]) -> None:
    seen: list[EpochFigures] = []
    # Running statistics of batch normalisation would improve the tuning loss by themselves.
    still = {"epochs": 4, "learning_rate": 1e-7, "patience": 0, "normalisation": "instance", "schedule": "plateau"}
    slow = SMALL.model_copy(update=still)
    train(storage, cases, slow, progress=lambda figures, epochs: seen.append(figures))
    assert [figures.learning_rate for figures in seen] == pytest.approx([1e-7, 1e-7, 5e-8, 2.5e-8], rel=1e-6)


def test_split_is_by_case_complete_and_of_one_seed(cases: list[CaseRef]) -> None:
    many = [CaseRef(cohort="demo", id=f"{i:02d}") for i in range(12)]
    learn, tune = split_for_tuning(many, tuning_fraction=0.17, seed=0)
    assert len(tune) == 2
    assert sorted([*learn, *tune], key=str) == many
    assert split_for_tuning(many[::-1], tuning_fraction=0.17, seed=0) == (learn, tune)
    assert split_for_tuning(many, tuning_fraction=0.17, seed=1)[1] != tune
    assert [len(part) for part in split_for_tuning(many[:2], tuning_fraction=0.9, seed=0)] == [1, 1]


def test_too_few_or_repeated_cases_are_errors(storage: Storage, cases: list[CaseRef]) -> None:
    with pytest.raises(TooFewCases, match="at least 2"):
        train(storage, cases[:1])
    with pytest.raises(DuplicateId, match="demo/sub-c0"):
        train(storage, [*cases, cases[0]])


def _rewrite(storage: Storage, key: str, change: object) -> None:
    write_volume(storage, key, change(read_volume(storage, key)))  # type: ignore[operator]


def _nan(image: sitk.Image) -> sitk.Image:
    image[5, 5, 5] = float("nan")
    return image


def _flat(image: sitk.Image) -> sitk.Image:
    image.SetSpacing([8.0, 8.0, 9.0])
    return image


@pytest.mark.parametrize(
    ("part", "change", "kind", "words"),
    [
        ("mask", lambda image: image * 0, InvalidMask, "no tumour"),
        ("mask", lambda image: image + 6, InvalidMask, "not defined"),
        ("mask", lambda image: image[1:, :, :], SpaceMismatch, "grid"),
        ("mask", None, NotFound, "expert_dseg"),
        ("image", _nan, InvalidVolume, "NaN"),
        ("image", None, NotFound, "FLAIR"),
        ("brain", _flat, SpaceMismatch, "cubic"),
    ],
)
def test_a_case_that_cannot_be_used_is_named_and_the_old_model_stays(
    storage: Storage, cases: list[CaseRef], part: str, change: object, kind: type[GliaflowError], words: str
) -> None:
    before = train(storage, cases)
    keys = CaseKeys(cases[1])
    key = {
        "mask": keys.preprocessed_segmentation,
        "image": keys.preprocessed_image(Sequence.FLAIR),
        "brain": keys.brain_mask,
    }[part]
    if change is None:
        storage.remove(key)
    else:
        _rewrite(storage, key, change)
    with pytest.raises(kind, match=words) as caught:
        train(storage, cases)
    assert (caught.value.case, caught.value.step) == ("demo/sub-c1", "train segmentation")
    assert load_predictor(storage, "models/segmentation").sha256 == before.weights_sha256


def test_a_loss_that_is_not_finite_stops_training_and_writes_nothing(storage: Storage, cases: list[CaseRef]) -> None:
    with pytest.raises(InvalidValue, match="lower learning rate"):
        train(storage, cases, SMALL.model_copy(update={"learning_rate": 1e30, "epochs": 10}))
    assert storage.files("models") == []


@pytest.fixture
def store(storage: Storage, cases: list[CaseRef]) -> Iterator[CaseStore]:
    with CaseStore() as store:
        for case in cases:
            store.append(read_case(storage, case, SPEC))
        yield store


def crops_of(store: CaseStore, *, epoch: int = 1, **more: object) -> TrainingCrops:
    return TrainingCrops(store, SPEC, **({"patch_voxels": 96, "seed": 0, "epoch": epoch} | more))


def test_crops_vary_stay_zero_outside_the_brain_and_keep_labels(store: CaseStore) -> None:
    first, second = crops_of(store)[0], crops_of(store, epoch=2)[0]
    assert first["inputs"].shape == (4, 16, 16, 16)
    assert first["classes"].shape == (1, 16, 16, 16)
    assert first["inputs"].dtype == torch.float32
    assert not torch.equal(first["inputs"], second["inputs"])
    outside = store[0].brain.size - store[0].brain.sum()
    assert int((first["inputs"] == 0).all(dim=0).sum()) >= outside
    for crop in (first, second):
        assert (
            torch.bincount(crop["classes"].flatten())[1:].tolist() == np.bincount(store[0].classes.ravel())[1:].tolist()
        )


def test_a_crop_follows_from_seed_epoch_and_case_alone(store: CaseStore) -> None:
    alone = crops_of(store, epoch=7)[2]
    after_others = crops_of(store, epoch=7)
    _ = after_others[0], after_others[1]
    for name, values in after_others[2].items():
        assert torch.equal(values, alone[name])
    assert not torch.equal(crops_of(store, epoch=7, seed=1)[2]["inputs"], alone["inputs"])


def test_a_patch_smaller_than_the_case_has_its_size(store: CaseStore) -> None:
    sizes = {tuple(crops_of(store, epoch=i, patch_voxels=8)[i % 3]["inputs"].shape) for i in range(6)}
    assert sizes == {(4, 8, 8, 8)}


def test_two_crops_of_three_are_centred_on_tumour_wherever_that_is(store: CaseStore) -> None:
    rng = np.random.default_rng(0)
    case = store[0]
    drawn = [int(case.classes[store.draw_centre(0, rng)]) for _ in range(3000)]
    there = np.bincount(case.classes[case.brain], minlength=4)[1:]
    expected = [1 / 3, *(2 / 3 * there / there.sum())]
    assert np.bincount(drawn, minlength=4) / 3000 == pytest.approx(expected, abs=0.03)


def test_memory_does_not_grow_with_the_cases_and_the_folder_goes(storage: Storage, cases: list[CaseRef]) -> None:
    with CaseStore() as store:
        for case in cases:
            store.append(read_case(storage, case, SPEC))
        assert all(isinstance(part, np.memmap) for part in (store[2].inputs, store[2].brain, store[2].classes))
        folder = Path(str(store[0].inputs.filename)).parent
        np.testing.assert_array_equal(store[1].inputs, read_case(storage, cases[1], SPEC).inputs)
    assert not folder.exists()


def test_training_and_service_read_a_case_alike(storage: Storage, cases: list[CaseRef]) -> None:
    result = train(storage, cases)
    predictor = load_predictor(storage, result.model)
    prepared = read_case(storage, cases[0], predictor.spec)
    probabilities = predict_probabilities(predictor, prepared.inputs, memory_mb=2048).probabilities
    found = segment_case(
        storage,
        SegmentRequest(case=cases[0], parameters=SegmentParameters(source="network", min_component_mm3=0)),
    )
    tumour = (probabilities.argmax(axis=0) > 0) & prepared.brain
    assert found.volumes_ml[Region.WT] == pytest.approx(tumour.sum() * 0.512)


def test_learning_rate_goes_down_to_nothing_along_a_cosine(storage: Storage, cases: list[CaseRef]) -> None:
    seen: list[EpochFigures] = []
    parameters = SMALL.model_copy(update={"epochs": 4, "learning_rate": 1e-3})
    train(storage, cases, parameters, progress=lambda figures, epochs: seen.append(figures))
    expected = [1e-3 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [figures.learning_rate for figures in seen] == pytest.approx(expected)


def test_the_papers_network_trains_too(storage: Storage, cases: list[CaseRef]) -> None:
    paper = SMALL.model_copy(update={"architecture": "recombination-unet-3d", "batch_size": 2})
    result = train(storage, cases, paper)
    assert load_predictor(storage, result.model).spec.architecture == "recombination-unet-3d"


def test_crops_lose_sequences_but_never_all(store: CaseStore) -> None:
    crops = [crops_of(store, epoch=index, patch_voxels=16, drop_sequence=0.7)[index % 3] for index in range(60)]
    lost = [int((crop["inputs"] == 0).all(dim=(1, 2, 3)).sum()) for crop in crops]
    assert set(lost) == {0, 1, 2, 3}
    assert 0.5 < np.mean([count > 0 for count in lost]) < 0.9


def test_a_network_trained_without_sequences_now_and_then_says_so_and_takes_such_a_case(
    storage: Storage, cases: list[CaseRef]
) -> None:
    train(storage, cases, SMALL.model_copy(update={"drop_sequence": 0.5}))
    assert load_predictor(storage, "models/segmentation").spec.optional == SEQUENCES
    storage.remove(CaseKeys(cases[0]).preprocessed_image(Sequence.T2))
    found = segment_case(storage, SegmentRequest(case=cases[0], parameters=SegmentParameters(source="network")))
    assert found.missing_sequences == (Sequence.T2,)


def test_a_killed_training_ends_in_the_same_weights(storage: Storage, cases: list[CaseRef]) -> None:
    parameters = SMALL.model_copy(update={"epochs": 4, "schedule": "plateau", "patience": 0})
    whole = train(storage, cases, parameters, model="models/whole")

    class Killed(BaseException):
        pass

    def kill(figures: EpochFigures, _epochs: int) -> None:
        if figures.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(storage, cases, parameters, progress=kill)
    assert storage.files("models/segmentation") == [
        "models/segmentation/checkpoint.json",
        "models/segmentation/checkpoint.pt",
    ]
    rest: list[int] = []
    resumed = train(storage, cases, parameters, progress=lambda figures, _: rest.append(figures.epoch))
    assert rest == [3, 4]
    assert resumed.weights_sha256 == whole.weights_sha256
    assert storage.read_text("models/segmentation/training.csv") == storage.read_text("models/whole/training.csv")


def test_training_ends_without_a_better_epoch_on_the_tuning_cases(storage: Storage, cases: list[CaseRef]) -> None:
    seen: list[EpochFigures] = []
    parameters = SMALL.model_copy(update={"epochs": 30, "stop_after": 2, "learning_rate": 1e-9})
    still = parameters.model_copy(update={"normalisation": "instance"})  # nothing moves: the first epoch is the best
    result = train(storage, cases, still, progress=lambda figures, _: seen.append(figures))
    assert (result.best_epoch, len(seen)) == (1, 3)


@pytest.mark.parametrize("architecture", ["residual-unet-3d", "recombination-unet-3d"])
def test_recomputed_blocks_learn_the_same(storage: Storage, cases: list[CaseRef], architecture: str) -> None:
    plain = SMALL.model_copy(update={"architecture": architecture, "epochs": 1})
    first = train(storage, cases, plain, model="models/a")
    second = train(storage, cases, plain.model_copy(update={"recompute": True}), model="models/b")
    assert first.weights_sha256 == second.weights_sha256


# In a process of its own, as a user's is: this one holds the threads of other tests, which a fork does not take along.
WITH_LOADERS = """
import sys
from pipelines.training.segmentation import TrainParameters, train_segmentation
from services.shared.contracts import CaseRef
from services.shared.storage import Storage

root, parameters, *cases = sys.argv[1:]
train_segmentation(
    Storage(root), [CaseRef.model_validate_json(case) for case in cases],
    parameters=TrainParameters.model_validate_json(parameters), seed=1, threads=1, model="models/b",
)
"""


def test_processes_that_make_crops_change_nothing(storage: Storage, cases: list[CaseRef]) -> None:
    train(storage, cases, model="models/a")
    plan = SMALL.model_copy(update={"loaders": 2}).model_dump_json()
    command = [sys.executable, "-c", WITH_LOADERS, storage.root, plan, *(case.model_dump_json() for case in cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert storage.read_bytes("models/b/weights.npz") == storage.read_bytes("models/a/weights.npz")
    assert train(storage, cases, SMALL.model_copy(update={"loaders": 2}), model="models/a").cached


def test_live_figures_are_written_while_it_runs(storage: Storage, cases: list[CaseRef], tmp_path: Path) -> None:
    live, rows = tmp_path / "live", []

    class Killed(BaseException):
        pass

    def look(figures: EpochFigures, _epochs: int) -> None:
        rows.append(len((live / "plots/metrics/tuning_dice_mean.tsv").read_text().splitlines()) - 1)
        if rows == [1]:
            raise Killed

    with pytest.raises(Killed):
        train(storage, cases, live=live, progress=look)
    train(storage, cases, live=live, progress=look)
    assert rows == [1, 2]
    assert json.loads((live / "metrics.json").read_text())["step"] == 2


def test_memory_that_runs_out_says_what_to_change(
    storage: Storage, cases: list[CaseRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> torch.Tensor:
        raise MemoryError("out of memory")

    monkeypatch.setattr(ResidualUNet, "forward", short)
    with pytest.raises(InvalidValue, match="recompute") as caught:
        train(storage, cases)
    assert caught.value.field == "batch_size"
