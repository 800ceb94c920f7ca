from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from services.segmentation.network import NetworkSpec, build_network
from services.segmentation.weights import card_key, load_network, read_card, save_network, verified_sha256, weights_key
from services.shared.errors import ChangedFile, InvalidValue, NotFound, UnreadableFile
from services.shared.storage import Storage

MODEL = "models/segmentation"


def test_weights_come_back_and_the_same_weights_are_the_same_bytes(storage: Storage, make_model) -> None:
    card = make_model()
    first = storage.read_bytes(weights_key(MODEL))
    again = make_model()
    assert storage.read_bytes(weights_key(MODEL)) == first
    assert again == card == read_card(storage, MODEL)
    loaded_card, network = load_network(storage, MODEL)
    torch.manual_seed(0)
    fresh = build_network(card.spec)
    assert loaded_card == card
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), fresh.state_dict().values(), strict=True)
    )
    assert not network.training
    assert verified_sha256(storage, MODEL) == card.weights_sha256


def test_batch_statistics_are_kept(storage: Storage, make_model) -> None:
    card = make_model()
    assert "stem.norm.running_var" in np.load(io.BytesIO(storage.read_bytes(weights_key(MODEL)))).files
    assert load_network(storage, MODEL)[0] == card


def test_a_missing_model_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound, match=r"models/segmentation/network\.json"):
        load_network(storage, MODEL)


@pytest.mark.parametrize("load", [load_network, verified_sha256])
def test_changed_weights_are_refused(storage: Storage, make_model, load) -> None:
    make_model()
    content = bytearray(storage.read_bytes(weights_key(MODEL)))
    content[len(content) // 2] ^= 1
    storage.write_bytes(weights_key(MODEL), bytes(content))
    with pytest.raises(ChangedFile, match=r"weights\.npz"):
        load(storage, MODEL)


def test_weights_of_another_architecture_are_refused(storage: Storage, make_model) -> None:
    make_model()
    card = json.loads(storage.read_text(card_key(MODEL)))
    card["spec"]["width"] = 8
    storage.write_text(card_key(MODEL), json.dumps(card))
    with pytest.raises(InvalidValue, match="do not fit the architecture"):
        load_network(storage, MODEL)


def test_an_unknown_architecture_is_refused(storage: Storage, make_model) -> None:
    make_model()
    text = storage.read_text(card_key(MODEL)).replace("residual-unet-3d", "transformer")
    storage.write_text(card_key(MODEL), text)
    with pytest.raises(InvalidValue, match="transformer"):
        load_network(storage, MODEL)


@pytest.mark.parametrize("text", ["not json", "{}", '{"spec": {"classes": [0, 7]}, "weights_sha256": "x"}'])
def test_an_unreadable_card_is_refused(storage: Storage, make_model, text: str) -> None:
    make_model()
    storage.write_text(card_key(MODEL), text)
    with pytest.raises(UnreadableFile, match=r"network\.json"):
        read_card(storage, MODEL)


def test_a_pickle_is_never_loaded(storage: Storage, make_model) -> None:
    card = make_model()
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([{"an": "object"}], dtype=object))
    storage.write_bytes(weights_key(MODEL), buffer.getvalue())
    honest = card.model_copy(update={"weights_sha256": storage.sha256(weights_key(MODEL))})
    storage.write_text(card_key(MODEL), honest.model_dump_json())
    with pytest.raises(UnreadableFile, match="cannot be read"):
        load_network(storage, MODEL)


def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(storage: Storage) -> None:
    spec = NetworkSpec(width=4, levels=1)
    state = build_network(spec).state_dict()
    state["head.bias"][0] = float("nan")
    with pytest.raises(InvalidValue, match=r"head\.bias"):
        save_network(storage, MODEL, spec, state, training={})
    assert storage.files("models") == []
