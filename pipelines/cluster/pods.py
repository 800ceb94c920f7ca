"""Why a pod does not run: the cluster's reason in one sentence, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kubernetes import client

from pipelines.cluster.connection import Cluster, explained
from services.shared.contracts import Contract

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_CONFIGURATION = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_HOPELESS = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})
_CRASHES = 2
_LINES = 6

_UNSCHEDULABLE: tuple[tuple[str, str, str], ...] = (
    (
        r"Insufficient \S*(gpu|/mig-)",
        "no GPU node",
        "wait until a GPU is free, add a GPU node, or ask for fewer GPUs",
    ),
    (
        r"node affinity/selector",
        "no node with these labels",
        "correct nodeSelector (job variable node_selector), or label a node",
    ),
    (r"untolerated taint", "only tainted nodes", "add the taint to tolerations, or use another node"),
    (r"Insufficient (cpu|memory)", "no node has room", "lower the request, or add a node"),
    (r"persistentvolumeclaim|volume", "its volume is not there", "look at the claim: kubectl describe pvc"),
)


class Trouble(Contract):
    """Why something does not run.

    Attributes
    ----------
    hopeless
        Whether waiting cannot help.
    """

    reason: str
    message: str
    remedy: str
    hopeless: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def trouble_of(pod: client.V1Pod, events: Iterable[client.CoreV1Event] = ()) -> Trouble | None:
    """Return why a pod does not run or is not ready; None where it is well, or has only just begun.

    Parameters
    ----------
    pod
        The pod as it is now.
    events
        Its events: only they tell which probe fails.
    """
    status = pod.status
    if status is None:
        return None
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return _unscheduled(condition.message or condition.reason or "no node was found")
    if status.reason == "Evicted":
        return Trouble(
            reason="Evicted", message=status.message or "", remedy="raise the request for what ran out", hopeless=True
        )
    for container in [*(status.init_container_statuses or []), *(status.container_statuses or [])]:
        found = _container(container, failed=status.phase == "Failed")
        if found is not None:
            return found
    ready = any(entry.type == "Ready" and entry.status == "True" for entry in status.conditions or [])
    return None if ready or status.phase != "Running" else _failing_probe(events)


def _unscheduled(message: str) -> Trouble:
    # What the scheduler says of claims and preemption repeats the nodes and explains nothing.
    said = re.split(r" (?:no new claims to deallocate, )?preemption:", message)[0].strip()
    for pattern, reason, remedy in _UNSCHEDULABLE:
        if re.search(pattern, said, re.IGNORECASE):
            return Trouble(reason=f"Pending, {reason}", message=said, remedy=remedy)
    return Trouble(reason="Pending", message=said, remedy="kubectl describe pod tells more")


def _container(container: client.V1ContainerStatus, *, failed: bool) -> Trouble | None:
    if container.ready:
        return None
    waiting = container.state.waiting if container.state else None
    ended = container.state.terminated if container.state else None
    last = ended or (container.last_state.terminated if container.last_state else None)
    reason = waiting.reason if waiting and waiting.reason else ""
    message = (waiting.message if waiting else None) or ""
    if reason in _IMAGE:
        return Trouble(
            reason=reason,
            message=f"{container.image}: {message}",
            remedy="correct the image's name and tag, or give the account a pull secret (global.image.pullSecrets)",
            hopeless=reason in _HOPELESS,
        )
    if reason in _CONFIGURATION:
        return Trouble(
            reason=reason,
            message=message,
            remedy="create the secret or config map that is named, or correct the command",
            hopeless=reason in _HOPELESS,
        )
    crashed = last is not None and last.exit_code != 0 and (failed or container.restart_count > 0)
    if last is None or not crashed:
        return None
    memory = last.reason == "OOMKilled"
    tail = "\n".join((last.message or "").strip().splitlines()[-_LINES:])
    return Trouble(
        reason="OOMKilled" if memory else reason or "Failed",
        message=f"exit code {last.exit_code}, {container.restart_count} restarts{f': {tail}' if tail else ''}",
        remedy="raise the memory limit" if memory else "read its log: kubectl logs --previous",
        hopeless=failed or container.restart_count >= _CRASHES,
    )


def _failing_probe(events: Iterable[client.CoreV1Event]) -> Trouble | None:
    failures = [event for event in events if event.reason == "Unhealthy"]
    if not failures:
        return None
    latest = max(failures, key=lambda event: (event.last_timestamp is not None, event.last_timestamp or 0))
    return Trouble(
        reason="not ready",
        message=latest.message or "a probe fails",
        remedy="read its log; give it more time with probes.startup where it only loads slowly",
    )


def events_about(cluster: Cluster, kind: str, name: str) -> list[client.CoreV1Event]:
    """Return the events about one object."""
    with explained(f"read the events of {kind} {name}", field=f"{cluster.namespace}/{name}"):
        found = cluster.core.list_namespaced_event(
            cluster.namespace, field_selector=f"involvedObject.kind={kind},involvedObject.name={name}"
        )
    return list(found.items)


def first_trouble(cluster: Cluster, pods: Iterable[client.V1Pod]) -> Trouble | None:
    """Return the gravest trouble of some pods: what waiting cannot heal comes first."""
    troubles = []
    for pod in pods:
        found = trouble_of(pod)
        if found is None and pod.status is not None and pod.status.phase == "Running":
            found = trouble_of(pod, events_about(cluster, "Pod", str(pod.metadata.name if pod.metadata else "")))
        if found is not None:
            troubles.append(found)
    return min(troubles, key=lambda entry: not entry.hopeless, default=None)
