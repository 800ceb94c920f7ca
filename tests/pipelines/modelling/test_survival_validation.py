"""Cross-validation, shuffled follow-up and application of signatures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.modelling.signature import CoxLasso, cox_signature, fit_signature, predicted_survival, risk_scores
from pipelines.modelling.survival_performance import stratified_concordance
from pipelines.modelling.survival_validation import (
    apply_signature,
    cross_validate_signature,
    evaluate_out_of_fold,
    make_survival_splits,
    permuted_survival,
    pool_survival,
    select_outside_folds,
)
from pipelines.modelling.validation import Split
from services.model_serving.package import ModelCard, TrainingData, pack
from services.shared.errors import TooFewCases

HORIZONS = (12, 24)
CARD = ModelCard(
    study="s",
    classes=("low", "high"),
    intended_use="Tests",
    metrics={},
    training=TrainingData(patients=1, patients_by_class={}, features_sha256="0" * 64, labels_sha256="0" * 64),
    code_version="1",
    packages={},
)


def c_index(data, results):
    pooled = pool_survival(results, len(data.ids))
    return stratified_concordance(data, pooled.scores, pooled.strata)


def test_splits_hold_deaths_in_every_fold_and_every_patient_once(simulated):
    data = simulated(61, 2, seed=1)
    splits = make_survival_splits(data.event, folds=5, repeats=2, seed=1)
    for repeat in (0, 1):
        mine = [split for split in splits if split.repeat == repeat]
        assert sorted(np.concatenate([split.test for split in mine])) == list(range(61))
        deaths = [int(data.event[split.test].sum()) for split in mine]
        assert max(deaths) - min(deaths) <= 1
    with pytest.raises(TooFewCases, match="fewer deaths than folds"):
        make_survival_splits(np.r_[np.ones(4, dtype=int), np.zeros(40, dtype=int)], folds=5, repeats=1, seed=1)


def test_a_fold_model_does_not_depend_on_its_validation_patients(simulated):
    data = simulated(150, 15, seed=2)
    splits = make_survival_splits(data.event, folds=3, repeats=1, seed=2)
    honest = cross_validate_signature(CoxLasso(), data, horizons=HORIZONS, seed=2, splits=splits)
    rng = np.random.default_rng(0)
    for k, split in enumerate(splits):
        months, event, values = data.months.copy(), data.event.copy(), data.values.copy()
        order = rng.permutation(split.test)
        months[split.test], event[split.test] = months[order] * 3, 1 - event[order]
        values[split.test] = rng.normal(size=(len(split.test), 15)) * 100
        spoilt = replace(data, months=months, event=event, values=values)
        again = cross_validate_signature(CoxLasso(), spoilt, horizons=HORIZONS, seed=2, splits=splits)
        assert pack(again[k].signature.model, CARD) == pack(honest[k].signature.model, CARD)
        other = (k + 1) % 3
        assert pack(again[other].signature.model, CARD) != pack(honest[other].signature.model, CARD)


def test_out_of_fold_scores_are_those_of_the_fold_that_never_saw_the_patient(simulated):
    data = simulated(120, 10, seed=3)
    results = cross_validate_signature(CoxLasso(), data, folds=4, repeats=2, horizons=HORIZONS, seed=3)
    pooled = pool_survival(results, 120)
    assert pooled.scores.shape == (120, 2)
    assert np.isfinite(pooled.scores).all()
    survival, margin = np.zeros((120, 2)), np.zeros(120)
    for result in results:
        scores = risk_scores(result.signature.model, data)[result.split.test]
        assert pooled.scores[result.split.test, result.split.repeat] == pytest.approx(scores, abs=1e-12)
        survival[result.split.test] += predicted_survival(result.signature.model, scores, HORIZONS) / 2
        margin[result.split.test] += scores - result.signature.model.threshold
    assert pooled.survival(HORIZONS) == pytest.approx(survival)
    assert np.array_equal(pooled.high, margin >= 0)
    figures = evaluate_out_of_fold(pooled, data, horizons=HORIZONS, bootstraps=50, seed=1).metrics
    assert figures["c_index"] == pytest.approx(c_index(data, results).estimate)
    assert figures["c_index"] > 0.7
    assert 0 < figures["ibs"] < 0.25


def test_without_signal_the_cross_validated_c_index_is_one_half(simulated):
    found = []
    for seed in range(6):
        data = simulated(150, 25, seed=100 + seed, planted=0)
        found.append(c_index(data, cross_validate_signature(CoxLasso(), data, folds=5, horizons=HORIZONS, seed=seed)))
    # Limits for given scores leave out how the folds' models vary: about 85 % of them cover one half.
    assert sum(c.lower <= 0.5 <= c.upper for c in found) >= 4
    assert np.mean([c.estimate for c in found]) == pytest.approx(0.5, abs=0.04)


def test_shuffled_follow_up_gives_one_half_where_there_is_signal(simulated):
    data = simulated(150, 20, seed=4)
    permuted = permuted_survival(CoxLasso(), data, runs=6, folds=4, repeats=1, cutoff="median", seed=4)
    assert permuted["c_index"].mean() == pytest.approx(0.5, abs=0.05)
    assert (permuted["low"] < permuted["c_index"]).all()
    assert permuted["filled_up"].between(0, 4).all()


def test_a_recipe_that_selects_nothing_is_counted_and_its_c_index_honest(simulated):
    data = simulated(120, 6, seed=5, planted=0)
    permuted = permuted_survival(
        CoxLasso(screen_p=1e-12), data, runs=2, folds=4, repeats=1, cutoff="maximally_selected", seed=5
    )
    assert permuted["filled_up"].tolist() == [4, 4]
    assert permuted["c_index"].mean() == pytest.approx(0.5, abs=0.1)


def test_a_fold_without_deaths_gives_scores_but_no_pairs(simulated):
    data = simulated(100, 5, seed=6)
    alive = np.flatnonzero(data.event == 0)[:12]
    rest = np.setdiff1d(np.arange(100), alive)
    splits = [Split(0, 0, rest, alive)]
    splits += [Split(0, k + 1, np.setdiff1d(np.arange(100), part), part) for k, part in enumerate(np.split(rest, 2))]
    results = cross_validate_signature(CoxLasso(), data, horizons=HORIZONS, seed=6, splits=splits)
    pooled = pool_survival(results, 100)
    assert np.isfinite(pooled.scores).all()
    assert evaluate_out_of_fold(pooled, data, horizons=HORIZONS, bootstraps=20, seed=1).metrics["c_index"] > 0.6


def test_a_feature_that_is_missing_in_a_whole_fold_takes_the_training_median(simulated):
    data = simulated(60, 4, seed=7, planted=2)
    splits = make_survival_splits(data.event, folds=3, repeats=1, seed=7)
    data.values[splits[0].test, 0] = np.nan
    result = cross_validate_signature(CoxLasso(), data, horizons=HORIZONS, seed=7, splits=splits)[0]
    assert "GENE000" in result.signature.model.columns
    assert np.isfinite(result.scores).all()


def test_features_chosen_outside_the_folds_flatter_noise(simulated):
    outside, inside = [], []
    for seed in range(3):
        data = simulated(100, 300, seed=200 + seed, planted=0)
        splits = make_survival_splits(data.event, folds=4, repeats=1, seed=seed)
        chosen = CoxLasso(screen_p=0.02).fit(data.values, data.months, data.event, names=data.columns, seed=seed)
        columns = [data.columns[i] for i in chosen.scaling.columns]
        pooled = select_outside_folds(
            CoxLasso(screen_p=None), data, columns=columns, splits=splits, cutoff="median", seed=seed
        )
        outside.append(stratified_concordance(data, pooled.scores, pooled.strata).estimate)
        results = cross_validate_signature(CoxLasso(screen_p=0.02), data, cutoff="median", seed=seed, splits=splits)
        inside.append(c_index(data, results).estimate)
    assert np.mean(outside) > 0.58
    assert np.mean(outside) > np.mean(inside) + 0.05


def test_other_patients_meet_the_signature_unchanged(simulated):
    data, other = simulated(200, 10, seed=8), simulated(120, 10, seed=9, prefix="V")
    model = fit_signature(CoxLasso(), data, horizons_months=HORIZONS, seed=8).model
    before = pack(model, CARD)
    figures = apply_signature(model, other, horizons=HORIZONS, bootstraps=50, seed=1)
    assert pack(model, CARD) == before
    scores = risk_scores(model, other)
    assert figures.metrics["patients_high_risk"] == int((scores >= model.threshold).sum())
    reordered = replace(other, columns=other.columns[::-1], values=other.values[:, ::-1])
    again = apply_signature(model, reordered, horizons=HORIZONS, bootstraps=50, seed=1)
    assert again.metrics == figures.metrics
    assert cox_signature(model).coefficients.size == len(model.columns)
