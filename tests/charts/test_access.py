"""Who may talk to whom, and who may ask Kubernetes for what."""

from __future__ import annotations

import pytest

from tests.charts.rendered import RELEASE, SERVICES, Object, Rendered, labels_of, pod_of

pytestmark = pytest.mark.xdist_group("charts")


def chosen_by(policy: Object, labels: dict[str, str]) -> bool:
    return policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()


def test_traffic_is_denied_unless_a_policy_names_it(rendered: Rendered) -> None:
    deny = rendered.named("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = [entry for entry in rendered.of("NetworkPolicy") if entry["spec"]["podSelector"]]
    for policy in policies:
        for rule in policy["spec"].get("egress", []):
            assert rule["to"]
            assert all(peer for peer in rule["to"])
            assert rule["ports"]
            for peer in rule["to"]:
                assert not peer.get("ipBlock", {}).get("cidr", "10.0.0.0/8").endswith("/0")
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"]
            assert all(peer for peer in rule["from"])
            assert rule["ports"]
    for workload in rendered.workloads():
        assert any(chosen_by(policy, labels_of(workload)) for policy in policies), workload["metadata"]


def test_only_flows_and_prometheus_call_services(rendered: Rendered) -> None:
    callers = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": "pipelines"}
    assert callers.items() <= labels_of(rendered.flow_run()).items()
    for name in SERVICES:
        (rule,) = rendered.named("NetworkPolicy", name)["spec"]["ingress"]
        flows, *others = rule["from"]
        assert flows == {"podSelector": {"matchLabels": callers}}
        assert all(peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "prometheus" for peer in others)
        assert len(others) == len(rendered.of("ServiceMonitor")) / 5
    for name in ("worker", "pipelines"):
        policy = rendered.named("NetworkPolicy", name)["spec"]
        assert "Ingress" in policy["policyTypes"]
        assert "ingress" not in policy


def test_kubernetes_answers_worker_and_promoter_alone(rendered: Rendered) -> None:
    def may_ask(labels: dict[str, str]) -> bool:
        rules = [
            rule
            for policy in rendered.of("NetworkPolicy")
            if policy["spec"]["podSelector"] and chosen_by(policy, labels)
            for rule in policy["spec"]["egress"]
        ]
        return any(port["port"] == 6443 for rule in rules for port in rule["ports"])

    def holds_token(pod: Object) -> bool:
        account = rendered.named("ServiceAccount", pod["serviceAccountName"].removeprefix(f"{RELEASE}-"))
        given: bool = pod.get("automountServiceAccountToken", account["automountServiceAccountToken"])
        return given

    holders = set()
    for workload in [*rendered.workloads(), rendered.flow_run(role="promoter")]:
        pod = pod_of(workload)
        assert may_ask(labels_of(workload)) == holds_token(pod)
        if holds_token(pod):
            holders.add(pod["serviceAccountName"])
    assert holders == {"rel-worker", "rel-promoter"}


def test_roles_grant_the_least(rendered: Rendered) -> None:
    roles = {entry["metadata"]["name"]: entry["rules"] for entry in rendered.of("Role")}
    assert roles == {
        "rel-worker": [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "list", "watch", "delete"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        ],
        "rel-promoter": [
            {
                "apiGroups": ["apps"],
                "resources": ["deployments"],
                "resourceNames": ["rel-model-serving"],
                "verbs": ["get", "patch"],
            },
            {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["list"]},
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["delete"]},
        ],
    }
    assert rendered.has("Deployment", "model-serving")
    for binding in rendered.of("RoleBinding"):
        (subject,) = binding["subjects"]
        assert subject["name"] == binding["roleRef"]["name"] == binding["metadata"]["name"]
