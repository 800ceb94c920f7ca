"""ATRX study: imaging models by region, imaging score, clinical model and fusion."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.fusion_study import ValidationCohort
from pipelines.modelling.outputs import write_study
from pipelines.modelling.study import apply_to_cohort
from pipelines.studies import atrx
from services.model_serving.package import pack, read_package
from services.model_serving.predictor import predict, probabilities
from services.shared.errors import InvalidTable, TooFewCases
from services.shared.storage import Storage

FAST = {"folds": 3, "inner_folds": 3, "lasso_folds": 3, "permutations": 0, "trees": 10, "bootstraps": 200}
Cohort = tuple[pd.DataFrame, pd.Series, pd.DataFrame]


def make(*, patients: int = 60, edema: float = 0.0, age: float = 0.0, seed: int = 0, prefix: str = "P") -> Cohort:
    """Return features of two regions (signal in three of fifteen of oedema), classes, and a clinical table."""
    rng = np.random.default_rng(seed)
    y = np.arange(patients) % 2
    columns = [f"{s}_{r}_f{i:02d}" for r in ("ED", "ET") for i, s in enumerate(["T1c", "FLAIR", "mask"] * 5)]
    x = rng.normal(size=(patients, 30))
    x[:, :3] += edema * y[:, None]
    ids = pd.Index([f"{prefix}{i:03d}" for i in rng.permutation(patients)], name="case_id")
    clinical = pd.DataFrame(
        {
            "age_years": 45 + 10 * rng.normal(size=patients) - 10 * age * y,
            "sex": rng.choice(["F", "M"], patients),
            "grade": rng.integers(2, 5, patients),
            "idh": np.where(rng.random(patients) < 0.8, "Mutant", "WT"),
            "codeletion_1p19q": np.where(rng.random(patients) < 0.8, "non-codel", "codel"),
        },
        index=ids,
    )
    return pd.DataFrame(x, index=ids, columns=columns), pd.Series(np.array(atrx.CLASSES)[y], index=ids), clinical


def parameters(**changes: object) -> atrx.Parameters:
    return atrx.Parameters.model_validate(FAST | changes)


@pytest.fixture(scope="module")
def planted():
    """A study of a signal in oedema and in age, judged on a second cohort too."""
    features, labels, clinical = make(patients=90, edema=0.7, age=0.9, seed=3)
    others = ValidationCohort(*make(patients=300, edema=0.7, age=0.9, seed=4, prefix="Q"))
    result = atrx.run(
        features,
        labels,
        clinical=clinical,
        parameters=parameters(permutations=2),
        seed=1,
        validation={"second": others},
    )
    return features, labels, clinical, others, result


def areas(result, part: str = "cv") -> pd.Series:
    table = result.more_tables["performance"]
    return table[table["part"] == part].set_index("model")["auc"]


def test_the_region_with_the_signal_wins(planted):
    result = planted[-1]
    found = areas(result)
    assert found["edema_radiomics"] > 0.7 > found["tumour_radiomics"]
    models = result.more_tables["models"].set_index("model")
    assert models.loc["tumour_radiomics", "share_of_folds"] == 0
    assert models["chosen"].sum() == 1
    assert not models.loc["tumour_radiomics", "chosen"]
    assert models.loc["edema_deep", "absent"] == "no deep feature of this region"


def test_the_fusion_beats_its_parts(planted):
    result = planted[-1]
    for part in ("cv", "validation_second"):
        found = areas(result, part)
        assert found["fusion"] > max(found["imaging"], found["clinical"])
        assert found["clinical"] > 0.6
    assert result.metrics["fusion_auc"] == pytest.approx(areas(result)["fusion"])
    assert result.metrics["validation_second_fusion_auc"] > 0.75


def test_the_studys_own_figures_are_those_of_all_imaging_features(planted):
    features, labels, _, _, result = planted
    alone = atrx.run(features, labels, parameters=parameters(), seed=1)
    own = {name: value for name, value in alone.metrics.items() if "permuted" not in name}
    assert {name: result.metrics[name] for name in own} == own
    assert result.metrics["auc"] == result.metrics["overall_radiomics_auc"]
    pd.testing.assert_frame_equal(alone.predictions, result.predictions)


def test_shuffled_outcomes_give_chance_for_the_fusion_too(planted):
    metrics = planted[-1].metrics
    assert metrics["fusion_permuted_auc_low"] < 0.5 < metrics["fusion_permuted_auc_high"]
    assert set(planted[-1].more_tables["permuted_models"]["model"]) >= {"imaging", "clinical", "fusion"}


def test_nothing_is_found_where_nothing_is():
    covered, found = 0, []
    for seed in range(1, 7):
        features, labels, clinical = make(seed=seed, patients=40)
        metrics = atrx.run(features, labels, clinical=clinical, parameters=parameters(), seed=seed).metrics
        covered += metrics["fusion_auc_low"] < 0.5 < metrics["fusion_auc_high"]
        found.append(metrics["fusion_auc"])
    assert covered >= 4  # 95 % limits: 5.7 of 6 expected, fewer than 4 in one of 450 such tests
    assert abs(np.mean(found) - 0.5) < 0.12  # three standard errors


def test_other_cohorts_outcomes_leave_every_package_as_it_is(planted):
    features, labels, clinical, others, result = planted
    swapped = {atrx.CLASSES[0]: atrx.CLASSES[1], atrx.CLASSES[1]: atrx.CLASSES[0]}
    corrupted = replace(others, labels=others.labels.map(swapped), features=others.features * -3)
    again = atrx.run(
        features,
        labels,
        clinical=clinical,
        parameters=parameters(permutations=2),
        seed=1,
        validation={"second": corrupted},
    )
    assert pack(again.model, again.card) == pack(result.model, result.card)
    assert pack(*again.packages["fusion"]) == pack(*result.packages["fusion"])
    assert again.metrics["validation_second_fusion_auc"] != result.metrics["validation_second_fusion_auc"]


def test_the_same_data_in_another_order_give_the_same_files(planted, tmp_path):
    features, labels, clinical, others, result = planted
    again = atrx.run(
        features.iloc[::-1, ::-1],
        labels.sample(frac=1, random_state=1),
        clinical=clinical.sample(frac=1, random_state=2),
        parameters=parameters(permutations=2),
        seed=1,
        validation={"second": others},
    )
    one, other = Storage(tmp_path / "one"), Storage(tmp_path / "other")
    keys = write_study(one, "phantom", result)
    assert write_study(other, "phantom", again) == keys
    assert {key: one.read_bytes(key) for key in keys} == {key: other.read_bytes(key) for key in keys}


def test_the_written_fusion_serves_what_the_study_says(planted, storage):
    features, _, clinical, _, result = planted
    write_study(storage, "phantom", result)
    package = read_package(storage, "studies/phantom/atrx/fusion")
    model, _ = result.packages["fusion"]
    assert package.description.metrics["auc"].value == result.metrics["fusion_auc"]
    assert set(package.model.columns) >= {"age_years", "sex_male", "grade"}
    case = features.index[0]
    row = {**features.loc[case], "age_years": clinical.loc[case, "age_years"], "sex_male": None, "grade": 3.0}
    found = predict(package, row, model="atrx-fusion", version="1")
    values = np.array([[np.nan if row[name] is None else row[name] for name in model.columns]])
    assert found.probability == pytest.approx(probabilities(model, values)[0], abs=1e-12)
    assert found.imputed == ("sex_male",)
    folder = "studies/phantom/atrx"
    assert json.loads(storage.read_text(f"{folder}/nomogram.json"))["family"] == "logistic"
    assert "model,edema_radiomics" in storage.read_text(f"{folder}/delong.csv")


def test_a_package_is_judged_on_a_cohort_unchanged(planted, storage):
    _, _, _, others, result = planted
    write_study(storage, "phantom", result)
    package = read_package(storage, "studies/phantom/atrx/fusion")
    figures = apply_to_cohort(package, others.features, others.labels, clinical=others.clinical, bootstraps=200)
    assert figures.metrics["auc"] == pytest.approx(result.metrics["validation_second_fusion_auc"])
    assert figures.metrics["auc_bootstrap_low"] < figures.metrics["auc"] < figures.metrics["auc_bootstrap_high"]
    assert len(figures.predictions) == figures.flow["patients_studied"] == 300
    with pytest.raises(InvalidTable, match="without 3 of them: age_years"):
        apply_to_cohort(package, others.features, others.labels)


def test_tables_fit_together(planted):
    _, _, _, _, result = planted
    tables = result.more_tables
    names = tables["delong"]["model"].tolist()
    assert names == list(tables["delong"].columns[1:]) == list(tables["model_predictions"].columns[2:])
    square = tables["delong"][names].to_numpy()
    np.testing.assert_array_equal(square, square.T)
    assert (np.diag(square) == 1).all()
    performance = tables["performance"]
    assert set(performance["part"]) == {"train", "cv", "validation_second"}
    inside = performance["auc"].between(performance["auc_bootstrap_low"], performance["auc_bootstrap_high"])
    assert inside.all()
    assert tables["clinical_impact"]["high_risk"].max() <= 1000
    assert set(tables["decision_curves"]["strategy"]) == {"all", "none", "imaging", "clinical", "fusion"}
    model, _ = result.packages["fusion"]
    assert tables["correlation"]["feature"].tolist() == list(model.columns)
    assert set(tables["classifiers"]["classifier"]) == {"logistic", "random_forest", "svm_rbf"}
    assert set(tables["model_calibration"]["model"]) == {"imaging", "clinical", "fusion"}


def test_the_printed_coefficients_are_those_of_the_fusion(planted):
    features, _, clinical, _, result = planted
    model, _ = result.packages["fusion"]
    table = result.more_tables["coefficients"].set_index(["model", "term"])

    def log_odds(name: str, values: dict[str, float]) -> float:
        rows = table.loc[name]
        terms = rows.drop(index="(intercept)")
        z = (pd.Series(values)[terms.index] - terms["mean"]) / terms["scale"]
        return float(rows.loc["(intercept)", "coefficient"] + (terms["coefficient"] * z).sum())

    case = features.index[7]
    clinic = {"age_years": clinical.loc[case, "age_years"], "sex_male": 1.0, "grade": 2.0}
    score = log_odds("imaging", features.loc[case].to_dict())
    told = log_odds("fusion", {"imaging_score": score, **clinic})
    values = pd.Series({**features.loc[case], **clinic})[list(model.columns)].to_numpy(float)[None]
    assert 1 / (1 + np.exp(-told)) == pytest.approx(probabilities(model, values)[0], abs=1e-12)
    assert 0 < result.metrics["imaging_cutoff"] < 1
    assert result.metrics["fusion_cutoff"] == pytest.approx(model.threshold)


def test_without_clinical_variables_there_is_no_fusion_and_the_tables_say_why():
    features, labels, clinical = make(edema=1.0)
    reasons = {}
    for given in (None, clinical[["idh"]]):
        result = atrx.run(features, labels, clinical=given, parameters=parameters(), seed=0)
        models = result.more_tables["models"].set_index("model")
        reasons[models.loc["fusion", "absent"]] = models.loc["clinical", "absent"]
        assert "fusion_auc" not in result.metrics
        assert result.metrics["imaging_auc"] > 0.6
        assert result.packages == result.documents == {}
    assert list(reasons) == ["no clinical table", "no clinical variable tells the patients apart"]
    assert result.flow["clinical_variables_left_out"]["age_years"] == "not in the clinical table"


def test_deep_features_give_deep_and_hybrid_models():
    features, labels, clinical = make(edema=1.0, patients=40)
    deep = features.add_suffix("_x").iloc[:, [0, 15]].set_axis(["T1c_ED_deep_0", "T1c_ET_deep_0"], axis=1)
    result = atrx.run(features.join(deep), labels, clinical=clinical, parameters=parameters(), seed=0)
    models = result.more_tables["models"]
    assert (models["absent"] == "").all()
    assert result.metrics["auc"] == result.metrics["overall_hybrid_auc"]


def test_the_population_is_who_it_says_and_the_rest_is_counted():
    features, labels, clinical = make(edema=1.0)
    clinical.loc[clinical.index[0], "idh"] = None
    astrocytoma = parameters(population="idh_mutant_noncodel")
    result = atrx.run(features, labels, clinical=clinical, parameters=astrocytoma, seed=0)
    left_out = result.flow["patients_excluded"]
    assert left_out[clinical.index[0]] == "idh unknown"
    assert set(left_out.values()) == {"idh unknown", "idh WT", "codeletion_1p19q codel"}
    kept = clinical[(clinical["idh"] == "Mutant") & (clinical["codeletion_1p19q"] == "non-codel")]
    assert set(result.predictions["case_id"]) == set(kept.index)
    for given in (None, clinical.drop(columns="idh")):
        with pytest.raises(InvalidTable, match="who belongs to the population"):
            atrx.run(features, labels, clinical=given, parameters=astrocytoma)
    clinical["idh"] = "WT"
    clinical.loc[clinical.index[:4], "idh"] = "Mutant"
    with pytest.raises((TooFewCases, InvalidTable), match="fewer patients"):
        atrx.run(features, labels, clinical=clinical, parameters=parameters(population="idh_mutant"))


def test_a_second_cohort_without_a_feature_is_an_error_and_without_clinic_has_imaging_alone():
    features, labels, clinical = make(edema=1.0, patients=40)
    other = ValidationCohort(*make(edema=1.0, patients=20, seed=9, prefix="Q"))
    alone = replace(other, clinical=None)
    run = {"clinical": clinical, "parameters": parameters(), "seed": 0}
    result = atrx.run(features, labels, **run, validation={"alone": alone})
    assert set(areas(result, "validation_alone").index) == {
        *("edema_radiomics", "tumour_radiomics", "overall_radiomics", "imaging")
    }
    assert "fusion" in result.flow["validation"]["alone"]["models_absent"]
    poorer = replace(other, features=other.features.drop(columns=result.model.columns[0]))
    with pytest.raises(InvalidTable, match="not all there"):
        atrx.run(features, labels, **run, validation={"poorer": poorer})


def test_progress_ends_at_its_total():
    features, labels, clinical = make(edema=1.0, patients=40)
    ticks: list[tuple[int, int, str]] = []
    atrx.run(
        features,
        labels,
        clinical=clinical,
        parameters=parameters(permutations=1),
        progress=lambda *tick: ticks.append(tick),
    )
    assert [tick[0] for tick in ticks] == list(range(1, len(ticks) + 1))
    assert ticks[-1][0] == ticks[-1][1] == 3 * 2 + 1 + 2 * (3 * 2 + 1)


def test_lower_grades_alone_can_be_studied() -> None:
    ids = pd.Index(["A", "B", "C", "D"])
    known = pd.DataFrame({"grade": [2, 4, None, None], "grade_group": ["LGG", "HGG", "LGG", None]}, index=ids)
    assert atrx.outside_grades(known, ids) == {"B": "WHO grade 4", "D": "grade unknown"}
    assert atrx.outside_grades(known[["grade"]], ids) == {
        "B": "WHO grade 4",
        "C": "grade unknown",
        "D": "grade unknown",
    }
    with pytest.raises(InvalidTable, match="lower grade"):
        atrx.outside_grades(known[[]], ids)
