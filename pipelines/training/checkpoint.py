"""The state of a training after its last whole epoch, kept in storage while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from services.shared.storage import Storage


class Checkpoint:
    """State of one training; of another training's, or a changed one, nothing is read.

    Parameters
    ----------
    folder
        Key of the folder that it lies in.
    identity
        Hash of everything that decides the training.
    """

    def __init__(self, storage: Storage, folder: str, identity: str) -> None:
        self._storage, self._identity = storage, identity
        self._state, self._statement = f"{folder}/checkpoint.pt", f"{folder}/checkpoint.json"

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state of this very training, or None. Only tensors and plain values are ever unpickled."""
        with self.found() as path:
            if path is None:
                return None
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state

    @contextmanager
    def found(self) -> Iterator[Path | None]:
        """Yield the local path of the state of this very training, or None."""
        if not self.exists():
            yield None
            return
        with self._storage.local(self._state) as path:
            yield path

    def exists(self) -> bool:
        """Return whether there is a state of this very training."""
        if not (self._storage.exists(self._statement) and self._storage.exists(self._state)):
            return False
        stated = json.loads(self._storage.read_text(self._statement))
        same = stated["training"] == self._identity
        return bool(same and stated["sha256"] == self._storage.sha256(self._state))

    def write(self, state: Mapping[str, object]) -> None:
        """Keep a state."""
        self.keep(lambda path: torch.save(dict(state), path))

    def keep(self, save: Callable[[Path], None]) -> None:
        """Keep what ``save`` writes to a path; the statement with its hash comes last."""
        self._storage.remove(self._statement)
        with self._storage.publish(self._state) as path:
            save(path)
        statement = {"training": self._identity, "sha256": self._storage.sha256(self._state)}
        self._storage.write_text(self._statement, json.dumps(statement) + "\n")

    def remove(self) -> None:
        """Forget it."""
        self._storage.remove(self._statement)
        self._storage.remove(self._state)
