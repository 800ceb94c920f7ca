from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipelines.cli import app, operations, studies
from pipelines.parameters import read_section, read_value
from pipelines.serve import serve_command
from services.preprocessing.contracts import PrepareParameters
from services.shared.errors import InvalidValue, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage

COMMANDS = (
    "simulate fetch import prepare train segment extract study validate report predict serve submit treat demo doctor"
).split()


def gliaflow(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "GLIAFLOW_STORAGE_ROOT": str(folder / "workspace")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 300


def test_mistake_of_a_user_is_one_message_without_traceback(tmp_path: Path) -> None:
    result = gliaflow(tmp_path, "study", "grding")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "there is no such study" in result.stderr
    assert "grading_survival, atrx" in result.stderr


def test_value_outside_its_contract_is_one_message_too(tmp_path: Path) -> None:
    result = gliaflow(tmp_path, "predict", "phantom/sub-../x")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "should match pattern" in result.stderr


def test_study_of_a_table_leaves_other_cohorts_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"P{number:02d}" for number in range(30)]
    grades = np.repeat([2, 4], 15)
    table = pd.DataFrame(rng.normal(size=(30, 6)) + grades[:, None] / 2, index=pd.Index(ids, name="ID"))
    table.add_prefix("feature_").to_csv(tmp_path / "my-table.csv")
    pd.DataFrame({"ID": ids, "grade": grades}).to_csv(tmp_path / "clinic.csv", index=False)
    (tmp_path / "params.yaml").write_text("cohort: phantom\ngrading: {permutations: 1, folds: 3, inner_folds: 3}\n")
    result = gliaflow(tmp_path, "study", "grading", "--features", "my-table.csv", "--participants", "clinic.csv")
    assert result.returncode == 0, result.stderr
    assert "grading-mytable" in result.stderr
    assert [path.name for path in (tmp_path / "workspace" / "studies").iterdir()] == ["mytable"]


def test_help_comes_without_heavy_imports(tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from pipelines.cli import app;"
        "CliRunner().invoke(app, ['--help']);"
        "print([m for m in ('torch', 'prefect', 'feast', 'pandas', 'bentoml', 'monai') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no cell of a table is broken."""
    for module in (operations, studies):
        monkeypatch.setattr(module, "out", Console(width=200))


@pytest.mark.usefixtures("wide")
def test_doctor_says_what_is_here(storage: Storage) -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "Atlas" in result.output
    assert "Service segmentation" in result.output


@pytest.mark.usefixtures("wide")
def test_doctor_says_what_is_wrong(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_SEGMENTATION_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "gliaflow serve segmentation" in result.output


def test_service_without_token_stays_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1" in serve_command("segmentation")
    with pytest.raises(InvalidValue, match="GLIAFLOW_TOKEN"):
        serve_command("segmentation", host="0.0.0.0")
    monkeypatch.setenv("GLIAFLOW_TOKEN", "secret")
    settings.cache_clear()
    assert "0.0.0.0" in serve_command("segmentation", host="0.0.0.0")
    settings.cache_clear()
    with pytest.raises(NotFound, match="preprocessing"):
        serve_command("nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prepare: {voxel_mm: 99}", "params.yaml.prepare.voxel_mm"),
        ("prepare: {voxels: 1}", "the section 'prepare' takes: voxel_mm"),
        ("prepare: [", "not YAML"),
        ("- 1", "no sections"),
    ],
)
def test_wrong_parameter_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(InvalidValue) as caught:
        read_section(tmp_path / "params.yaml", "prepare", PrepareParameters)
    assert message in str(caught.value)


def test_parameters_left_out_have_their_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_section(None, "prepare", PrepareParameters) == PrepareParameters()
    assert read_value(None, "seed", default=3) == 3
    (tmp_path / "params.yaml").write_text("seed: seven")
    with pytest.raises(InvalidValue, match="seed"):
        read_value(None, "seed", default=3)
    with pytest.raises(NotFound, match=r"other\.yaml"):
        read_section(tmp_path / "other.yaml", "prepare", PrepareParameters)


def test_the_first_flow_of_a_fresh_folder_starts(tmp_path: Path) -> None:
    result = gliaflow(tmp_path, "segment", "--cohort", "absent")  # tmp_path/workspace does not exist
    assert result.returncode == 1
    assert "there is no such cohort" in result.stderr
    assert "Traceback" not in result.stderr
