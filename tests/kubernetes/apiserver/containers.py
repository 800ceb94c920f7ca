"""What a container's process is started with: command, environment, folders."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from kubernetes.utils.quantity import parse_quantity

from tests.kubernetes.apiserver.kinds import CONFIG_MAPS, SECRETS, Object
from tests.kubernetes.apiserver.store import Store

Mounts = dict[str, Path]


class ConfigError(Exception):
    """Something that the container's environment refers to is not there."""


def mounts_of(store: Store, pod: Object, folder: Path) -> Mounts:
    """Return the folder behind each mount path. There are no mount namespaces here: see :func:`_moved`."""
    (spec,) = pod["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    found: Mounts = {}
    for mount in spec.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        place = folder / "volumes" / mount["name"]
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            place = folder.parent / "claims" / pod["metadata"]["namespace"] / claim
        place.mkdir(parents=True, exist_ok=True)
        for kind, field, name in ((CONFIG_MAPS, "configMap", "name"), (SECRETS, "secret", "secretName")):
            if field in volume:
                for key, value in _data(store, kind is SECRETS, pod, volume[field][name]).items():
                    (place / key).write_text(value)
        found[mount["mountPath"]] = place
    return found


def command_of(spec: Object, address: str, mounts: Mounts) -> list[str]:
    """Return the command. "Every address" is the pod's own here, since there are no network namespaces."""
    words = [*spec.get("command", []), *spec.get("args", [])]
    return [address if word == "0.0.0.0" else _moved(word, mounts) for word in words]


def environment_of(store: Store, pod: Object, address: str, mounts: Mounts, image: Mapping[str, str]) -> dict[str, str]:
    """Return the environment: the image's, then ``envFrom``, then ``env``.

    Raises
    ------
    ConfigError
        Where a config map, a secret or a key is missing.
    """
    (spec,) = pod["spec"]["containers"]
    found: dict[str, str] = {}
    for source in spec.get("envFrom", []):
        if "configMapRef" in source:
            found |= _data(store, False, pod, source["configMapRef"]["name"])
        if "secretRef" in source:
            found |= _data(store, True, pod, source["secretRef"]["name"])
    for variable in spec.get("env", []):
        found[variable["name"]] = (
            _value_from(store, pod, spec, address, variable["valueFrom"])
            if "valueFrom" in variable
            else variable.get("value", "")
        )
    return {**image, **{name: _moved(value, mounts) for name, value in found.items()}}


def _value_from(store: Store, pod: Object, spec: Object, address: str, source: Object) -> str:
    if "fieldRef" in source:
        fields = {
            "status.podIP": address,
            "metadata.name": pod["metadata"]["name"],
            "metadata.namespace": pod["metadata"]["namespace"],
        }
        return str(fields[source["fieldRef"]["fieldPath"]])
    if "resourceFieldRef" in source:
        what, _, resource = source["resourceFieldRef"]["resource"].partition(".")
        return str(max(1, int(parse_quantity(spec["resources"][what][resource]))))
    kind = "secretKeyRef" if "secretKeyRef" in source else "configMapKeyRef"
    data = _data(store, kind == "secretKeyRef", pod, source[kind]["name"])
    if source[kind]["key"] not in data:
        raise ConfigError(f"couldn't find key {source[kind]['key']} in {source[kind]['name']}")
    return data[source[kind]["key"]]


def _data(store: Store, secret: bool, pod: Object, name: str) -> dict[str, str]:
    entry = store.find(SECRETS if secret else CONFIG_MAPS, pod["metadata"]["namespace"], name)
    if entry is None:
        raise ConfigError(f'{"secret" if secret else "configmap"} "{name}" not found')
    if not secret:
        return dict(entry.get("data", {}))
    found = {key: base64.b64decode(value).decode() for key, value in entry.get("data", {}).items()}
    return found | entry.get("stringData", {})


def _moved(value: str, mounts: Mounts) -> str:
    """Return a path below a mount as the path of the folder behind it."""
    for path in sorted(mounts, key=len, reverse=True):
        if value == path or value.startswith(f"{path}/"):
            return str(mounts[path]) + value[len(path) :]
    return value
