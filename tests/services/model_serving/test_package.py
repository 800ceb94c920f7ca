from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest

from services.model_serving.package import ARRAYS, DESCRIPTION, pack, read_package, unpack
from services.shared.errors import ChangedFile, NotFound, UnreadableFile

FOLDER = "studies/c/grading/model"


def test_a_package_comes_back_as_it_was(reference, card, storage):
    package = read_package(storage, reference.write(storage, FOLDER))
    assert package.model.columns == reference.model.columns
    assert package.model.threshold == reference.model.threshold
    for name in ("medians", "means", "scales"):
        assert np.array_equal(getattr(package.model, name), getattr(reference.model, name))
    for name, values in reference.model.classifier.arrays().items():
        assert np.array_equal(package.model.classifier.arrays()[name], values)
    assert package.description.metrics == card.metrics
    assert package.description.positive_label == "HGG"


def test_the_same_model_gives_the_same_bytes(reference, card, monkeypatch):
    first = pack(reference.model, card)
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert pack(reference.model, card) == first


def test_changed_arrays_are_refused(reference, storage):
    reference.write(storage, FOLDER)
    content = bytearray(storage.read_bytes(f"{FOLDER}/{ARRAYS}"))
    content[-40] ^= 1
    storage.write_bytes(f"{FOLDER}/{ARRAYS}", bytes(content))
    with pytest.raises(ChangedFile, match="arrays are not those"):
        read_package(storage, FOLDER)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"kind": "forest"}, "kind"),
        ({"scales": [1.0] * 5 + [0.0]}, "scales"),
        ({"medians": [0.0]}, "one median"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_description_of_another_kind_is_refused(logistic, card, change, where):
    files = pack(logistic.model, card)
    files[DESCRIPTION] = json.dumps(json.loads(files[DESCRIPTION]) | change).encode()
    with pytest.raises(UnreadableFile, match=where):
        unpack(files, name=FOLDER)


def _with_arrays(files: dict[str, bytes], content: bytes) -> dict[str, bytes]:
    import hashlib

    description = json.loads(files[DESCRIPTION]) | {"arrays_sha256": hashlib.sha256(content).hexdigest()}
    return {DESCRIPTION: json.dumps(description).encode(), ARRAYS: content}


def _npz(**arrays: object) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"not a zip archive",
        pickle.dumps({"coefficients": [1.0]}),
        _npz(intercept=np.zeros(1)),
        _npz(coefficients=np.zeros(5), intercept=np.zeros(1)),
        _npz(coefficients=np.full(6, np.nan), intercept=np.zeros(1)),
        _npz(coefficients=np.array([object()] * 6), intercept=np.zeros(1)),
    ],
    ids=["no zip", "pickle", "array missing", "wrong length", "NaN", "pickled objects"],
)
def test_arrays_of_another_kind_are_refused_and_nothing_is_unpickled(logistic, card, content):
    with pytest.raises(UnreadableFile, match="arrays cannot be read"):
        unpack(_with_arrays(pack(logistic.model, card), content), name=FOLDER)


def test_half_a_package_is_no_package(logistic, storage):
    logistic.write(storage, FOLDER)
    storage.remove(f"{FOLDER}/{ARRAYS}")
    with pytest.raises(NotFound, match=r"without arrays\.npz"):
        read_package(storage, FOLDER)


def test_a_signature_comes_back_as_it_was(cox, cox_card, storage):
    package = read_package(storage, cox.write(storage, FOLDER, cox_card))
    assert package.description.kind == "cox"
    assert package.description.platform == "log2 intensity"
    assert package.model.threshold == cox.model.threshold
    for name, values in cox.model.classifier.arrays().items():
        assert np.array_equal(package.model.classifier.arrays()[name], values)
    assert pack(package.model, cox_card) == pack(cox.model, cox_card)


def test_a_description_without_platform_is_still_read(logistic, card):
    files = pack(logistic.model, card)
    description = json.loads(files[DESCRIPTION])
    del description["platform"]
    files[DESCRIPTION] = json.dumps(description).encode()
    assert unpack(files, name=FOLDER).description.platform is None


@pytest.mark.parametrize(
    "change",
    [
        {"times_months": np.array([3.0, 3.0, 24.0])},
        {"times_months": np.array([0.0, 12.0, 24.0])},
        {"baseline_survival": np.array([0.9, 0.95, 0.5])},
        {"baseline_survival": np.array([1.2, 0.8, 0.5])},
        {"baseline_survival": np.array([0.9, 0.8])},
        {"baseline_survival": np.array([0.9, 0.8, -0.1])},
        {"times_months": np.zeros(0), "baseline_survival": np.zeros(0)},
        {"coefficients": np.zeros(5)},
        {"coefficients": np.full(6, np.inf)},
    ],
    ids=["times stand", "time 0", "rises", "above 1", "lengths differ", "below 0", "empty", "too few", "infinite"],
)
def test_a_signature_that_is_none_is_refused(cox, cox_card, change):
    files = _with_arrays(pack(cox.model, cox_card), _npz(**(cox.model.classifier.arrays() | change)))
    with pytest.raises(UnreadableFile, match="arrays cannot be read"):
        unpack(files, name=FOLDER)


def test_arrays_of_a_classifier_are_no_signature(cox, logistic, cox_card, card):
    files = _with_arrays(pack(cox.model, cox_card), pack(logistic.model, card)[ARRAYS])
    with pytest.raises(UnreadableFile, match="cox model"):
        unpack(files, name=FOLDER)
