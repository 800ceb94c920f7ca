"""ImageNet weights of residual networks, from torchvision's files to arrays that training and embedding start from.

A file's name ends in the first eight digits of its SHA-256, as its publisher names it. The files are pickles: only
tensors are ever unpickled, and what stays for use is ``<name>.npz``, which holds no code.
"""

from __future__ import annotations

import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.fetch.connection import Connection
from pipelines.fetch.download import Remote, digests_of
from pipelines.fetch.plan import Plan, RemoteFile, Selection
from services.shared.errors import ChangedFile, InvalidValue, UnreadableFile

FOLDER = "https://download.pytorch.org/models"
FILES = ("resnet18-f37072fd.pth", "resnet34-b627a593.pth", "resnet50-0676ba61.pth")
_NAME = re.compile(r"(?P<network>[a-z0-9]+)-(?P<sha256>[0-9a-f]{8})\.pth")


def plan_weights(connection: Connection, base_url: str, selection: Selection, *, folder: str = FOLDER) -> Plan:
    """Plan the weights of ResNet-18, -34 and -50.

    Raises
    ------
    InvalidValue
        Where patients are chosen: there are none.
    """
    del connection, base_url
    if selection.only or selection.limit is not None:
        raise InvalidValue("weights have no patients", step="fetch", field="--only, --limit", remedy="fetch without")
    units = tuple(RemoteFile(name, Remote(f"{folder}/{name}")) for name in FILES)
    return Plan(units=units, asked="", derive=partial(convert_weights, names=FILES))


def convert_weights(out: Path, *, names: tuple[str, ...]) -> list[str]:
    """Write each file's arrays as ``<network>.npz`` beside it and return their names.

    Raises
    ------
    ChangedFile
        Where a file is not the one that its name states.
    UnreadableFile
        Where it holds other things than arrays.
    """
    import torch

    made = []
    for name in names:
        stated = _NAME.fullmatch(name)
        assert stated is not None
        found = digests_of(out / name).sha256
        if not found.startswith(stated["sha256"]):
            raise ChangedFile(
                "the weights are not those that their name states",
                step="fetch",
                field=name,
                expected=f"SHA-256 {stated['sha256']}…",
                got=f"{found[:8]}…",
                remedy="remove the file and fetch it again",
            )
        try:
            state = torch.load(out / name, map_location="cpu", weights_only=True)
            arrays = {str(key): value.numpy() for key, value in state.items()}
        except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
            raise UnreadableFile(
                "the file holds other things than weights",
                step="fetch",
                field=name,
                expected="tensors by name",
                got=str(error).splitlines()[0][:160],
            ) from None
        target = f"{stated['network']}.npz"
        part = out / f".{target}.part.npz"
        np.savez(part, allow_pickle=False, **arrays)
        part.replace(out / target)
        made.append(target)
    return made
