"""Helm and what it renders, as the tests of the charts see them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RELEASE = "rel"
NAMESPACE = "brain"
PROFILES = ("cpu", "gpu", "production")
SERVICES = ("preprocessing", "segmentation", "feature-store", "model-serving", "survival-analytics")

Object = dict[str, Any]


@dataclass(frozen=True)
class Charts:
    """A copy of the charts whose dependencies are packed, and the Helm to render them with."""

    helm: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Helm, without the network and without a cluster."""
        home = self.folder / "helm-home"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
            "KUBECONFIG": str(home / "no-cluster"),
        }
        return subprocess.run(
            [str(self.helm), *arguments], capture_output=True, text=True, cwd=self.folder, env=environment, timeout=120
        )

    def arguments(self, profile: str | None, values: Mapping[str, Any] | None, chart: str) -> list[str]:
        """Return the chart and its values, as arguments."""
        made = [chart]
        if profile is not None:
            made += ["--values", f"{chart}/values-{profile}.yaml"]
        if values is not None:
            file = self.folder / f"values-{abs(hash(json.dumps(values, sort_keys=True)))}.json"
            file.write_text(json.dumps(values))
            made += ["--values", file.name]
        return made

    def template(
        self, profile: str | None = None, values: Mapping[str, Any] | None = None, *, chart: str = "gliaflow"
    ) -> Rendered:
        """Render a chart."""
        done = self.run("template", RELEASE, "--namespace", NAMESPACE, *self.arguments(profile, values, chart))
        assert done.returncode == 0, done.stderr
        return Rendered(tuple(entry for entry in yaml.safe_load_all(done.stdout) if entry))

    def refusal(
        self,
        profile: str | None = None,
        values: Mapping[str, Any] | None = None,
        *options: str,
        chart: str = "gliaflow",
    ) -> str:
        """Return what Helm says of values that it must refuse."""
        done = self.run(
            "template", RELEASE, "--namespace", NAMESPACE, *self.arguments(profile, values, chart), *options
        )
        assert done.returncode != 0, "Helm took values that it should have refused"
        assert done.stdout == "", "nothing may be rendered of values that are refused"
        return done.stderr


@dataclass(frozen=True)
class Rendered:
    """The objects of one rendering."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [entry for entry in self.objects if entry["kind"] == kind]

    def named(self, kind: str, name: str) -> Object:
        """Return one object; ``name`` goes without the release's."""
        (found,) = (entry for entry in self.of(kind) if entry["metadata"]["name"] == f"{RELEASE}-{name}")
        return found

    def has(self, kind: str, name: str) -> bool:
        """Return whether there is such an object."""
        return any(entry["metadata"]["name"] == f"{RELEASE}-{name}" for entry in self.of(kind))

    def workloads(self) -> list[Object]:
        """Return everything that makes pods, with what the worker makes of a flow run."""
        return [*self.of("Deployment"), *self.of("Job"), self.flow_run()]

    def containers(self) -> Iterator[tuple[str, Object]]:
        """Give every container with the name of what it belongs to."""
        for workload in self.workloads():
            pod = workload["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield workload["metadata"].get("name", "flow run"), container

    def job_template(self) -> Object:
        """Return the work pool's base job template."""
        text = self.named("ConfigMap", "worker")["data"]["base-job-template.json"]
        template: Object = json.loads(text)
        return template

    def flow_run(self, **variables: object) -> Object:
        """Return the Job that Prefect's own templating makes of a flow run."""
        from prefect.utilities.templating import apply_values

        template = self.job_template()
        known = template["variables"]["properties"]
        assert set(variables) <= set(known)
        values = {name: entry["default"] for name, entry in known.items() if "default" in entry} | variables
        job: Object = apply_values(template["job_configuration"]["job_manifest"], values)
        return job


def pod_of(workload: Object) -> Object:
    """Return the pod that a workload makes."""
    pod: Object = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: Object) -> dict[str, str]:
    """Return the labels of the pods that a workload makes."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels
