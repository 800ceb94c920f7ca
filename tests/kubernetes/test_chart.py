"""A real API server takes every object of every profile in silence, and knows each of its fields."""

from __future__ import annotations

import copy

import pytest
from kubernetes import client, dynamic
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from pipelines.cluster.connection import Cluster
from tests.charts.conftest import profiles, rendered  # noqa: F401 - fixtures that are shared
from tests.charts.rendered import NAMESPACE, Object, Rendered
from tests.kubernetes.place import Place

pytestmark = pytest.mark.xdist_group("kubernetes")
STRICT = [("dryRun", "All"), ("fieldValidation", "Strict")]


def told(api: dynamic.DynamicClient, entry: Object, namespace: str) -> str:
    """Return what the API server would say of a new object; nothing where it takes it in silence."""
    try:
        kind = api.resources.get(api_version=entry["apiVersion"], kind=entry["kind"])
        path = kind.path(namespace=namespace)
        reply = api.request("post", path, body=entry, query_params=list(STRICT), serialize=False)
    except ResourceNotFoundError:
        return "not installed"
    except client.ApiException as error:
        return str(error.body)
    return reply.headers.get("Warning", "")


def test_every_object_is_taken_as_it_is(place: Place, admin: Cluster, rendered: Rendered) -> None:  # noqa: F811
    place.require_real("the stand-in knows only the kinds and fields that promotion and jobs need")
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    admin.core.patch_namespace(admin.namespace, {"metadata": {"labels": level}})
    api = dynamic.DynamicClient(admin.api)
    jobs = [rendered.flow_run(), rendered.flow_run(role="promoter", gpus=1, node_selector={"zone": "a"})]
    found = {}
    for entry in [*rendered.objects, *jobs]:
        made = copy.deepcopy(entry)
        assert made["metadata"]["namespace"] == NAMESPACE
        made["metadata"]["namespace"] = admin.namespace
        found[entry["kind"], entry["metadata"].get("name", "flow run")] = told(api, made, admin.namespace)
    # Operators' own kinds, where the cluster has no such operator
    absent = {kind for (kind, _), said in found.items() if said == "not installed"}
    assert absent <= {"ServiceMonitor", "ScaledObject"}
    assert {which: said for which, said in found.items() if said and which[0] not in absent} == {}
    if absent:
        pytest.skip(f"all other objects are taken; the cluster knows no {' and no '.join(sorted(absent))}")
