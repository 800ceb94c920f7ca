"""Two trainings of one network: how far their weights, and what they say, are apart.

Training on another machine, or with another number of threads, adds in another order, so that the last bits of a weight
may differ. Two networks count as one where no weight differs by more than ``WEIGHT_TOLERANCE`` of its array's root mean
square, and no output for one fixed random input by more than ``OUTPUT_TOLERANCE``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from pipelines.versioning.comparison import largest_difference, read_arrays
from services.shared.contracts import Contract
from services.shared.errors import InvalidValue
from services.shared.storage import Storage
from services.shared.trained_network import card_key, load_network, weights_key

if TYPE_CHECKING:
    from torch import nn

WEIGHT_TOLERANCE = 1e-3
OUTPUT_TOLERANCE = 1e-3
_SEED = 1


class NetworkDifference(Contract):
    """How far two networks of one architecture are apart.

    Parameters
    ----------
    weights
        Largest difference of a weight, relative to the root mean square of its array.
    outputs
        Largest difference of an output (a logit, or a log hazard) for one fixed random input.
    """

    same_bytes: bool
    weights: float
    outputs: float

    @property
    def is_tolerable(self) -> bool:
        """Whether both count as one network."""
        return self.weights <= WEIGHT_TOLERANCE and self.outputs <= OUTPUT_TOLERANCE


def compare_networks(before: Storage, after: Storage, model: str) -> NetworkDifference:
    """Return how far the networks at one key of two storages are apart.

    Raises
    ------
    NotFound, UnreadableFile, ChangedFile
        Where one of them cannot be read.
    InvalidValue
        Where they are not of one architecture.
    """
    cards = [json.loads(storage.read_text(card_key(model)))["spec"] for storage in (before, after)]
    if cards[0] != cards[1]:
        raise InvalidValue(
            "the network that was trained again has another architecture",
            field=card_key(model),
            expected=cards[0],
            got=cards[1],
        )
    contents = [storage.read_bytes(weights_key(model)) for storage in (before, after)]
    if contents[0] == contents[1]:
        return NetworkDifference(same_bytes=True, weights=0.0, outputs=0.0)
    old, new = (read_arrays(content, weights_key(model)) for content in contents)
    said = [_outputs(storage, model, cards[0]["architecture"]) for storage in (before, after)]
    return NetworkDifference(
        same_bytes=False,
        weights=max(largest_difference(old[name], new[name]) for name in old),
        outputs=float(np.max(np.abs(said[0] - said[1]))),
    )


def _outputs(storage: Storage, model: str, architecture: str) -> npt.NDArray[np.float64]:
    """Return every output of a network for one fixed random input, one after another."""
    import torch

    network, shape = _load(storage, model, architecture)
    inputs = torch.from_numpy(np.random.default_rng(_SEED).normal(size=(1, *shape)).astype(np.float32))
    with torch.inference_mode():
        found = network(inputs)
    parts = [found] if isinstance(found, torch.Tensor) else [part for part in found if isinstance(part, torch.Tensor)]
    return np.concatenate([part.double().numpy().ravel() for part in parts])


def _load(storage: Storage, model: str, architecture: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network of any kind, and the shape of an input without its batch."""
    from services.model_serving.networks.specification import ImagingSpec
    from services.model_serving.networks.specification import build_network as build_imaging
    from services.segmentation.network import RECOMBINATION_UNET, RESIDUAL_UNET, NetworkSpec, build_network
    from services.segmentation.slice_network import SliceNetworkSpec, build_slice_network

    if architecture in (RESIDUAL_UNET, RECOMBINATION_UNET):
        card, volume = load_network(storage, model, NetworkSpec, build_network)
        return volume, (len(card.spec.channels), *[4 * card.spec.multiple] * 3)
    if architecture == _default(SliceNetworkSpec, "architecture"):
        sliced, outline = load_network(storage, model, SliceNetworkSpec, build_slice_network)
        return outline, (len(sliced.spec.channels), sliced.spec.side, sliced.spec.side)
    imaging, network = load_network(storage, model, ImagingSpec, build_imaging)
    return network, imaging.spec.input_shape


def _default(kind: type[BaseModel], field: str) -> object:
    return kind.model_fields[field].default
