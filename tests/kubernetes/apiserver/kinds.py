"""What kinds of objects there are, and how they are named."""

from __future__ import annotations

import copy
import secrets
import string
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
_LETTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True)
class Kind:
    """One kind of object, as discovery tells it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``pods`` or ``deployments.apps``, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False, subresources=("status",))
NODES = Kind("", "v1", "nodes", "Node", namespaced=False, subresources=("status",))
PODS = Kind("", "v1", "pods", "Pod", subresources=("status", "log", "proxy"))
EVENTS = Kind("", "v1", "events", "Event")
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
SECRETS = Kind("", "v1", "secrets", "Secret")
SERVICES = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount", subresources=("token",))
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota", subresources=("status",))
CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment", subresources=("status", "scale"))
REPLICA_SETS = Kind("apps", "v1", "replicasets", "ReplicaSet", subresources=("status",))
JOBS = Kind("batch", "v1", "jobs", "Job", subresources=("status",))
ROLES = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")

KINDS = (
    NAMESPACES,
    NODES,
    PODS,
    EVENTS,
    CONFIG_MAPS,
    SECRETS,
    SERVICES,
    SERVICE_ACCOUNTS,
    QUOTAS,
    CLAIMS,
    DEPLOYMENTS,
    REPLICA_SETS,
    JOBS,
    ROLES,
    ROLE_BINDINGS,
)
BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}

_CONTAINER = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "IfNotPresent",
    "resources": {},
}
_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_POD = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "serviceAccountName": "default",
}
_DEPLOYMENT = {
    "replicas": 1,
    "revisionHistoryLimit": 10,
    "progressDeadlineSeconds": 600,
    "strategy": {"type": "RollingUpdate"},
}
_ROLLING = {"maxSurge": "25%", "maxUnavailable": "25%"}
_JOB = {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False}


def with_defaults(kind: Kind, entry: Object) -> Object:
    """Return an object with the defaults that the API server fills in."""
    made = _without_nulls(entry)
    metadata = made.setdefault("metadata", {})
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"] + "".join(secrets.choice(_LETTERS) for _ in range(5))
    spec = made.setdefault("spec", {}) if kind in (PODS, DEPLOYMENTS, REPLICA_SETS, JOBS) else {}
    if "status" in kind.subresources and "status" not in made:
        made["status"] = {"phase": "Pending"} if kind is PODS else {}
    if kind is PODS:
        _fill_pod(spec)
    elif kind is DEPLOYMENTS:
        _fill(spec, _DEPLOYMENT)
        if spec["strategy"].get("type") == "RollingUpdate":
            _fill(spec["strategy"].setdefault("rollingUpdate", {}), _ROLLING)
    elif kind is JOBS:
        _fill(spec, _JOB)
    if kind in (DEPLOYMENTS, REPLICA_SETS, JOBS) and isinstance(spec.get("template"), dict):
        _fill_pod(spec["template"].setdefault("spec", {}))
    return made


def _without_nulls(entry: Any) -> Any:
    """Return a copy without what is null: an unset field."""
    if isinstance(entry, dict):
        return {name: _without_nulls(value) for name, value in entry.items() if value is not None}
    return [_without_nulls(value) for value in entry] if isinstance(entry, list) else entry


def _fill(target: Object, defaults: Object) -> None:
    for name, value in defaults.items():
        target.setdefault(name, copy.deepcopy(value))


def _fill_pod(spec: Object) -> None:
    _fill(spec, _POD)
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        _fill(container, _CONTAINER)
        for what in ("limits", "requests"):
            if what in container["resources"]:
                values = container["resources"][what]
                container["resources"][what] = {name: str(value) for name, value in values.items()}
        limits = container["resources"].get("limits", {})
        if limits:
            _fill(container["resources"].setdefault("requests", {}), limits)
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            if name in container:
                _fill(container[name], _PROBE)
