"""The scheduler: which node a pod goes to, or why none will do."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from tests.kubernetes.apiserver.controllers import record, set_condition
from tests.kubernetes.apiserver.kinds import NODES, PODS, Object
from tests.kubernetes.apiserver.quantities import Amounts, add, amounts, requests_of
from tests.kubernetes.apiserver.store import Store

_HINT = (
    "no new claims to deallocate, "
    "preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
)


def schedule(store: Store) -> None:
    """Give every pod that waits a node, or the reason why there is none."""
    for pod in store.list(PODS):
        if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            continue
        nodes = store.list(NODES)
        refusals: Counter[str] = Counter()
        fitting = [node for node in nodes if not _count(_objection(store, pod["spec"], node), refusals)]
        if fitting:
            store.change(PODS, pod, lambda made, node=fitting[0]: _bind(made, node["metadata"]["name"]))
            continue
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(refusals.items()))
        hint = _HINT.format(total=len(nodes))
        message = f"0/{len(nodes)} nodes are available: {reasons}. {hint}"
        store.change(
            PODS,
            pod,
            lambda made, said=message: set_condition(
                made.setdefault("status", {"phase": "Pending"}), "PodScheduled", False, "Unschedulable", said
            ),
        )
        if not any(condition.get("message") == message for condition in pod.get("status", {}).get("conditions", [])):
            record(store, pod, kind="Pod", reason="FailedScheduling", message=message, component="default-scheduler")


def _bind(pod: Object, node: str) -> None:
    pod["spec"]["nodeName"] = node
    set_condition(pod.setdefault("status", {"phase": "Pending"}), "PodScheduled", True)


def _count(objection: str | None, refusals: Counter[str]) -> bool:
    if objection is not None:
        refusals[objection] += 1
    return objection is not None


def _objection(store: Store, spec: Object, node: Object) -> str | None:
    labels = node["metadata"].get("labels", {})
    for taint in node.get("spec", {}).get("taints", []):
        if not any(_tolerates(toleration, taint) for toleration in spec.get("tolerations", [])):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if not (spec.get("nodeSelector") or {}).items() <= labels.items():
        return "node(s) didn't match Pod's node affinity/selector"
    used: Amounts = {}
    for other in store.list(PODS):
        busy = other.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        if other["spec"].get("nodeName") == node["metadata"]["name"] and busy:
            used = add(used, requests_of(other["spec"]))
    room = amounts(node["status"]["allocatable"])
    for resource, amount in sorted(requests_of(spec).items()):
        if used.get(resource, Decimal(0)) + amount > room.get(resource, Decimal(0)):
            return f"Insufficient {resource}"
    return None


def _tolerates(toleration: Object, taint: Object) -> bool:
    return (
        toleration.get("key") in (None, taint["key"])
        and toleration.get("effect") in (None, "", taint["effect"])
        and (toleration.get("operator", "Equal") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
    )
