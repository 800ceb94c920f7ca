"""A cluster to test in: the stand-in, or the one of ``GLIAFLOW_TEST_KUBECONFIG``."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from pipelines.cluster.connection import Cluster
from tests.kubernetes.apiserver.cluster import StandIn
from tests.kubernetes.manifests import Object

PATIENCE_S = 180.0


@dataclass(frozen=True)
class Place:
    """A cluster, and what the suite may do with it as its administrator."""

    kubeconfig: Path
    image: str
    stand_in: StandIn | None
    folder: Path

    def admin(self, namespace: str) -> Cluster:
        """Return the administrator's connection."""
        return connection(self.kubeconfig, namespace)

    def account(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig that carries nothing but a service account's token."""
        request = {"spec": {"audiences": None, "expirationSeconds": 3600}}
        made = self.admin(namespace).core.create_namespaced_service_account_token(name, namespace, request)
        content = yaml.safe_load(self.kubeconfig.read_text())
        context = next(entry["context"] for entry in content["contexts"] if entry["name"] == content["current-context"])
        kept = [entry for entry in content["clusters"] if entry["name"] == context["cluster"]]
        path = self.folder / f"{uuid.uuid4().hex}.yaml"
        content |= {
            "clusters": kept,
            "users": [{"name": "account", "user": {"token": made.status.token}}],
            "contexts": [
                {
                    "name": "account",
                    "context": {"cluster": context["cluster"], "user": "account", "namespace": namespace},
                }
            ],
            "current-context": "account",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def require_stand_in(self, reason: str) -> StandIn:
        """Return the stand-in, or skip where a real cluster is used."""
        if self.stand_in is None:
            pytest.skip(reason)
        return self.stand_in

    def require_real(self, reason: str) -> None:
        """Skip where the stand-in is used."""
        if self.stand_in is not None:
            pytest.skip(reason)


def connection(kubeconfig: Path, namespace: str, *, inside: bool = False) -> Cluster:
    """Return a connection by a kubeconfig."""
    configuration = client.Configuration()
    config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    configuration.retries = False
    return Cluster(client.ApiClient(configuration), namespace, inside)


def apply(cluster: Cluster, *objects: Object) -> None:
    """Create objects in the connection's namespace."""
    rbac = client.RbacAuthorizationV1Api(cluster.api)
    create: dict[str, Callable[[str, Object], object]] = {
        "Deployment": cluster.apps.create_namespaced_deployment,
        "Job": client.BatchV1Api(cluster.api).create_namespaced_job,
        "ResourceQuota": cluster.core.create_namespaced_resource_quota,
        "ServiceAccount": cluster.core.create_namespaced_service_account,
        "ConfigMap": cluster.core.create_namespaced_config_map,
        "Secret": cluster.core.create_namespaced_secret,
        "PersistentVolumeClaim": cluster.core.create_namespaced_persistent_volume_claim,
        "Role": rbac.create_namespaced_role,
        "RoleBinding": rbac.create_namespaced_role_binding,
    }
    for entry in objects:
        create[entry["kind"]](cluster.namespace, _in_namespace(entry, cluster.namespace))


def _in_namespace(entry: Object, namespace: str) -> Object:
    made = {**entry, "metadata": {**entry["metadata"], "namespace": namespace}}
    if "subjects" in entry:
        made["subjects"] = [{**subject, "namespace": namespace} for subject in entry["subjects"]]
    return made


def wait_for(what: str, holds: Callable[[], object], *, seconds: float = PATIENCE_S) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def names_of(objects: Iterable[object]) -> list[str]:
    """Return the names of objects that the client gave."""
    return sorted(str(entry.metadata.name) for entry in objects)  # type: ignore[attr-defined]
