"""A network trained by the stage of dvc.yaml is trained again from its revision, and compared within the tolerance."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.versioning.networks import WEIGHT_TOLERANCE
from pipelines.versioning.rebuild import rebuild_model
from pipelines.versioning.repository import Repository
from services.segmentation.contracts import DEFAULT_MODEL
from services.segmentation.network import NetworkSpec, build_network
from services.shared.cohort import write_participants
from services.shared.storage import Storage
from services.shared.trained_network import load_network, save_network
from tests.pipelines.training.test_segmentation import write_case

from .conftest import start

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("shared_server")]

ROOT = Path(__file__).parents[3]
PREPARED = "derivatives/preprocessed/demo"
PARAMETERS = """\
cohort: demo
seed: 3
train:
  {architecture: recombination-unet-3d, width: 4, levels: 2, epochs: 2, patch_voxels: 16, tuning_fraction: 0.4}
"""


def training_stage() -> dict[str, object]:
    """Return the stage of dvc.yaml that trains, without the code that it depends on: that is this installation's."""
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    return stage | {"deps": [path for path in stage["deps"] if path.startswith("workspace/")]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose network was trained on two cores and pushed."""
    root = tmp_path_factory.mktemp("network") / "first"
    source = Storage(tmp_path_factory.mktemp("source"))
    cases = [write_case(source, index) for index in range(3)]
    prepare = {
        "cmd": f"mkdir -p workspace/derivatives/preprocessed && cp -r source workspace/{PREPARED}",
        "deps": ["source"],
        "outs": [f"workspace/{PREPARED}"],
    }
    pipeline = yaml.safe_dump({"stages": {"prepare": prepare, "train": training_stage()}})
    made = start(root, {"dvc.yaml": pipeline, "params.yaml": PARAMETERS})
    shutil.copytree(Path(source.root) / PREPARED, root / "source")
    rows = {"participant_id": [f"sub-{case.id}" for case in cases], "subset": "segmentation"}
    write_participants(made.storage, "demo", pd.DataFrame(rows))
    made.keep("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLIAFLOW_WORKERS", "2")
        assert made.reproduce() == ("prepare", "train")
    made.commit("a network", ["dvc.lock", "cohorts", "source"])
    made.push()
    return root


@pytest.fixture
def repository(trained: Path, tmp_path: Path) -> Repository:
    """A copy that one test may change."""
    shutil.copytree(trained, tmp_path / "first")
    shutil.copytree(trained.parent / "kept", tmp_path / "kept")
    return Repository.open(tmp_path / "first")


def test_a_network_of_a_past_revision_has_the_same_bytes(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = repository.revision()
    (repository.root / "params.yaml").write_text(PARAMETERS.replace("epochs: 2", "epochs: 3"))
    repository.commit("more epochs", ["params.yaml"])
    shutil.rmtree(repository.root / ".dvc" / "cache")
    shutil.rmtree(repository.root / "workspace")
    monkeypatch.chdir(repository.root)
    monkeypatch.setenv("GLIAFLOW_WORKERS", "2")
    arguments = ["data", "rebuild", DEFAULT_MODEL, "--revision", revision]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "by the stage train: same bytes" in result.stdout
    assert not (repository.root / "workspace").exists()
    repository.require_clean()


def test_with_another_number_of_threads_it_is_the_same_within_the_tolerance(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIAFLOW_WORKERS", "1")
    found = rebuild_model(repository, DEFAULT_MODEL)
    assert found.network is not None
    assert found.is_same
    assert 0.0 <= found.network.weights <= WEIGHT_TOLERANCE


def test_a_network_that_is_not_what_its_revision_trains_is_told(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody kept weights that were changed by hand."""
    storage = repository.storage
    card, network = load_network(storage, DEFAULT_MODEL, NetworkSpec, build_network)
    state = network.state_dict()
    name = next(each for each in state if each.endswith("weight"))
    save_network(storage, DEFAULT_MODEL, card.spec, state | {name: state[name] * 1.5}, training=card.training)
    repository.save()
    repository.commit("other weights", ["dvc.lock"])
    monkeypatch.chdir(repository.root)
    monkeypatch.setenv("GLIAFLOW_WORKERS", "2")
    result = CliRunner().invoke(app, ["data", "rebuild", DEFAULT_MODEL], catch_exceptions=False)
    assert result.exit_code == 4, result.output
