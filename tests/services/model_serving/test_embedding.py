"""Deep features: named by sequence and region, from weights that are stated, never from a pickle."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
import torch

from services.model_serving.embedding import (
    embed_slices,
    load_trunk,
    make_embedder,
    read_weights,
)
from services.model_serving.networks.residual import ResidualTrunk
from services.shared.errors import InvalidValue, NotFound, UnreadableFile

KEY = "weights/resnet34.npz"


def torchvision_names(network) -> dict[str, np.ndarray]:
    """Return an embedding network's weights by the names that torchvision gives them."""
    return {
        name.replace("trunk.body.", "").replace("head.", "fc."): value.numpy()
        for name, value in network.state_dict().items()
    }


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, values in arrays.items():
        kind = {"float32": "F32", "int64": "I64"}[str(values.dtype)]
        span = [len(body), len(body) + values.nbytes]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": span}
        body += values.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_features_do_not_depend_on_the_unit_and_slices_stand_alone(storage):
    embedder = make_embedder(storage)
    slices = np.random.default_rng(0).normal(size=(2, 224, 224)).astype(np.float32)
    found = embed_slices(embedder, slices)
    assert found.shape == (2, 1000)
    assert found[1] == pytest.approx(embed_slices(embedder, slices[1:] * 3 + 5)[0], abs=1e-4)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    with torch.inference_mode():
        low, high = slices[0].min(), slices[0].max()
        scaled = torch.from_numpy((slices[0] - low) / (high - low)).expand(1, 3, -1, -1)
        mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        wanted = embedder.network((scaled - mean[:, None, None]) / spread[:, None, None])[0]
    assert found[0] == pytest.approx(wanted.numpy(), abs=1e-4)


@pytest.mark.parametrize(("key", "write"), [(KEY, npz), ("weights/resnet34.safetensors", safetensors)])
def test_weights_of_a_file_are_used_and_named(storage, key, write):
    other = make_embedder(storage, seed=5)
    arrays = torchvision_names(other.network)
    storage.write_bytes(key, write(arrays))
    found = make_embedder(storage, key)
    assert found.start == f"imagenet {storage.sha256(key)}"
    for name, value in other.network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, found.network.state_dict()[name]), name


def test_a_trunk_takes_any_number_of_channels(storage):
    arrays = torchvision_names(make_embedder(storage).network)
    trunk = ResidualTrunk(34, dimensions=2, channels=4)
    load_trunk(trunk, arrays, name=KEY)
    first = arrays["conv1.weight"]
    assert np.allclose(trunk.body.conv1.weight.detach().sum(dim=1), first.sum(axis=1), atol=1e-5)
    with pytest.raises(InvalidValue, match="another architecture"):
        load_trunk(ResidualTrunk(18, dimensions=2, channels=3), arrays, name=KEY)
    with pytest.raises(InvalidValue, match="another architecture"):
        load_trunk(trunk, {name: value for name, value in arrays.items() if name != "bn1.weight"}, name=KEY)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle ran')",))


def test_pickles_and_damaged_files_are_refused(storage):
    content = io.BytesIO()
    torch.save({"conv1.weight": Evil()}, content)
    storage.write_bytes("weights/resnet34.pth", content.getvalue())
    with pytest.raises(UnreadableFile, match="pickle"):
        read_weights(storage, "weights/resnet34.pth")
    storage.write_bytes(KEY, content.getvalue())  # a pickle under another name
    with pytest.raises(UnreadableFile):
        read_weights(storage, KEY)
    objects = io.BytesIO()
    np.savez(objects, a=np.array([Evil()], dtype=object), allow_pickle=True)
    for damaged in (objects.getvalue(), b"", npz({"a": np.ones(3)})[:40]):
        storage.write_bytes(KEY, damaged)
        with pytest.raises(UnreadableFile):
            read_weights(storage, KEY)
    for damaged in (b"", struct.pack("<Q", 1 << 40) + b"{}", safetensors({"a": np.ones(9, np.float32)})[:-8]):
        storage.write_bytes("weights/a.safetensors", damaged)
        with pytest.raises(UnreadableFile):
            read_weights(storage, "weights/a.safetensors")
    storage.write_bytes(KEY, npz({"a": np.array([1.0, np.nan])}))
    with pytest.raises(InvalidValue, match="not finite"):
        read_weights(storage, KEY)
    with pytest.raises(NotFound):
        read_weights(storage, "weights/none.npz")
