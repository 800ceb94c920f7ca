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
