"""A trained network at rest: ``network.json`` (what it is, its hash) and ``weights.npz`` (arrays, no pickle)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import numpy as np
from pydantic import Field, StringConstraints, ValidationError

from services.shared.contracts import Contract
from services.shared.errors import ChangedFile, InvalidValue, NotFound, UnreadableFile
from services.shared.storage import Storage

if TYPE_CHECKING:
    import torch

Spec = TypeVar("Spec", bound=Contract)
Network = TypeVar("Network", bound="torch.nn.Module")


class NetworkCard(Contract, Generic[Spec]):
    """What stands beside the weights: the specification, their SHA-256, and how they were made."""

    spec: Spec
    weights_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    training: dict[str, float | int | str] = Field(default_factory=dict)


def card_key(model: str) -> str:
    """Key of a model's card."""
    return f"{model}/network.json"


def weights_key(model: str) -> str:
    """Key of a model's weights."""
    return f"{model}/weights.npz"


def save_network(
    storage: Storage,
    model: str,
    spec: Spec,
    state: Mapping[str, torch.Tensor],
    *,
    training: Mapping[str, float | int | str],
) -> NetworkCard[Spec]:
    """Write weights and card below ``model``. The card is written last: a model without one was never finished.

    Raises
    ------
    InvalidValue
        Where a weight is not finite.
    """
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in sorted(state.items())}
    _check_finite(arrays, model)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    card: NetworkCard[Spec] = NetworkCard(
        spec=spec, weights_sha256=hashlib.sha256(content).hexdigest(), training=dict(training)
    )
    storage.remove(card_key(model))
    storage.write_bytes(weights_key(model), content)
    storage.write_text(card_key(model), card.model_dump_json(indent=2) + "\n")
    return card


def read_card(
    storage: Storage,
    model: str,
    kind: type[Spec],
    *,
    remedy: str = "train one, or name another with the parameter 'model'",
) -> NetworkCard[Spec]:
    """Return a model's card, whose specification is of a kind; ``remedy`` is what to do where there is none.

    Raises
    ------
    NotFound
        Where there is no such model.
    UnreadableFile
        Where the card is not one.
    """
    key = card_key(model)
    if not storage.exists(key) or not storage.exists(weights_key(model)):
        raise NotFound(
            "there is no trained network",
            field="model",
            expected=f"{key} and {weights_key(model)}",
            remedy=remedy,
        )
    try:
        return NetworkCard[kind].model_validate_json(storage.read_bytes(key))  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableFile(
            "the card of the network cannot be read",
            field=key,
            expected="a network card of this version",
            got=f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}",
            remedy="train the network again",
        ) from None


def verified_sha256(storage: Storage, model: str, kind: type[Contract]) -> str:
    """Return the SHA-256 of a model's weights, checked to be the one that its card states.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such model.
    ChangedFile
        Where the weights are not those that the card states.
    """
    stated = read_card(storage, model, kind).weights_sha256
    _check_hash(stated, storage.sha256(weights_key(model)), model)
    return stated


def _check_hash(stated: str, got: str, model: str) -> None:
    if got != stated:
        raise ChangedFile(
            "the weights of the network have changed since it was trained",
            field=weights_key(model),
            expected=stated,
            got=got,
            remedy="restore the file, or train the network again",
        )


def load_network(
    storage: Storage, model: str, kind: type[Spec], build: Callable[[Spec], Network]
) -> tuple[NetworkCard[Spec], Network]:
    """Return a model's card and its network with the weights in it, ready for inference.

    Parameters
    ----------
    kind, build
        What the card's specification is, and what makes an untrained network of it.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such model, or it cannot be read.
    ChangedFile
        Where the weights are not those that the card states.
    InvalidValue
        Where the architecture is unknown or does not fit the weights.
    """
    import torch

    card = read_card(storage, model, kind)
    content = storage.read_bytes(weights_key(model))
    _check_hash(card.weights_sha256, hashlib.sha256(content).hexdigest(), model)
    network = build(card.spec)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise UnreadableFile(
            "the weights cannot be read", field=weights_key(model), expected="arrays in .npz", got=str(error)
        ) from None
    _check_shapes(arrays, network, model)
    _check_finite(arrays, model)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return card, network.eval().requires_grad_(requires_grad=False)


def _check_shapes(arrays: Mapping[str, np.ndarray], network: torch.nn.Module, model: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: array.shape for name, array in arrays.items()}
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise InvalidValue(
                "the weights do not fit the architecture that the card states",
                field=f"{weights_key(model)}: {name}",
                expected=wanted.get(name, "no such array"),
                got=got.get(name, "no such array"),
                remedy="train the network again",
            )


def _check_finite(arrays: Mapping[str, np.ndarray], model: str) -> None:
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise InvalidValue(
            "the network has weights that are not finite",
            field=weights_key(model),
            expected="finite weights",
            got=f"{len(broken)} arrays with NaN or Inf, first {broken[0]}",
            remedy="train again with a lower learning rate",
        )
