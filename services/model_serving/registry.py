"""Registered models: ``models/registry/<model>/<version>/``, and which of them is champion.

A version is ``v<number>-<first 12 digits of the package's SHA-256>``: numbers grow, and the name says what is inside.
A version is whole once its ``package.json`` is there, which is written last. Register one model's versions from one
process at a time.

Versions never change, and DVC keeps them. What changes stands beside, in ``models/aliases/<model>/``, so that fetching
an older state of the data does not change who is champion: ``champion``, ``challenger`` and ``serving`` each hold one
version's name, ``history.json`` who was champion when and why. A model without such a file has its first version as
champion. ``champion`` alone decides: its history is written before it, and a last entry that it does not bear out never
happened. So whatever write a crash comes between, the registry can be read and the change be made again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from services.model_serving.package import DESCRIPTION, Package, read_files, unpack, write_package
from services.shared.contracts import Contract
from services.shared.errors import ChangedFile, NotFound, UnreadableFile
from services.shared.settings import settings
from services.shared.storage import Storage

ROOT = "models/registry"
ALIASES = "models/aliases"
CHAMPION = "champion"
CHALLENGER = "challenger"
SERVING = "serving"
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


class ChampionChange(Contract):
    """One change of a model's champion: what to, from what, when, why, and by which retraining run."""

    action: Literal["promoted", "rolled back"]
    champion: str
    previous: str | None
    at: datetime
    reason: str
    run: str | None = None


_HISTORY = TypeAdapter(tuple[ChampionChange, ...])


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

    The first version of a model is its champion. A package that is registered already keeps its version.

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
    return entry, False


def champion(storage: Storage, model: str) -> str | None:
    """Return the version that is a model's champion: the promoted one, or the first; None where there is none."""
    promoted = _read_alias(storage, model, CHAMPION)
    # Registries of earlier releases keep the champion's name beside the versions.
    promoted = promoted or _read(storage, f"{ROOT}/{model}/{CHAMPION}")
    if promoted is None:
        versions = list_versions(storage, model)
        return versions[0].version if versions else None
    return promoted


def challenger(storage: Storage, model: str) -> str | None:
    """Return the version that stands against the champion, or None."""
    found = _read_alias(storage, model, CHALLENGER)
    return None if found == champion(storage, model) else found


def serving(storage: Storage, model: str) -> str | None:
    """Return the version that answers for the model's bare name: the one on trial, else the champion."""
    return _read_alias(storage, model, SERVING) or champion(storage, model)


def history(storage: Storage, model: str) -> tuple[ChampionChange, ...]:
    """Return the changes of a model's champion, oldest first; the first champion came without one.

    Raises
    ------
    UnreadableFile
        Where the history is not one.
    """
    key = _alias_key(model, "history.json")
    if not storage.exists(key):
        return ()
    try:
        changes = _HISTORY.validate_json(storage.read_bytes(key))
    except ValidationError as error:
        raise UnreadableFile(
            "the history of the model's champions cannot be read",
            field=key,
            expected="a list of changes",
            got=str(error.errors(include_input=False, include_url=False)[0]["msg"]),
            remedy="restore the file; without it the model has its champion and no history",
        ) from None
    # The last change is written before the champion's name: without the name it did not happen.
    return changes if not changes or changes[-1].champion == champion(storage, model) else changes[:-1]


def challenge(storage: Storage, entry: Registered) -> None:
    """Make a version its model's challenger."""
    storage.write_text(_alias_key(entry.model, CHALLENGER), entry.version + "\n")


def put_on_trial(storage: Storage, entry: Registered) -> None:
    """Let a version answer for its model's bare name until it is promoted or the trial ends."""
    storage.write_text(_alias_key(entry.model, SERVING), entry.version + "\n")


def end_trial(storage: Storage, model: str) -> None:
    """Let the champion answer for the model's bare name again."""
    storage.remove(_alias_key(model, SERVING))


def dismiss(storage: Storage, model: str) -> None:
    """Leave the model without a challenger."""
    storage.remove(_alias_key(model, CHALLENGER))


def promote(
    storage: Storage,
    entry: Registered,
    *,
    reason: str = "promoted by hand",
    run: str | None = None,
    at: datetime | None = None,
) -> None:
    """Make a version its model's champion, which ends its challenge and any trial; a champion already, it stays one.

    Parameters
    ----------
    reason
        Why, for the history.
    run
        The retraining run that promotes it.
    at
        When; now where None.
    """
    _crown(storage, entry, "promoted", reason=reason, run=run, at=at)


def rollback(
    storage: Storage, model: str, *, reason: str = "rolled back by hand", at: datetime | None = None
) -> Registered:
    """Make the champion before the present one champion again and return it; once more goes further back.

    Raises
    ------
    NotFound
        Where no earlier champion is left.
    """
    entry = previous_champion(storage, model)
    _crown(storage, entry, "rolled back", reason=reason, run=None, at=at)
    return entry


def previous_champion(storage: Storage, model: str) -> Registered:
    """Return the version that :func:`rollback` would make champion.

    Raises
    ------
    NotFound
        Where no earlier champion is left.
    """
    # A rollback undoes a promotion: what was rolled back from is never returned to.
    stack: list[str] = []
    for change in history(storage, model):
        if change.action == "rolled back" and change.champion in stack:
            while stack[-1] != change.champion:
                stack.pop()
        else:
            if change.previous and change.previous not in stack[-1:]:
                stack.append(change.previous)
            stack.append(change.champion)
    whole = {entry.version for entry in list_versions(storage, model)}
    earlier = [name for name in stack[:-1] if name in whole]
    if not earlier:
        raise NotFound(
            "the model has no earlier champion to go back to",
            field="model",
            expected="a model that was promoted from one version to another",
            got=f"{model}, champion {champion(storage, model)}",
            remedy="name a version with 'gliaflow promote MODEL/VERSION'; 'gliaflow models' lists them",
        )
    return Registered(model, earlier[-1])


def _crown(
    storage: Storage,
    entry: Registered,
    action: Literal["promoted", "rolled back"],
    *,
    reason: str,
    run: str | None,
    at: datetime | None,
) -> None:
    before = champion(storage, entry.model)
    if before != entry.version:
        change = ChampionChange(
            action=action,
            champion=entry.version,
            previous=before,
            at=at or datetime.now(UTC),
            reason=reason,
            run=run,
        )
        changes = (*history(storage, entry.model), change)
        storage.write_bytes(_alias_key(entry.model, "history.json"), _HISTORY.dump_json(changes, indent=2) + b"\n")
    storage.write_text(_alias_key(entry.model, CHAMPION), entry.version + "\n")
    end_trial(storage, entry.model)
    if _read_alias(storage, entry.model, CHALLENGER) == entry.version:
        dismiss(storage, entry.model)


def _alias_key(model: str, name: str) -> str:
    return f"{ALIASES}/{model}/{name}"


def _read_alias(storage: Storage, model: str, alias: str) -> str | None:
    return _read(storage, _alias_key(model, alias))


def _read(storage: Storage, key: str) -> str | None:
    return storage.read_text(key).strip() if storage.exists(key) else None


def resolve(storage: Storage, reference: str) -> Registered:
    """Return the version that a reference names.

    ``model`` alone is what serves: the version that this process is pinned to (``GLIAFLOW_MODEL_PINS``), else the one
    on trial, else the champion. ``model/champion``, ``model/challenger``, ``model/latest``, ``model/<version>`` say
    which.

    Raises
    ------
    NotFound
        Listing the models, or the versions, that there are.
    """
    model, _, wanted = reference.partition("/")
    version: str | None = wanted
    if wanted == "":
        version = settings().model_pins.get(model) or serving(storage, model)
    elif wanted == CHAMPION:
        version = champion(storage, model)
    elif wanted == CHALLENGER:
        version = challenger(storage, model)
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
