"""The objects of the cluster: versions, optimistic locking and the history that watches read."""

from __future__ import annotations

import copy
import re
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.kubernetes.apiserver import faults
from tests.kubernetes.apiserver.kinds import NAMESPACES, Kind, Object

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
HISTORY = 500


def now() -> str:
    """Return the time as objects state it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """One entry of the history."""

    version: int
    type: str
    kind: Kind
    entry: Object


class Store:
    """Every object by kind, namespace and name. It is used from one thread."""

    def __init__(self) -> None:
        self.version = 0
        self.history: deque[Change] = deque(maxlen=HISTORY)
        self._objects: dict[tuple[Kind, str, str], Object] = {}

    # Reading

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return an object, or raise 404."""
        try:
            return self._objects[kind, namespace, name]
        except KeyError:
            raise faults.not_found(kind, name) from None

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        return self._objects.get((kind, namespace, name))

    def list(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """Return the objects of a kind, sorted by namespace and name."""
        return [
            entry
            for (which, place, _), entry in sorted(self._objects.items(), key=lambda item: item[0][1:])
            if which is kind and namespace in (None, place)
        ]

    def owned(self, kind: Kind, owner: Object) -> list[Object]:
        """Return the objects whose controller is ``owner``."""
        uid = owner["metadata"]["uid"]
        return [
            entry
            for entry in self.list(kind, owner["metadata"].get("namespace"))
            if any(reference["uid"] == uid for reference in entry["metadata"].get("ownerReferences", []))
        ]

    def changes_since(self, version: int) -> list[Change]:
        """Return what happened after a version.

        Raises
        ------
        Fault
            410 where the history does not reach back so far.
        """
        if version < self.oldest:
            raise faults.expired(self.oldest)
        return [change for change in self.history if change.version > version]

    @property
    def oldest(self) -> int:
        """The oldest version that a watch may start from."""
        return self.history[0].version - 1 if self.history else self.version

    def compact(self) -> None:
        """Forget the history."""
        self.history.clear()

    # Writing

    def create(self, kind: Kind, namespace: str, entry: Object) -> Object:
        """Add an object, or raise 404 (no namespace), 409 (name taken) or 422 (bad name)."""
        if kind.namespaced and (NAMESPACES, "", namespace) not in self._objects:
            raise faults.not_found(NAMESPACES, namespace)
        made = copy.deepcopy(entry)
        metadata = made.setdefault("metadata", {})
        name = metadata.get("name", "")
        if not _NAME.match(name) or len(name) > 253:
            raise faults.invalid(kind, name, "metadata.name", "must be a lowercase RFC 1123 subdomain")
        if (kind, namespace, name) in self._objects:
            raise faults.already_exists(kind, name)
        made.update({"apiVersion": kind.api_version, "kind": kind.kind})
        if kind.namespaced:
            metadata["namespace"] = namespace
        metadata.update({"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1})
        return self._keep("ADDED", kind, namespace, name, made)

    def replace(self, kind: Kind, namespace: str, name: str, entry: Object) -> Object:
        """Put a new state in place of an object's; the status stays, the generation counts changes of the spec."""
        old = self.get(kind, namespace, name)
        made = copy.deepcopy(entry)
        metadata = made.setdefault("metadata", {})
        wanted = metadata.get("resourceVersion")
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            raise faults.conflict(kind, name)
        for field in ("uid", "creationTimestamp", "generation", "namespace", "name"):
            if field in old["metadata"]:
                if field in ("uid", "name") and metadata.get(field, old["metadata"][field]) != old["metadata"][field]:
                    raise faults.conflict(kind, name)
                metadata[field] = old["metadata"][field]
        made.update({"apiVersion": kind.api_version, "kind": kind.kind})
        if "status" in old:
            made["status"] = old["status"]
        if made.get("spec") != old.get("spec"):
            metadata["generation"] += 1
        if _without_version(made) == _without_version(old):
            return old
        return self._keep("MODIFIED", kind, namespace, name, made)

    def change(self, kind: Kind, entry: Object, edit: Callable[[Object], Any]) -> Object:
        """Let a controller edit a copy of an object, its status for instance; nothing happens where nothing changed."""
        namespace, name = entry["metadata"].get("namespace", ""), entry["metadata"]["name"]
        old = self.get(kind, namespace, name)
        made = copy.deepcopy(old)
        edit(made)
        if made == old:
            return old
        return self._keep("MODIFIED", kind, namespace, name, made)

    def remove(self, kind: Kind, namespace: str, name: str) -> Object:
        """Take an object away at once."""
        old = self.get(kind, namespace, name)
        del self._objects[kind, namespace, name]
        self.version += 1
        gone = copy.deepcopy(old)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Change(self.version, "DELETED", kind, gone))
        return gone

    def _keep(self, what: str, kind: Kind, namespace: str, name: str, entry: Object) -> Object:
        self.version += 1
        entry["metadata"]["resourceVersion"] = str(self.version)
        self._objects[kind, namespace, name] = entry
        self.history.append(Change(self.version, what, kind, entry))
        return entry


def _without_version(entry: Object) -> Object:
    metadata = {name: value for name, value in entry["metadata"].items() if name != "resourceVersion"}
    return {**entry, "metadata": metadata}
