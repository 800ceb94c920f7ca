"""The stand-in keeps to the API's rules, as the official client sees them; a real cluster must pass the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, watch

from pipelines.cluster.connection import Cluster
from tests.kubernetes.manifests import DEPLOYMENT, Object, job, server
from tests.kubernetes.place import Place, apply, connection, names_of, wait_for

pytestmark = pytest.mark.xdist_group("kubernetes")
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"


def settings_map(name: str, **labels: str) -> Object:
    return {"kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "1", "b": "2"}}


def patch(admin: Cluster, body: object, content_type: str) -> Any:
    return admin.core.patch_namespaced_config_map("one", admin.namespace, body, _content_type=content_type)


def status_of(error: client.ApiException) -> Object:
    found: Object = yaml.safe_load(error.body)
    assert (found["kind"], found["code"]) == ("Status", error.status)
    return found


def test_versions_grow_and_a_stale_one_is_refused(admin: Cluster) -> None:
    apply(admin, settings_map("one"))
    first = admin.core.read_namespaced_config_map("one", admin.namespace)
    second = patch(admin, {"data": {"a": "2"}}, MERGE)
    assert int(second.metadata.resource_version) > int(first.metadata.resource_version)
    assert patch(admin, {"data": {"a": "2"}}, MERGE).metadata.resource_version == second.metadata.resource_version
    stale = {"metadata": {"resourceVersion": first.metadata.resource_version}, "data": {"a": "3"}}
    for call in (
        lambda: patch(admin, stale, MERGE),
        lambda: admin.core.replace_namespaced_config_map("one", admin.namespace, first),
    ):
        with pytest.raises(client.ApiException) as caught:
            call()
        assert (caught.value.status, status_of(caught.value)["reason"]) == (409, "Conflict")


def test_each_kind_of_patch(admin: Cluster) -> None:
    apply(admin, settings_map("one"))
    assert patch(admin, {"data": {"a": None, "c": "3"}}, MERGE).data == {"b": "2", "c": "3"}
    assert patch(admin, [{"op": "replace", "path": "/data/b", "value": "4"}], JSON).data == {"b": "4", "c": "3"}
    with pytest.raises(client.ApiException) as caught:
        patch(admin, [{"op": "test", "path": "/data/b", "value": "5"}], JSON)
    assert caught.value.status == 422
    apply(admin, server("i:1", replicas=0))
    variable = {"name": "ADDED", "value": "1"}
    body = {"spec": {"template": {"spec": {"containers": [{"name": "service", "env": [variable]}]}}}}
    made = admin.apps.patch_namespaced_deployment(DEPLOYMENT, admin.namespace, body, _content_type=STRATEGIC)
    (container,) = made.spec.template.spec.containers
    assert sorted(entry.name for entry in container.env) == ["ADDED", "BEHAVIOUR", "POD_IP"]
    assert container.image == "i:1"
    gone = {
        "spec": {
            "template": {"spec": {"containers": [{"name": "service", "env": [{"name": "ADDED", "$patch": "delete"}]}]}}
        }
    }
    made = admin.apps.patch_namespaced_deployment(DEPLOYMENT, admin.namespace, gone, _content_type=STRATEGIC)
    assert sorted(entry.name for entry in made.spec.template.spec.containers[0].env) == ["BEHAVIOUR", "POD_IP"]


def test_what_may_not_change_is_invalid(admin: Cluster) -> None:
    apply(admin, server("i:1", replicas=0), job("once", "i:1"))
    labels = {"another": "label"}
    selector = {"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}}
    with pytest.raises(client.ApiException) as caught:
        admin.apps.patch_namespaced_deployment(DEPLOYMENT, admin.namespace, selector, _content_type=STRATEGIC)
    assert (caught.value.status, status_of(caught.value)["reason"]) == (422, "Invalid")
    image = {"spec": {"template": {"spec": {"containers": [{"name": "prefect-job", "image": "i:2"}]}}}}
    with pytest.raises(client.ApiException) as caught:
        admin.batch.patch_namespaced_job("once", admin.namespace, image, _content_type=STRATEGIC)
    assert caught.value.status == 422
    with pytest.raises(client.ApiException) as caught:
        apply(admin, settings_map("Not_A_Name"))
    assert caught.value.status == 422


def test_names_are_taken_once_and_missing_ones_are_not_found(admin: Cluster) -> None:
    apply(admin, settings_map("one"))
    with pytest.raises(client.ApiException) as caught:
        apply(admin, settings_map("one"))
    assert (caught.value.status, status_of(caught.value)["reason"]) == (409, "AlreadyExists")
    with pytest.raises(client.ApiException) as caught:
        admin.core.read_namespaced_config_map("none", admin.namespace)
    assert (caught.value.status, status_of(caught.value)["message"]) == (404, 'configmaps "none" not found')
    with pytest.raises(client.ApiException) as caught:
        apply(Cluster(admin.api, "gliaflow-no-such-namespace", inside=False), settings_map("one"))
    assert caught.value.status == 404


def test_lists_choose_by_label_and_come_in_pages(admin: Cluster) -> None:
    apply(admin, *(settings_map(f"m{number}", parity=str(number % 2)) for number in range(5)))

    def listed(**options: object) -> list[str]:
        return names_of(admin.core.list_namespaced_config_map(admin.namespace, **options).items)

    assert listed(label_selector="parity=1") == ["m1", "m3"]
    assert listed(label_selector="parity in (0,2)") == ["m0", "m2", "m4"]
    assert "m0" not in listed(label_selector="!parity")
    assert listed(field_selector="metadata.name=m3") == ["m3"]
    page = admin.core.list_namespaced_config_map(admin.namespace, label_selector="parity", limit=3)
    rest = admin.core.list_namespaced_config_map(
        admin.namespace, label_selector="parity", limit=3, _continue=page.metadata._continue
    )
    assert names_of([*page.items, *rest.items]) == ["m0", "m1", "m2", "m3", "m4"]


def test_a_watch_tells_what_happened_since(admin: Cluster) -> None:
    start = admin.core.list_namespaced_config_map(admin.namespace).metadata.resource_version
    apply(admin, settings_map("one", watched="yes"))
    patch(admin, {"data": {"a": "2"}}, MERGE)
    admin.core.delete_namespaced_config_map("one", admin.namespace)
    seen = [
        (event["type"], event["object"].metadata.name)
        for event in watch.Watch().stream(
            admin.core.list_namespaced_config_map,
            admin.namespace,
            label_selector="watched=yes",
            resource_version=start,
            timeout_seconds=2,
        )
    ]
    assert seen == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


def test_a_watch_from_a_forgotten_version_is_expired(place: Place, admin: Cluster) -> None:
    stand_in = place.require_stand_in("a real cluster forgets its history when it wants to")
    apply(admin, settings_map("one"))
    stand_in.store.compact()
    patch(admin, {"data": {"a": "2"}}, MERGE)
    events = watch.Watch().stream(
        admin.core.list_namespaced_config_map, admin.namespace, resource_version="1", timeout_seconds=2
    )
    with pytest.raises(client.ApiException) as caught:
        list(events)
    assert caught.value.status == 410


def test_bookmarks_move_a_watch_on(place: Place, admin: Cluster) -> None:
    place.require_stand_in("a real cluster sends bookmarks about once a minute")
    found: list[str] = []
    reply = admin.core.list_namespaced_config_map(
        admin.namespace, watch=True, allow_watch_bookmarks=True, timeout_seconds=3, _preload_content=False
    )
    found.extend(line.decode() for line in reply.data.splitlines())
    marks = [yaml.safe_load(line) for line in found if "BOOKMARK" in line]
    assert marks
    assert all(mark["object"]["metadata"]["resourceVersion"] for mark in marks)


def test_a_watch_that_begins_with_what_there_is_tells_where_that_ends(admin: Cluster) -> None:
    apply(admin, settings_map("one", watched="yes"))
    reply = admin.core.list_namespaced_config_map(
        admin.namespace,
        watch=True,
        send_initial_events=True,
        resource_version_match="NotOlderThan",
        allow_watch_bookmarks=True,
        label_selector="watched=yes",
        timeout_seconds=2,
        _preload_content=False,
    )
    first, second, *_ = (yaml.safe_load(line) for line in reply.data.splitlines())
    assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "one")
    assert second["type"] == "BOOKMARK"
    assert second["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_nobody_sees_more_than_his_role(place: Place, admin: Cluster) -> None:
    named = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]}
    subject = {"kind": "ServiceAccount", "name": "reader"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    apply(
        admin,
        settings_map("one"),
        settings_map("two"),
        {"kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {"kind": "Role", "metadata": {"name": "reader"}, "rules": [named]},
        {"kind": "RoleBinding", "metadata": {"name": "reader"}, "roleRef": reference, "subjects": [subject]},
    )
    reader = connection(place.account(admin.namespace, "reader"), admin.namespace)
    wait_for("the role to count", lambda: _may_read(reader))
    for call in (
        lambda: reader.core.read_namespaced_config_map("two", admin.namespace),
        lambda: reader.core.list_namespaced_config_map(admin.namespace),
        lambda: reader.core.delete_namespaced_config_map("one", admin.namespace),
        lambda: reader.core.read_namespaced_config_map("one", "default"),
    ):
        with pytest.raises(client.ApiException) as caught:
            call()
        assert (caught.value.status, status_of(caught.value)["reason"]) == (403, "Forbidden")
        assert f'User "system:serviceaccount:{admin.namespace}:reader" cannot' in status_of(caught.value)["message"]


def _may_read(reader: Cluster) -> bool:
    try:
        return bool(reader.core.read_namespaced_config_map("one", reader.namespace))
    except client.ApiException as error:
        if error.status != 403:
            raise
        return False


def test_a_job_runs_its_command_and_goes_with_its_pods(place: Place, admin: Cluster) -> None:
    apply(admin, job("once", place.image, code="print('computed')"))
    wait_for("the job", lambda: admin.batch.read_namespaced_job("once", admin.namespace).status.succeeded)
    (pod,) = admin.core.list_namespaced_pod(admin.namespace, label_selector="job-name=once").items
    assert admin.core.read_namespaced_pod_log(pod.metadata.name, admin.namespace) == "computed\n"
    admin.batch.delete_namespaced_job("once", admin.namespace, propagation_policy="Background")
    wait_for("the pod to go", lambda: not admin.core.list_namespaced_pod(admin.namespace).items)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on the PATH")
def test_kubectl_follows_a_rollout_and_takes_it_back(place: Place, admin: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(server(place.image, replicas=1)))

    def kubectl(*words: str) -> str:
        command = ["kubectl", "--kubeconfig", str(place.kubeconfig), "-n", admin.namespace, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    kubectl("apply", "--validate=false", "-f", str(file))
    follow = ("rollout", "status", f"deployment/{DEPLOYMENT}", "--timeout=100s")
    assert "successfully rolled out" in kubectl(*follow)
    kubectl("set", "env", f"deployment/{DEPLOYMENT}", "CHANGED=1")
    assert "successfully rolled out" in kubectl(*follow)
    kubectl("rollout", "undo", f"deployment/{DEPLOYMENT}")
    assert "successfully rolled out" in kubectl(*follow)
    spec = admin.apps.read_namespaced_deployment(DEPLOYMENT, admin.namespace).spec.template.spec
    assert "CHANGED" not in {entry.name for entry in spec.containers[0].env}
