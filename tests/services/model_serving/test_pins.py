"""A process that is pinned to versions serves them, whatever the champion is."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipelines.serve import serve_service
from services.model_serving import registry
from services.model_serving.package import ARRAYS
from services.shared.errors import ChangedFile, NotFound
from services.shared.settings import settings


@pytest.fixture
def two(storage, logistic):
    """Two versions of one model; the first is its champion."""
    other = dataclasses.replace(logistic, model=dataclasses.replace(logistic.model, threshold=0.6))
    first, _ = registry.register_package(storage, logistic.write(storage, "studies/a/grading/model"))
    second, _ = registry.register_package(storage, other.write(storage, "studies/b/grading/model"))
    return first, second


@pytest.fixture
def pin(storage, monkeypatch):
    def set_pins(**pins: str) -> None:
        monkeypatch.setenv("GLIAFLOW_MODEL_PINS", json.dumps(pins))
        settings.cache_clear()

    return set_pins


def test_a_pin_is_what_the_bare_name_means(storage, two, pin):
    pin(grading=two[1].version)
    assert registry.resolve(storage, "grading") == two[1]
    assert registry.resolve(storage, "grading/champion") == two[0]
    assert registry.resolve(storage, f"grading/{two[0].version}") == two[0]
    registry.check_pins(storage)
    pin(atrx=two[1].version)
    assert registry.resolve(storage, "grading") == two[0]


def test_a_server_that_is_pinned_to_what_it_cannot_serve_does_not_start(storage, two, pin):
    pin(grading="v0009-0123456789ab")
    with pytest.raises(NotFound, match="no such version") as caught:
        serve_service("model_serving", host="127.0.0.1", port=3000)
    assert caught.value.got == "grading/v0009-0123456789ab"
    pin(grading=two[1].version)
    storage.write_bytes(f"{two[1].folder}/{ARRAYS}", b"not arrays")
    with pytest.raises(ChangedFile):
        serve_service("model_serving", host="127.0.0.1", port=3000)
