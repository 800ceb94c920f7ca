"""A model is registered on one cohort of tables and applied, unchanged, to another."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.release import Release, write_release
from pipelines.flows.study import run_study
from pipelines.flows.validate import Validation, predict_patients, validate_model
from pipelines.modelling.study import StudyParameters
from pipelines.studies import parameters_of
from services.model_serving import registry
from services.model_serving.predictor import probabilities
from services.shared.errors import InvalidTable, InvalidValue, NotFound
from services.shared.storage import Storage
from services.survival_analytics.discrimination import auc

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]
GENES = tuple(f"GENE{i:02d}" for i in range(12))


def make_cohort(storage: Storage, name: str, *, patients: int, seed: int, lacking: tuple[str, ...] = ()) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(patients, len(GENES)))
    months = rng.exponential(30 * np.exp(-0.9 * x[:, 0] + 0.7 * x[:, 1])) + 0.1
    follow = rng.uniform(10, 90, patients)
    ids = [f"{name}{i:03d}" for i in range(patients)]
    participants = pd.DataFrame(
        {
            "participant_id": [f"sub-{i}" for i in ids],
            "source_id": ids,
            "grade": np.where(x[:, 0] + rng.normal(0, 0.5, patients) > 0, 4, 2),
            "os_months": np.minimum(months, follow),
            "event": (months <= follow).astype(int),
        }
    )
    table = pd.DataFrame(x, index=pd.Index(ids, name="case_id"), columns=list(GENES)).drop(columns=list(lacking))
    scale = {"expression": "log2 intensity", "features": "made"}
    matrices = {"expression": table + 7, "features": table}
    write_release(storage, name, Release("made", participants, matrices=matrices, scale=scale))


@pytest.fixture
def cohorts(storage: Storage) -> Storage:
    make_cohort(storage, "home", patients=90, seed=1)
    make_cohort(storage, "away", patients=70, seed=2)
    make_cohort(storage, "bare", patients=40, seed=3, lacking=GENES[:2])
    return storage


def assert_predicts_what_it_wrote(storage: Storage, found: Validation) -> None:
    """Predictions that are compared between versions are those of the validation."""
    package = registry.load(storage, registry.resolve(storage, f"{found.model}/{found.version}"))
    written = pd.read_csv(f"{storage.root}/{found.folder}/predictions.csv", dtype={"case_id": str})
    told = predict_patients(storage, package, found.cohort).reset_index(drop=True)
    pd.testing.assert_frame_equal(told, written, check_dtype=False, rtol=1e-9)


def test_a_classifier_on_another_cohort(cohorts: Storage) -> None:
    parameters = StudyParameters.model_validate(parameters_of("grading")(permutations=0, folds=3, inner_folds=3))
    registered = run_study("home", "grading", parameters, seed=1)
    assert registered.model == "grading-home"  # a model of a release is never that of the images
    found = validate_model("grading-home/latest", "away", seed=1)
    package = registry.load(cohorts, registry.resolve(cohorts, "grading-home/latest"))
    table = pd.read_parquet(f"{cohorts.root}/raw/away/features.parquet")
    clinic = pd.read_csv(f"{cohorts.root}/raw/away/participants.tsv", sep="\t")
    outcome = (clinic["grade"] == 4).to_numpy().astype(int)
    chance = probabilities(package.model, table[list(package.model.columns)].to_numpy())
    assert found.metrics["auc"] == pytest.approx(auc(outcome, chance).estimate)
    assert found.metrics["auc"] > 0.8
    assert json.loads(cohorts.read_text(f"{found.folder}/metrics.json")) == found.metrics
    assert_predicts_what_it_wrote(cohorts, found)
    again = validate_model("grading-home", "away", seed=1)
    assert again.metrics == found.metrics
    with pytest.raises(InvalidTable, match="GENE0"):
        validate_model("grading-home", "bare", seed=1)
    with pytest.raises(InvalidValue, match="validation"):
        run_study("home", "grading", parameters, seed=1, validation=("away",))
    with pytest.raises(InvalidValue, match="from a table"):
        run_study("home", "grading", parameters, seed=1, deep=True)


def test_a_signature_on_another_cohort_is_what_the_study_said_of_it(cohorts: Storage) -> None:
    parameters = parameters_of("ferroptosis").model_validate(
        {"permutations": 0, "folds": 3, "bootstraps": 50, "compare_harmonisation": False}
    )
    run_study("home", "ferroptosis", parameters, seed=1, validation=("away",))
    told = json.loads(cohorts.read_text("studies/home/ferroptosis/metrics.json"))
    found = validate_model("ferroptosis-home", "away", seed=1)
    for name in ("c_index", "hazard_ratio", "auc_12", "logrank_p"):
        assert found.metrics[name] == pytest.approx(told[f"validation_away_{name}"], rel=1e-6), name
    assert told["validation_away_c_index"] > 0.6
    groups = pd.read_csv(f"{cohorts.root}/{found.folder}/predictions.csv")["group"]
    assert set(groups) == {"low", "high"}
    assert_predicts_what_it_wrote(cohorts, found)
    with pytest.raises(InvalidTable, match="GENE00"):
        validate_model("ferroptosis-home", "bare", seed=1)


def test_a_model_that_is_not_there(cohorts: Storage) -> None:
    with pytest.raises(NotFound):
        validate_model("absent", "away", seed=1)
