"""The three ways in which the API server takes a patch."""

from __future__ import annotations

import copy
from typing import Any, cast

import jsonpatch

from tests.kubernetes.apiserver.faults import Fault
from tests.kubernetes.apiserver.kinds import Object

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "conditions": "type",
    "ownerReferences": "uid",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists that a strategic merge joins by a key; every other list is replaced."""


def apply_patch(content_type: str, entry: Object, patch: Any) -> Object:
    """Return a patched copy.

    Raises
    ------
    Fault
        415 for a type that is not known, 400 or 422 for a patch that does not apply.
    """
    kind = content_type.partition(";")[0].strip()
    if kind == "application/json-patch+json":
        try:
            return cast(Object, jsonpatch.apply_patch(entry, patch))
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise Fault(422, f"the server rejected our request due to an error in our request: {error}") from error
    if not isinstance(patch, dict):
        raise Fault(400, "cannot unmarshal array into Go value of type map[string]interface {}")
    if kind == "application/merge-patch+json":
        return cast(Object, _merge(entry, patch))
    if kind == "application/strategic-merge-patch+json":
        return _strategic(entry, patch)
    raise Fault(415, f"the body of the request was in an unknown format - accepted media types include: {_ACCEPTED}")


_ACCEPTED = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    made = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = _merge(made.get(name), value)
    return made


def _strategic(target: Object, patch: Object) -> Object:
    if patch.get("$patch") == "replace":
        return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
    made = dict(target)
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            made.pop(name, None)
        elif isinstance(value, dict):
            old = made.get(name)
            made[name] = _strategic(old if isinstance(old, dict) else {}, value)
        elif isinstance(value, list) and name in _KEYS and all(isinstance(item, dict) for item in value):
            made[name] = _join(made.get(name, []), value, _KEYS[name])
        else:
            made[name] = copy.deepcopy(value)
    if "$retainKeys" in patch:
        made = {name: value for name, value in made.items() if name in patch["$retainKeys"]}
    return made


def _join(target: list[Object], patch: list[Object], key: str) -> list[Object]:
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    made = {item[key]: item for item in target}
    for item in patch:
        if key not in item:
            raise Fault(400, f"map: {item} does not contain declared merge key: {key}")
        if item.get("$patch") == "delete":
            made.pop(item[key], None)
        else:
            made[item[key]] = _strategic(made.get(item[key], {}), item)
    return list(made.values())
