"""A Job of the work pool: why it has not started (its pod's reason, or why there is no pod), and its end."""

from __future__ import annotations

import re
from contextlib import suppress

from pipelines.cluster.connection import Cluster, explained
from pipelines.cluster.pods import Trouble, events_about, first_trouble
from services.shared.errors import NotFound


def trouble_of_job(cluster: Cluster, name: str) -> Trouble | None:
    """Return why a Job does not run; None where it is well, or has only just begun.

    Needs the right to list pods and events, as the chart's promoter has it.
    """
    with explained(f"look at the pods of job {name}", field=f"{cluster.namespace}/{name}"):
        pods = cluster.core.list_namespaced_pod(
            cluster.namespace, label_selector=f"batch.kubernetes.io/job-name={name}"
        )
    if pods.items:
        return first_trouble(cluster, pods.items)
    refusals = [event for event in events_about(cluster, "Job", name) if event.reason == "FailedCreate"]
    return refusal_to_create(refusals[-1].message or "") if refusals else None


def delete_job(cluster: Cluster, name: str) -> None:
    """Delete a Job and its pods; one that is gone already is no error."""
    with suppress(NotFound), explained(f"delete job {name}", field=f"{cluster.namespace}/{name}"):
        cluster.batch.delete_namespaced_job(name, cluster.namespace, propagation_policy="Background")


def refusal_to_create(message: str) -> Trouble:
    """Return the trouble of a pod that the cluster would not even create, from its controller's message."""
    # The pod that was not made has another name at every try.
    message = re.sub(r'^(Error creating: )?pods "[^"]*" is forbidden: ', "", message)
    if quota := re.search(r"exceeded quota: ([^,]+)|failed quota: ([^:]+)", message):
        name = quota[1] or quota[2]
        return Trouble(
            reason=f"quota {name} exceeded",
            message=message,
            remedy="wait until others end, ask for less, or raise the quota (resourceQuota of the chart)",
        )
    return Trouble(reason="FailedCreate", message=message, remedy="correct what the message names")
