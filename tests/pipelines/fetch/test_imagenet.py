"""ImageNet weights become arrays, are those that their name states, and never run code."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from pipelines.fetch.imagenet import FILES, convert_weights, plan_weights
from pipelines.fetch.plan import Selection
from pipelines.fetch.releases import RELEASES
from services.model_serving.embedding import load_trunk, read_weights
from services.model_serving.networks.residual import ResidualTrunk
from services.shared.errors import ChangedFile, InvalidValue, UnreadableFile
from services.shared.storage import Storage


def publish(folder: Path, content: object, network: str = "resnet18") -> str:
    """Save as torchvision does, and name the file by its hash."""
    torch.save(content, folder / "new.pth")
    name = f"{network}-{hashlib.sha256((folder / 'new.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    return name


def test_fetched_weights_start_a_network(tmp_path):
    trunk = ResidualTrunk(18, dimensions=2, channels=3, width=64)
    name = publish(tmp_path, trunk.body.state_dict() | {"fc.weight": torch.zeros(1000, 512)})
    assert convert_weights(tmp_path, names=(name,)) == ["resnet18.npz"]
    arrays = read_weights(Storage(tmp_path), "resnet18.npz")
    other = ResidualTrunk(18, dimensions=2, channels=4)
    load_trunk(other, arrays, name="resnet18.npz")
    key = "layer3.0.conv1.weight"
    assert torch.equal(other.body.state_dict()[key], trunk.body.state_dict()[key])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle ran')",))


def test_other_files_are_refused(tmp_path):
    name = publish(tmp_path, {"conv1.weight": torch.zeros(2)})
    (tmp_path / name).write_bytes(b"cut off")
    with pytest.raises(ChangedFile, match="not those that their name states"):
        convert_weights(tmp_path, names=(name,))
    for content in ({"conv1.weight": Evil()}, [1, 2]):
        with pytest.raises(UnreadableFile, match="other things than weights"):
            convert_weights(tmp_path, names=(publish(tmp_path, content),))
    assert not (tmp_path / "resnet18.npz").exists()


def test_the_plan_names_what_torchvision_publishes():
    plan = RELEASES["imagenet-resnets"].planner(None, "", Selection())
    assert [unit.path for unit in plan.units] == list(FILES)
    assert all(unit.remote.url.startswith("https://") for unit in plan.units)
    with pytest.raises(InvalidValue, match="no patients"):
        plan_weights(None, "", Selection(limit=3))
