"""One case from volumes to its row: bad input, caching, what is written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from services.feature_store.contracts import ExtractParameters
from services.feature_store.radiomics import extract_case, feature_names, read_row
from services.shared.cohort import CaseKeys, Label, Region, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import (
    InvalidMask,
    InvalidVolume,
    MissingSequence,
    NotFound,
    SpaceMismatch,
    UnreadableFile,
)
from services.shared.volume import write_volume


@pytest.fixture
def case(storage, write_case):
    return write_case(storage, "A1")


def test_row_holds_every_named_feature(storage, case, parameters):
    result = extract_case(storage, case, parameters)
    row = read_row(storage, CaseKeys(case).features)
    assert result.key == CaseKeys(case).features
    assert result.features == len(row.values) == len(feature_names(parameters))
    assert result.absent_regions == ()
    assert result.undefined == ()
    assert not result.cached
    assert all(np.isfinite(list(row.values.values())))


def test_absent_enhancing_tumour_is_missing_and_named(storage, write_case, synthetic, parameters):
    labels = synthetic.labels()
    labels[labels == Label.ENHANCING] = Label.NECROTIC_CORE
    case = write_case(storage, "A1", labels=labels)
    result = extract_case(storage, case, parameters)
    assert result.absent_regions == (Region.ET,)
    values = read_row(storage, result.key).values
    assert all(np.isnan(value) == ("_ET_" in name) for name, value in values.items())
    assert extract_case(storage, case, parameters).absent_regions == (Region.ET,)


def test_label_three_is_read_as_enhancing_tumour(storage, write_case, synthetic, parameters):
    labels = synthetic.labels()
    expected = extract_case(storage, write_case(storage, "A1", labels=labels), parameters)
    other = write_case(storage, "A2", labels=labels)
    labels[labels == Label.ENHANCING] = 3
    write_volume(storage, CaseKeys(other).segmentation, synthetic.image(labels))
    result = extract_case(storage, other, parameters)
    assert read_row(storage, result.key).values == read_row(storage, expected.key).values


def test_second_run_does_nothing_and_changes_recompute(storage, case, synthetic, parameters):
    first = extract_case(storage, case, parameters)
    content = storage.read_bytes(first.key)
    second = extract_case(storage, case, parameters)
    assert second == first.model_copy(update={"cached": True})

    other = extract_case(storage, case, parameters.model_copy(update={"bin_count": 16}))
    assert not other.cached
    assert storage.read_bytes(first.key) != content

    again = extract_case(storage, case, parameters)
    assert not again.cached
    assert storage.read_bytes(first.key) == content

    keys = CaseKeys(case)
    write_volume(
        storage, keys.preprocessed_image(Sequence.T1C), synthetic.image(synthetic.volume(synthetic.labels(), 9))
    )
    changed = extract_case(storage, case, parameters)
    assert not changed.cached
    assert storage.read_bytes(first.key) != content


def test_a_sequence_that_is_not_used_does_not_recompute(storage, case, synthetic, parameters):
    extract_case(storage, case, parameters)
    image = synthetic.image(synthetic.volume(synthetic.labels(), 9))
    write_volume(storage, CaseKeys(case).preprocessed_image(Sequence.T2), image)
    assert extract_case(storage, case, parameters).cached


def test_a_row_that_was_damaged_is_computed_again(storage, case, parameters):
    first = extract_case(storage, case, parameters)
    content = storage.read_bytes(first.key)
    storage.write_bytes(first.key, content[:-10])
    assert not extract_case(storage, case, parameters).cached
    assert storage.read_bytes(first.key) == content


def spoil_missing_sequence(storage, keys, synthetic):
    storage.remove(keys.preprocessed_image(Sequence.FLAIR))


def spoil_missing_segmentation(storage, keys, synthetic):
    storage.remove(keys.segmentation)


def spoil_mask_grid(storage, keys, synthetic):
    write_volume(storage, keys.segmentation, synthetic.image(synthetic.labels(), origin=(5.0, 0.0, 0.0)))


def spoil_mask_size(storage, keys, synthetic):
    write_volume(storage, keys.segmentation, synthetic.image(synthetic.labels(20)))


def spoil_empty_mask(storage, keys, synthetic):
    write_volume(storage, keys.segmentation, synthetic.image(np.zeros((24, 24, 24), np.uint8)))


def spoil_unknown_label(storage, keys, synthetic):
    labels = synthetic.labels()
    labels[0, 0, 0] = 7
    write_volume(storage, keys.segmentation, synthetic.image(labels))


def spoil_fractional_label(storage, keys, synthetic):
    write_volume(storage, keys.segmentation, synthetic.image(synthetic.labels().astype(np.float32) / 2))


def spoil_nan(storage, keys, synthetic):
    volume = synthetic.volume(synthetic.labels())
    volume[0, 0, 0] = np.nan
    write_volume(storage, keys.preprocessed_image(Sequence.T1C), synthetic.image(volume))


def spoil_truncated(storage, keys, synthetic):
    key = keys.preprocessed_image(Sequence.T1C)
    storage.write_bytes(key, storage.read_bytes(key)[:-500])


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (spoil_missing_sequence, MissingSequence, "FLAIR"),
        (spoil_missing_segmentation, NotFound, "gliaflow segment"),
        (spoil_mask_grid, SpaceMismatch, "resample"),
        (spoil_mask_size, SpaceMismatch, "20x20x20"),
        (spoil_empty_mask, InvalidMask, "empty"),
        (spoil_unknown_label, InvalidMask, "7"),
        (spoil_fractional_label, InvalidMask, "between labels"),
        (spoil_nan, InvalidVolume, "1 of 13824"),
        (spoil_truncated, UnreadableFile, "T1c"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing_behind(storage, case, synthetic, parameters, spoil, error, words):
    extract_case(storage, case, parameters)
    keys = CaseKeys(case)
    spoil(storage, keys, synthetic)
    with pytest.raises(error) as caught:
        extract_case(storage, case, parameters)
    assert words in str(caught.value)
    assert caught.value.case == str(case)
    assert caught.value.step == "extract"
    assert not storage.files("features", ".tmp")
    if error is not MissingSequence and error is not NotFound:
        assert not storage.exists(keys.manifest("extract"))


def test_unknown_case(storage, parameters):
    with pytest.raises(MissingSequence, match="demo/sub-nobody"):
        extract_case(storage, CaseRef(cohort="demo", id="nobody"), parameters)


@pytest.mark.parametrize(
    "values",
    [
        {"regions": []},
        {"bin_count": 1},
        {"bin_width": 0},
        {"minimum_voxels": 1},
        {"sequences": ["PD"]},
        {"wavelet": "db99"},
        {"binwidth": 1},
    ],
)
def test_parameters_out_of_range_are_refused(values):
    with pytest.raises(ValidationError):
        ExtractParameters(**values)


def test_extraction_imports_neither_feast_nor_torch():
    code = (
        "import sys, services.feature_store.service\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'feast', 'torch', 'dask', 'prefect'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
