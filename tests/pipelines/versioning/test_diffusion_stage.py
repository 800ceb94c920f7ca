"""The stage of dvc.yaml that studies diffusion, for a cohort named in params.yaml: its model is made again the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.datasets.release import Release, write_release
from pipelines.versioning.models import tag_model
from services.model_serving.registry import champion

from .conftest import start

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("shared_server")]

ROOT = Path(__file__).parents[3]
PARAMETERS = """\
seed: 3
diffusion_cohorts: [clinic]
diffusion: {permutations: 0, bootstraps: 0, folds: 3, inner_folds: 3, horizons_months: [12], l1_ratios: [1.0]}
"""


def clinic(patients: int = 120) -> Release:
    """Patients whose survival two features of diffusion maps tell."""
    rng = np.random.default_rng(5)
    ids = pd.Index([f"P{number:03d}" for number in range(patients)], name="case_id")
    columns = [f"DTI_{image}_ET_Mean{number}" for image in ("AD", "FA", "RD") for number in (1, 2)]
    features = pd.DataFrame(rng.normal(size=(patients, len(columns))), index=ids, columns=columns)
    risk = 1.5 * (features["DTI_FA_ET_Mean1"] - features["DTI_AD_ET_Mean2"])
    death, censoring = rng.exponential(18 * np.exp(-risk)), rng.exponential(70, patients)
    participants = pd.DataFrame(
        {
            "participant_id": "sub-" + ids,
            "source_id": ids,
            "os_months": np.minimum(death, censoring).round(2) + 0.1,
            "event": (death <= censoring).astype(int),
            "age_years": rng.integers(30, 80, patients),
            "sex": rng.choice(["F", "M"], patients),
        }
    )
    return Release("made", participants, matrices={"features": features}, scale={"features": "CaPTk"})


def test_it_runs_once_and_its_model_is_made_again_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["diffusion"]
    stage |= {"deps": [path for path in stage["deps"] if path.startswith("workspace/")]}  # code is this installation's
    files = {"dvc.yaml": yaml.safe_dump({"stages": {"diffusion": stage}}), "params.yaml": PARAMETERS}
    made = start(tmp_path / "first", files)
    write_release(made.storage, "clinic", clinic())
    made.keep("clinic")
    assert made.reproduce() == ("diffusion@clinic",)
    assert made.reproduce() == ()
    made.commit("a study", ["dvc.lock", "cohorts"])
    tag_model(made, "diffusion-clinic")
    made.push()
    version = champion(made.storage, "diffusion-clinic")
    shutil.rmtree(made.root / ".dvc" / "cache")
    shutil.rmtree(made.root / "workspace")
    monkeypatch.chdir(made.root)
    result = CliRunner().invoke(app, ["data", "rebuild", f"diffusion-clinic/{version}"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "by the stage diffusion@clinic: same bytes" in result.stdout
