"""A version comes to service by a name in the registry: asked for in this process, and over HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.rollout.contract import Rollout, RolloutFailed
from pipelines.rollout.local import LocalRollout
from services.model_serving import registry
from services.model_serving.package import (
    DESCRIPTION,
    FittedModel,
    LogisticClassifier,
    ModelCard,
    TrainingData,
    pack,
    write_package,
)
from services.model_serving.registry import Registered
from services.shared.storage import Storage
from tests.contracts.servers import Server

MODEL = "grading"
CARD = ModelCard(
    study=MODEL,
    classes=("LGG", "HGG"),
    intended_use="Tests",
    metrics={},
    training=TrainingData(
        patients=60, patients_by_class={"LGG": 30, "HGG": 30}, features_sha256="0" * 64, labels_sha256="1" * 64
    ),
    code_version="1",
    packages={},
)
FITTED = FittedModel(
    ("f0", "f1"), np.array([0.5, 1.0]), np.zeros(2), np.ones(2), LogisticClassifier(np.array([1.0, -2.0]), 0.3), 0.5
)


def register(storage: Storage, threshold: float) -> Registered:
    files = pack(dataclasses.replace(FITTED, threshold=threshold), CARD)
    write_package(storage, f"studies/{threshold}/model", files)
    return registry.register_package(storage, f"studies/{threshold}/model", model=MODEL)[0]


@pytest.fixture
def two(storage: Storage) -> tuple[Registered, Registered]:
    return register(storage, 0.5), register(storage, 0.6)


def test_in_this_process(storage: Storage, two: tuple[Registered, Registered]) -> None:
    _come_and_go(LocalRollout(storage, MODEL, interval_s=0.01), storage, two)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Storage, Server]]:
    root = tmp_path_factory.mktemp("served") / "root"
    root.mkdir()
    made = Server("model_serving", root)
    try:
        made.client().close()
        yield Storage(root), made
    finally:
        made.stop()


@pytest.mark.xdist_group("served-models")
def test_over_http_by_the_services_own_counters(server: tuple[Storage, Server]) -> None:
    storage, made = server
    two = register(storage, 0.5), register(storage, 0.6)
    place = LocalRollout(storage, MODEL, url=made.url, interval_s=0.02)
    _come_and_go(place, storage, two)


@pytest.mark.xdist_group("served-models")
def test_a_service_that_is_gone_is_told(two: tuple[Registered, Registered], storage: Storage) -> None:
    place = LocalRollout(storage, MODEL, url="http://127.0.0.1:9", interval_s=0.01)
    place.deploy(two[1])
    with pytest.raises(RolloutFailed, match="did not answer"):
        place.wait(seconds=0.1)


def _come_and_go(place: Rollout, storage: Storage, two: tuple[Registered, Registered]) -> None:
    first, second = two
    assert place.current() == first.version
    place.deploy(second)
    place.deploy(second)  # the same again changes nothing
    place.wait(seconds=30)
    assert place.current() == second.version
    assert registry.champion(storage, MODEL) == first.version
    found = place.observe(seconds=0.6)
    assert found.requests > 0
    assert found.errors == 0
    assert found.latency_p95_s is not None
    place.undo()
    assert place.current() == first.version
    place.wait(seconds=30)

    place.deploy(second)
    folder = Path(storage.root) / second.folder / DESCRIPTION
    whole = folder.read_bytes()
    spoilt = register(storage, 0.7)
    broken = Path(storage.root) / spoilt.folder / DESCRIPTION
    broken.write_bytes(whole)  # not what its name says
    place.deploy(spoilt)
    with pytest.raises(RolloutFailed, match="v0003"):
        place.wait(seconds=0.2)
    place.undo()
    place.wait(seconds=30)
