"""What a request must fulfil before an object is kept: validity, then the namespace's quota."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from tests.kubernetes.apiserver import faults
from tests.kubernetes.apiserver.kinds import DEPLOYMENTS, JOBS, PODS, QUOTAS, REPLICA_SETS, Kind, Object
from tests.kubernetes.apiserver.quantities import Amounts, add, amounts, quota_use, text
from tests.kubernetes.apiserver.store import Store


def check(kind: Kind, entry: Object, old: Object | None = None) -> None:
    """Raise 422 where an object is not valid, or changes what may not change."""
    name = entry.get("metadata", {}).get("name", "")
    for field, message in _objections(kind, entry, old):
        raise faults.invalid(kind, name, field, message)


def _objections(kind: Kind, entry: Object, old: Object | None) -> Iterator[tuple[str, str]]:
    spec = entry.get("spec", {})
    if kind is PODS:
        yield from _of_pod("spec", spec)
        if old is not None and spec != old["spec"]:
            yield "spec", "Forbidden: pod updates may not change fields other than a few"
    if kind not in (DEPLOYMENTS, REPLICA_SETS, JOBS):
        return
    template = spec.get("template")
    if not isinstance(template, dict):
        yield "spec.template", "Required value"
        return
    yield from _of_pod("spec.template.spec", template.get("spec", {}))
    if kind is JOBS:
        if template["spec"]["restartPolicy"] not in ("Never", "OnFailure"):
            yield "spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'
        if old is not None and template != old["spec"]["template"]:
            yield "spec.template", "Invalid value: field is immutable"
        return
    wanted = spec.get("selector", {}).get("matchLabels", {})
    if not wanted:
        yield "spec.selector", "Required value"
    if not wanted.items() <= template.get("metadata", {}).get("labels", {}).items():
        yield "spec.template.metadata.labels", "Invalid value: `selector` does not match template `labels`"
    if old is not None and spec["selector"] != old["spec"]["selector"]:
        yield "spec.selector", "Invalid value: field is immutable"
    replicas = spec.get("replicas", 1)
    if not isinstance(replicas, int) or replicas < 0:
        yield "spec.replicas", "Invalid value: must be greater than or equal to 0"


def _of_pod(path: str, spec: Object) -> Iterator[tuple[str, str]]:
    containers = spec.get("containers", [])
    if not containers:
        yield f"{path}.containers", "Required value"
    names = [container.get("name") for container in containers]
    if None in names or len(set(names)) != len(names):
        yield f"{path}.containers", "Duplicate value or no name"
    for index, container in enumerate(containers):
        here = f"{path}.containers[{index}]"
        if not container.get("image"):
            yield f"{here}.image", "Required value"
        for variable in container.get("env", []):
            if not variable.get("name"):
                yield f"{here}.env", "Required value"
            if not isinstance(variable.get("value", ""), str):
                yield f"{here}.env", "Invalid value: must be a string"
        resources = container.get("resources", {})
        for what in ("requests", "limits"):
            for resource, value in resources.get(what, {}).items():
                try:
                    parse_quantity(value)
                except ValueError:
                    yield f"{here}.resources.{what}[{resource}]", f'Invalid value: "{value}"'


def check_quota(store: Store, kind: Kind, namespace: str, entry: Object) -> None:
    """Raise 403 where an object would go over a quota of its namespace."""
    asked = quota_use(entry["spec"]) if kind is PODS else {f"count/{kind.qualified}": Decimal(1)}
    name = entry["metadata"].get("name", "")
    for quota in store.list(QUOTAS, namespace):
        hard = amounts(quota["spec"].get("hard", {}))
        if kind is PODS:
            needed = [n for n in hard if n in ("cpu", "memory") or n.endswith((".cpu", ".memory"))]
            missing = [n for n in needed if n not in asked]
            if missing:
                label = ",".join(sorted(missing))
                raise faults.forbidden(kind, name, f"failed quota: {quota['metadata']['name']}: must specify {label}")
        used = quota_used(store, namespace, hard)
        over = sorted(n for n in hard if n in asked and used.get(n, Decimal(0)) + asked[n] > hard[n])
        if over:
            parts = [",".join(f"{n}={text(values.get(n, Decimal(0)))}" for n in over) for values in (asked, used, hard)]
            raise faults.forbidden(
                kind,
                name,
                f"exceeded quota: {quota['metadata']['name']}, requested: {parts[0]}, used: {parts[1]}, "
                f"limited: {parts[2]}",
            )


def quota_used(store: Store, namespace: str, hard: Amounts) -> Amounts:
    """Return what the objects of a namespace use of the resources that a quota names."""
    used: Amounts = {}
    for pod in store.list(PODS, namespace):
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            used = add(used, quota_use(pod["spec"]))
    for kind in (JOBS, DEPLOYMENTS, REPLICA_SETS):
        used[f"count/{kind.qualified}"] = Decimal(len(store.list(kind, namespace)))
    return {name: used.get(name, Decimal(0)) for name in hard}
