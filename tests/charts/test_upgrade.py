"""An upgrade of a release goes through, and takes nothing with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from services.shared.settings import SERVICE_NAMES, Settings
from tests.charts.rendered import SERVICES, Charts, Object, Rendered

pytestmark = pytest.mark.xdist_group("charts")

ROOT = Path(__file__).parents[2]


def chart(name: str) -> Object:
    found: Object = yaml.safe_load((ROOT / "charts" / name / "Chart.yaml").read_text())
    return found


def test_selectors_are_those_of_every_release_so_far(rendered: Rendered) -> None:
    """Kubernetes refuses to change a Deployment's selector: a release whose selectors differ cannot be upgraded."""
    assert {entry["metadata"]["name"]: entry["spec"]["selector"] for entry in rendered.of("Deployment")} == {
        f"rel-{name}": {"matchLabels": {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "rel"}}
        for name in (*SERVICES, "worker")
    }


def test_a_new_version_changes_no_selector_and_no_claim(charts: Charts, profiles: dict[str, Rendered]) -> None:
    before = profiles["gpu"]
    after = charts.template("gpu", {"global": {"image": {"tag": "9.9.9"}}})
    for old in before.of("Deployment"):
        new = after.named("Deployment", old["metadata"]["name"].removeprefix("rel-"))
        assert new["spec"]["selector"] == old["spec"]["selector"]
        assert new["spec"]["template"] != old["spec"]["template"]
    (old,) = before.of("PersistentVolumeClaim")
    (new,) = after.of("PersistentVolumeClaim")
    assert new["spec"] == old["spec"]
    assert new["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_changed_settings_restart_their_pods_alone(charts: Charts, profiles: dict[str, Rendered]) -> None:
    before = profiles["cpu"]
    after = charts.template("cpu", {"segmentation": {"settings": {"max_request_mb": 128}}})
    changed = [
        name
        for name in (*SERVICES, "worker")
        if before.named("Deployment", name)["spec"]["template"] != after.named("Deployment", name)["spec"]["template"]
    ]
    assert changed == ["segmentation"]


def test_the_same_values_render_the_same(charts: Charts, profiles: dict[str, Rendered]) -> None:
    assert charts.template("production") == profiles["production"]


def test_migrations_run_before_the_rest_and_bring_what_they_need(profiles: dict[str, Rendered]) -> None:
    hooked = {
        (entry["kind"], entry["metadata"]["name"]): int(entry["metadata"]["annotations"]["helm.sh/hook-weight"])
        for entry in profiles["production"].objects
        if "helm.sh/hook" in entry["metadata"].get("annotations", {})
    }
    assert hooked == {
        ("ServiceAccount", "rel-migrations"): -10,
        ("NetworkPolicy", "rel-migrations"): -10,
        ("Job", "rel-migrate-features"): 0,
        ("Job", "rel-migrate-prefect"): 0,
    }
    for job in profiles["production"].of("Job"):
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert job["spec"]["activeDeadlineSeconds"] > 0
    for profile in ("cpu", "gpu"):
        assert not profiles[profile].of("Job")


@pytest.mark.slow
def test_feature_registry_is_migrated_twice_without_harm(profiles: dict[str, Rendered], tmp_path: Path) -> None:
    job = profiles["production"].named("Job", "migrate-features")
    program, option, code = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert (program, option) == ("python", "-c")
    database = tmp_path / "registry.db"
    environment = os.environ | {"GLIAFLOW_FEATURE_REGISTRY_URL": f"sqlite:///{database}"}
    done = subprocess.run([sys.executable, "-c", code + code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert database.stat().st_size > 0


def test_prefect_knows_the_commands(profiles: dict[str, Rendered]) -> None:
    (worker,) = profiles["production"].named("Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    migrate = profiles["production"].named("Job", "migrate-prefect")["spec"]["template"]["spec"]["containers"][0]
    for command in (worker["command"], migrate["command"]):
        words = [word for word in command if not word.startswith("--")]
        options = {word.split("=")[0] for word in command if word.startswith("--")}
        done = subprocess.run(
            [sys.executable, "-m", *words, "--help"], capture_output=True, text=True, timeout=120, check=True
        )
        assert all(option in done.stdout for option in options), done.stdout


def test_a_flow_run_is_what_prefect_takes(rendered: Rendered) -> None:
    """Prefect's Kubernetes worker checks these places itself and puts the command into ``args``."""
    job = rendered.flow_run(command="prefect flow-run execute", role="promoter", gpus=1, deadline_seconds=60)
    spec = job["spec"]["template"]["spec"]
    assert (job["apiVersion"], job["kind"], spec["restartPolicy"]) == ("batch/v1", "Job", "Never")
    (container,) = spec["containers"]
    assert container["name"] == "prefect-job"
    assert container["command"] == ["/usr/bin/env"]
    assert spec["serviceAccountName"] == "rel-promoter"
    assert job["spec"]["activeDeadlineSeconds"] == 60
    assert "runtimeClassName" not in spec
    template = rendered.job_template()
    known = set(template["variables"]["properties"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used <= known
    assert known - used <= {"runtime_class"}


def test_the_umbrella_is_the_same_chart_once_a_service() -> None:
    umbrella, service = chart("gliaflow"), chart("service")
    lock = yaml.safe_load((ROOT / "charts/gliaflow/Chart.lock").read_text())
    assert [entry["alias"] for entry in umbrella["dependencies"]] == list(SERVICE_NAMES)
    for entry in [*umbrella["dependencies"], *lock["dependencies"]]:
        assert (entry["name"], entry["version"], entry["repository"]) == (
            "service",
            service["version"],
            "file://../service",
        )
    values = yaml.safe_load((ROOT / "charts/gliaflow/values.yaml").read_text())
    assert [values[name]["service"] for name in SERVICE_NAMES] == list(SERVICE_NAMES)


def test_charts_carry_the_version_of_the_software() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart("service")["appVersion"] == chart("gliaflow")["appVersion"] == version


@pytest.mark.parametrize("path", sorted((ROOT / "charts/gliaflow").glob("values-*.yaml")), ids=lambda path: path.stem)
def test_profiles_with_gpus_take_the_images_for_gpus(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    gpus = any(values.get(name, {}).get("gpu", {}).get("enabled") for name in SERVICE_NAMES)
    tag = values["global"].get("image", {}).get("tag")
    assert tag == (f"{chart('gliaflow')['appVersion']}-cuda" if gpus else None)


def test_shared_values_and_their_schema_are_said_alike() -> None:
    folders = [ROOT / "charts" / name for name in ("service", "gliaflow")]
    one, other = (yaml.safe_load((folder / "values.yaml").read_text())["global"] for folder in folders)
    assert one == other
    schemas = [json.loads((folder / "values.schema.json").read_text()) for folder in folders]
    assert schemas[0]["definitions"] == schemas[1]["definitions"]


def test_every_setting_of_the_schemas_is_one_of_the_software() -> None:
    for name, path in (("service", ("settings",)), ("gliaflow", ("pipelines", "settings"))):
        node = json.loads((ROOT / "charts" / name / "values.schema.json").read_text())
        for step in path:
            node = node["properties"][step]
        assert set(node["properties"]) <= set(Settings.model_fields)


def test_every_object_of_the_schemas_is_closed() -> None:
    """A key that the schema does not know is refused everywhere, so a misspelt one cannot go unnoticed."""

    def open_places(node: object, path: str) -> list[str]:
        if isinstance(node, list):
            return [place for entry in node for place in open_places(entry, path)]
        if not isinstance(node, dict):
            return []
        found = (
            [path]
            if "properties" in node and node.get("type") == "object" and "additionalProperties" not in node
            else []
        )
        return found + [place for key, entry in node.items() for place in open_places(entry, f"{path}/{key}")]

    for name in ("service", "gliaflow"):
        assert open_places(json.loads((ROOT / "charts" / name / "values.schema.json").read_text()), name) == []
