"""The diffusion study: planted features are recovered, a null cohort is not, internal patients are not seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.upenn_gbm import read_release
from pipelines.modelling.survival_study import StudyCohort, SurvivalStudyResult
from pipelines.studies.diffusion import Parameters, map_of, read_diffusion, run
from services.model_serving.package import pack
from services.shared.errors import InvalidTable, TooFewCases

QUICK = Parameters(permutations=2, bootstraps=40, horizons_months=(12, 24), folds=3, inner_folds=3)
COLUMNS = [
    f"DTI_{image}_{region}_Mean{n}" for image in ("AD", "FA", "RD", "TR") for region in ("ED", "ET") for n in (1, 2, 3)
]


def make_cohort(*, effect: float, patients: int = 220, seed: int = 11, name: str = "simulated") -> StudyCohort:
    """Survival depends on two diffusion features and on age; structural features and sex are noise."""
    rng = np.random.default_rng(seed)
    ids = pd.Index([f"S{n:03d}" for n in range(patients)], name="case_id")
    maps = pd.DataFrame(rng.normal(size=(patients, len(COLUMNS))), index=ids, columns=COLUMNS)
    maps["DTI_AD_ET_Copy"] = maps["DTI_FA_ET_Mean1"] + 0.01 * rng.normal(size=patients)
    structural = pd.DataFrame(rng.normal(size=(patients, 8)), index=ids).add_prefix("T1GD_ET_Mean")
    age = rng.uniform(30, 80, patients)
    risk = effect * (maps["DTI_FA_ET_Mean1"] - maps["DTI_TR_ED_Mean2"]) + effect * (age - 55) / 25
    death, censoring = rng.exponential(18 * np.exp(-risk)), rng.exponential(70, patients)
    clinical = pd.DataFrame(
        {
            "os_months": np.minimum(death, censoring) + 0.1,
            "event": (death <= censoring).astype(int),
            "age_years": age,
            "sex": np.where(rng.random(patients) < 0.5, "F", "M"),
            "grade": 4,
            "idh": np.where(rng.random(patients) < 0.1, "Mutant", "WT"),
            "kps": pd.Series(rng.choice([70.0, 80.0, 90.0], patients), index=ids).where(rng.random(patients) < 0.3),
        },
        index=ids,
    )
    return StudyCohort(name, pd.concat([maps * 20 + 100, structural], axis=1), clinical, "CaPTk radiomics")


@pytest.fixture(scope="module")
def planted() -> SurvivalStudyResult:
    return run(
        make_cohort(effect=1.0), {"elsewhere": make_cohort(effect=1.0, seed=5, patients=90)}, parameters=QUICK, seed=3
    )


def test_planted_features_are_recovered(planted):
    strongest = set(planted.tables["features"]["feature"].iloc[:2])
    assert "DTI_TR_ED_Mean2" in strongest
    assert strongest & {"DTI_FA_ET_Mean1", "DTI_AD_ET_Copy"}
    assert not any(name.startswith("T1GD") for name in planted.model.columns)
    for part in ("cv", "validation_internal", "validation_elsewhere"):
        assert planted.metrics[f"{part}_c_index_low"] > 0.5
        assert planted.metrics[f"{part}_hazard_ratio"] > 1
        assert planted.metrics[f"{part}_weighted_logrank_p"] < 0.05


def test_parts_are_as_published_and_written_down(planted):
    parts = planted.tables["parts"]["split"].value_counts()
    assert abs(parts["internal"] - 220 * 99 / 576) <= 1
    assert abs(parts["tuning"] - 220 * 96 / 576) <= 1
    assert planted.metrics["train_patients"] == parts["train"]
    assert planted.flow["patients_studied"] == parts["train"]
    assert planted.card.training.patients == parts["train"]
    assert planted.flow["parts"] == {name: parts[name] for name in ("train", "tuning", "internal")}


def test_tuning_chooses_the_variant_that_is_deployed(planted):
    candidates = planted.tables["candidates"].set_index("candidate")
    chosen = candidates[candidates["chosen"]]
    assert chosen["features"].item() == planted.metrics["features_in_model"]
    assert chosen["tuning_c_index"].item() == pytest.approx(planted.metrics["validation_tuning_c_index"])
    assert chosen["tuning_c_index"].item() == candidates["tuning_c_index"].max()


def test_score_is_independent_of_age(planted):
    adjusted = planted.tables["adjusted"].set_index(["part", "adjusted_for"])
    assert adjusted.loc[("validation_internal", "age_years, sex, idh"), "low"] > 1
    sparse = adjusted.loc[("cv", "age_years, sex, idh, kps")]
    assert sparse["patients"] < planted.metrics["cv_patients"] / 2
    assert set(planted.tables["multivariable"]["covariate"]) == {"age_years", "sex=M", "idh=WT", "signature"}
    left_out = planted.flow["clinical_factors"]["left_out"]
    assert left_out["grade"] == "the same in every patient: 4"
    assert left_out["mgmt"] == "not in the clinical table"


def test_integrated_nomogram_adds_to_the_clinical_one(planted):
    metrics = planted.metrics
    assert (
        metrics["validation_internal_nomogram_c_index_integrated"]
        > metrics["validation_internal_nomogram_c_index_clinical"]
    )
    assert metrics["cv_nomogram_aic_integrated"] < metrics["cv_nomogram_aic_clinical"]
    assert metrics["cv_nomogram_nri_12_low"] > 0
    assert {"nomogram.json", "nomogram_clinical.json"} <= set(planted.documents)
    assert set(planted.tables["decision_curves"]["part"]) >= {"cv", "validation_internal", "validation_elsewhere"}


def test_feature_sets_are_compared_on_the_same_patients(planted):
    sets = planted.tables["feature_sets"].set_index(["features", "part"])["c_index"]
    assert sets["diffusion", "internal"] > 0.6 > sets["structural", "internal"]
    assert set(sets.index.get_level_values("part")) == {"train", "tuning", "internal"}


def test_null_cohort_has_no_signal():
    result = run(make_cohort(effect=0.0), {}, parameters=QUICK.model_copy(update={"bootstraps": 200}), seed=3)
    for part in ("cv", "validation_internal"):
        assert result.metrics[f"{part}_c_index_low"] < 0.5 < result.metrics[f"{part}_c_index_high"]
    assert result.metrics["permuted_c_index_low"] < 0.5 < result.metrics["permuted_c_index_high"]


def test_internal_and_other_patients_are_not_seen():
    """Corrupted follow-up of internal and external patients changes neither package nor cut-off, by a byte."""
    cohort, other = make_cohort(effect=1.0), make_cohort(effect=1.0, seed=5, patients=60)
    part = pd.Series(np.resize(["train", "train", "tuning", "train", "internal"], 220), index=cohort.clinical.index)
    quick = QUICK.model_copy(update={"permutations": 0, "bootstraps": 0, "compare_structural": False})

    def packages(*, corrupt: bool) -> tuple[dict[str, bytes], SurvivalStudyResult]:
        clinical, elsewhere = cohort.clinical.assign(split=part), other.clinical
        if corrupt:
            rows = clinical["split"] == "internal"
            clinical.loc[rows, "os_months"] = clinical.loc[rows, "os_months"].to_numpy()[::-1] * 2
            clinical.loc[rows, "event"] = np.resize([1, 0, 1], rows.sum())
            elsewhere = elsewhere.assign(os_months=elsewhere["os_months"].to_numpy()[::-1])
        features = cohort.features.copy()
        if corrupt:
            features.loc[part == "internal"] *= -3
        result = run(
            replace(cohort, features=features, clinical=clinical),
            {"elsewhere": replace(other, clinical=elsewhere)},
            parameters=quick,
            seed=3,
        )
        return pack(result.model, result.card), result

    (honest, first), (corrupted, second) = packages(corrupt=False), packages(corrupt=True)
    assert honest == corrupted
    assert first.model.threshold == second.model.threshold
    assert first.documents == second.documents
    assert first.metrics["cv_c_index"] == second.metrics["cv_c_index"]
    assert first.metrics["validation_internal_c_index"] != second.metrics["validation_internal_c_index"]


def test_all_patients_can_train_where_another_cohort_validates():
    quick = QUICK.model_copy(
        update={
            "permutations": 0,
            "bootstraps": 0,
            "internal_share": 0.0,
            "tuning_share": 0.0,
            "compare_structural": False,
        }
    )
    other = make_cohort(effect=1.0, seed=5, patients=60)
    without_idh = replace(other, clinical=other.clinical.drop(columns="idh"))
    result = run(make_cohort(effect=1.0, patients=120), {"elsewhere": without_idh}, parameters=quick, seed=3)
    assert result.metrics["train_patients"] == 120
    assert "validation_internal_c_index" not in result.metrics
    assert result.metrics["validation_elsewhere_c_index"] > 0.6
    assert result.tables["candidates"]["chosen"].tolist() == [True, False]
    assert "validation_elsewhere" in result.flow["clinical_factors"]["undefined"]
    assert "elsewhere" in result.flow["nomogram"]["cohorts_left_out"]


def test_order_of_rows_and_columns_changes_nothing():
    cohort = make_cohort(effect=1.0, patients=120)
    quick = QUICK.model_copy(update={"permutations": 0, "bootstraps": 0, "compare_structural": False})
    shuffled = replace(
        cohort,
        features=cohort.features.sample(frac=1, random_state=1).iloc[:, ::-1],
        clinical=cohort.clinical.sample(frac=1, random_state=2),
    )
    first, second = (run(each, {}, parameters=quick, seed=3) for each in (cohort, shuffled))
    assert pack(first.model, first.card) == pack(second.model, second.card)
    assert first.metrics == second.metrics


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("DTI_AD_ET_Intensity_Mean", "AD"),
        ("DTI_TR_NC_GLCM_Bins-16_Energy", "MD"),
        ("FA_WT_original_firstorder_Mean", "FA"),
        ("T1GD_ET_GLCM_AD", None),
        ("FLAIR_ED_Intensity_Mean", None),
        ("DSC_PH_ET_Intensity_Mean", None),
    ],
)
def test_names_tell_the_map(name, image):
    assert map_of(name) == image


def test_a_networks_risk_goes_before_radiomics():
    """Maps' features stand beside a network's risk, as in a table of both; nobody tunes, nothing is compared."""
    cohort = make_cohort(effect=1.0, patients=120)
    risk = cohort.features["DTI_FA_ET_Mean1"] + np.random.default_rng(3).normal(size=120)
    with_risk = replace(cohort, features=cohort.features.assign(diffusionsurvival_WT_deep_risk=risk))
    quick = QUICK.model_copy(update={"permutations": 0, "bootstraps": 0})
    result = run(with_risk, {}, parameters=quick, seed=3)
    assert result.model.columns == ("diffusionsurvival_WT_deep_risk",)
    assert set(result.tables["parts"]["split"]) == {"train", "internal"}
    assert "feature_sets" not in result.tables
    assert "a network reads" in result.card.intended_use
    twice = with_risk.features.assign(diffusionsurvival_TC_deep_risk=risk)
    with pytest.raises(InvalidTable, match="more than one risk"):
        run(replace(with_risk, features=twice), {}, parameters=quick, seed=3)


def test_bad_input_is_refused():
    cohort = make_cohort(effect=1.0, patients=80)
    structural = cohort.features.loc[:, ~cohort.features.columns.str.startswith("DTI")]
    with pytest.raises(InvalidTable, match="DTI_FA_ET_Intensity_Mean"):
        run(replace(cohort, features=structural), {}, parameters=QUICK)
    with pytest.raises(InvalidTable, match="features of elsewhere"):
        run(cohort, {"elsewhere": replace(cohort, name="elsewhere", features=structural)}, parameters=QUICK)
    with pytest.raises(InvalidTable, match="no clinical factor"):
        run(replace(cohort, clinical=cohort.clinical[["os_months", "event"]]), {}, parameters=QUICK)
    with pytest.raises(InvalidTable, match="os_months"):
        run(replace(cohort, clinical=cohort.clinical.drop(columns="os_months")), {}, parameters=QUICK)
    with pytest.raises(TooFewCases):
        run(replace(cohort, clinical=cohort.clinical.assign(event=0)), {}, parameters=QUICK)
    with pytest.raises(InvalidTable, match="idh"):
        read_diffusion(replace(cohort, clinical=cohort.clinical.drop(columns="idh")), Parameters(idh_mutant=False))


def test_patients_without_maps_and_mutants_are_counted():
    cohort = make_cohort(effect=1.0, patients=80)
    maps = cohort.features.columns.str.startswith("DTI")
    cohort.features.loc[["S003", "S004"], maps] = np.nan
    data = read_diffusion(replace(cohort, excluded={"S005": "consent withdrawn"}), Parameters(idh_mutant=False))
    reasons = pd.Series(data.flow["patients_excluded"])
    assert reasons[["S003", "S004"]].tolist() == ["no features of diffusion maps"] * 2
    assert reasons["S005"] == "consent withdrawn"
    mutants = cohort.clinical.index[cohort.clinical["idh"] == "Mutant"].difference(["S003", "S004", "S005"])
    assert (reasons[mutants] == "IDH-mutant").all()
    assert len(data.ids) == 80 - len(reasons)


@pytest.fixture(scope="module")
def upenn(real_data: Path) -> StudyCohort:
    release = read_release(real_data / "upenn_gbm")
    clinical = release.participants.set_index(release.participants["participant_id"].str.removeprefix("sub-"))
    return StudyCohort("upenn", release.matrices["features"], clinical, release.scale["features"])


@pytest.mark.real
def test_diffusion_radiomics_of_glioblastoma(upenn):
    """381 glioblastomas: far below the paper's 0.746, whose grades 2 to 4 differ in survival by themselves."""
    parameters = Parameters(folds=3, permutations=1, bootstraps=100, l1_ratios=(1.0,), compare_structural=False)
    result = run(upenn, {}, parameters=parameters, seed=20240601)
    metrics = result.metrics
    assert (
        metrics["train_patients"] + metrics["validation_tuning_patients"] + metrics["validation_internal_patients"]
        == 381
    )
    assert 0.5 < metrics["cv_c_index"] < metrics["train_c_index"] < 0.75
    assert metrics["validation_internal_c_index_low"] < 0.746
    assert 0.4 < metrics["permuted_c_index"] < 0.6
    assert result.flow["clinical_factors"]["left_out"]["grade"] == "the same in every patient: 4"
    assert "kps" in result.flow["clinical_factors"]["sparse"]


@pytest.mark.real
def test_shuffled_follow_up_of_glioblastoma_tells_nothing(upenn):
    order = np.random.default_rng(7).permutation(len(upenn.clinical))
    follow = upenn.clinical[["os_months", "event"]].to_numpy()[order]
    clinical = upenn.clinical.assign(os_months=follow[:, 0].astype(float), event=follow[:, 1].astype(float))
    parameters = Parameters(folds=3, permutations=0, bootstraps=100, l1_ratios=(1.0,), compare_structural=False)
    metrics = run(replace(upenn, clinical=clinical), {}, parameters=parameters, seed=20240601).metrics
    for part in ("cv", "validation_internal"):
        assert metrics[f"{part}_c_index_low"] < 0.5 < metrics[f"{part}_c_index_high"]
