"""Bad input is refused by name, the case is quarantined with the reason, and nothing half-written stays."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk

from services.preprocessing.contracts import PrepareParameters
from services.preprocessing.steps import prepare_case
from services.shared.cohort import CaseKeys, Sequence
from services.shared.errors import (
    GliaflowError,
    InvalidMask,
    InvalidVolume,
    MissingSequence,
    SpaceMismatch,
    UnreadableFile,
)
from services.shared.storage import Storage
from services.shared.volume import write_volume

PARAMETERS = PrepareParameters(voxel_mm=4.0)
Spoil = Callable[[Storage, CaseKeys], None]


def rewrite(storage: Storage, key: str, change: Callable[[np.ndarray], np.ndarray], *, shift_mm: float = 0.0) -> None:
    image = sitk.ReadImage(storage.url(key))
    spoilt = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    spoilt.SetSpacing(image.GetSpacing())
    spoilt.SetOrigin([o + shift_mm for o in image.GetOrigin()])
    write_volume(storage, key, spoilt)


def missing_sequence(storage: Storage, keys: CaseKeys) -> None:
    storage.remove(keys.raw_image(Sequence.FLAIR))


def flat(storage: Storage, keys: CaseKeys) -> None:
    rewrite(storage, keys.raw_image(Sequence.T2), lambda a: a[:1])


def four_dimensions(storage: Storage, keys: CaseKeys) -> None:
    image = sitk.ReadImage(storage.url(keys.raw_image(Sequence.T1)))
    write_volume(storage, keys.raw_image(Sequence.T1), sitk.JoinSeries([image, image]))


def with_value(value: float) -> Spoil:
    def spoil(storage: Storage, keys: CaseKeys) -> None:
        def change(array: np.ndarray) -> np.ndarray:
            array[5, 5, 5] = value
            return array

        rewrite(storage, keys.raw_image(Sequence.T1C), change)

    return spoil


def truncated(storage: Storage, keys: CaseKeys) -> None:
    key = keys.raw_image(Sequence.FLAIR)
    content = storage.read_bytes(key)
    storage.write_bytes(key, content[: len(content) // 2])


def constant(storage: Storage, keys: CaseKeys) -> None:
    rewrite(storage, keys.raw_image(Sequence.T1C), lambda a: np.full_like(a, 7.0))


def empty_mask(storage: Storage, keys: CaseKeys) -> None:
    rewrite(storage, keys.raw_segmentation, np.zeros_like)


def unknown_label(storage: Storage, keys: CaseKeys) -> None:
    rewrite(storage, keys.raw_segmentation, lambda a: np.where(a == 4, 9, a).astype(np.uint8))


def fractional_label(storage: Storage, keys: CaseKeys) -> None:
    rewrite(storage, keys.raw_segmentation, lambda a: a.astype(np.float32) * 0.5)


def mask_elsewhere(storage: Storage, keys: CaseKeys) -> None:
    rewrite(storage, keys.raw_segmentation, lambda a: a, shift_mm=5.0)


CASES = [
    (missing_sequence, MissingSequence, "FLAIR"),
    (flat, InvalidVolume, "T2w"),
    (four_dimensions, InvalidVolume, "T1w"),
    (with_value(np.nan), InvalidVolume, "T1c"),
    (with_value(np.inf), InvalidVolume, "T1c"),
    (truncated, UnreadableFile, "FLAIR"),
    (constant, InvalidVolume, "T1c"),
    (empty_mask, InvalidMask, "dseg"),
    (unknown_label, InvalidMask, "dseg"),
    (fractional_label, InvalidMask, "dseg"),
    (mask_elsewhere, SpaceMismatch, "dseg"),
]


@pytest.mark.parametrize(
    ("spoil", "kind", "named"),
    CASES,
    ids=["missing", "flat", "4d", "nan", "inf", "truncated", "constant", "empty", "label", "fraction", "elsewhere"],
)
def test_a_bad_case_is_refused_and_quarantined(
    storage: Storage, raw_case: CaseKeys, spoil: Spoil, kind: type[GliaflowError], named: str
) -> None:
    spoil(storage, raw_case)
    with pytest.raises(kind) as caught:
        prepare_case(storage, raw_case.case, PARAMETERS)
    error = caught.value
    assert error.case == str(raw_case.case)
    assert error.step == "prepare"
    assert error.expected
    assert error.got
    assert named in str(error)
    assert storage.files(raw_case.preprocessed) == [raw_case.quality]
    written = json.loads(storage.read_text(raw_case.quality))
    assert written == {"status": "quarantined", "problem": dict(error.to_problem())}


def test_a_case_that_turns_bad_loses_its_prepared_volumes(prepared, storage) -> None:
    keys = prepared.keys
    prepared.copied_to(storage)
    truncated(storage, keys)
    with pytest.raises(UnreadableFile):
        prepare_case(storage, keys.case, PARAMETERS)
    assert storage.files(keys.preprocessed) == [keys.quality]


def test_a_repaired_case_leaves_quarantine(prepared, storage) -> None:
    keys = prepared.keys
    prepared.copied_to(storage)
    good = storage.read_bytes(keys.raw_segmentation)
    empty_mask(storage, keys)
    with pytest.raises(InvalidMask):
        prepare_case(storage, keys.case, PARAMETERS)
    storage.write_bytes(keys.raw_segmentation, good)
    assert prepare_case(storage, keys.case, PARAMETERS).quality == prepared.result.quality
