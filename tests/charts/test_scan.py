"""checkov finds nothing but what the skip list gives reasons for, and the list holds nothing it no longer finds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.charts.rendered import Rendered

pytestmark = pytest.mark.xdist_group("charts")

CONFIGURATION = Path(__file__).with_name("checkov.yaml")


def find_checkov() -> str:
    """Return checkov, which shares no environment with anything, or skip."""
    found = shutil.which("checkov", path=str(Path(sys.prefix) / "checkov" / "bin")) or shutil.which("checkov")
    if found is None:
        pytest.skip("no checkov: python3 -m venv .venv/checkov && .venv/checkov/bin/pip install checkov==3.3.30")
    return found


def test_checkov_finds_what_the_list_gives_reasons_for(profiles: dict[str, Rendered], tmp_path: Path) -> None:
    checkov = find_checkov()
    for profile in ("cpu", "production"):
        rendered = profiles[profile]
        objects = [*rendered.objects, rendered.flow_run() | {"metadata": {"name": "flow-run", "namespace": "brain"}}]
        (tmp_path / f"{profile}.yaml").write_text(yaml.safe_dump_all(objects))
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    done = subprocess.run(
        [checkov, "-d", str(tmp_path), "--framework", *configuration["framework"], "--skip-download", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 1000
    assert report["summary"]["parsing_errors"] == 0
    found = {(entry["check_id"], entry["resource"]) for entry in report["results"]["failed_checks"]}
    assert {check for check, _ in found} == set(configuration["skip-check"]), sorted(found)
