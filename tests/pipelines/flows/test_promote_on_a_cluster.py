"""Promotion where a Deployment serves: the flows themselves, on the stand-in for a cluster or a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kubernetes import client

from pipelines.cluster.connection import Cluster
from pipelines.flows.promote import place_of, promote_version, roll_back
from pipelines.flows.retrain import retrain
from pipelines.promotion.parameters import RetrainParameters, ServingThresholds
from pipelines.rollout.contract import RolloutFailed
from pipelines.rollout.kubernetes import PINS, KubernetesRollout
from pipelines.rollout.local import LocalRollout
from services.model_serving import registry
from services.shared.settings import settings
from services.shared.storage import Storage
from tests.kubernetes.conftest import admin, place  # noqa: F401 - fixtures that are shared
from tests.kubernetes.manifests import DEPLOYMENT, server
from tests.kubernetes.place import PATIENCE_S, Place, apply, wait_for
from tests.pipelines.flows.hospital import MODEL, NOW, Hospital

pytestmark = [pytest.mark.xdist_group("retraining"), pytest.mark.usefixtures("prefect_api", "cluster")]
SERVING = ServingThresholds(watch_s=2.0, ready_s=PATIENCE_S, min_requests=1)
ON_CLUSTER = RetrainParameters(model=MODEL, place="kubernetes", serving=SERVING)


@pytest.fixture
def cluster(place: Place, admin: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:  # noqa: F811
    """The cluster that the settings name, with a Deployment of the name that they name."""
    monkeypatch.setenv("GLIAFLOW_KUBECONFIG", str(place.kubeconfig))
    monkeypatch.setenv("GLIAFLOW_KUBERNETES_NAMESPACE", admin.namespace)
    monkeypatch.setenv("GLIAFLOW_KUBERNETES_DEPLOYMENT", DEPLOYMENT)
    settings.cache_clear()
    yield admin
    settings.cache_clear()


@contextmanager
def patients_asking(cluster: Cluster) -> Iterator[None]:
    """Let somebody ask every pod for predictions, again and again."""
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.2):
            with suppress(client.ApiException):
                for pod in cluster.core.list_namespaced_pod(cluster.namespace).items:
                    cluster.core.connect_get_namespaced_pod_proxy_with_path(
                        pod.metadata.name, cluster.namespace, "predict"
                    )

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def versions(cluster: Cluster) -> set[str | None]:
    """Return which versions of the model the pods are told to serve; None is the champion, whichever it is."""
    pods = [
        pod for pod in cluster.core.list_namespaced_pod(cluster.namespace).items if not pod.metadata.deletion_timestamp
    ]
    variables = [{entry.name: entry.value for entry in pod.spec.containers[0].env} for pod in pods]
    return {json.loads(each.get(PINS, "{}")).get(MODEL) for each in variables}


def test_the_place_is_the_cluster_that_the_settings_name(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    assert cluster.namespace
    assert isinstance(place_of(storage, MODEL, RetrainParameters()), KubernetesRollout)
    assert isinstance(place_of(storage, MODEL, RetrainParameters(place="local")), LocalRollout)
    monkeypatch.delenv("GLIAFLOW_KUBERNETES_DEPLOYMENT")
    settings.cache_clear()
    assert isinstance(place_of(storage, MODEL, RetrainParameters()), LocalRollout)


def test_a_retrained_model_is_served_by_every_pod_and_the_one_before_again(
    hospital: Hospital,
    cluster: Cluster,
    place: Place,  # noqa: F811
) -> None:
    apply(cluster, server(place.image))
    serving = json.dumps(SERVING.model_dump(include={"watch_s", "ready_s", "min_requests"}))
    text = (hospital.root / "params.yaml").read_text()
    before, _, _ = text.partition("  serving:")
    hospital.write("params.yaml", f"{before}  place: kubernetes\n  serving: {serving}\n")
    hospital.admit(160)
    with patients_asking(cluster):
        run = retrain(now=NOW)
    assert run.outcome == "promoted", run.reason
    second = registry.champion(hospital.storage, MODEL)
    assert second != run.champion
    wait_for("only pods of the new champion", lambda: versions(cluster) == {second})

    roll_back(MODEL, ON_CLUSTER)
    assert registry.champion(hospital.storage, MODEL) == run.champion
    wait_for("only pods of the champion before", lambda: versions(cluster) == {run.champion})


def test_a_version_that_crashes_in_its_pods_is_not_promoted(
    promoted: Hospital,
    cluster: Cluster,
    place: Place,  # noqa: F811
) -> None:
    storage = promoted.storage
    first, second = (entry.version for entry in registry.list_versions(storage, MODEL))
    apply(cluster, server(place.image, behaviour={first: "crash"}))
    with pytest.raises(RolloutFailed, match="the champion serves again") as caught:
        promote_version(f"{MODEL}/{first}", ON_CLUSTER, reason="trial", compared=False)
    assert "there is no such version of the model" in str(caught.value.got)
    with pytest.raises(RolloutFailed, match="the champion serves again"):
        roll_back(MODEL, ON_CLUSTER)
    assert registry.champion(storage, MODEL) == second
    assert len(registry.history(storage, MODEL)) == 1
    wait_for("only pods of the champion", lambda: versions(cluster) == {None})


def test_a_version_that_nobody_asks_cannot_be_judged(
    promoted: Hospital,
    cluster: Cluster,
    place: Place,  # noqa: F811
) -> None:
    storage = promoted.storage
    first, second = (entry.version for entry in registry.list_versions(storage, MODEL))
    apply(cluster, server(place.image, replicas=1))
    with pytest.raises(RolloutFailed, match="what served before serves again") as caught:
        promote_version(f"{MODEL}/{first}", ON_CLUSTER, reason="trial", compared=False)
    assert "0 requests, expected at least 1" in str(caught.value.got)
    assert registry.champion(storage, MODEL) == second
    wait_for("only pods of the champion", lambda: versions(cluster) == {None})
