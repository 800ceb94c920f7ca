"""Patients of a training: outcomes checked, inputs made once, batches and mirrors of one seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.training import imaging_data
from pipelines.training.imaging_data import (
    ImagingOutcome,
    InputStore,
    check_outcome,
    flip_at_random,
    order_batches,
    split_tuning,
    usable_cases,
)
from services.model_serving.case_input import read_input
from services.model_serving.networks.specification import PAPER_SPECS
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import DuplicateId, InvalidMask, InvalidTable, InvalidVolume, OneClass, TooFewCases
from services.shared.volume import read_volume, write_volume

SPEC = PAPER_SPECS["slice_classifier"].model_copy(
    update={"source": "prepared", "size": (32, 32), "width": 4, "absent": "refuse"}
)
CASES = [CaseRef(cohort="demo", id=f"p{i:03d}") for i in range(4)]


@pytest.mark.parametrize(
    ("outcome", "task", "kind", "words"),
    [
        (ImagingOutcome(), "classes", InvalidTable, "does not fit"),
        (ImagingOutcome(classes=np.array([0, 1])), "classes", InvalidTable, "does not fit"),
        (ImagingOutcome(classes=np.array([0, 1, 2, 0])), "classes", InvalidTable, "neither 0, 1"),
        (ImagingOutcome(classes=np.array([1, 1, -1, 1])), "classes", OneClass, "one class"),
        (ImagingOutcome(classes=np.array([0, 1, 0, 1])), "both", InvalidTable, "does not fit"),
        (ImagingOutcome(months=np.ones(4), event=np.array([1, 0, 0, 0])), "survival", TooFewCases, "deaths"),
        (ImagingOutcome(months=np.array([1, 2, 0, 3.0]), event=np.ones(4, int)), "survival", InvalidTable, "positive"),
        (ImagingOutcome(months=np.ones(4), event=np.array([1, 2, 0, 0])), "survival", InvalidTable, "neither"),
    ],
)
def test_an_outcome_that_cannot_be_learnt_is_refused(outcome, task, kind, words):
    with pytest.raises(kind, match=words):
        check_outcome(outcome, CASES, task)


def test_a_patient_who_is_named_twice_is_refused():
    with pytest.raises(DuplicateId, match="p000"):
        check_outcome(ImagingOutcome(classes=np.array([0, 1, 0, 1])), [*CASES[:3], CASES[0]], "classes")


def test_an_input_is_made_once_and_again_where_an_image_changes(storage, write_imaging_case, monkeypatch):
    case = write_imaging_case(1)
    store = InputStore(storage, SPEC)
    made = store.read([case])[0]
    assert torch.equal(made, torch.from_numpy(read_input(storage, case, SPEC).values))
    calls = []
    monkeypatch.setattr(imaging_data, "read_input", lambda *a: calls.append(a) or read_input(*a))
    wider = SPEC.model_copy(update={"width": 8, "classes": ("a", "b")})  # the network changes, its input does not
    assert torch.equal(InputStore(storage, wider).read([case])[0], made)
    assert calls == []
    key = CaseKeys(case).preprocessed_image(Sequence.FLAIR)
    write_volume(storage, key, read_volume(storage, key) ** 2)
    assert not torch.equal(InputStore(storage, SPEC).read([case])[0], made)
    other = SPEC.model_copy(update={"size": (48, 32)})
    assert InputStore(storage, other).read([case]).shape == (1, 3, 32, 48)
    assert len(calls) == 2
    assert len(storage.files("derivatives/inputs/demo")) == 3


def test_a_case_that_cannot_be_used_is_named_or_left_out(storage, write_imaging_case):
    good, empty, flat = write_imaging_case(1), write_imaging_case(2, tumour=False), write_imaging_case(3)
    key = CaseKeys(flat).preprocessed_image(Sequence.T1)
    write_volume(storage, key, read_volume(storage, key) * 0 + 4)
    store = InputStore(storage, SPEC)
    with pytest.raises(InvalidMask) as caught:
        store.fill([good, empty])
    assert (caught.value.case, caught.value.step) == ("demo/sub-p002", "train imaging")
    with pytest.raises(InvalidVolume, match="constant"):
        store.fill([flat])
    usable, left_out = usable_cases(storage, [good, empty, flat], SPEC)
    assert usable == (good,)
    assert left_out == {"demo/sub-p002": "the region is empty", "demo/sub-p003": "a sequence is constant in the brain"}


def test_tuning_patients_keep_the_proportion():
    strata = np.array([0] * 20 + [1] * 10)
    learn, tune = split_tuning(strata, fraction=0.2, seed=0)
    assert np.bincount(strata[tune]).tolist() == [4, 2]
    assert np.array_equal(np.sort(np.concatenate([learn, tune])), np.arange(30))
    assert np.array_equal(split_tuning(strata, fraction=0.2, seed=0)[1], tune)
    assert not np.array_equal(split_tuning(strata, fraction=0.2, seed=1)[1], tune)
    assert len(split_tuning(strata, fraction=0, seed=0)[1]) == 0
    assert split_tuning(np.array([0, 1, 1]), fraction=0.9, seed=0)[1].size == 1


def test_batches_hold_each_patient_once_and_are_alike():
    strata = np.array([0] * 24 + [1] * 8)
    batches = order_batches(strata, batch=8, balanced=False, seed=(0, 1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(32))
    assert [int(strata[batch].sum()) for batch in batches] == pytest.approx([2] * 4, abs=1)
    again = order_batches(strata, batch=8, balanced=False, seed=(0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    other = order_batches(strata, batch=8, balanced=False, seed=(0, 2))
    assert not np.array_equal(np.concatenate(batches), np.concatenate(other))
    assert [len(batch) for batch in order_batches(strata[:17], batch=8, balanced=False, seed=(0, 1))] == [8, 9]


def test_a_balanced_epoch_draws_classes_alike_often():
    strata = np.array([0] * 90 + [1] * 10)
    drawn = np.concatenate(
        [np.concatenate(order_batches(strata, batch=10, balanced=True, seed=(0, i))) for i in range(20)]
    )
    assert strata[drawn].mean() == pytest.approx(0.5, abs=0.05)


def test_mirrors_depend_on_the_seed_alone():
    inputs = torch.randn(8, 2, 5, 6, 7)
    seeds = [(0, row) for row in range(8)]
    found = flip_at_random(inputs, seeds=seeds)
    assert torch.equal(flip_at_random(inputs[3:], seeds=seeds[3:]), found[3:])
    changed = [not torch.equal(a, b) for a, b in zip(inputs, found, strict=True)]
    assert sum(changed) > 0
    for before, after in zip(inputs, found, strict=True):
        assert any(
            torch.equal(before.flip(axes), after) if axes else torch.equal(before, after)
            for axes in ([], [1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])
        )
