"""The controllers of Deployments, ReplicaSets and Jobs, and the garbage collector."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from typing import Any

from tests.kubernetes.apiserver.admission import quota_used
from tests.kubernetes.apiserver.faults import Fault
from tests.kubernetes.apiserver.http import remove
from tests.kubernetes.apiserver.kinds import (
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    KINDS,
    NAMESPACES,
    PODS,
    QUOTAS,
    REPLICA_SETS,
    Kind,
    Object,
)
from tests.kubernetes.apiserver.quantities import amounts, text
from tests.kubernetes.apiserver.store import Store, now

Create = Callable[[Kind, str, Object], Object]


def record(store: Store, entry: Object, *, kind: str, reason: str, message: str, component: str) -> None:
    """Write a Warning event about an object, or count one that is there."""
    metadata = entry["metadata"]
    digest = hashlib.sha256(f"{metadata['uid']}{reason}{message}".encode()).hexdigest()[:16]
    name = f"{metadata['name']}.{digest}"
    old = store.find(EVENTS, metadata["namespace"], name)
    if old is not None:
        store.change(EVENTS, old, lambda made: made.update(count=made["count"] + 1, lastTimestamp=now()))
        return
    about = {name: metadata[name] for name in ("name", "namespace", "uid")} | {"kind": kind}
    body = {
        "metadata": {"name": name},
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "source": {"component": component},
    }
    store.create(EVENTS, metadata["namespace"], body)


def is_ready(pod: Object) -> bool:
    """Return whether a pod's Ready condition is true."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def set_condition(status: Object, kind: str, value: bool, reason: str = "", message: str = "") -> None:
    """Set one condition; its transition time moves where its value does."""
    conditions = status.setdefault("conditions", [])
    wanted = {"type": kind, "status": str(value), "reason": reason, "message": message}
    wanted = {name: entry for name, entry in wanted.items() if entry}
    for entry in conditions:
        if entry["type"] == kind:
            if any(entry.get(name, "") != wanted.get(name, "") for name in ("status", "reason", "message")):
                moved = entry["status"] != wanted["status"]
                wanted["lastTransitionTime"] = now() if moved else entry["lastTransitionTime"]
                entry.clear()
                entry.update(wanted)
            return
    conditions.append({**wanted, "lastTransitionTime": now()})


class Controllers:
    """What brings the objects to what they say they should be."""

    def __init__(self, store: Store, create: Create) -> None:
        self.store = store
        self._create = create
        self._progress: dict[str, tuple[tuple[int, ...], float]] = {}
        self._started: dict[str, float] = {}

    def tick(self) -> None:
        """Do what is to be done now."""
        ending = self._ending()
        work: tuple[tuple[Kind, Callable[[Object], None]], ...] = (
            (DEPLOYMENTS, self._deployment),
            (REPLICA_SETS, self._replica_set),
            (JOBS, self._job),
            (QUOTAS, self._quota),
        )
        for kind, bring in work:
            for entry in self.store.list(kind):
                if entry["metadata"]["namespace"] not in ending:
                    bring(entry)
        self._collect()

    # Deployments

    def _deployment(self, entry: Object) -> None:
        spec, name = entry["spec"], entry["metadata"]["name"]
        digest = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        owned = self.store.owned(REPLICA_SETS, entry)
        newest = next((rs for rs in owned if rs["metadata"]["name"] == f"{name}-{digest}"), None)
        if newest is None:
            newest = self._new_replica_set(entry, digest, owned)
            owned.append(newest)
        older = [rs for rs in owned if rs is not newest]
        wanted = spec["replicas"]
        rolling = spec["strategy"].get("rollingUpdate", {"maxSurge": 0, "maxUnavailable": "100%"})
        surge = _share(rolling["maxSurge"], wanted, math.ceil)
        away = _share(rolling["maxUnavailable"], wanted, math.floor)
        total = sum(rs["spec"]["replicas"] for rs in owned)
        grown = min(wanted, newest["spec"]["replicas"] + max(0, wanted + surge - total))
        self._scale(newest, grown)
        ready = sum(rs.get("status", {}).get("readyReplicas", 0) for rs in owned)
        for rs in sorted(older, key=lambda each: int(each["metadata"]["resourceVersion"])):
            unready = rs["spec"]["replicas"] - rs.get("status", {}).get("readyReplicas", 0)
            fewer = min(rs["spec"]["replicas"], max(0, unready) + max(0, ready - (wanted - away)))
            if fewer:
                ready -= max(0, fewer - unready)
                self._scale(rs, rs["spec"]["replicas"] - fewer)
        self._deployment_status(entry, newest, owned)

    def _new_replica_set(self, entry: Object, digest: str, owned: list[Object]) -> Object:
        label = {"pod-template-hash": digest}
        template = copy.deepcopy(entry["spec"]["template"])
        template["metadata"].setdefault("labels", {}).update(label)
        revisions = [int(rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"]) for rs in owned]
        revision = {"deployment.kubernetes.io/revision": str(max(revisions, default=0) + 1)}
        body = {
            "metadata": {
                "name": f"{entry['metadata']['name']}-{digest}",
                "labels": template["metadata"]["labels"],
                "annotations": revision,
                "ownerReferences": [_owner("apps/v1", "Deployment", entry)],
            },
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {**entry["spec"]["selector"]["matchLabels"], **label}},
                "template": template,
            },
        }
        self.store.change(
            DEPLOYMENTS, entry, lambda made: made["metadata"].setdefault("annotations", {}).update(revision)
        )
        return self._create(REPLICA_SETS, entry["metadata"]["namespace"], body)

    def _scale(self, replica_set: Object, replicas: int) -> None:
        if replica_set["spec"]["replicas"] != replicas:
            self.store.change(REPLICA_SETS, replica_set, lambda made: made["spec"].update(replicas=replicas))

    def _deployment_status(self, entry: Object, newest: Object, owned: list[Object]) -> None:
        current = [self.store.get(REPLICA_SETS, rs["metadata"]["namespace"], rs["metadata"]["name"]) for rs in owned]
        newest = next(rs for rs in current if rs["metadata"]["name"] == newest["metadata"]["name"])
        replicas = sum(rs.get("status", {}).get("replicas", 0) for rs in current)
        ready = sum(rs.get("status", {}).get("readyReplicas", 0) for rs in current)
        updated = newest.get("status", {}).get("replicas", 0)
        updated_ready = newest.get("status", {}).get("readyReplicas", 0)
        wanted, uid = entry["spec"]["replicas"], entry["metadata"]["uid"]
        seen = (entry["metadata"]["generation"], updated, updated_ready, replicas)
        if self._progress.get(uid, ((), 0.0))[0] != seen:
            self._progress[uid] = (seen, time.monotonic())
        late = time.monotonic() - self._progress[uid][1] > entry["spec"]["progressDeadlineSeconds"]
        whole = updated_ready >= wanted and replicas == updated
        name = f'ReplicaSet "{newest["metadata"]["name"]}"'
        failure = next(
            (c for c in newest.get("status", {}).get("conditions", []) if c["type"] == "ReplicaFailure"), None
        )

        def edit(made: Object) -> None:
            status = made.setdefault("status", {})
            status.update(
                observedGeneration=made["metadata"]["generation"],
                replicas=replicas,
                updatedReplicas=updated,
                readyReplicas=ready,
                availableReplicas=ready,
                unavailableReplicas=max(0, wanted - ready),
            )
            set_condition(status, "Available", ready >= wanted, "MinimumReplicasAvailable")
            if whole:
                set_condition(status, "Progressing", True, "NewReplicaSetAvailable", f"{name} has progressed.")
            elif late:
                set_condition(
                    status, "Progressing", False, "ProgressDeadlineExceeded", f"{name} has timed out progressing."
                )
            else:
                set_condition(status, "Progressing", True, "ReplicaSetUpdated", f"{name} is progressing.")
            status["conditions"] = [c for c in status["conditions"] if c["type"] != "ReplicaFailure"]
            if failure is not None:
                status["conditions"].append(copy.deepcopy(failure))

        self.store.change(DEPLOYMENTS, entry, edit)

    # ReplicaSets

    def _replica_set(self, entry: Object) -> None:
        namespace, wanted = entry["metadata"]["namespace"], entry["spec"]["replicas"]
        pods = [pod for pod in self.store.owned(PODS, entry) if "deletionTimestamp" not in pod["metadata"]]
        refused: Fault | None = None
        for _ in range(wanted - len(pods)):
            try:
                pods.append(self._make_pod(entry, "apps/v1", "ReplicaSet"))
            except Fault as fault:
                refused = fault
                record(
                    self.store,
                    entry,
                    kind="ReplicaSet",
                    reason="FailedCreate",
                    message=f"Error creating: {fault.message}",
                    component="replicaset-controller",
                )
                break
        for pod in sorted(pods, key=is_ready)[: max(0, len(pods) - wanted)]:
            remove(self.store, PODS, self.store.get(PODS, namespace, pod["metadata"]["name"]))
        pods = [pod for pod in self.store.owned(PODS, entry) if "deletionTimestamp" not in pod["metadata"]]

        def edit(made: Object) -> None:
            status = made.setdefault("status", {})
            status.update(replicas=len(pods), readyReplicas=sum(map(is_ready, pods)))
            status["observedGeneration"] = made["metadata"]["generation"]
            if refused is not None:
                set_condition(status, "ReplicaFailure", True, "FailedCreate", refused.message)
            else:
                status["conditions"] = []

        self.store.change(REPLICA_SETS, entry, edit)

    def _make_pod(self, owner: Object, api_version: str, kind: str, **labels: str) -> Object:
        template = copy.deepcopy(owner["spec"]["template"])
        metadata = template.setdefault("metadata", {})
        metadata["generateName"] = f"{owner['metadata']['name']}-"
        metadata["labels"] = {**metadata.get("labels", {}), **labels}
        metadata["ownerReferences"] = [_owner(api_version, kind, owner)]
        return self._create(PODS, owner["metadata"]["namespace"], template)

    # Jobs

    def _job(self, entry: Object) -> None:
        metadata, spec, status = entry["metadata"], entry["spec"], entry.get("status", {})
        conditions = status.get("conditions", [])
        if conditions:
            self._forget_finished(entry)
            return
        self._started.setdefault(metadata["uid"], time.monotonic())
        pods = self.store.owned(PODS, entry)
        done = sum(pod["status"]["phase"] == "Succeeded" for pod in pods)
        failed = sum(pod["status"]["phase"] == "Failed" for pod in pods)
        active = [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
        verdict: tuple[str, str, str] | None = None
        seconds = spec.get("activeDeadlineSeconds", math.inf)
        if done >= spec["completions"]:
            verdict = ("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        elif failed > spec["backoffLimit"]:
            verdict = ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif time.monotonic() - self._started[metadata["uid"]] > seconds:
            verdict = ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
            for pod in active:
                remove(self.store, PODS, pod)
        elif len(active) + done < min(spec["parallelism"], spec["completions"]):
            labels = {
                "job-name": metadata["name"],
                "batch.kubernetes.io/job-name": metadata["name"],
                "batch.kubernetes.io/controller-uid": metadata["uid"],
            }
            try:
                active.append(self._make_pod(entry, "batch/v1", "Job", **labels))
            except Fault as fault:
                record(
                    self.store,
                    entry,
                    kind="Job",
                    reason="FailedCreate",
                    message=f"Error creating: {fault.message}",
                    component="job-controller",
                )

        def edit(made: Object) -> None:
            fresh = made.setdefault("status", {})
            fresh.setdefault("startTime", now())
            fresh.update(
                active=0 if verdict else len(active), succeeded=done, failed=failed, ready=sum(map(is_ready, active))
            )
            if verdict is not None:
                set_condition(fresh, verdict[0], True, *verdict[1:])
                if verdict[0] == "Complete":
                    fresh["completionTime"] = now()

        self.store.change(JOBS, entry, edit)

    def _forget_finished(self, entry: Object) -> None:
        uid, keep = entry["metadata"]["uid"], entry["spec"].get("ttlSecondsAfterFinished", math.inf)
        ended = self._started.setdefault(f"{uid}-ended", time.monotonic())
        if time.monotonic() - ended > keep:
            remove(self.store, JOBS, entry)

    def _quota(self, entry: Object) -> None:
        hard = amounts(entry["spec"].get("hard", {}))
        used = quota_used(self.store, entry["metadata"]["namespace"], hard)
        status = {"hard": entry["spec"].get("hard", {}), "used": {name: text(value) for name, value in used.items()}}
        self.store.change(QUOTAS, entry, lambda made: made.update(status=status))

    # Garbage

    def _collect(self) -> None:
        """Take away what belongs to an owner that is gone or to a namespace that ends."""
        everything = [(kind, entry) for kind in KINDS for entry in self.store.list(kind)]
        alive = {entry["metadata"]["uid"] for _, entry in everything}
        ending = self._ending()
        for kind, entry in everything:
            if not kind.namespaced or "deletionTimestamp" in entry["metadata"]:
                continue
            owners = entry["metadata"].get("ownerReferences", [])
            orphaned = owners and all(owner["uid"] not in alive for owner in owners)
            if orphaned or entry["metadata"]["namespace"] in ending:
                remove(self.store, kind, entry)
        for name in ending:
            if not any(self.store.list(kind, name) for kind in KINDS if kind.namespaced):
                self.store.remove(NAMESPACES, "", name)

    def _ending(self) -> set[str]:
        spaces = self.store.list(NAMESPACES)
        return {entry["metadata"]["name"] for entry in spaces if "deletionTimestamp" in entry["metadata"]}


def _owner(api_version: str, kind: str, entry: Object) -> Object:
    metadata = entry["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _share(value: Any, total: int, rounded: Callable[[float], int]) -> int:
    """Return a number of pods: as it is, or a percentage of all."""
    return rounded(total * int(value[:-1]) / 100) if isinstance(value, str) else int(value)
