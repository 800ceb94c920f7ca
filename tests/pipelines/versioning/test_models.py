"""A real study of a small table: what changed since it was trained, and made again from its tag."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cli.app import out
from pipelines.versioning.changes import changes_since_training
from pipelines.versioning.errors import DirtyTree, IncompleteRemote, SchemaChanged, UnsavedData
from pipelines.versioning.models import champions, find_tagged, tag_model
from pipelines.versioning.rebuild import rebuild_model
from pipelines.versioning.repository import Repository
from pipelines.versioning.tables import require_schema
from services.model_serving.registry import champion
from services.shared.cohort import write_participants
from services.shared.errors import NotFound
from services.shared.storage import Storage

from .conftest import git, start

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("shared_server")]

PIPELINE = """\
stages:
  grading:
    cmd: gliaflow study grading --cohort table
    deps: [method.txt, workspace/raw/table]
    params: [seed, grading]
    outs:
      - workspace/models/registry/grading-table: {persist: true}
      - workspace/studies/table/grading
"""
PARAMETERS = "seed: 3\ngrading: {permutations: 0, folds: 2, inner_folds: 2, bootstraps: 10}\n"


def patients(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    ids = [f"P{number:02d}" for number in range(count)]
    grades = np.resize([2, 4], count)
    values = rng.normal(size=(count, 6)) + grades[:, None] / 2
    table = pd.DataFrame(values, index=pd.Index(ids, name="case_id")).add_prefix("feature_")
    clinic = pd.DataFrame({"participant_id": [f"sub-{label}" for label in ids], "grade": grades, "sex": "F"})
    return table, clinic


def write(storage: Storage, table: pd.DataFrame, clinic: pd.DataFrame) -> None:
    write_participants(storage, "table", clinic)
    with storage.publish("raw/table/features.parquet") as path:
        table.to_parquet(path)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one studied, committed, tagged and pushed model."""
    root = tmp_path_factory.mktemp("study") / "first"
    made = start(root, {"dvc.yaml": PIPELINE, "params.yaml": PARAMETERS, "method.txt": "one\n"})
    write(made.storage, *patients(30))
    kept = made.keep("table")
    assert kept == root / "cohorts" / "table.dvc"
    assert made.reproduce() == ("grading",)
    with pytest.raises(DirtyTree):
        tag_model(made, "grading-table")
    made.commit("a study", ["dvc.lock", "cohorts"])
    tag_model(made, "grading-table")
    made.push()
    return root


@pytest.fixture
def repository(studied: Path, tmp_path: Path) -> Repository:
    """A copy that one test may change."""
    shutil.copytree(studied, tmp_path / "first")
    shutil.copytree(studied.parent / "kept", tmp_path / "kept")
    return Repository.open(tmp_path / "first")


def test_model_made_again_has_the_same_bytes(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    (version,) = [champion(repository.storage, model) for model in champions(repository)]
    (repository.root / "params.yaml").write_text(PARAMETERS.replace("seed: 3", "seed: 4"))
    repository.commit("another seed", ["params.yaml"])
    shutil.rmtree(repository.root / ".dvc" / "cache")
    shutil.rmtree(repository.root / "workspace")
    monkeypatch.chdir(repository.root / "cohorts")
    result = CliRunner().invoke(app, ["data", "rebuild", f"grading-table/{version}"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "by the stage grading: same bytes" in result.stdout
    assert not (repository.root / "workspace").exists()
    repository.require_clean()


def test_nothing_has_changed_at_first(repository: Repository) -> None:
    found = changes_since_training(repository, "grading-table")
    assert found.is_none
    assert found.revision == repository.revision()


def test_every_kind_of_change_is_told(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    table, clinic = patients(32)
    table, clinic = table.drop(index="P03"), clinic[clinic["participant_id"] != "sub-P03"]
    table.loc["P05", "feature_0"] += 1
    clinic.loc[clinic["participant_id"] == "sub-P07", "sex"] = "M"
    write(repository.storage, table.rename(columns={"feature_5": "feature_9"}), clinic)
    (repository.root / "params.yaml").write_text(PARAMETERS.replace("folds: 2, inner", "folds: 3, inner"))
    (repository.root / "method.txt").write_text("two\n")
    monkeypatch.chdir(repository.root)
    result = CliRunner().invoke(app, ["data", "status", "--json"], catch_exceptions=False)
    (found,) = json.loads(result.stdout)
    assert found["model"] == "grading-table"
    assert found["cohorts"] == [
        {"cohort": "table", "added": ["P30", "P31"], "removed": ["P03"], "changed": ["P05", "P07"]}
    ]
    (columns,) = found["columns"]
    assert columns["table"] == "workspace/raw/table/features.parquet"
    assert (columns["added"], columns["removed"]) == (["feature_9"], ["feature_5"])
    assert found["parameters"] == [{"name": "grading.folds", "before": 2, "after": 3}]
    assert found["code"] == [{"stage": "grading", "files": ["method.txt"]}]
    monkeypatch.setattr(out, "width", 200)  # a test has no terminal
    shown = CliRunner().invoke(app, ["data", "status", "grading-table"]).stdout
    for line in (
        "2 added: P30, P31",
        "1 removed: P03",
        "2 changed: P05, P07",
        "2 → 3",
        "method.txt",
        "added feature_9",
    ):
        assert line in shown


def test_changed_columns_stop_unless_they_are_allowed(repository: Repository) -> None:
    tag = find_tagged(repository, "grading-table").tag
    assert require_schema(repository, tag) == ()
    table, clinic = patients(30)
    clinic["grade"] = clinic["grade"].map({2: "low", 4: "high"})
    write(repository.storage, table, clinic.drop(columns="sex"))
    with pytest.raises(SchemaChanged, match="--allow-schema-change") as raised:
        require_schema(repository, tag)
    assert "participants.tsv: removed sex; of another kind grade (number → text)" in str(raised.value.field)
    (change,) = require_schema(repository, tag, allow_change=True)
    assert change.removed == ("sex",)
    (repository.root / "workspace" / "raw" / "table" / "features.parquet").unlink()
    with pytest.raises(SchemaChanged, match=r"features\.parquet is gone"):
        require_schema(repository, tag)


def test_model_without_a_tag_is_told(repository: Repository) -> None:
    git(repository.root, "tag", "--delete", find_tagged(repository, "grading-table").tag)
    with pytest.raises(NotFound, match="gliaflow data tag grading-table"):
        changes_since_training(repository, "grading-table")
    (repository.root / "dvc.lock").unlink()
    repository.commit("the lock is lost", ["dvc.lock"])
    with pytest.raises(UnsavedData, match="does not hold this version"):
        tag_model(repository, "grading-table")


def test_model_whose_data_are_lost_is_not_made_again(repository: Repository) -> None:
    with repository.dvc() as repo:
        cache = Path(repo.cache.local.path)
    for folder in (cache, repository.root.parent / "kept"):
        for path in folder.rglob("*"):
            if path.is_file() and path.read_bytes()[:4] == b"PAR1":
                path.chmod(0o644)
                path.unlink()
    with pytest.raises(IncompleteRemote, match=r"features\.parquet"):
        rebuild_model(repository, "grading-table")


def test_unknown_cohort_is_not_kept(repository: Repository) -> None:
    with pytest.raises(NotFound, match="no such cohort"):
        repository.keep("elsewhere")
