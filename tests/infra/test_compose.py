"""The compose file is safe to run, and its parts fit together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.shared.settings import SERVICE_NAMES, Settings

INFRA = Path(__file__).resolve().parents[2] / "infra"
TEXT = (INFRA / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
PARTS: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|AUTH|CONNECTION_URL|REGISTRY_URL|ONLINE_URL")


@pytest.mark.parametrize("name", sorted(PARTS))
def test_containers_are_contained(name: str) -> None:
    part = PARTS[name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in part
    assert {"mem_limit", "cpus"} <= set(part)
    assert re.search(r":v?\d[\w.-]*$|:RELEASE\.[\w-]+$", part["image"]), "a tag that names one version"
    assert all(port.startswith("127.0.0.1:") for port in part.get("ports", []))
    assert part["image"].startswith("gliaflow/") or "healthcheck" in part
    for volume in part.get("volumes", []):
        source = volume.partition(":")[0]
        assert volume.endswith(":ro") if source.startswith(".") else source in COMPOSE["volumes"]


def test_ports_are_not_taken_twice() -> None:
    taken = [port.rsplit(":", 1)[0] for part in PARTS.values() for port in part.get("ports", [])]
    assert len(taken) == len(set(taken))


def test_every_service_is_there_and_is_called_where_it_listens() -> None:
    assert set(SERVICE_NAMES) <= set(PARTS)
    for name in SERVICE_NAMES:
        assert PARTS[name]["image"] == f"gliaflow/{name}:0.1.0"
        assert PARTS["worker"]["environment"][f"GLIAFLOW_{name.upper()}_URL"] == f"http://{name}:3000"
        assert PARTS["worker"]["depends_on"][name] == {"condition": "service_healthy"}
        assert PARTS[name]["ports"][0].endswith(":3000")


def test_versions_are_those_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (INFRA.parent / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert set(re.findall(r"image: gliaflow/\w+:(\S+)", TEXT)) == {version}


def test_settings_are_known_ones() -> None:
    for name, part in PARTS.items():
        for variable in part.get("environment", {}):
            if variable.startswith("GLIAFLOW_"):
                assert variable.removeprefix("GLIAFLOW_").lower() in Settings.model_fields, name


def test_no_secret_stands_in_the_file() -> None:
    for name, part in PARTS.items():
        for variable, value in part.get("environment", {}).items():
            if SECRET.search(variable):
                assert "${" in str(value), (name, variable)


def test_nothing_waits_for_what_does_not_come() -> None:
    done: set[str] = set()
    waiting = dict(PARTS)
    while waiting:
        ready = [name for name, part in waiting.items() if set(part.get("depends_on", ())) <= done]
        assert ready, f"these wait for each other: {sorted(waiting)}"
        for name in ready:
            for other, how in waiting.pop(name).get("depends_on", {}).items():
                ends = PARTS[other].get("healthcheck", {}).get("disable", False)
                assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")
            done.add(name)


def test_scraped_targets_are_parts() -> None:
    config = yaml.safe_load((INFRA / "prometheus/prometheus.yaml").read_text())
    targets = {t for job in config["scrape_configs"] for group in job["static_configs"] for t in group["targets"]}
    assert targets == {f"{name}:3000" for name in SERVICE_NAMES} | {"prefect:4200"}


def test_secrets_are_made_once_and_closed(tmp_path: Path) -> None:
    shutil.copy(INFRA / "secrets.sh", tmp_path)
    subprocess.run(["bash", tmp_path / "secrets.sh"], check=True, capture_output=True)
    made = (tmp_path / ".env").read_text()
    values = dict(line.split("=", 1) for line in made.splitlines())
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == set(values)
    assert all(len(value) == 48 for value in values.values())
    assert len(set(values.values())) == len(values)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secrets/prefect-password").read_text() == values["PREFECT_PASSWORD"]
    again = subprocess.run(["bash", tmp_path / "secrets.sh"], check=True, capture_output=True, text=True)
    assert (tmp_path / ".env").read_text() == made
    assert "already" in again.stderr
    ignored = (INFRA.parent / ".gitignore").read_text().splitlines()
    assert {"/infra/.env", "/infra/secrets/"} <= set(ignored)
