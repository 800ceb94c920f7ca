from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from pipelines.training.slice_data import SliceStore, fill_store, patient_folds, usable_cases
from pipelines.training.slice_fit import dice_and_cross_entropy, vary
from pipelines.training.slices import SliceTrainParameters, train_slices
from services.segmentation.abnormality import hausdorff_95, outline, segment_abnormality
from services.segmentation.contracts import AbnormalityParameters, AbnormalityRequest
from services.segmentation.slice_network import (
    SliceNetworkSpec,
    build_slice_network,
    slice_probabilities,
    stack_slices,
)
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import (
    ChangedFile,
    InvalidVolume,
    MissingSequence,
    NotFound,
    SpaceMismatch,
    TooFewCases,
)
from services.shared.storage import Storage
from services.shared.volume import write_volume

SMALL = SliceTrainParameters(width=8, side=32, epochs=3, batch=4, folds=0)
MODEL = "models/flair-abnormality"


def write_case(storage: Storage, label: str, *, seed: int, mask: bool = True, t1: bool = True) -> CaseRef:
    """Write slices in which FLAIR is bright in a disc, T1 dark, and T1c says nothing."""
    keys = CaseKeys(CaseRef(cohort="lgg", id=label))
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :48]
    disc = (y - rng.integers(14, 26)) ** 2 + (x - rng.integers(16, 32)) ** 2 < rng.integers(25, 60)
    inside = np.stack([disc & (z > 0) for z in range(4)])
    head = ((y - 20) / 19) ** 2 + ((x - 24) / 22) ** 2 < 1
    for sequence, contrast in ((Sequence.T1, -30), (Sequence.FLAIR, 70), (Sequence.T1C, 0)):
        if sequence is Sequence.T1 and not t1:
            continue
        values = (100 + rng.normal(0, 6, inside.shape) + contrast * inside) * head
        write_volume(storage, keys.raw_image(sequence), sitk.GetImageFromArray(values.astype(np.float32)))
    if mask:
        write_volume(storage, keys.raw_segmentation, sitk.GetImageFromArray(inside.astype(np.uint8) * 2))
    return keys.case


@pytest.fixture
def cases(storage: Storage) -> list[CaseRef]:
    return [write_case(storage, f"P{n}", seed=n) for n in range(6)]


def weights(storage: Storage) -> bytes:
    return storage.read_bytes(f"{MODEL}/weights.npz")


class Stopped(Exception):
    pass


def test_a_training_that_was_stopped_ends_in_the_same_weights(storage: Storage, cases) -> None:
    train_slices(storage, cases, parameters=SMALL, seed=3)
    whole = weights(storage)
    storage.remove(MODEL)

    def stop(done: int, _total: int, _what: str) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_slices(storage, cases, parameters=SMALL, seed=3, progress=stop)
    assert storage.exists(f"{MODEL}/checkpoint.json")
    assert not storage.exists(f"{MODEL}/network.json")
    epochs: list[int] = []
    train_slices(storage, cases, parameters=SMALL, seed=3, progress=lambda done, *_: epochs.append(done))
    assert epochs == [3]  # two epochs were there already
    assert weights(storage) == whole
    assert storage.files(f"{MODEL}", "checkpoint.json") == []
    again = train_slices(storage, cases, parameters=SMALL, seed=3)
    assert again.cached
    other = train_slices(storage, cases, parameters=SMALL, seed=4)
    assert not other.cached
    assert weights(storage) != whole


def test_cross_validation_judges_each_patient_once_by_a_network_that_never_saw_him(storage: Storage, cases) -> None:
    parameters = SMALL.model_copy(update={"folds": 3, "epochs": 12, "learning_rate": 1e-2})
    left = write_case(storage, "bare", seed=9, mask=False)
    result = train_slices(storage, [*cases, left], parameters=parameters, seed=1)
    assert result.left_out == {"lgg/sub-bare": "no mask"}
    with storage.local(f"{MODEL}/cross_validation.csv") as path:
        table = pd.read_csv(path)
    assert sorted(table["case_id"]) == [case.id for case in cases]
    assert result.dice_mean == pytest.approx(table["dice"].mean())
    assert result.dice_mean > 0.6
    fold = patient_folds(6, folds=3, seed=1)
    assert sorted(np.bincount(fold)) == [2, 2, 2]
    # Another mask of a held-out patient changes nothing of the network that judges him.
    first = storage.read_bytes(f"{MODEL}/folds/1/weights.npz")
    held_out = table.loc[table["fold"] == 1, "case_id"].iloc[0]
    write_case(storage, held_out, seed=77)
    train_slices(storage, cases, parameters=parameters, seed=1)
    assert storage.read_bytes(f"{MODEL}/folds/1/weights.npz") == first


def test_the_service_outlines_what_was_learnt(storage: Storage, cases) -> None:
    parameters = SMALL.model_copy(update={"epochs": 15, "learning_rate": 1e-2})
    train_slices(storage, cases, parameters=parameters, seed=1)
    fresh = write_case(storage, "new", seed=50)
    found = segment_abnormality(storage, AbnormalityRequest(case=fresh))
    assert found.abnormality_found
    assert found.dice is not None
    assert found.dice > 0.7
    assert found.hd95_mm is not None
    assert found.missing_sequences == ()
    assert segment_abnormality(storage, AbnormalityRequest(case=fresh)).cached
    image = sitk.ReadImage(str(storage.root) + "/" + found.segmentation)
    assert set(np.unique(sitk.GetArrayFromImage(image))) == {0, 2}
    without = write_case(storage, "not1", seed=51, t1=False, mask=False)
    other = segment_abnormality(storage, AbnormalityRequest(case=without))
    assert other.missing_sequences == (Sequence.T1,)
    assert other.dice is None
    nothing = AbnormalityParameters(threshold=0.999999)
    assert not segment_abnormality(storage, AbnormalityRequest(case=fresh, parameters=nothing)).abnormality_found


def test_bad_cases_and_models_are_refused(storage: Storage, cases) -> None:
    with pytest.raises(NotFound, match="no trained network"):
        segment_abnormality(storage, AbnormalityRequest(case=cases[0]))
    with pytest.raises(TooFewCases, match="fewer patients"):
        train_slices(storage, cases[:1], parameters=SMALL, seed=1)
    train_slices(storage, cases, parameters=SMALL.model_copy(update={"epochs": 1}), seed=1)
    keys = CaseKeys(cases[0])
    write_volume(storage, keys.raw_image(Sequence.T1C), sitk.Image([48, 40, 5], sitk.sitkFloat32))
    with pytest.raises(SpaceMismatch):
        segment_abnormality(storage, AbnormalityRequest(case=cases[0]))
    storage.remove(keys.raw_image(Sequence.FLAIR))
    with pytest.raises(MissingSequence, match="no FLAIR") as caught:
        segment_abnormality(storage, AbnormalityRequest(case=cases[0]))
    assert caught.value.case == "lgg/sub-P0"
    assert usable_cases(storage, cases, folds=2)[1] == {"lgg/sub-P0": "no FLAIR"}
    storage.write_bytes(f"{MODEL}/weights.npz", b"other")
    with pytest.raises(ChangedFile):
        segment_abnormality(storage, AbnormalityRequest(case=cases[1]))


def test_slices_do_not_depend_on_unit_and_come_back_to_their_grid() -> None:
    spec = SliceNetworkSpec(width=8, side=32)
    rng = np.random.default_rng(0)
    flair = rng.uniform(50, 200, (3, 40, 60)).astype(np.float32)
    one, two = (stack_slices({Sequence.FLAIR: f}, spec) for f in (flair, 3 * flair))
    assert torch.allclose(one, two, atol=1e-4)
    assert one.shape == (3, 3, 32, 32)
    assert not one[:, 0].any()  # T1 is not there
    network = build_slice_network(spec).eval()
    found = slice_probabilities(network, one, (40, 60), device=torch.device("cpu"))
    assert found.shape == flair.shape
    mirrored = slice_probabilities(network, one.flip(3), (40, 60), device=torch.device("cpu"))
    assert found == pytest.approx(mirrored[:, :, ::-1], abs=1e-4)  # the mean over a flip
    with pytest.raises(MissingSequence):
        stack_slices({Sequence.T1: flair}, spec)
    with pytest.raises(InvalidVolume, match="constant"):
        stack_slices({Sequence.FLAIR: np.ones((2, 8, 8), np.float32)}, spec)
    with pytest.raises(InvalidVolume, match="shape"):
        stack_slices({Sequence.FLAIR: flair, Sequence.T1: flair[:2]}, spec)


def test_variation_moves_image_and_mask_together_and_keeps_what_is_absent_absent() -> None:
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 1, 32, 32)
    masks[:, :, 10:20, 12:22] = 1
    inputs = torch.cat([torch.zeros(8, 1, 32, 32), 10 * masks, torch.randn(8, 1, 32, 32, generator=rng)], dim=1)
    moved, seen = vary(inputs, masks, drop=0.5, keep=1, rng=rng)
    assert not moved[:, 0].any()
    bright = moved[:, 1] > 4
    overlap = (bright & (seen[:, 0] > 0.5)).sum() / (seen[:, 0] > 0.5).sum()
    assert overlap > 0.95
    assert 0 < int((moved[:, 2].abs().sum(dim=(1, 2)) == 0).sum()) < 8
    perfect = torch.where(masks > 0, 20.0, -20.0)
    assert float(dice_and_cross_entropy(perfect, masks)) < 1e-3


def test_a_store_gives_back_what_went_in(storage: Storage, cases) -> None:
    spec = SliceNetworkSpec(width=8, side=32)
    with SliceStore(spec) as store:
        fill_store(store, storage, cases[:3])
        assert store.slices(cases[:2]) == 8
        inputs, masks = store.take(store.rows(cases[1:2]))
        assert inputs.shape == (4, 3, 32, 32)
        assert not masks[0].any()
        assert masks[1:].any()
        folder = store._folder
    assert folder is not None
    assert not folder.exists()


def test_distances_between_surfaces_by_hand() -> None:
    a = np.zeros((5, 20, 20), dtype=bool)
    a[2, 5:10, 5:10] = True
    b = np.roll(a, 3, axis=2)
    assert hausdorff_95(a, a, (1, 1, 1)) == 0
    assert hausdorff_95(a, b, (2.0, 1.0, 1.0)) == pytest.approx(6.0)
    assert hausdorff_95(a, np.zeros_like(a), (1, 1, 1)) is None


def test_a_second_focus_is_kept_and_specks_are_not() -> None:
    chance = np.zeros((5, 20, 20), dtype=np.float32)
    chance[2, 5:10, 5:10] = 0.9  # 25 voxels
    chance[2, 14:18, 14:16] = 0.6  # 8
    chance[0, 0, 0] = 0.9
    assert outline(chance, AbnormalityParameters()).sum() == 33
    assert outline(chance, AbnormalityParameters(min_component_share=1)).sum() == 25
    assert outline(chance, AbnormalityParameters(min_component_share=0)).sum() == 34
    assert outline(chance, AbnormalityParameters(threshold=0.7)).sum() == 25
    assert not outline(np.zeros_like(chance), AbnormalityParameters()).any()


def test_live_figures_are_written_for_each_network(storage: Storage, cases, tmp_path: Path) -> None:
    parameters = SMALL.model_copy(update={"folds": 2, "epochs": 1})
    train_slices(storage, cases[:4], parameters=parameters, seed=1, live=tmp_path / "live")
    for name in ("fold_1", "fold_2", "final"):
        rows = (tmp_path / "live" / name / "plots/metrics/training_loss.tsv").read_text().splitlines()
        assert len(rows) == 2
