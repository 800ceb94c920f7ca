"""The segmentation network at rest."""

from __future__ import annotations

from services.segmentation.network import NetworkSpec, RecombinationUNet, ResidualUNet, build_network
from services.shared import trained_network
from services.shared.storage import Storage
from services.shared.trained_network import card_key, save_network, weights_key

__all__ = ["NetworkCard", "card_key", "load_network", "read_card", "save_network", "verified_sha256", "weights_key"]

NetworkCard = trained_network.NetworkCard[NetworkSpec]


def read_card(storage: Storage, model: str) -> NetworkCard:
    """Return a model's card; see :func:`services.shared.trained_network.read_card`."""
    remedy = "train a network, name another with the parameter 'model', or add an expert segmentation"
    return trained_network.read_card(storage, model, NetworkSpec, remedy=remedy)


def verified_sha256(storage: Storage, model: str) -> str:
    """Return the checked SHA-256 of a model's weights."""
    return trained_network.verified_sha256(storage, model, NetworkSpec)


def load_network(storage: Storage, model: str) -> tuple[NetworkCard, ResidualUNet | RecombinationUNet]:
    """Return a model's card and its network; see :func:`services.shared.trained_network.load_network`."""
    return trained_network.load_network(storage, model, NetworkSpec, build_network)
