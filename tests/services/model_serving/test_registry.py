from __future__ import annotations

import dataclasses

import pytest

from services.model_serving import registry
from services.model_serving.package import ARRAYS, DESCRIPTION
from services.shared.errors import ChangedFile, NotFound


@pytest.fixture
def two(storage, logistic):
    """Two versions of one model; the first is its champion."""
    other = dataclasses.replace(logistic, model=dataclasses.replace(logistic.model, threshold=0.6))
    first, _ = registry.register_package(storage, logistic.write(storage, "studies/a/grading/model"))
    second, _ = registry.register_package(storage, other.write(storage, "studies/b/grading/model"))
    return first, second


def test_versions_grow_and_the_first_is_champion(storage, two):
    first, second = two
    assert first.version.startswith("v0001-")
    assert second.version.startswith("v0002-")
    assert registry.list_versions(storage, "grading") == [first, second]
    assert registry.resolve(storage, "grading") == first
    assert registry.resolve(storage, "grading/champion") == first
    assert registry.resolve(storage, "grading/latest") == second
    assert registry.resolve(storage, f"grading/{second.version}") == second


def test_promotion_changes_what_the_name_means(storage, two):
    registry.promote(storage, two[1])
    assert registry.resolve(storage, "grading") == two[1]
    assert registry.load(storage, registry.resolve(storage, "grading")).model.threshold == 0.6


def test_registering_the_same_package_again_changes_nothing(storage, two):
    before = {key: storage.read_bytes(key) for key in storage.files(registry.ROOT)}
    assert registry.register_package(storage, "studies/a/grading/model") == (two[0], True)
    assert {key: storage.read_bytes(key) for key in storage.files(registry.ROOT)} == before


def test_a_package_can_take_another_name(storage, two):
    entry, cached = registry.register_package(storage, "studies/a/grading/model", model="grading-tcga")
    assert (entry.model, cached) == ("grading-tcga", False)
    assert registry.list_models(storage) == ["grading", "grading-tcga"]


@pytest.mark.parametrize("name", [DESCRIPTION, ARRAYS])
def test_a_package_that_changed_after_registration_is_refused(storage, two, name):
    key = f"{two[0].folder}/{name}"
    content = storage.read_bytes(key)
    changed = content.replace(b'"intended_use": "Tests"', b'"intended_use": "Texts"')
    storage.write_bytes(key, changed if name == DESCRIPTION else content[:-30] + b"x" + content[-29:])
    with pytest.raises(ChangedFile):
        registry.load(storage, two[0])


@pytest.mark.parametrize(
    ("reference", "known"),
    [("nothing", "grading"), ("grading/v0009-0123456789ab", "v0001-"), ("nothing/latest", "grading")],
)
def test_an_unknown_model_is_an_error_that_lists_the_known(storage, two, reference, known):
    with pytest.raises(NotFound, match=known):
        registry.resolve(storage, reference)


def test_a_version_without_description_does_not_count(storage, two):
    storage.remove(f"{two[1].folder}/{DESCRIPTION}")
    assert registry.list_versions(storage, "grading") == [two[0]]
    assert registry.resolve(storage, "grading/latest") == two[0]


def test_an_empty_registry_says_so(storage):
    assert registry.list_models(storage) == []
    with pytest.raises(NotFound, match="there is none"):
        registry.resolve(storage, "grading")
