"""Every profile passes Helm's linter and Kubernetes' own schemas."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema
import pytest

from tests.charts.conftest import VERSIONS
from tests.charts.rendered import PROFILES, Charts, Object, Rendered

pytestmark = pytest.mark.xdist_group("charts")

CUSTOM = {"ServiceMonitor": "monitoring.coreos.com/v1", "ScaledObject": "keda.sh/v1alpha1"}


@pytest.mark.parametrize("profile", PROFILES)
def test_linter_finds_nothing(charts: Charts, profile: str) -> None:
    done = charts.run("lint", "--strict", *charts.arguments(profile, None, "gliaflow"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout
    assert "ERROR" not in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_fit_kubernetes_schemas(
    rendered: Rendered, check_schema: Callable[[Object, str], None], version: str
) -> None:
    core = [entry for entry in rendered.objects if entry["kind"] not in CUSTOM]
    assert len(core) > 40
    for entry in core:
        check_schema(entry, version)


def test_schema_check_can_fail(rendered: Rendered, check_schema: Callable[[Object, str], None]) -> None:
    service = rendered.named("Service", "segmentation")
    with pytest.raises(jsonschema.ValidationError, match="sesionAffinity"):
        check_schema(service | {"spec": service["spec"] | {"sesionAffinity": "None"}}, VERSIONS[0])


def test_flow_runs_fit_kubernetes_schema(rendered: Rendered, check_schema: Callable[[Object, str], None]) -> None:
    plain = rendered.flow_run()
    large = rendered.flow_run(gpus=2, role="promoter", node_selector={"zone": "a"}, command="python -m x")
    for job in (plain, large):
        job["spec"]["template"]["spec"]["containers"][0]["args"] = ["prefect", "flow-run", "execute"]
        check_schema(job, VERSIONS[0])
        check_schema(job, VERSIONS[-1])


def test_custom_objects_have_their_operators_shape(profiles: dict[str, Rendered]) -> None:
    production = profiles["production"]
    for entry in production.objects:
        if entry["kind"] in CUSTOM:
            assert entry["apiVersion"] == CUSTOM[entry["kind"]]
    (scaled,) = production.of("ScaledObject")
    assert set(scaled["spec"]) == {
        "scaleTargetRef",
        "minReplicaCount",
        "maxReplicaCount",
        "pollingInterval",
        "cooldownPeriod",
        "triggers",
    }
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "prometheus"
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    monitors = production.of("ServiceMonitor")
    assert len(monitors) == 5
    for monitor in monitors:
        service = production.named("Service", monitor["metadata"]["name"].removeprefix("rel-"))
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        (port,) = monitor["spec"]["endpoints"]
        assert port["port"] in {entry["name"] for entry in service["spec"]["ports"]}
        assert port["path"] == "/metrics"
