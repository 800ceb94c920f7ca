"""Recipes, cut-offs, baseline survival and risk scores of signatures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.signature import (
    CoxLasso,
    ElasticNetCox,
    cox_signature,
    event_folds,
    find_cutoff,
    fit_signature,
    high_risk,
    predicted_survival,
    risk_scores,
    screen_univariable,
    unpenalised_weights,
)
from services.model_serving.package import LogisticClassifier
from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.cutpoint import maximally_selected_rank, minimum_p


def test_the_lasso_finds_the_planted_features_with_their_signs(simulated):
    data = simulated(500, 40, seed=1, planted=4)
    fitted = CoxLasso().fit(data.values, data.months, data.event, names=data.columns, seed=1)
    weights = dict(zip(fitted.scaling.columns.tolist(), fitted.coefficients.tolist(), strict=True))
    assert [np.sign(weights[column]) for column in range(4)] == [1, -1, 1, -1]
    assert min(abs(weights[column]) for column in range(4)) > 2 * max(abs(weights[c]) for c in weights if c > 3)
    assert fitted.steps["given"] == 40 >= fitted.steps["screened"] >= fitted.steps["weighted"] == len(weights)
    assert fitted.filled_up == ()


def test_unpenalised_weights_are_near_the_planted_ones(simulated):
    data = simulated(3000, 4, seed=2, planted=4, effect=0.7)
    z = (data.values - data.values.mean(axis=0)) / data.values.std(axis=0)
    weights = unpenalised_weights(z, data.months, data.event)
    assert weights == pytest.approx([0.7, -0.7, 0.7, -0.7], abs=0.1)


def test_survival_is_that_of_an_unpenalised_refit(simulated):
    class Refit:
        name = "refit"

        def fit(self, values, months, event, *, names, seed):
            penalised = CoxLasso().fit(values, months, event, names=names, seed=seed)
            z = penalised.scaling.z_scores(values)
            return replace(penalised, coefficients=unpenalised_weights(z, months, event))

    data = simulated(300, 12, seed=3, months_apart=0.5)
    assert len(np.unique(data.months)) < 250  # tied times
    model = fit_signature(Refit(), data, seed=3, horizons_months=(12, 24, 36)).model
    position = [data.columns.index(name) for name in model.columns]
    z = (data.values[:, position] - model.means) / model.scales
    frame = pd.DataFrame(z, columns=list(model.columns)).assign(months=data.months, event=data.event)
    reference = fit_cox(frame, "months", event="event", covariates=list(model.columns))
    times = [0.4, 6.0, 12.0, 20.25, 36.0]
    expected = reference.predict_survival(frame, times).survival.T
    assert predicted_survival(model, risk_scores(model, data), times) == pytest.approx(expected, rel=1e-9)


def test_baseline_has_the_horizons_and_no_more_than_it_needs(simulated):
    data = simulated(700, 5, seed=4, planted=2)
    signature = cox_signature(fit_signature(CoxLasso(), data, seed=4, horizons_months=(12, 60)).model)
    assert {12.0, 60.0} <= set(signature.times_months)
    assert len(signature.times_months) <= 202
    assert signature.times_months.max() == 60
    assert (np.diff(signature.baseline_survival) <= 0).all()


def test_risk_scores_are_those_worked_by_hand(simulated):
    data = simulated(200, 10, seed=5)
    data.values[3, :] = np.nan
    model = fit_signature(CoxLasso(), data, seed=5).model
    scores = risk_scores(model, data)
    by_hand = np.zeros(200)
    for weight, name in zip(cox_signature(model).coefficients, model.columns, strict=True):
        column = data.values[:, data.columns.index(name)].copy()
        column[np.isnan(column)] = np.nanmedian(column)
        by_hand += weight * (column - column.mean()) / column.std()
    assert scores == pytest.approx(by_hand, abs=1e-10)
    assert scores.mean() == pytest.approx(0, abs=1e-10)
    frame = pd.DataFrame(data.values[:, ::-1], columns=list(data.columns[::-1]), index=list(data.ids))
    assert np.array_equal(risk_scores(model, frame.assign(another=1.0)), scores)


def test_a_feature_that_was_not_measured_is_named_with_the_platform(simulated):
    data = simulated(200, 10, seed=5)
    model = fit_signature(CoxLasso(), data, seed=5).model
    first = model.columns[0]
    frame = pd.DataFrame(data.values, columns=list(data.columns))
    with pytest.raises(InvalidTable, match=r"GENE00") as error:
        risk_scores(model, frame.drop(columns=first), platform="log2(FPKM + 1)", cohort="freije")
    assert error.value.field == first
    assert "log2(FPKM + 1)" in str(error.value.expected)
    assert "freije" in str(error.value.step)
    with pytest.raises(InvalidTable, match=first):
        risk_scores(model, frame.assign(**{first: np.nan}))
    with pytest.raises(InvalidValue, match="no risk score"):
        risk_scores(replace(model, classifier=LogisticClassifier(np.ones(len(model.columns)), 0.0)), data)


@pytest.mark.parametrize(("rule", "search"), [("maximally_selected", maximally_selected_rank), ("x_tile", minimum_p)])
def test_cut_offs_separate_patients_as_the_search_does(simulated, rule, search):
    data = simulated(150, 4, seed=6)
    score = data.values[:, 0] - data.values[:, 1]
    threshold, used, p_value = find_cutoff(score, data.months, data.event, rule=rule)
    found = search(data.months, data.event, score=score)
    assert used == rule
    assert np.array_equal(score >= threshold, score > found.cut)
    assert p_value == (found.p_value if rule == "maximally_selected" else found.p_corrected)
    assert 0.1 <= (score >= threshold).mean() <= 0.9


def test_the_median_halves_the_patients_and_has_no_p_value():
    score = np.arange(11.0)
    threshold, used, p_value = find_cutoff(score, np.arange(1.0, 12.0), np.ones(11, dtype=int), rule="median")
    assert (used, p_value, int((score >= threshold).sum())) == ("median", None, 5)


@pytest.mark.parametrize("score", [np.r_[np.zeros(97), np.ones(3)], np.zeros(100), np.r_[np.zeros(3), np.ones(97)]])
def test_a_score_without_an_allowed_cut_falls_back_on_the_median(score):
    rng = np.random.default_rng(0)
    threshold, used, p_value = find_cutoff(
        score, rng.exponential(size=100), np.ones(100, dtype=int), rule="maximally_selected"
    )
    assert (used, p_value) == ("median", None)
    high = score >= threshold
    assert np.array_equal(high, score == score.max())


def test_an_unknown_rule_is_refused():
    with pytest.raises(InvalidValue, match="maximally_selected"):
        find_cutoff(np.arange(20.0), np.arange(1.0, 21), np.ones(20, dtype=int), rule="youden")


def test_nothing_selected_falls_back_on_the_strongest_feature(simulated):
    data = simulated(120, 5, seed=7, planted=0)
    fitted = CoxLasso(screen_p=1e-9).fit(data.values, data.months, data.event, names=data.columns, seed=7)
    assert "screened" in fitted.filled_up
    assert len(fitted.coefficients) == 1
    assert fitted.coefficients[0] != 0
    p_values = screen_univariable(data.values, data.months, data.event, names=data.columns)["p_value"]
    assert fitted.scaling.columns.tolist() == [int(p_values.argmin())]
    noise = CoxLasso(screen_p=None, rule="1se").fit(data.values, data.months, data.event, names=data.columns, seed=7)
    assert noise.filled_up == ("weighted",)
    assert noise.steps["weighted"] == 1


def test_few_features_are_kept_where_few_are_allowed(simulated):
    data = simulated(300, 20, seed=8, planted=6)
    for allowed in (1, 3):
        recipe = CoxLasso(max_features=allowed)
        fitted = recipe.fit(data.values, data.months, data.event, names=data.columns, seed=8)
        assert 1 <= len(fitted.coefficients) <= allowed


def test_an_elastic_net_keeps_more_than_the_lasso(simulated):
    data = simulated(300, 30, seed=9)
    counts = [
        len(recipe.fit(data.values, data.months, data.event, names=data.columns, seed=9).coefficients)
        for recipe in (ElasticNetCox(l1_ratio=0.1, screen_p=None), CoxLasso(screen_p=None))
    ]
    assert counts[0] > counts[1]
    assert (ElasticNetCox().name, CoxLasso().name) == ("cox_elastic_net", "cox_lasso")


def test_tables_tell_of_every_feature_and_penalty(simulated):
    data = simulated(200, 8, seed=10)
    fitted = CoxLasso(measure="concordance").fit(data.values, data.months, data.event, names=data.columns, seed=10)
    screening, path = fitted.tables["screening"], fitted.tables["path"]
    assert screening["feature"].tolist() == list(data.columns)
    frame = pd.DataFrame({"x": fitted.scaling.z_scores(data.values)[:, 0], "t": data.months, "e": data.event})
    one = fit_cox(frame, "t", event="e", covariates=["x"])
    row = screening.set_index("feature").loc[data.columns[int(fitted.scaling.columns[0])]]
    assert (row["hazard_ratio"], row["low"], row["high"], row["p_value"]) == pytest.approx(
        (one.hazard_ratios[0], one.lower[0], one.upper[0], one.p_values[0]), rel=1e-6
    )
    chosen = path[path["chosen"]]
    assert len(chosen) == 1
    assert int(chosen["nonzero"].iloc[0]) == len(fitted.coefficients)
    assert path["concordance"].iloc[path["chosen"].to_numpy().argmax()] == path["concordance"].max()


def test_folds_share_deaths_evenly_and_need_one_each():
    event = np.r_[np.ones(13, dtype=int), np.zeros(24, dtype=int)]
    fold = event_folds(event, folds=5, seed=1)
    assert sorted(np.bincount(fold[event == 1])) == [2, 2, 3, 3, 3]
    assert np.ptp(np.bincount(fold)) <= 1
    assert sorted(set(event_folds(np.ones(9, dtype=int), folds=3, seed=1))) == [0, 1, 2]
    with pytest.raises(TooFewCases, match="fewer deaths than folds"):
        event_folds(event, folds=14, seed=1)


def test_the_same_seed_gives_the_same_signature_whatever_else_ran(simulated):
    data = simulated(150, 20, seed=11)
    first = fit_signature(CoxLasso(), data, seed=5)
    np.random.default_rng().random(7)
    again = fit_signature(CoxLasso(), data, seed=5)
    for name, values in cox_signature(first.model).arrays().items():
        assert np.array_equal(values, cox_signature(again.model).arrays()[name])
    assert first.model.threshold == again.model.threshold
    scores = risk_scores(first.model, data)
    assert np.array_equal(high_risk(first.model, scores), scores >= first.model.threshold)


def test_a_recipe_needs_three_deaths(simulated):
    data = simulated(60, 5, seed=12)
    event = np.zeros(60, dtype=np.int64)
    event[:2] = 1
    with pytest.raises(TooFewCases, match="fewer deaths than folds"):
        CoxLasso().fit(data.values, data.months, event, names=data.columns, seed=1)


def test_a_feature_that_orders_every_death_has_a_finite_weight():
    months = np.arange(1.0, 31.0)
    weight = unpenalised_weights(-(months[:, None] - 15.5) / 8.66, months, np.ones(30, dtype=np.int64))
    assert weight.tolist() == [1.0]
