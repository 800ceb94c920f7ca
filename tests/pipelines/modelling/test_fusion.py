from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.modelling.fusion import (
    FUSION,
    IMAGING,
    SCORE,
    Inputs,
    LinearRecipe,
    choose_imaging,
    columns_of,
    cross_validate_fusion,
    fold_in,
    imaging_models,
    linear_predictor,
)
from pipelines.modelling.fusion_tables import Predictions, delong_table, nomogram_of
from pipelines.modelling.validation import Fit, derive_seed, fit_recipe, make_splits, rank_auc
from pipelines.studies.atrx import AtrxRecipe, Parameters
from services.model_serving.package import (
    FittedModel,
    LogisticClassifier,
    ModelCard,
    SvmClassifier,
    TrainingData,
    pack,
)
from services.model_serving.predictor import classifier_scores, probabilities
from services.shared.errors import InvalidTable

LINEAR = LinearRecipe(c=1.0, max_missing=0.5)
CARD = ModelCard(
    study="test",
    classes=("WT", "Mutant"),
    intended_use="Tests",
    metrics={},
    training=TrainingData(patients=1, patients_by_class={}, features_sha256="0" * 64, labels_sha256="0" * 64),
    code_version="1",
    packages={},
)


def logistic(names: tuple[str, ...], rng: np.random.Generator) -> FittedModel:
    k = len(names)
    return FittedModel(
        names,
        rng.normal(size=k),
        rng.normal(size=k),
        rng.uniform(0.5, 3, k),
        LogisticClassifier(rng.normal(size=k), float(rng.normal())),
        0.4,
    )


@pytest.mark.parametrize("names", [(SCORE, "age_years", "grade"), ("age_years", SCORE), (SCORE,), ("age_years",)])
def test_one_logistic_model_equals_the_fusion_of_score_and_clinic(names):
    rng = np.random.default_rng(0)
    imaging, fusion = logistic(("b", "a", "c"), rng), logistic(names, rng)
    values, clinic = rng.normal(size=(50, 3)), rng.normal(size=(50, len(names)))
    values[rng.random(values.shape) < 0.2] = np.nan
    clinic[rng.random(clinic.shape) < 0.2] = np.nan
    score = linear_predictor(imaging, values)
    given = clinic.copy()
    if SCORE in names:
        given[:, names.index(SCORE)] = score
    two_steps = probabilities(fusion, given)
    one = fold_in(fusion, imaging)
    assert one.columns == ("b", "a", "c", *(name for name in names if name != SCORE))
    table = np.hstack([values, clinic[:, [i for i, name in enumerate(names) if name != SCORE]]])
    np.testing.assert_allclose(probabilities(one, table), two_steps, rtol=0, atol=1e-13)
    assert one.threshold == fusion.threshold


def test_only_logistic_models_fold():
    rng = np.random.default_rng(0)
    model = logistic(("a",), rng)
    machine = replace(model, classifier=SvmClassifier(np.ones((1, 1)), np.ones(1), 0, 1, 1, 0))
    with pytest.raises(InvalidTable, match="logistic"):
        fold_in(logistic((SCORE,), rng), machine)


def test_nine_models_where_both_kinds_and_regions_are():
    columns = [f"{s}_{r}_{k}" for s in ("T1c", "FLAIR") for r in ("ED", "ET", "WT") for k in ("x", "deep_1")]
    models = imaging_models(columns)
    assert [model.name for model in models] == [
        f"{region}_{kind}" for region in ("edema", "tumour", "overall") for kind in ("radiomics", "deep", "hybrid")
    ]
    assert not any(model.absent for model in models)
    assert [len(model.columns) for model in models] == [2, 2, 4, 2, 2, 4, 6, 6, 12]


def test_models_that_a_table_cannot_give_say_why():
    found = {model.name: model.absent for model in imaging_models(["core__t1__a", "core__t2__b"])}
    assert found["tumour_radiomics"] == ""
    assert found["overall_radiomics"] == "the same features as tumour_radiomics"
    assert found["edema_radiomics"] == "no radiomics feature of this region"
    assert found["tumour_deep"] == "no deep feature of this region"
    assert found["overall_hybrid"] == "only radiomics features of this region"
    unnamed = {model.name for model in imaging_models(["first", "second"]) if not model.absent}
    assert unnamed == {"overall_radiomics"}


def fit_with(scores: list[float], folds: list[int]) -> Fit:
    fit = fit_recipe(LINEAR, np.arange(8.0)[:, None], np.arange(8) % 2, names=("a",), inner_folds=2, seed=0)
    return replace(fit, inner_scores={"": np.array(scores)}, inner_fold=np.array(folds))


def test_the_best_mean_over_inner_folds_is_chosen_and_the_first_of_equals():
    outcome, folds = np.array([0, 1, 0, 1]), [0, 0, 1, 1]
    # pooled, the scores of the second fold lie so high that the AUC is 0.75; within each fold the order is right
    shifted, wrong = fit_with([0.0, 1.0, 8.0, 9.0], folds), fit_with([0.0, 1.0, 9.0, 8.0], folds)
    name, means = choose_imaging({"wrong": wrong, "shifted": shifted, "same": shifted}, outcome)
    assert name == "shifted"
    assert means == {"wrong": 0.5, "shifted": 1.0, "same": 1.0}


def test_a_regression_without_usable_columns_gives_the_share_of_the_class():
    outcome = np.array([0, 0, 0, 1] * 4)
    fit = fit_recipe(LINEAR, np.ones((16, 2)), outcome, names=("a", "b"), inner_folds=2, seed=0)
    assert fit.model.columns == ()
    np.testing.assert_allclose(probabilities(fit.model, np.empty((3, 0))), 0.25)


def planted(patients: int = 36) -> tuple[Inputs, np.ndarray]:
    rng = np.random.default_rng(5)
    outcome = np.arange(patients) % 2
    columns = tuple(f"T1c_{region}_f{i:02d}" for region in ("ED", "ET") for i in range(12))
    values = rng.normal(size=(patients, 24))
    values[:, :3] += 1.5 * outcome[:, None]
    clinical = np.column_stack([50 + 10 * rng.normal(size=patients) - 6 * outcome, rng.integers(0, 2, patients)])
    return Inputs(columns, values, ("age_years", "sex_male"), clinical), outcome


def test_validation_patients_do_not_touch_the_models_of_their_fold():
    inputs, outcome = planted()
    recipe = AtrxRecipe(Parameters(lasso_folds=3))
    models = [model for model in imaging_models(inputs.columns) if not model.absent]
    split = make_splits(outcome, folds=3, repeats=1, seed=0)[1]

    def fitted(given: Inputs, y: np.ndarray) -> dict[str, dict[str, bytes]]:
        _, (found,) = cross_validate_fusion(
            recipe, models, given, y, splits=[split], linear=LINEAR, inner_folds=3, seed=0, known={}
        )
        return {name: pack(fit.model, CARD) for name, fit in found.fits.items()} | {"chosen": found.chosen}

    honest = fitted(inputs, outcome)
    assert set(honest) == {
        *("edema_radiomics", "tumour_radiomics", "overall_radiomics", "imaging", "clinical", "fusion", "chosen")
    }
    values, clinical, corrupted = inputs.values.copy(), inputs.clinical.copy(), outcome.copy()
    values[split.test] *= -3
    clinical[split.test] += 40
    corrupted[split.test] = 1 - corrupted[split.test]
    assert fitted(replace(inputs, values=values, clinical=clinical), corrupted) == honest
    corrupted[split.train[:2]] = 1 - corrupted[split.train[:2]]
    assert fitted(inputs, corrupted) != honest


def test_the_fusion_learns_from_scores_of_patients_unseen_by_their_model():
    inputs, outcome = planted()
    recipe = AtrxRecipe(Parameters(lasso_folds=3))
    models = [model for model in imaging_models(inputs.columns) if not model.absent]
    split = make_splits(outcome, folds=3, repeats=1, seed=0)[0]
    _, (found,) = cross_validate_fusion(
        recipe, models, inputs, outcome, splits=[split], linear=LINEAR, inner_folds=3, seed=0, known={}
    )
    (chosen,) = [model for model in models if model.name == found.chosen]
    part, y = inputs.values[split.train][:, chosen.columns], outcome[split.train]
    imaging, scores = found.fits[IMAGING], np.empty(len(y))
    seed = derive_seed(0, 1, split.repeat, split.fold)
    for k in range(3):
        test = imaging.inner_fold == k
        scaling = recipe.select(part[~test], y[~test], seed=derive_seed(seed, 1, k)).scaling
        classifier = recipe.fit(scaling.z_scores(part[~test]), y[~test], recipe.settings[0])
        scores[test] = classifier_scores(classifier, scaling.z_scores(part[test]))
    apparent = linear_predictor(imaging.model, columns_of(imaging.model, inputs.columns, inputs.values[split.train]))
    assert found.fusion_parts.means[0] == pytest.approx(scores.mean(), abs=1e-12)
    assert found.fusion_parts.scales[0] == pytest.approx(scores.std(), abs=1e-12)
    assert rank_auc(y, scores) < rank_auc(y, apparent)


def test_the_nomogram_says_what_the_fusion_says():
    inputs, outcome = planted()
    rng = np.random.default_rng(2)
    score = rng.normal(size=len(outcome)) + outcome
    clinical = inputs.clinical.copy()
    clinical[3, 0] = np.nan
    given = replace(inputs, clinical=clinical)
    joined = np.column_stack([score, clinical])
    fusion = fit_recipe(LINEAR, joined, outcome, names=(SCORE, *inputs.clinical_columns), inner_folds=3, seed=0).model
    table, text = nomogram_of(fusion, score, given, outcome)
    drawn = json.loads(text)
    assert [axis["name"] for axis in drawn["covariates"]] == [SCORE, "age_years", "sex_male"]
    assert table["points"].max() == pytest.approx(100)
    filled = np.where(np.isnan(joined), fusion.medians, joined)
    total = sum(
        axis["points_at_zero"] + axis["points_per_value"] * filled[:, i] for i, axis in enumerate(drawn["covariates"])
    )
    log_odds = drawn["intercept"] + total / drawn["points_per_unit"]
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), probabilities(fusion, joined), atol=1e-10)


def test_equal_models_do_not_differ_and_undefined_tests_are_empty():
    outcome = np.arange(8) % 2
    perfect = Predictions(outcome, outcome.astype(float), outcome - 0.5)
    useless = Predictions(outcome, np.full(8, 0.5), np.zeros(8))
    table = delong_table(outcome, {"one": perfect, "same": perfect, FUSION: useless}).set_index("model")
    assert table.loc["one", "same"] == 1
    assert np.isnan(table.loc["one", FUSION])
    assert table.loc["one", "one"] == 1
