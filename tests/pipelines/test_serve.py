"""What a process is made ready with before it becomes a server."""

from __future__ import annotations

import os

import pytest
import torch

from pipelines.serve import serve_service
from services.shared import settings as shared_settings
from services.shared.errors import InvalidValue
from services.shared.settings import settings

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    """The environments that servers were started with."""
    found: list[dict[str, str]] = []
    for name in (*THREADS, "BENTOML_HOME", "GLIAFLOW_DEVICE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "execv", lambda *command: found.append(dict(os.environ)))
    settings.cache_clear()
    yield found
    for name in (*THREADS, "BENTOML_HOME"):
        os.environ.pop(name, None)
    settings.cache_clear()


def test_threads_are_no_more_than_the_processors_that_a_container_may_use(started, monkeypatch) -> None:
    monkeypatch.setattr(shared_settings, "available_processors", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    serve_service("preprocessing", host="127.0.0.1", port=3000)
    assert [started[0][name] for name in THREADS] == ["1", "3", "3", "3"]


def test_a_server_that_must_have_a_gpu_does_not_start_without(started, monkeypatch) -> None:
    monkeypatch.setenv("GLIAFLOW_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InvalidValue, match="torch cannot use this GPU"):
        serve_service("segmentation", host="127.0.0.1", port=3000)
    assert started == []
    serve_service("preprocessing", host="127.0.0.1", port=3000)
    assert len(started) == 1
