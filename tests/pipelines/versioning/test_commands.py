from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.versioning.repository import Repository


@pytest.mark.parametrize("command", "status pull push add save tag rebuild".split())
def test_every_command_teaches(command: str) -> None:
    result = CliRunner().invoke(app, ["data", command, "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 300


def test_commands_work_from_a_folder_inside(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.root / "source")
    counted = repository.root / "workspace" / "features" / "bytes.txt"
    counted.unlink()
    counted.write_text("counted by hand")
    for command, said in (("save", "outputs of count"), ("push", "every object"), ("pull", "in the workspace")):
        result = CliRunner().invoke(app, ["data", command], catch_exceptions=False)
        assert result.exit_code == 0
        assert said in result.stderr
    assert counted.read_text() == "counted by hand"
    assert repository.plan() == ()
    status = CliRunner().invoke(app, ["data", "status"], catch_exceptions=False)
    assert "no model is registered" in status.stderr
