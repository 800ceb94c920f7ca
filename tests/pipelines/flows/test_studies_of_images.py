"""Studies of cohorts of images: features and what networks say come from the feature store."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from pipelines.flows.study import run_study
from pipelines.flows.validate import validate_model
from pipelines.modelling.outputs import study_folder
from pipelines.predict import predict_case
from pipelines.studies import parameters_of
from services.feature_store.contracts import ExtractParameters, OnlineRequest, RegisterRequest
from services.feature_store.radiomics import STEP, STEP_VERSION, CaseFeatures, write_row
from services.feature_store.store import online_features, register_cohort
from services.feature_store.studies import DEEP
from services.model_serving import registry
from services.model_serving.networks.specification import PAPER_SPECS, Architecture
from services.shared.cohort import CaseKeys, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue, NotFound
from services.shared.manifest import run_step
from services.shared.storage import Storage

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]

RISK = "diffusionsurvival_WT_deep_risk"
POOLED = tuple(f"gradesurvival_WT_deep_{n}" for n in (1, 2))
GRADE = "grade_WT_deep_1"
RADIOMICS = tuple(
    f"{sequence}_{region}_original_firstorder_{name}"
    for sequence in ("T1c", "T1w", "FLAIR")
    for region in ("WT", "TC", "ET")
    for name in ("Mean", "Range")
)
NETWORKS: tuple[Architecture, ...] = ("diffusion_survival", "grade_survival", "grade")
QUICK = {"folds": 3, "permutations": 2, "bootstraps": 100, "horizons_months": (12, 24)}


def write_rows(
    storage: Storage,
    case: CaseRef,
    radiomics: Mapping[str, float],
    deep: Mapping[str, float] | None,
    *,
    network: str = "models/imaging",
    weights: str = "0a1b",
) -> None:
    """Write a case's rows as the steps leave them; a patient whose deep row is None has none."""
    keys = CaseKeys(case)

    def made(step: str, version: str, key: str, parameters: Mapping[str, object]) -> None:
        run_step(
            storage,
            keys.manifest(step),
            step=step,
            step_version=version,
            case=str(case),
            inputs=[],
            parameters=parameters,
            packages=[],
            compute=lambda: [key],
        )

    write_row(storage, keys.features, CaseFeatures(ExtractParameters(), dict(radiomics), (), ()))
    made(STEP, STEP_VERSION, keys.features, {})
    if deep is not None:
        with storage.publish(keys.deep_features) as path:
            pd.DataFrame([dict(deep)], index=pd.Index([case.id], name="case_id")).to_parquet(path)
        networks = {f"{network}/{name}": PAPER_SPECS[name].column_start for name in NETWORKS}
        makers = {start: f"{folder} {weights}" for folder, start in networks.items()}
        made(DEEP, "3", keys.deep_features, {"networks": dict.fromkeys(networks, network), "makers": makers})


def write_cohort(storage: Storage, name: str, *, patients: int, seed: int, permuted: bool = False, **how: str) -> None:
    """Write patients whose survival depends on their networks' features, on T1c's range, and on age.

    The last patient has no deep row, the one before no value of the diffusion network.
    """
    rng = np.random.default_rng(seed)
    risk, mark, age = rng.normal(size=patients), rng.normal(size=patients), rng.uniform(30, 70, patients)
    death = rng.exponential(30 * np.exp(-1.5 * risk - 1.2 * mark - (age - 50) / 25))
    censoring = rng.uniform(10, 90, patients)
    told = rng.permutation(risk) if permuted else risk
    rows = []
    for number in range(patients):
        case = CaseRef(cohort=name, id=f"{name}{number:03d}")
        radiomics = dict(zip(RADIOMICS, rng.normal(size=len(RADIOMICS)).tolist(), strict=True))
        radiomics["T1c_WT_original_firstorder_Range"] = float(mark[number])
        deep = {RISK: float(told[number]) if number < patients - 2 else np.nan, "diffusionsurvival_WT_deep_1": 0.5}
        deep |= {POOLED[0]: float(told[number]), POOLED[1]: float(rng.normal()), "gradesurvival_WT_deep_risk": 7.0}
        deep |= {GRADE: number % 5 + 0.1 * risk[number]}
        write_rows(storage, case, radiomics, None if number == patients - 1 else deep, **how)
        rows.append(
            {
                "participant_id": f"sub-{case.id}",
                "age_years": age[number],
                "sex": "FM"[number % 2],
                "grade": 4 if number % 5 == 4 else 2 + number % 2,
                "histology": ("astrocytoma", "oligodendroglioma")[number // 2 % 2],
                "os_months": min(death[number], censoring[number]) + 0.1,
                "event": int(death[number] <= censoring[number]),
            }
        )
    write_participants(storage, name, pd.DataFrame(rows))
    register_cohort(storage, RegisterRequest(cohort=name))


@pytest.fixture
def cohorts(storage: Storage) -> Storage:
    """A cohort to learn from, and one to validate on."""
    write_cohort(storage, "home", patients=120, seed=1)
    write_cohort(storage, "away", patients=90, seed=2)
    return storage


def study(name: str, *, cohort: str = "home", **options: object):
    kind = parameters_of(name)
    quick = QUICK | ({"trees": 20, "repeats": 1} if "trees" in kind.model_fields else {})
    parameters = kind.model_validate({field: value for field, value in quick.items() if field in kind.model_fields})
    return run_study(cohort, name, parameters, seed=3, **options)


def written(storage: Storage, name: str, file: str, *, cohort: str = "home") -> dict:
    return json.loads(storage.read_text(f"{study_folder(cohort, name)}/{file}.json"))


def test_the_risk_of_a_network_is_the_signature(cohorts: Storage) -> None:
    registered = study("diffusion", deep=True, validation=("away",))
    assert registered.model == "diffusion"
    package = registry.load(cohorts, registry.resolve(cohorts, "diffusion"))
    assert package.model.columns == (RISK,)
    assert "a network reads" in package.description.intended_use
    assert package.description.platform == "extracted by gliaflow, network models/imaging/diffusion_survival 0a1b"
    metrics, flow = written(cohorts, "diffusion", "metrics"), written(cohorts, "diffusion", "flow")
    assert flow["patients_excluded"]["home119"] == flow["patients_excluded"]["home118"]
    assert set(flow["parts"]) == {"train", "internal"}  # nobody is set aside for tuning
    assert metrics["train_patients"] + metrics["validation_internal_patients"] == 118
    for part in ("cv", "validation_away"):
        assert metrics[f"{part}_c_index_low"] > 0.55
        assert metrics[f"{part}_weighted_logrank_p"] < 0.01
        assert metrics[f"{part}_nomogram_c_index_difference_low"] > 0
        assert metrics[f"{part}_nomogram_nri_12_low"] > 0
    assert metrics["cv_nomogram_aic_integrated"] < metrics["cv_nomogram_aic_clinical"]
    assert metrics["permuted_c_index_low"] < 0.5 < metrics["permuted_c_index_high"]

    said = pd.read_csv(cohorts.url(f"{study_folder('home', 'diffusion')}/predictions.csv")).set_index("case_id")
    away = said[said["part"] == "validation_away"]
    request = OnlineRequest(cohort="away", case_ids=tuple(away.index), names=(RISK,))
    column = [row.features[RISK] for row in online_features(cohorts, request).rows]
    line = np.polyfit(column, away["risk_score"], 1)
    assert line[0] > 0
    assert away["risk_score"].to_numpy() == pytest.approx(np.polyval(line, column))
    assert (away["group"] == "high").to_numpy().tolist() == (away["risk_score"] >= package.model.threshold).tolist()

    judged = validate_model("diffusion", "away", seed=1)
    assert judged.metrics["c_index"] == pytest.approx(metrics["validation_away_c_index"])
    assert judged.metrics["patients"] == 88
    told = predict_case(CaseRef(cohort="away", id="away003"), "diffusion")
    assert told.risk_score == pytest.approx(away.loc["away003", "risk_score"])


def test_a_permuted_risk_tells_nothing(cohorts: Storage) -> None:
    write_cohort(cohorts, "shuffled", patients=120, seed=1, permuted=True)
    study("diffusion", cohort="shuffled", deep=True)
    metrics = written(cohorts, "diffusion", "metrics", cohort="shuffled")
    assert metrics["cv_c_index_low"] < 0.5 < metrics["cv_c_index_high"]
    assert metrics["permuted_c_index_low"] < 0.5 < metrics["permuted_c_index_high"]
    assert metrics["cv_nomogram_c_index_difference_low"] <= 0


def test_lower_grades_by_radiomics_and_by_a_networks_features(cohorts: Storage) -> None:
    assert study("grading_survival").model == "grading_survival"
    flow = written(cohorts, "grading_survival", "flow")
    assert flow["patients_studied"] == 96  # every fifth patient has grade 4
    assert flow["features_given"] == 8  # T1c and T1w of WT and TC: FLAIR and ET are not the study's
    plain = written(cohorts, "grading_survival", "metrics")
    assert plain["cv_c_index_low"] > 0.5
    description = registry.load(cohorts, registry.resolve(cohorts, "grading_survival/latest")).description
    assert "network" not in description.intended_use

    study("grading_survival", deep=True, validation=("away",))
    assert written(cohorts, "grading_survival", "flow")["features_given"] == 8 + len(POOLED)
    package = registry.load(cohorts, registry.resolve(cohorts, "grading_survival/latest"))
    assert POOLED[0] in package.model.columns
    assert "those of a network" in package.description.intended_use
    with_network = written(cohorts, "grading_survival", "metrics")
    assert with_network["cv_c_index"] > plain["cv_c_index"]
    judged = validate_model("grading_survival/latest", "away", seed=1)
    assert judged.metrics["c_index_low"] > 0.5


def test_the_genes_risk_group_is_looked_for_in_a_cohorts_own_images(cohorts: Storage) -> None:
    ids = [f"home{number:03d}" for number in range(120)]
    mark = online_features(
        cohorts, OnlineRequest(cohort="home", case_ids=tuple(ids), names=("T1c_WT_original_firstorder_Range",))
    )
    high = [row.features["T1c_WT_original_firstorder_Range"] > 0 for row in mark.rows]
    groups = pd.DataFrame({"case_id": ids, "part": "cv", "group": np.where(high, "high", "low")})[:100]
    cohorts.write_text(f"{study_folder('genes', 'ferroptosis')}/predictions.csv", groups.to_csv(index=False))
    parameters = parameters_of("ferroptosis_imaging").model_validate(
        {"permutations": 0, "inner_folds": 2, "region": "WT"}
    )
    run_study("home", "ferroptosis_imaging", parameters, seed=3, risk_groups_of="genes")
    assert written(cohorts, "ferroptosis_imaging", "metrics")["auc"] > 0.9
    assert written(cohorts, "ferroptosis_imaging", "flow")["patients_studied"] == 100


@pytest.mark.parametrize("other", [{"network": "models/elsewhere"}, {"weights": "2c3d"}])
@pytest.mark.parametrize(("name", "network"), [("diffusion", "diffusion_survival"), ("grading", "grade")])
def test_features_of_another_network_are_refused(
    cohorts: Storage, other: dict[str, str], name: str, network: str
) -> None:
    """Of a network elsewhere, and of one that was trained again in its place."""
    write_cohort(cohorts, "other", patients=30, seed=5, **other)
    if name == "diffusion":
        with pytest.raises(InvalidValue, match="another network"):
            study("diffusion", deep=True, validation=("other",))
    study(name, deep=True)
    assert validate_model(name, "away", seed=1).metrics["patients"] > 80
    assert predict_case(CaseRef(cohort="away", id="away003"), name).model == name
    with pytest.raises(InvalidValue, match="another network"):
        validate_model(name, "other", seed=1)
    with pytest.raises(InvalidValue, match="another network") as refused:
        predict_case(CaseRef(cohort="other", id="other003"), name)
    assert refused.value.expected == f"extracted by gliaflow, network models/imaging/{network} 0a1b"
    assert "extract --deep" in refused.value.remedy


def test_what_the_store_does_not_hold_is_said(cohorts: Storage) -> None:
    with pytest.raises(NotFound, match="no radiomic features") as plain:
        study("diffusion")
    assert "--deep" in plain.value.remedy
    with pytest.raises(InvalidValue, match="from a table"):
        study("ferroptosis", deep=True)
    with pytest.raises(InvalidValue, match="takes no deep features"):
        run_study("home", "ferroptosis_imaging", parameters_of("ferroptosis_imaging")(), seed=3, deep=True)
