"""Figures of risk scores."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.modelling.survival_performance import (
    brier_times,
    evaluate_survival,
    integrated_brier,
    stratified_concordance,
    survival_curves,
)
from services.shared.errors import TooFewCases
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.discrimination import concordance, time_dependent_auc
from services.survival_analytics.kaplan_meier import estimate_survival


def score_of(data):
    return (data.values[:, 0] - data.values[:, 1]) / 2 * 0.8


def evaluate(data, score, **settings):
    given = {"horizons": (12, 24), "bootstraps": 200, "seed": 1} | settings
    return evaluate_survival(score, score > np.median(score), given.pop("survival", None), data, **given)


def concordance_by_pairs(months, event, score, strata):
    agreeing = comparable = 0.0
    for i in range(len(months)):
        for j in range(len(months)):
            earlier = months[i] < months[j] or (months[i] == months[j] and not event[j])
            if i != j and event[i] and earlier and strata[i] == strata[j]:
                comparable += 1
                agreeing += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    return agreeing / comparable


def test_concordance_counts_pairs_of_the_same_fold_only(simulated):
    data = simulated(60, 3, seed=1, months_apart=3)
    strata = (data.months > np.median(data.months)).astype(int)
    score = np.round(score_of(data), 1) + 100 * strata  # scores of different folds are not comparable
    found = stratified_concordance(data, score[:, None], strata[:, None]).estimate
    assert found == pytest.approx(concordance_by_pairs(data.months, data.event, score, strata), abs=1e-12)
    whole = stratified_concordance(data, score[:, None], None).estimate
    assert whole == pytest.approx(concordance(data.months, data.event, score=score).estimate)
    assert whole < 0.5 < found


def test_repeats_pool_their_pairs(simulated):
    data = simulated(50, 3, seed=2)
    scores = np.column_stack([score_of(data), -score_of(data)])
    strata = np.column_stack([np.arange(50) % 3, np.arange(50) % 5])
    pairs = [stratified_concordance(data, scores[:, [r]], strata[:, [r]]) for r in (0, 1)]
    agreeing = sum(p.concordant + p.tied_score / 2 for p in pairs)
    total = sum(p.concordant + p.discordant + p.tied_score for p in pairs)
    assert stratified_concordance(data, scores, strata).estimate == pytest.approx(agreeing / total)


def test_a_repeat_that_says_the_same_does_not_narrow_the_limits(simulated):
    data = simulated(60, 3, seed=1)
    score = score_of(data)[:, None]
    once, thrice = (stratified_concordance(data, np.repeat(score, n, axis=1), None) for n in (1, 3))
    for figure in ("estimate", "standard_error", "lower", "upper"):
        assert getattr(thrice, figure) == pytest.approx(getattr(once, figure))
    assert once.standard_error == pytest.approx(concordance(data.months, data.event, score=score[:, 0]).standard_error)


def test_figures_are_those_of_the_statistics(simulated):
    data = simulated(250, 3, seed=3, planted=2)
    score = score_of(data)
    high = score > np.median(score)
    found = evaluate(data, score, bootstraps=0)
    metrics = found.metrics
    assert (metrics["patients"], metrics["deaths"]) == (250, data.event.sum())
    harrell = concordance(data.months, data.event, score=score)
    assert metrics["c_index"] == pytest.approx(harrell.estimate)
    assert (metrics["c_index_low"], metrics["c_index_high"]) == pytest.approx((harrell.lower, harrell.upper))
    area = time_dependent_auc(data.months, data.event, score=score, times=[12, 24])
    assert [metrics["auc_12"], metrics["auc_24"]] == pytest.approx(area.estimate.tolist())
    assert found.tables["time_dependent_auc"]["normal_low"].tolist() == pytest.approx(area.lower.tolist())
    frame = data.clinical.assign(high=high.astype(float))
    model = fit_cox(frame, "os_months", event="event", covariates=["high"])
    assert metrics["hazard_ratio"] == pytest.approx(model.hazard_ratios[0])
    assert metrics["hazard_ratio_low"] == pytest.approx(model.lower[0])
    median = estimate_survival(data.months[high], data.event[high]).median
    assert metrics["median_months_high_risk"] == pytest.approx(median)
    assert metrics["logrank_p"] < 0.01
    assert all(np.isfinite(value) for value in metrics.values())


def test_limits_of_resampled_patients_agree_with_the_normal_ones(simulated):
    data = simulated(300, 3, seed=4, planted=2)
    score = score_of(data)
    drawn, normal = (evaluate(data, score, bootstraps=count).metrics for count in (500, 0))
    for name in ("c_index_low", "c_index_high", "auc_12_low", "auc_24_high"):
        assert drawn[name] == pytest.approx(normal[name], abs=0.02)
        assert drawn[name] != normal[name]
    assert drawn["c_index_low"] < drawn["c_index"] < drawn["c_index_high"]
    assert evaluate(data, score, bootstraps=500).metrics == drawn


def test_resampling_keeps_the_strata(simulated):
    data = simulated(80, 3, seed=5, planted=2)
    strata = np.arange(80) % 5
    score = score_of(data) + 50 * strata
    metrics = evaluate(data, score, strata=strata).metrics
    assert metrics["c_index_low"] < metrics["c_index"] < metrics["c_index_high"]
    assert metrics["c_index_low"] > evaluate(data, score).metrics["c_index"]


def test_tied_times_and_scores_are_no_obstacle(simulated):
    data = simulated(90, 3, seed=6, months_apart=12)
    score = np.round(score_of(data))
    assert len(np.unique(data.months)) < 9
    metrics = evaluate(data, score).metrics
    assert metrics["c_index"] == pytest.approx(
        concordance_by_pairs(data.months, data.event, score, np.zeros(90)), abs=1e-12
    )


def test_what_patients_do_not_define_is_left_out_with_the_reason(simulated):
    data = simulated(40, 3, seed=7)
    found = evaluate_survival(
        score_of(data),
        np.ones(40, dtype=bool),
        np.full((40, 2), 0.5),
        data,
        horizons=(12, 500),
        bootstraps=20,
        seed=1,
        curve=(np.array([100.0, 500.0]), np.full((40, 2), 0.5)),
    )
    assert not {"auc_500", "brier_500", "hazard_ratio", "logrank_p", "ibs"} & set(found.metrics)
    for figure in ("auc_500", "brier_500", "hazard_ratio", "ibs", "calibration_slope_12"):
        assert any(figure in reason for reason in found.left_out), figure
    assert set(found.tables["survival_curves"]["group"]) == {"high"}


def test_deaths_in_one_group_only_give_no_hazard_ratio(simulated):
    data = simulated(60, 3, seed=8)
    found = evaluate_survival(score_of(data), data.event == 1, None, data, horizons=(12,), bootstraps=0, seed=1)
    assert "hazard_ratio" not in found.metrics
    assert any("one risk group" in reason for reason in found.left_out)
    assert all(np.isfinite(value) for value in found.metrics.values())


def test_nobody_died_is_an_error(simulated):
    from dataclasses import replace

    data = simulated(30, 3, seed=9)
    censored = replace(data, event=np.zeros(30, dtype=np.int64))
    with pytest.raises(TooFewCases):
        evaluate(censored, score_of(data))


def test_calibration_of_the_truth_is_good_and_of_a_shifted_one_is_not(simulated):
    data = simulated(1500, 2, seed=10, planted=2)
    risk = score_of(data) - score_of(data).mean()
    times = np.array([12.0, 24.0])
    truth = np.exp(-((times / 30) ** 1.2)[None, :] * np.exp(risk)[:, None])
    good = evaluate(data, risk, survival=truth, bootstraps=0)
    bad = evaluate(data, risk, survival=truth**3, bootstraps=0)
    assert good.metrics["calibration_slope_12"] == pytest.approx(1, abs=0.12)
    assert good.metrics["calibration_error_12"] < 0.03 < bad.metrics["calibration_error_12"]
    assert good.metrics["brier_12"] < good.metrics["brier_12_null"]
    assert good.metrics["brier_12"] < bad.metrics["brier_12"]
    table = good.tables["calibration"]
    assert table["patients"].sum() == 3000
    assert (table["predicted"] - table["observed"]).abs().max() < 0.08


def test_the_integrated_brier_score_is_the_area_under_brier_scores(simulated):
    data = simulated(200, 2, seed=11)
    times = brier_times((12, 24))
    assert times[-1] == 24
    sure = np.ones((200, len(times)))  # everybody lives: the score is the share of deaths, weighted
    found = integrated_brier(data, times, sure)
    uncensored = data.event.all()
    assert not uncensored
    curve = estimate_survival(data.months, data.event).at(times)
    expected = np.trapezoid(np.r_[0, 1 - curve.survival], np.r_[0, times]) / 24
    assert found == pytest.approx(expected, abs=0.01)


def test_curves_start_at_one_with_all_patients(simulated):
    data = simulated(50, 2, seed=12)
    high = score_of(data) > 0
    curves = survival_curves(data, high)
    for name, members in (("low", ~high), ("high", high)):
        curve = curves[curves["group"] == name]
        assert (curve["months"].iloc[0], curve["survival"].iloc[0]) == (0, 1)
        assert curve["at_risk"].iloc[0] == members.sum()
        assert curve["survival"].is_monotonic_decreasing
