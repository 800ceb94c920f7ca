"""Values that cannot be right stop before anything is rendered, and Helm says which and why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.charts.rendered import Charts

pytestmark = pytest.mark.xdist_group("charts")

BOTH_SCALERS = {
    "preprocessing": {"autoscaling": {"keda": {"enabled": True, "triggers": [{"type": "cpu", "metadata": {}}]}}}
}
BOTH_STORES = {"global": {"storage": {"pvc": {"existingClaim": "volumes"}}}}
INTERNET = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 443}]}]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"segmentation": {"replicas": "two"}}, ["segmentation:", "replicas: Invalid type", "Expected: integer"]),
        ({"segmentation": {"gpu": {"enabled": "yes"}}}, ["gpu.enabled: Invalid type", "given: string"]),
        ({"worker": {"replicas": 1.5}}, ["gliaflow:", "worker.replicas: Invalid type", "Expected: integer"]),
        ({"model_serving": {"resources": {"limits": {"memory": "4 GB"}}}}, ["limits.memory", "pattern"]),
        ({"segmentation": {"replica": 2}}, ["segmentation:", "Additional property replica is not allowed"]),
        ({"segmentaton": {}}, ["gliaflow:", "Additional property segmentaton is not allowed"]),
        ({"global": {"token": {"secret": "x"}}}, ["global.token: Additional property secret is not allowed"]),
        ({"feature_store": {"settings": {"token": "abc"}}}, ["settings: Additional property token is not allowed"]),
        ({"feature_store": {"secretEnv": {"GLIAFLOW_TOKEN": "abc"}}}, ["secretEnv.GLIAFLOW_TOKEN: Invalid type"]),
        (BOTH_SCALERS, ["preprocessing:", "autoscaling: Must not validate the schema (not)"]),
        (BOTH_STORES, ["global.storage: Must validate one and only one schema (oneOf)"]),
        ({"global": {"image": {"tag": "latest"}}}, ["global.image.tag: Must not validate the schema (not)"]),
        ({"feature_store": {"image": {"digest": "sha256:12"}}}, ["image.digest", "pattern"]),
        ({"worker": {"kubernetesApi": INTERNET}}, ["kubernetesApi.0.to.0.ipBlock.cidr", "pattern"]),
        ({"segmentation": {"gpu": {"resource": "gpu"}}}, ["gpu.resource", "pattern"]),
        ({"segmentation": {"podDisruptionBudget": {"maxUnavailable": 0}}}, ["maxUnavailable: Must be greater than"]),
        ({"preprocessing": {"service": "registration"}}, ["service: service must be one of"]),
        ({"segmentation": {"autoscaling": {"keda": {"triggers": []}}}}, ["autoscaling.keda.triggers", "at least 1"]),
        ({"prefect": {"apiUrl": "prefect:4200"}}, ["prefect.apiUrl", "pattern"]),
    ],
)
def test_schema_names_the_value(charts: Charts, values: dict[str, Any], said: list[str]) -> None:
    message = charts.refusal("production", values)
    assert "values don't meet the specifications of the schema" in message
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"global": {"token": {"existingSecret": ""}}},
            "global.token.existingSecret is empty: services that others can reach refuse to start without a token",
        ),
        ({"global": {"network": {"storage": []}}}, "global.network.storage is empty: with s3, say where"),
        ({"global": {"network": {"prometheus": []}}}, "global.network.prometheus is empty: with monitoring"),
        ({"worker": {"kubernetesApi": []}}, "worker.kubernetesApi is empty: say where the Kubernetes API listens"),
        ({"migrations": {"egress": []}}, "migrations.egress is empty: say where the databases listen"),
        (
            {"feature_store": {"strategy": {"maxSurge": 0}}},
            "feature_store: strategy.maxSurge and strategy.maxUnavailable are both 0",
        ),
        (
            {"preprocessing": {"autoscaling": {"hpa": {"minReplicas": 9}}}},
            "preprocessing: autoscaling.hpa.minReplicas is above maxReplicas",
        ),
        (
            {"segmentation": {"autoscaling": {"keda": {"minReplicas": 9}}}},
            "segmentation: autoscaling.keda.minReplicas is above maxReplicas",
        ),
    ],
)
def test_templates_say_what_to_do(charts: Charts, values: dict[str, Any], said: str) -> None:
    assert said in charts.refusal("production", values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (BOTH_SCALERS, "preprocessing: autoscaling.hpa and autoscaling.keda are both enabled"),
        (BOTH_STORES, "global.storage names both pvc and s3: keep exactly one"),
    ],
)
def test_what_must_not_be_both_is_refused_without_the_schema_too(
    charts: Charts, values: dict[str, Any], said: str
) -> None:
    assert said in charts.refusal("production", values, "--skip-schema-validation")


def test_without_a_profile_the_missing_choices_are_named(charts: Charts) -> None:
    assert "global.storage: Must validate one and only one schema (oneOf)" in charts.refusal()
    message = charts.refusal(chart="service")
    assert "service: service must be one of" in message
    assert "global.storage: Must validate one and only one schema (oneOf)" in message
