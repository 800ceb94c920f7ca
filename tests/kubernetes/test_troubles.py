"""Why pods do not run, as a cluster tells it, and what is made of it."""

from __future__ import annotations

import json

import pytest
from kubernetes import client

from pipelines.cluster.connection import Cluster
from pipelines.cluster.jobs import trouble_of_job
from pipelines.cluster.pods import Trouble, trouble_of
from tests.kubernetes.manifests import GPU, NO_IMAGE, Object, job, quota
from tests.kubernetes.place import Place, apply, wait_for

pytestmark = pytest.mark.xdist_group("kubernetes")


def reason_of(promoter: Cluster, admin: Cluster, *objects: Object) -> Trouble:
    """Return why a job does not run, once the cluster says it."""
    apply(admin, *objects)
    name = objects[-1]["metadata"]["name"]
    found: list[Trouble] = []

    def seen() -> bool:
        trouble = trouble_of_job(promoter, name)
        found.extend([trouble] if trouble else [])
        return trouble is not None

    wait_for(f"the trouble of {name}", seen)
    return found[-1]


def test_no_gpu_node(place: Place, promoter: Cluster, admin: Cluster) -> None:
    found = reason_of(promoter, admin, job("train", place.image, limits={GPU: "64"}))
    assert found.reason == "Pending, no GPU node"
    assert found.message.endswith(f" Insufficient {GPU}.")
    assert not found.hopeless


def test_no_node_with_the_labels(place: Place, promoter: Cluster, admin: Cluster) -> None:
    found = reason_of(promoter, admin, job("train", place.image, node_selector={"gliaflow-test/none": "here"}))
    assert found.reason == "Pending, no node with these labels"
    assert "node_selector" in found.remedy


def test_an_image_that_cannot_be_pulled(promoter: Cluster, admin: Cluster) -> None:
    found = reason_of(promoter, admin, job("train", NO_IMAGE))
    assert found.reason in ("ErrImagePull", "ImagePullBackOff")
    assert NO_IMAGE in found.message


def test_a_quota_that_lets_no_pod_in(place: Place, promoter: Cluster, admin: Cluster) -> None:
    found = reason_of(promoter, admin, quota(pods="0"), job("train", place.image))
    assert found.reason == "quota small exceeded"
    assert found.message == "exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0"
    assert "raise the quota" in found.remedy


def test_a_container_that_ends_badly_tells_its_last_lines(place: Place, promoter: Cluster, admin: Cluster) -> None:
    code = "import sys; print('reading the cohort'); sys.exit('no such cohort')"
    found = reason_of(promoter, admin, job("train", place.image, code=code))
    assert found.message.startswith("exit code 1, 0 restarts: ")
    assert "no such cohort" in found.message
    assert found.hopeless


def test_a_secret_that_is_missing(place: Place, promoter: Cluster, admin: Cluster) -> None:
    made = job("train", place.image)
    secret = {"secretKeyRef": {"name": "gliaflow-token", "key": "token"}}
    made["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "GLIAFLOW_TOKEN", "valueFrom": secret}]
    found = reason_of(promoter, admin, made)
    assert found.reason == "CreateContainerConfigError"
    assert 'secret "gliaflow-token" not found' in found.message
    assert found.hopeless


def test_a_job_that_is_well_has_no_trouble(place: Place, promoter: Cluster, admin: Cluster) -> None:
    apply(admin, job("train", place.image))
    jobs = client.BatchV1Api(admin.api)
    wait_for("the job to end", lambda: jobs.read_namespaced_job("train", admin.namespace).status.succeeded)
    assert trouble_of_job(promoter, "train") is None


def pod(**status: object) -> client.V1Pod:
    """Return a pod as the client would give it."""
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": status}
    found: client.V1Pod = client.ApiClient().deserialize(json.dumps(body), "V1Pod", "application/json")
    return found


def container(**fields: object) -> Object:
    return {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0, **fields}


@pytest.mark.parametrize(
    ("status", "reason", "hopeless"),
    [
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted", True),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    container(
                        restartCount=1,
                        state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                        lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                    )
                ],
            },
            "OOMKilled",
            False,
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/4 nodes are available: 4 node(s) had untolerated taint {nvidia.com/gpu: yes}.",
                    }
                ],
            },
            "Pending, only tainted nodes",
            False,
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/4 nodes are available: 4 Insufficient cpu.",
                    }
                ],
            },
            "Pending, no node has room",
            False,
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/4 nodes are available: 4 Insufficient nvidia.com/mig-1g.18gb.",
                    }
                ],
            },
            "Pending, no GPU node",
            False,
        ),
    ],
)
def test_what_a_small_cluster_seldom_says(status: Object, reason: str, hopeless: bool) -> None:
    found = trouble_of(pod(**status))
    assert found is not None
    assert (found.reason, found.hopeless) == (reason, hopeless)


def test_a_pod_that_once_crashed_and_now_serves_is_well() -> None:
    ready = container(
        ready=True,
        restartCount=3,
        state={"running": {}},
        lastState={"terminated": {"exitCode": 1, "reason": "Error"}},
    )
    conditions = [{"type": "Ready", "status": "True"}]
    assert trouble_of(pod(phase="Running", conditions=conditions, containerStatuses=[ready])) is None
