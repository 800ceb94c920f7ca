"""What the software asks a cluster for is what the chart's role grants: nothing less, nothing more."""

from __future__ import annotations

import pytest

from pipelines.cluster.connection import Cluster
from pipelines.cluster.jobs import delete_job, trouble_of_job
from pipelines.rollout.contract import RolloutFailed
from pipelines.rollout.kubernetes import KubernetesRollout
from services.model_serving.registry import Registered
from tests.charts.rendered import Rendered
from tests.kubernetes.apiserver.access import account_user
from tests.kubernetes.manifests import DEPLOYMENT, job, server
from tests.kubernetes.place import PATIENCE_S, Place, apply, wait_for

pytestmark = pytest.mark.xdist_group("kubernetes")

V1, V2 = (Registered("grading", f"v000{number}-{str(number) * 12}") for number in (1, 2))


def granted(release: Rendered, role: str) -> set[tuple[str, str, str]]:
    """Return what a role of the chart allows, as group, resource and verb."""
    return {
        (group, resource, verb)
        for rule in release.named("Role", role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_promotion_and_jobs_use_every_right_of_the_promoter_and_no_other(
    place: Place, promoter: Cluster, admin: Cluster, release: Rendered
) -> None:
    stand_in = place.require_stand_in("a real cluster does not tell what was asked of it")
    apply(
        admin, server(place.image, replicas=1, behaviour={V2.version: "unready"}), job("late", "registry.invalid/i:1")
    )
    rollout = KubernetesRollout("grading", cluster=promoter, deployment=DEPLOYMENT, poll_seconds=0.2)
    rollout.deploy(V1)
    rollout.wait(seconds=PATIENCE_S)
    rollout.observe(seconds=0.1)
    rollout.deploy(V2)
    with pytest.raises(RolloutFailed):
        rollout.wait(seconds=3)
    wait_for("the job's trouble", lambda: trouble_of_job(promoter, "late"))
    delete_job(promoter, "late")
    delete_job(promoter, "late")
    user = account_user(admin.namespace, "rel-promoter")
    asked = [entry for entry in stand_in.access.asked if entry.user == user]
    assert [entry for entry in asked if not entry.allowed] == []
    assert {(entry.group, entry.resource, entry.verb) for entry in asked} == granted(release, "promoter")
    assert {entry.name for entry in asked if entry.resource == "deployments"} == {DEPLOYMENT}
