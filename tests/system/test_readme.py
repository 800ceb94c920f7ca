"""The examples of README.md, run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from services.shared.storage import Storage

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line) for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
@pytest.mark.usefixtures("prefect_server")
def test_steps_and_python_example(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    steps = [command for command in COMMANDS if command[-1] == "try" or "try" in command]
    assert [command[1] for command in steps] == ["simulate", "prepare", "segment", "extract"]
    for command in steps:
        result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    (example,) = [block for kind, block in BLOCKS if kind == "python"]
    exec(compile(example, "README.md", "exec"), {})
    assert "T1c_WT_original_firstorder_Entropy" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "gliaflow"], ids=" ".join)
def test_every_command_and_option_exists(command: list[str]) -> None:
    options = [word for word in command[2:] if word.startswith("--")]
    text = CliRunner().invoke(app, [command[1], "--help"], env={"COLUMNS": "200"}).output
    assert [option for option in options if option not in text] == []


def test_linked_files_and_make_targets_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
