"""A model version is brought to a Deployment, watched and taken back, with the rights of the chart's promoter alone."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from pipelines.cluster.connection import Cluster, NotAllowed, connect_cluster
from pipelines.rollout.contract import Rollout, RolloutFailed
from pipelines.rollout.kubernetes import BEFORE, PINS, KubernetesRollout
from services.model_serving.registry import Registered
from services.shared.errors import InvalidValue, NotFound, Unauthorised, Unavailable
from services.shared.settings import settings
from tests.kubernetes.manifests import DEPLOYMENT, GPU, NO_IMAGE, quota, server
from tests.kubernetes.place import PATIENCE_S, Place, apply, connection, names_of, wait_for

pytestmark = pytest.mark.xdist_group("kubernetes")

V1, V2, V3 = (Registered("grading", f"v000{number}-{str(number) * 12}") for number in (1, 2, 3))


def rollout(cluster: Cluster, said: list[str] | None = None) -> KubernetesRollout:
    return KubernetesRollout(
        "grading",
        cluster=cluster,
        deployment=DEPLOYMENT,
        poll_seconds=0.2,
        undo_seconds=PATIENCE_S,
        progress=None if said is None else said.append,
    )


def serve_first(promoter: Cluster, admin: Cluster, image: str, **options: object) -> KubernetesRollout:
    """Put up a Deployment that serves the first version."""
    apply(admin, server(image, **options))  # type: ignore[arg-type]
    made = rollout(promoter)
    made.deploy(V1)
    made.wait(seconds=PATIENCE_S)
    return made


def staying(cluster: Cluster) -> list[client.V1Pod]:
    """Return the pods that are not about to end: a process that heeds no signal lives on for its grace."""
    pods = cluster.core.list_namespaced_pod(cluster.namespace).items
    return [pod for pod in pods if not pod.metadata.deletion_timestamp]


def versions(cluster: Cluster) -> list[str]:
    """Return what the pods are told to serve."""
    return sorted(
        variable.value for pod in staying(cluster) for variable in pod.spec.containers[0].env if variable.name == PINS
    )


def pinned(entry: Registered) -> str:
    return f'{{"grading": "{entry.version}"}}'


def test_a_version_is_served_by_every_pod(place: Place, promoter: Cluster, admin: Cluster) -> None:
    apply(admin, server(place.image))
    said: list[str] = []
    made: Rollout = rollout(promoter, said)
    assert made.current() is None
    made.deploy(V1)
    made.wait(seconds=PATIENCE_S)
    assert made.current() == V1.version
    before = admin.apps.read_namespaced_deployment(DEPLOYMENT, admin.namespace).metadata
    made.deploy(V1)
    assert admin.apps.read_namespaced_deployment(DEPLOYMENT, admin.namespace).metadata.generation == before.generation
    made.deploy(V2)
    # Whoever comes after a crash goes on from here, and can still go back.
    later = rollout(promoter)
    later.wait(seconds=PATIENCE_S)
    wait_for("only pods of the new version", lambda: versions(admin) == [pinned(V2)] * 2)
    later.undo()
    wait_for("only pods of the old version", lambda: versions(admin) == [pinned(V1)] * 2)
    again = admin.apps.read_namespaced_deployment(DEPLOYMENT, admin.namespace).metadata.generation
    rollout(promoter).undo()
    assert admin.apps.read_namespaced_deployment(DEPLOYMENT, admin.namespace).metadata.generation == again
    assert f"deployment {admin.namespace}/{DEPLOYMENT}: 2 pods serve" in said


def test_a_version_that_crashes_is_taken_back(place: Place, promoter: Cluster, admin: Cluster) -> None:
    made = serve_first(promoter, admin, place.image, behaviour={V2.version: "crash"})
    first = names_of(staying(admin))
    made.deploy(V2)
    with pytest.raises(RolloutFailed) as caught:
        made.wait(seconds=PATIENCE_S)
    error = caught.value
    assert error.detail == f"grading {V2.version} could not be brought to service; {V1.version} serves again"
    assert error.field == f"deployment {admin.namespace}/{DEPLOYMENT}"
    assert "exit code 1" in str(error.got)
    assert "there is no such version of the model" in str(error.got)
    assert "kubectl logs" in str(error.remedy)
    assert made.current() == V1.version
    # The old pods served all along.
    assert names_of(staying(admin)) == first


def test_a_version_whose_probe_fails_is_taken_back(place: Place, promoter: Cluster, admin: Cluster) -> None:
    made = serve_first(promoter, admin, place.image, replicas=1, behaviour={V2.version: "unready"})
    made.deploy(V2)
    with pytest.raises(RolloutFailed, match="serves again") as caught:
        made.wait(seconds=6)
    assert "not ready" in str(caught.value.got)
    assert "probe failed" in str(caught.value.got)
    assert "503" in str(caught.value.got)
    assert versions(admin) == [pinned(V1)]


def test_an_image_that_cannot_be_pulled_is_named(place: Place, promoter: Cluster, admin: Cluster) -> None:
    made = serve_first(promoter, admin, place.image, replicas=1)
    container = {"name": "service", "image": NO_IMAGE}
    admin.apps.patch_namespaced_deployment(
        DEPLOYMENT,
        admin.namespace,
        {"spec": {"template": {"spec": {"containers": [container]}}}},
        _content_type="application/strategic-merge-patch+json",
    )
    made.deploy(V2)
    with pytest.raises(RolloutFailed) as caught:
        made.wait(seconds=PATIENCE_S)
    assert NO_IMAGE in str(caught.value.got)
    assert "ImagePull" in str(caught.value.got)
    assert "pullSecrets" in str(caught.value.remedy)
    # The image is wrong for every version: the error says that nothing was healed.
    assert "going back failed as well" in caught.value.detail


def test_no_gpu_node_is_told_as_the_reason_for_pending(place: Place, promoter: Cluster, admin: Cluster) -> None:
    apply(admin, server(place.image, replicas=1, limits={GPU: "64"}))
    made = KubernetesRollout("grading", cluster=promoter, deployment=DEPLOYMENT, poll_seconds=0.2, undo_seconds=0.5)
    made.deploy(V1)
    with pytest.raises(RolloutFailed) as caught:
        made.wait(seconds=5)
    assert "Pending, no GPU node" in str(caught.value.got)
    assert f"Insufficient {GPU}" in str(caught.value.got)
    assert "add a GPU node" in str(caught.value.remedy)


def test_an_exhausted_quota_is_told(place: Place, promoter: Cluster, admin: Cluster) -> None:
    made = serve_first(promoter, admin, place.image, replicas=1)
    apply(admin, quota(pods="1"))

    def counted() -> bool:
        status = admin.core.read_namespaced_resource_quota("small", admin.namespace).status
        return status is not None and (status.used or {}).get("pods") == "1"

    wait_for("the quota to count", counted)
    made.deploy(V2)
    with pytest.raises(RolloutFailed, match=f"{V1.version} serves again") as caught:
        made.wait(seconds=6)
    assert "quota small exceeded" in str(caught.value.got)
    assert "raise the quota" in str(caught.value.remedy)


def test_a_change_in_between_is_kept(place: Place, promoter: Cluster, admin: Cluster) -> None:
    apply(admin, server(place.image, replicas=0))

    class Meddled(KubernetesRollout):
        """Somebody else writes after every one of the first two readings."""

        writes = 0

        def _read(self) -> client.V1Deployment:
            found = super()._read()
            if self.writes < 2:
                self.writes += 1
                body = {"metadata": {"annotations": {f"other/{self.writes}": "kept"}}}
                admin.apps.patch_namespaced_deployment(
                    DEPLOYMENT, admin.namespace, body, _content_type="application/merge-patch+json"
                )
            return found

    said: list[str] = []
    Meddled("grading", cluster=promoter, deployment=DEPLOYMENT, progress=said.append).deploy(V1)
    found = admin.apps.read_namespaced_deployment(DEPLOYMENT, admin.namespace)
    assert (found.metadata.annotations["other/1"], found.metadata.annotations["other/2"]) == ("kept", "kept")
    assert BEFORE in found.metadata.annotations
    assert rollout(promoter).current() == V1.version
    assert any("changed by somebody else" in line for line in said)


def test_models_of_one_deployment_do_not_touch_each_other(place: Place, promoter: Cluster, admin: Cluster) -> None:
    apply(admin, server(place.image, replicas=0))
    other = KubernetesRollout("atrx", cluster=promoter, deployment=DEPLOYMENT)
    rollout(promoter).deploy(V1)
    other.deploy(Registered("atrx", V3.version))
    rollout(promoter).deploy(V2)
    other.undo()
    assert (rollout(promoter).current(), other.current()) == (V2.version, None)
    with pytest.raises(InvalidValue, match="another model"):
        other.deploy(V1)


def test_figures_are_those_of_the_pods_meanwhile(place: Place, promoter: Cluster, admin: Cluster) -> None:
    made = serve_first(promoter, admin, place.image)
    # From outside the addresses of pods lead nowhere: the administrator may ask through the API server.
    outside = KubernetesRollout("grading", cluster=admin, deployment=DEPLOYMENT)
    pods = names_of(staying(admin))

    def ask(path: str) -> None:
        for pod in pods:
            with suppress(client.ApiException) if path == "fail" else nullcontext():
                admin.core.connect_get_namespaced_pod_proxy_with_path(pod, admin.namespace, path)

    ask("predict")
    for place_that_serves in [outside] if place.stand_in is None else [outside, made]:
        asked: list[int] = []
        naps = _busy_naps(asked, ask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipelines.rollout.kubernetes.time.sleep", naps)
            found = place_that_serves.observe(seconds=1)
        assert asked
        assert (found.requests, found.errors) == (6 * len(asked), 2 * len(asked))
        assert found.error_rate == pytest.approx(1 / 3)
        assert found.latency_p95_s == pytest.approx(0.195)


def _busy_naps(asked: list[int], ask: object) -> object:
    """Return a sleep in which every pod is asked three times."""
    import time

    nap = time.sleep

    def sleep(seconds: float) -> None:
        nap(seconds)
        if not asked:
            asked.append(1)
            for path in ("predict", "explain", "fail"):
                ask(path)  # type: ignore[operator]

    return sleep


def test_nothing_to_go_back_to_is_an_error(place: Place, promoter: Cluster, admin: Cluster) -> None:
    apply(admin, server(place.image, replicas=0))
    with pytest.raises(RolloutFailed, match="nothing to go back to"):
        rollout(promoter).undo()
    rollout(promoter).deploy(V1)
    body = {"name": PINS, "value": pinned(V3)}
    admin.apps.patch_namespaced_deployment(
        DEPLOYMENT,
        admin.namespace,
        {"spec": {"template": {"spec": {"containers": [{"name": "service", "env": [body]}]}}}},
        _content_type="application/strategic-merge-patch+json",
    )
    with pytest.raises(RolloutFailed, match="somebody else changed the version"):
        rollout(promoter).undo()


def test_refusals_say_what_to_do(place: Place, promoter: Cluster, admin: Cluster, tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="no role allows it") as refused:
        KubernetesRollout("grading", cluster=promoter, deployment="another").current()
    assert "role=promoter" in str(refused.value.remedy)
    with pytest.raises(NotFound, match="no such object"):
        KubernetesRollout("grading", cluster=admin, deployment="another").current()
    stranger = yaml.safe_load(place.account(admin.namespace, "default").read_text())
    stranger["users"][0]["user"]["token"] = "not-a-token"
    path = tmp_path / "stranger.yaml"
    path.write_text(yaml.safe_dump(stranger))
    with pytest.raises(Unauthorised, match="does not know us"):
        KubernetesRollout("grading", cluster=connection(path, admin.namespace), deployment=DEPLOYMENT).current()
    stranger["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    path.write_text(yaml.safe_dump(stranger))
    with pytest.raises(Unavailable, match="did not answer"):
        KubernetesRollout("grading", cluster=connection(path, admin.namespace), deployment=DEPLOYMENT).current()


def test_the_settings_name_the_cluster(
    place: Place, admin: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIAFLOW_KUBECONFIG", str(place.kubeconfig))
    monkeypatch.setenv("GLIAFLOW_KUBERNETES_NAMESPACE", admin.namespace)
    settings.cache_clear()
    found = connect_cluster()
    assert (found.namespace, found.inside) == (admin.namespace, False)
    assert found.core.list_namespaced_pod(found.namespace).items == []
    monkeypatch.setenv("GLIAFLOW_KUBECONFIG", str(tmp_path / "none.yaml"))
    settings.cache_clear()
    with pytest.raises(InvalidValue, match="no Kubernetes cluster"):
        connect_cluster()
    settings.cache_clear()
