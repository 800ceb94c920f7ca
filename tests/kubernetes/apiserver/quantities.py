"""What pods ask of nodes and of quotas."""

from __future__ import annotations

from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from tests.kubernetes.apiserver.kinds import Object

Amounts = dict[str, Decimal]


def requests_of(spec: Object) -> Amounts:
    """Return what a pod requests."""
    return _total(spec, "requests")


def quota_use(spec: Object) -> Amounts:
    """Return what a pod counts for, by the names that quotas have for it."""
    found: Amounts = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for resource, amount in _total(spec, "requests").items():
        found[f"requests.{resource}"] = amount
        if resource in ("cpu", "memory"):
            found[resource] = amount
    for resource, amount in _total(spec, "limits").items():
        if resource in ("cpu", "memory", "ephemeral-storage"):
            found[f"limits.{resource}"] = amount
    return found


def amounts(values: Object) -> Amounts:
    """Return parsed quantities."""
    return {name: parse_quantity(value) for name, value in values.items()}


def add(one: Amounts, other: Amounts) -> Amounts:
    """Return the sum by name."""
    return {name: one.get(name, Decimal(0)) + other.get(name, Decimal(0)) for name in {**one, **other}}


def text(amount: Decimal) -> str:
    """Return a quantity as messages show it."""
    for unit, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if amount >= size and amount % size == 0:
            return f"{int(amount / size)}{unit}"
    return f"{int(amount * 1000)}m" if amount != int(amount) else str(int(amount))


def _total(spec: Object, what: str) -> Amounts:
    found: Amounts = {}
    for container in spec.get("containers", []):
        resources = container.get("resources", {})
        values = {**resources.get("limits", {}), **resources.get("requests", {})} if what == "requests" else None
        found = add(found, amounts(resources.get("limits", {}) if values is None else values))
    return {name: amount for name, amount in found.items() if amount}
