"""Registered models: ``models/registry/<model>/<version>/`` with one champion a model.

A version is ``v<number>-<first 12 digits of the package's SHA-256>``: numbers grow, and the name says what is inside.
A version is whole once its ``package.json`` is there, which is written last. Register one model's versions from one
process at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from services.model_serving.package import DESCRIPTION, Package, read_files, unpack, write_package
from services.shared.errors import ChangedFile, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage

ROOT = "models/registry"
CHAMPION = "champion"
_VERSION = re.compile(r"^v([0-9]{4,})-([0-9a-f]{12})$")


@dataclass(frozen=True)
class Registered:
    """One version of one model."""

    model: str
    version: str

    @property
    def folder(self) -> str:
        """Where its package stands."""
        return f"{ROOT}/{self.model}/{self.version}"


def list_models(storage: Storage) -> list[str]:
    """Return the sorted names of models with at least one version."""
    return [name for name in storage.folders(ROOT) if list_versions(storage, name)]


def list_versions(storage: Storage, model: str) -> list[Registered]:
    """Return a model's whole versions, oldest first."""
    names = [name for name in storage.folders(f"{ROOT}/{model}") if _VERSION.match(name)]
    found = [Registered(model, name) for name in sorted(names, key=_order)]
    return [entry for entry in found if storage.exists(f"{entry.folder}/{DESCRIPTION}")]


def register_package(storage: Storage, folder: str, *, model: str | None = None) -> tuple[Registered, bool]:
    """Copy a package into the registry as the next version.

    The first version of a model becomes its champion. A package that is registered already keeps its version.

    Parameters
    ----------
    folder
        Key of the package's folder.
    model
        Name to register it by; the package's study where None.

    Returns
    -------
    tuple of Registered and bool
        The version, and whether it was there already.

    Raises
    ------
    NotFound, UnreadableFile, ChangedFile
        Where the folder holds no sound package.
    """
    files = read_files(storage, folder)
    package = unpack(files, name=folder)
    name = model or package.description.study
    digest = package.sha256[:12]
    known = list_versions(storage, name)
    for entry in known:
        if entry.version.endswith(f"-{digest}"):
            load(storage, entry)
            return entry, True
    number = max((_order(entry.version)[0] for entry in known), default=0) + 1
    entry = Registered(name, f"v{number:04d}-{digest}")
    write_package(storage, entry.folder, files)
    if not known:
        promote(storage, entry)
    return entry, False


def promote(storage: Storage, entry: Registered) -> None:
    """Make a version its model's champion."""
    storage.write_text(f"{ROOT}/{entry.model}/{CHAMPION}", entry.version + "\n")


def champion(storage: Storage, model: str) -> str | None:
    """Return the version that is a model's champion, or None."""
    key = f"{ROOT}/{model}/{CHAMPION}"
    return storage.read_text(key).strip() if storage.exists(key) else None


def resolve(storage: Storage, reference: str) -> Registered:
    """Return the version that a reference names: ``model``, ``model/champion``, ``model/latest``, ``model/<version>``.

    ``model`` alone is the version that this process is pinned to (``GLIAFLOW_MODEL_PINS``), else the champion.

    Raises
    ------
    NotFound
        Listing the models, or the versions, that there are.
    """
    model, _, wanted = reference.partition("/")
    version: str | None = wanted
    if wanted in ("", CHAMPION):
        version = (settings().model_pins.get(model) if not wanted else None) or champion(storage, model)
    elif wanted == "latest":
        versions = list_versions(storage, model)
        version = versions[-1].version if versions else None
    if version and _VERSION.match(version) and storage.exists(f"{ROOT}/{model}/{version}/{DESCRIPTION}"):
        return Registered(model, version)
    versions = list_versions(storage, model)
    known = [entry.version for entry in versions] or list_models(storage)
    raise NotFound(
        "there is no such version of the model" if versions else "there is no such model",
        field="model",
        expected=f"one of {', '.join(known)}" if known else "a registered model; there is none",
        got=reference,
        remedy="run 'gliaflow study' and register its model",
    )


def check_pins(storage: Storage) -> None:
    """Read every version that this process is pinned to, so that one that cannot be served is told at the start.

    Raises
    ------
    NotFound, ChangedFile, UnreadableFile
        Where a version is missing, or is not what was registered.
    """
    for model, version in sorted(settings().model_pins.items()):
        load(storage, resolve(storage, f"{model}/{version}"))


def load(storage: Storage, entry: Registered) -> Package:
    """Return a version's package; it is read and checked once a process.

    Raises
    ------
    ChangedFile
        Where the package is not the one that the version's name states.
    """
    return _load(_Root(storage), entry)


@dataclass(frozen=True)
class _Root:
    """Storage as a cache key: two storages with the same root hold the same models."""

    storage: Storage

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Root) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[bool, str]:
        return self.storage.is_local, self.storage.root


@lru_cache(maxsize=32)
def _load(root: _Root, entry: Registered) -> Package:
    package = unpack(read_files(root.storage, entry.folder), name=entry.folder)
    if not entry.version.endswith(f"-{package.sha256[:12]}"):
        raise ChangedFile(
            "the model's description is not the one that was registered",
            field=f"{entry.folder}/{DESCRIPTION}",
            expected=entry.version.partition("-")[2],
            got=package.sha256[:12],
            remedy="register the model again",
        )
    return package


def _order(version: str) -> tuple[int, str]:
    number, _, digest = version[1:].partition("-")
    return int(number), digest
