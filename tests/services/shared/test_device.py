import pytest
import torch

from services.shared.device import choose_device, where_computed
from services.shared.errors import InvalidValue
from services.shared.settings import settings


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    """Sets the device, on a machine with so many GPUs."""

    def choose(name: str, *, gpus: int = 0) -> torch.device:
        monkeypatch.setenv("GLIAFLOW_DEVICE", name)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        settings.cache_clear()
        return choose_device()

    yield choose
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_device_is_the_one_that_is_named(device, name: str, gpus: int, expected: str) -> None:
    assert str(device(name, gpus=gpus)) == expected


@pytest.mark.parametrize(("name", "gpus"), [("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_that_is_not_there_is_named(device, name: str, gpus: int) -> None:
    with pytest.raises(InvalidValue, match="GLIAFLOW_DEVICE=auto") as error:
        device(name, gpus=gpus)
    assert error.value.expected == name
    assert f"sees {gpus} GPUs" in error.value.got


def test_a_device_that_is_none_is_named(device) -> None:
    with pytest.raises(InvalidValue, match="gpu0"):
        device("gpu0")


def test_services_without_networks_compute_on_the_processor(device) -> None:
    device("auto", gpus=1)
    assert where_computed("preprocessing").device == "cpu"
    assert where_computed("preprocessing").torch is None
    assert where_computed("segmentation").device == "cuda"
    assert where_computed("segmentation").torch == torch.__version__
