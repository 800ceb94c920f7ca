"""Networks in the chain: trained in their study's folds, giving features to the store and the study, and explained."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.flows.explain import explain_cohort
from pipelines.flows.imaging_inputs import imaging_patients
from pipelines.flows.study_inputs import features_of_store
from pipelines.modelling.validation import derive_seed, make_splits
from pipelines.studies import grading
from pipelines.training.imaging_parameters import ImagingTraining
from services.model_serving.networks.specification import ImagingSpec
from services.shared.cohort import CaseKeys, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue, NotFound, TooFewCases
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.trained_network import read_card
from services.shared.volume import read_volume, write_volume

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]

PATIENTS = 12
SECTION = {
    "folds": 2,
    "size": [32, 32, 32],
    "voxel_mm": 6.0,
    "width": 4,
    "epochs": 3,
    "batch": 4,
    "learning_rate": 0.01,
    "tuning_fraction": 0.0,
}


@pytest.fixture
def cohort(storage: Storage, write_imaging_case, monkeypatch) -> Storage:
    """Prepared and segmented patients: HGG have a bright core; the last one's grade is not known."""
    monkeypatch.setenv("GLIAFLOW_RUNNER", "thread")
    monkeypatch.setenv("GLIAFLOW_WORKERS", "1")
    settings.cache_clear()
    write_patients(storage, write_imaging_case, PATIENTS)
    return storage


def write_patients(storage: Storage, write_imaging_case, patients: int) -> None:
    rows = []
    for number in range(patients + 1):
        case = write_imaging_case(number, bright=250.0 * (number % 2))
        for name in ("FA", "MD", "AD", "RD"):
            image = read_volume(storage, CaseKeys(case).preprocessed_image("T2w"))
            write_volume(storage, CaseKeys(case).diffusion_map(name), image / 100.0)
        grade = None if number == patients else 4 if number % 2 else 2 + number // 2 % 2
        told = {"os_months": 5.0 + number, "event": number % 3 > 0, "age_years": 40.0 + number * 7 % 30}
        rows.append({"participant_id": f"sub-{case.id}", "subset": "study", "grade": grade, **told})
    write_participants(storage, "demo", pd.DataFrame(rows))


def run(*words: str, deep: dict[str, object] | None = None, **section: object) -> str:
    """Run a command with the sections ``train_imaging`` and ``extract_deep``; return what it printed."""
    with open("params.yaml", "w") as file:
        told = {"cohort": "demo", "seed": 3, "train_imaging": SECTION | section} | PARAMETERS
        json.dump(told | ({} if deep is None else {"extract_deep": deep}), file)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


PARAMETERS = {
    "extract": {"sequences": ["T1c"], "regions": ["TC", "WT"], "feature_classes": ["firstorder"]},
    "extract_deep": {"sequences": [], "networks": ["models/imaging/grade"]},
    "diffusion": {"folds": 2, "permutations": 1, "bootstraps": 20, "internal_share": 0.0},
    "grading": {"folds": 3, "inner_folds": 2, "permutations": 0, "bootstraps": 0},
}


def test_from_training_to_a_study_with_deep_features(cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run("train", "grade")
    assert f"{PATIENTS} patients, of unseen patients: AUC" in said.replace("\n", "")
    assert "left out: demo/sub-p012: outcome not known" in said
    judged = pd.read_csv(io.StringIO(cohort.read_text("models/imaging/grade/cross_validation.csv")))
    y = (judged["outcome"] == 1).to_numpy().astype(np.int64)
    for split in make_splits(y, folds=2, repeats=1, seed=derive_seed(3, 0)):  # the folds of a study with this seed
        assert (judged["fold"].to_numpy()[split.test] == split.fold).all()
    card = read_card(cohort, "models/imaging/grade", ImagingSpec)
    assert card.spec.classes == grading.CLASSES
    assert card.training["epochs"] == 3
    table = pd.read_csv(io.StringIO(cohort.read_text("models/imaging/grade/folds.csv")))
    assert table["fold"].tolist() == ["1", "2", "mean"]
    assert table["patients"].tolist() == [6, 6, 12]
    live = json.loads(cohort.read_text("models/imaging/grade/live/final/metrics.json"))
    assert "training_loss" in live

    assert "1 of them unchanged" not in run("extract", "--deep", "--tolerate", "1")
    with_deep = features_of_store(cohort, "demo", "grading", grading, deep=True).features
    without = features_of_store(cohort, "demo", "grading", grading).features
    deep = [name for name in with_deep if name.startswith("grade_WT_deep_")]
    assert len(deep) == 8 * 4
    assert set(with_deep) - set(without) == set(deep)
    assert with_deep[deep].notna().all().all()
    with pytest.raises(NotFound, match="extract --deep"):
        features_of_store(cohort, "demo", "atrx", grading, deep=True)
    run("study", "grading", "--deep")
    flow = json.loads(cohort.read_text("studies/demo/grading/flow.json"))
    assert flow["features_given"] == with_deep.shape[1]


def test_a_survival_network_is_explained_by_risk_group(cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("train", "diffusion-survival", "--name", "dls", size=[32, 32], batch=8, voxel_mm=None)
    found = explain_cohort("demo", "models/imaging/dls")
    assert [outcome.problem for outcome in found.outcomes] == [None] * (PATIENTS + 1)
    assert found.table["map"].tolist() == [name for name in ("FA", "MD", "AD", "RD") for _ in "ab"]
    shown = found.table[found.table["patients"] > 0]
    assert (shown["low_whisker"] <= shown["q1"]).all()
    assert (shown["q1"] <= shown["median"]).all()
    assert cohort.read_bytes(found.figure_key).startswith(b"\x89PNG")
    said = run("explain", "demo/sub-p001", "--model", "dls")
    assert "of the map lies in the tumour" in said
    assert "_desc-risk_cam.nii.gz" in said.replace("\n", "")
    with pytest.raises(NotFound, match="not cross-validated"):
        explain_cohort("demo", "models/imaging/dls/folds/0")


def test_from_a_survival_network_to_its_signature(cohort, write_imaging_case, tmp_path, monkeypatch):
    """What the unseen folds said of each patient is the study's score; one without maps is left out by name."""
    monkeypatch.chdir(tmp_path)
    write_patients(cohort, write_imaging_case, 24)
    cohort.remove(CaseKeys(CaseRef(cohort="demo", id="p003")).diffusion_map("FA"))
    run("train", "diffusion-survival", size=[32, 32], batch=8, voxel_mm=None)
    model = "models/imaging/diffusion-survival"
    run("extract", "--deep", "--tolerate", "1", deep={"sequences": [], "networks": [model]})
    assert "C-index" in run("study", "diffusion", "--deep")
    judged = pd.read_csv(io.StringIO(cohort.read_text(f"{model}/cross_validation.csv"))).set_index("case_id")
    said = pd.read_csv(io.StringIO(cohort.read_text("studies/demo/diffusion/predictions.csv"))).set_index("case_id")
    said = said[said["part"] == "train"]
    assert set(said.index) == set(judged.index) == {f"p{n:03d}" for n in range(25) if n != 3}
    both = np.corrcoef(said["risk_score"], judged["risk_score"].loc[said.index])
    assert both[0, 1] == pytest.approx(1)
    flow = json.loads(cohort.read_text("studies/demo/diffusion/flow.json"))
    assert flow["patients_excluded"]["p003"] == "deep: Missing sequence"
    run("report")
    page = cohort.read_text("reports/demo/report.html")
    assert "diffusionsurvival_WT_deep_risk" in page


def test_whom_a_network_cannot_learn_from_is_said(cohort):
    tiny = ImagingTraining.model_validate(SECTION)
    found = imaging_patients(cohort, "demo", "grade_survival", tiny.model_copy(update={"size": (32, 32)}))
    assert len(found.cases) == 6  # lower grades alone
    assert set(found.outcome.classes) == {0, 1}
    with pytest.raises(InvalidValue, match="not known"):
        imaging_patients(cohort, "demo", "slice_classifier", ImagingTraining())
    with pytest.raises(InvalidValue, match="fixed"):
        imaging_patients(cohort, "demo", "grade", ImagingTraining(outcome="idh"))
    empty = ImagingTraining.model_validate({"source": "imported", "outcome": "lower_grade"})
    with pytest.raises(TooFewCases, match="no patient"):
        imaging_patients(cohort, "demo", "slice_classifier", empty)
