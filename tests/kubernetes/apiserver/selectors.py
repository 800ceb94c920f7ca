"""Label and field selectors of list and watch."""

from __future__ import annotations

import re

from tests.kubernetes.apiserver.faults import Fault
from tests.kubernetes.apiserver.kinds import Object

_SET = re.compile(r"^(\S+) (in|notin) \(([^)]*)\)$")
_FIELDS = {
    "metadata.name",
    "metadata.namespace",
    "status.phase",
    "spec.nodeName",
    "type",
    "reason",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.namespace",
}


def matches(entry: Object, labels: str, fields: str) -> bool:
    """Return whether an object is chosen."""
    own = entry["metadata"].get("labels", {})
    return all(_label(own, part) for part in _parts(labels)) and all(_field(entry, part) for part in _parts(fields))


def _parts(selector: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _label(own: dict[str, str], part: str) -> bool:
    if found := _SET.match(part):
        values = {value.strip() for value in found[3].split(",")}
        return (own.get(found[1]) in values) == (found[2] == "in")
    if "!=" in part:
        name, value = part.split("!=")
        return own.get(name) != value
    if "=" in part:
        name, value = re.split(r"==?", part)
        return own.get(name) == value
    return part[1:] not in own if part.startswith("!") else part in own


def _field(entry: Object, part: str) -> bool:
    name, value = re.split(r"!=|==?", part)
    if name not in _FIELDS:
        raise Fault(400, f'Unable to find: field label not supported: "{name}"')
    found: object = entry
    for step in name.split("."):
        found = found.get(step, "") if isinstance(found, dict) else ""
    return (found == value) != ("!=" in part)
