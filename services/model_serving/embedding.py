"""Deep features: what a network that was trained for something else says of a region's slice, and a trained one's own.

The first follows Quant Imaging Med Surg 2024, 23-807: ResNet-34 with its thousand outputs on the rectangle of a region
in its largest slice, once a sequence. ImageNet weights come from a file that the user has; without one the network is
random, and whatever is written says so.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from collections.abc import Sequence as ListOf
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk
import torch
from torch import nn

from services.model_serving.case_input import read_volumes
from services.model_serving.inputs import slice_region, standardise
from services.model_serving.networks.embedding import FEATURES, INPUT_SHAPE, EmbeddingNetwork
from services.model_serving.networks.residual import ResidualTrunk
from services.model_serving.networks.specification import ImagingSpec
from services.shared.cohort import Region, Sequence, region_mask
from services.shared.contracts import CaseRef
from services.shared.device import choose_device
from services.shared.errors import InvalidValue, UnreadableFile
from services.shared.storage import Storage

Arrays = dict[str, npt.NDArray[np.float32]]

RANDOM_SEED = 0
_SAFETENSOR_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Embedder:
    """An embedding network and what its weights are: ``imagenet <sha256>`` or ``random, seed <n>``."""

    network: EmbeddingNetwork
    start: str


def read_weights(storage: Storage, key: str) -> Arrays:
    """Return the arrays of a weights file: ``.npz`` without pickles, or ``.safetensors``.

    Raises
    ------
    NotFound
        Where there is no such file.
    UnreadableFile
        Where it is of another kind, above all a pickle, which could run code.
    InvalidValue
        Where a weight is not finite.
    """
    kinds = "arrays in .npz or .safetensors"
    if not key.endswith((".npz", ".safetensors")):
        raise UnreadableFile(
            "weights are not read from a file of this kind",
            field=key,
            expected=kinds,
            got="a file that may hold a pickle, which can run code",
            remedy="convert it where you trust it: numpy.savez(path, **{name: array})",
        )
    content = storage.read_bytes(key)
    try:
        if key.endswith(".safetensors"):
            found = _read_safetensors(content)
        else:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
    except (ValueError, KeyError, TypeError, EOFError, OSError, struct.error, zipfile.BadZipFile) as error:
        raise UnreadableFile("the weights cannot be read", field=key, expected=kinds, got=str(error)[:160]) from None
    strange = sorted(name for name, values in found.items() if getattr(values, "dtype", np.dtype("O")).kind not in "fi")
    if strange:
        raise UnreadableFile("the file holds other things than weights", field=f"{key}: {strange[0]}", expected=kinds)
    broken = sorted(name for name, values in found.items() if not np.isfinite(values).all())
    if broken:
        raise InvalidValue("a weight is not finite", field=f"{key}: {broken[0]}", expected="finite weights")
    return {name: np.asarray(values, dtype=np.float32) for name, values in found.items()}


def _read_safetensors(content: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays of a safetensors file: length of the header, JSON header, little-endian values."""
    (length,) = struct.unpack_from("<Q", content)
    if length > len(content) - 8:
        raise ValueError("the header is longer than the file")
    header = json.loads(content[8 : 8 + length])
    body = content[8 + length :]
    found = {}
    for name, stated in header.items():
        if name == "__metadata__":
            continue
        begin, end = stated["data_offsets"]
        values = np.frombuffer(body[begin:end], dtype=_SAFETENSOR_TYPES[stated["dtype"]])
        found[name] = values.reshape(stated["shape"])
    return found


def load_trunk(trunk: ResidualTrunk, arrays: Mapping[str, npt.NDArray[np.float32]], *, name: str) -> None:
    """Put weights with torchvision's names (``conv1.weight``, ``layer1.0.bn1.running_mean``) into a trunk.

    A first convolution of another number of channels takes the mean over the file's channels for each of its own,
    scaled so that equal channels give what they gave. The classifier ``fc`` is passed over.

    Raises
    ------
    InvalidValue
        Where an array is missing, of another shape, or unknown.
    """
    _load(trunk.body, {key: value for key, value in arrays.items() if not key.startswith("fc.")}, name=name)


def _load(module: nn.Module, arrays: Mapping[str, npt.NDArray[np.float32]], *, name: str) -> None:
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in arrays.items() if not key.endswith("num_batches_tracked")}
    first = next((key for key in ("conv1.weight", "trunk.body.conv1.weight") if key in wanted), None)
    if first is not None and first in given:
        own, theirs = wanted[first].shape[1], given[first].shape[1]
        if own != theirs:
            mean = given[first].mean(axis=1, keepdims=True) * (theirs / own)
            given[first] = np.repeat(mean, own, axis=1)
    for key in sorted(wanted.keys() | given.keys()):
        expected = tuple(wanted[key].shape) if key in wanted else "no such array"
        got = given[key].shape if key in given else "no such array"
        if expected != got:
            raise InvalidValue(
                "the weights are of another architecture",
                field=f"{name}: {key}",
                expected=expected,
                got=got,
                remedy="give the weights of a residual network of the same depth",
            )
    module.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in given.items()}, strict=False)


def name_start(storage: Storage, weights: str | None, *, seed: int = RANDOM_SEED) -> str:
    """Return what the embedding network's weights are called wherever they were used."""
    return f"random, seed {seed}" if weights is None else f"imagenet {storage.sha256(weights)}"


def make_embedder(storage: Storage, weights: str | None = None, *, seed: int = RANDOM_SEED) -> Embedder:
    """Return the embedding network with the weights of a file, or random ones that are named as such.

    Raises
    ------
    NotFound, UnreadableFile, InvalidValue
        Where the weights cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EmbeddingNetwork()
    if weights is not None:
        arrays = read_weights(storage, weights)
        named = {
            f"head.{key.removeprefix('fc.')}" if key.startswith("fc.") else f"trunk.body.{key}": value
            for key, value in arrays.items()
        }
        _load(network, named, name=weights)
    start = name_start(storage, weights, seed=seed)
    return Embedder(network.eval().requires_grad_(requires_grad=False).to(choose_device()), start)


def deep_feature_names(sequences: ListOf[Sequence], regions: ListOf[Region]) -> list[str]:
    """Return ``<Sequence>_<Region>_deep_<n>`` for each of a thousand features, numbered from 1."""
    return [f"{s}_{r}_deep_{n}" for s in sequences for r in regions for n in range(1, FEATURES + 1)]


def embed_case(
    storage: Storage,
    case: CaseRef,
    embedder: Embedder,
    *,
    sequences: ListOf[Sequence] = (Sequence.T1C, Sequence.FLAIR),
    regions: ListOf[Region] = (Region.ED, Region.ET, Region.WT),
    source: str = "prepared",
) -> pd.DataFrame:
    """Return one row of deep features of a case, empty where a region does not exist; see :func:`deep_feature_names`.

    Raises
    ------
    MissingSequence, NotFound, InvalidVolume, SpaceMismatch
        Where the case cannot be used.
    """
    volumes = read_volumes(storage, case, embedding_view(sequences, source))
    images = standardise(volumes.images, volumes.brain, sequences)
    labels = sitk.GetArrayViewFromImage(volumes.labels)
    values: dict[str, npt.NDArray[np.float32]] = {}
    for region in regions:
        if not region_mask(labels, region).any():
            continue
        cut = slice_region(
            images, volumes.labels, region, sequences=sequences, size_pixels=INPUT_SHAPE[:0:-1], pixel_mm=None
        ).values
        found = embed_slices(embedder, cut)
        values |= {f"{sequence}_{region}": row for sequence, row in zip(sequences, found, strict=True)}
    nothing = np.full(FEATURES, np.nan, dtype=np.float32)
    row = np.concatenate([values.get(f"{s}_{r}", nothing) for s in sequences for r in regions])
    frame = pd.DataFrame([row], columns=deep_feature_names(sequences, regions), index=[case.id])
    return frame.rename_axis("case_id")


def embed_slices(embedder: Embedder, slices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the features of slices, (slices, 1000), each alone.

    Parameters
    ----------
    slices
        Shape (slices, 224, 224); each is stretched to 0 … 1, then standardised as photographs of ImageNet are.
    """
    low, high = slices.min(axis=(1, 2), keepdims=True), slices.max(axis=(1, 2), keepdims=True)
    scaled = torch.from_numpy((slices - low) / np.maximum(high - low, 1e-6))[:, None].expand(-1, 3, -1, -1)
    mean, spread = (torch.tensor(part)[:, None, None] for part in (_MEAN, _SPREAD))
    device = next(embedder.network.parameters()).device
    with torch.inference_mode():
        found: npt.NDArray[np.float32] = embedder.network(((scaled - mean) / spread).to(device)).cpu().numpy()
    return found


def embedding_view(sequences: ListOf[Sequence], source: str) -> ImagingSpec:
    """Return what the embedding network sees of a case, as a specification."""
    return ImagingSpec.model_validate(
        {
            "architecture": "slice_classifier",
            "source": source,
            "view": "rectangle",
            "sequences": tuple(sequences),
            "size": INPUT_SHAPE[1:],
            "voxel_mm": None,
        }
    )
