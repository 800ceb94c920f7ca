from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.optimize import minimize

from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.cox import bootstrap_cox, check_proportional_hazards, cox_residuals, fit_cox

COVARIATES = ["age", "grade", "idh_mutant", "signature"]
OUTCOME = {"time": "months", "event": "died"}


def breslow_log_likelihood(frame: pd.DataFrame, beta: np.ndarray) -> float:
    x, time, event = frame[COVARIATES].to_numpy(float), frame["months"].to_numpy(), frame["died"].to_numpy()
    eta = x @ beta
    return sum(eta[i] - np.log(np.exp(eta[time >= time[i]]).sum()) for i in np.flatnonzero(event))


def test_breslow_maximises_the_textbook_likelihood(tied_patients: pd.DataFrame) -> None:
    model = fit_cox(tied_patients, **OUTCOME, covariates=COVARIATES, ties="breslow")
    assert model.log_likelihood == pytest.approx(breslow_log_likelihood(tied_patients, model.coefficients), rel=1e-12)
    best = minimize(lambda b: -breslow_log_likelihood(tied_patients, b), model.coefficients, method="Nelder-Mead")
    assert -best.fun <= model.log_likelihood + 1e-9


def test_efron_equals_lifelines(tied_patients: pd.DataFrame) -> None:
    model = fit_cox(tied_patients, **OUTCOME, covariates=COVARIATES)
    peer = CoxPHFitter().fit(tied_patients[["months", "died", *COVARIATES]], "months", "died")
    assert model.coefficients == pytest.approx(peer.params_[COVARIATES].to_numpy(), rel=1e-5)
    assert model.standard_errors == pytest.approx(peer.standard_errors_[COVARIATES].to_numpy(), rel=1e-5)
    assert model.log_likelihood == pytest.approx(peer.log_likelihood_, rel=1e-9)


def test_planted_effects_are_inside_the_limits() -> None:
    from services.survival_analytics.simulated_patients import simulate_patients

    model = fit_cox(simulate_patients(3000, seed=1), **OUTCOME, covariates=COVARIATES)
    truth = {"age": 0.03, "grade": 0.7, "idh_mutant": -0.9, "signature": 0.8}
    for name, low, high in zip(model.covariates, np.log(model.lower), np.log(model.upper), strict=True):
        assert low - 0.1 < truth[name] < high + 0.1


def test_rows_may_come_in_any_order(patients: pd.DataFrame) -> None:
    shuffled = patients.sample(frac=1, random_state=0)
    a, b = (fit_cox(f, **OUTCOME, covariates=COVARIATES, strata="total_resection") for f in (patients, shuffled))
    assert a.coefficients == pytest.approx(b.coefficients, rel=1e-9)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-12)


def test_shift_and_scale_of_a_covariate(patients: pd.DataFrame) -> None:
    model = fit_cox(patients, **OUTCOME, covariates=COVARIATES)
    moved = fit_cox(patients.assign(age=patients["age"] * 365.25 + 1e6), **OUTCOME, covariates=COVARIATES)
    assert moved.coefficients[0] * 365.25 == pytest.approx(model.coefficients[0], rel=1e-8)
    assert moved.log_likelihood == pytest.approx(model.log_likelihood, rel=1e-10)


def test_residuals_add_up(tied_patients: pd.DataFrame) -> None:
    residuals = cox_residuals(tied_patients, **OUTCOME, covariates=COVARIATES)
    assert residuals.martingale.sum() == pytest.approx(0, abs=1e-8)
    assert residuals.schoenfeld.sum(axis=0) == pytest.approx(np.zeros(4), abs=1e-6)
    assert (np.sign(residuals.deviance) == np.sign(residuals.martingale)).all()


def test_proportional_hazards_finds_a_planted_change() -> None:
    rng = np.random.default_rng(5)
    n = 600
    x = rng.integers(0, 2, n)
    time = np.where(x == 1, rng.weibull(3.0, n), rng.weibull(0.7, n))
    frame = pd.DataFrame({"months": time, "died": 1, "x": x, "noise": rng.normal(size=n)})
    test = check_proportional_hazards(frame, **OUTCOME, covariates=["x", "noise"])
    assert test.p_values[0] < 1e-6
    assert test.p_values[1] > 0.001
    assert test.rows == ("x", "noise", "GLOBAL")


def test_log_transform_needs_positive_times(patients: pd.DataFrame) -> None:
    frame = patients.assign(months=patients["months"].where(patients.index != 0, 0.0))
    with pytest.raises(InvalidValue, match="positive times"):
        check_proportional_hazards(frame, **OUTCOME, covariates=["age"], transform="log")


def test_monotone_likelihood_is_announced(patients: pd.DataFrame) -> None:
    frame = patients.assign(marker=patients["died"])
    model = fit_cox(frame, **OUTCOME, covariates=["marker", "age"])
    assert [notice.name for notice in model.notices] == ["monotone_likelihood"]
    assert "marker" in model.notices[0].detail
    assert "age" not in model.notices[0].detail.split("lie on one side")[0].split("coefficient of")[1]


def test_fewer_events_than_covariates_is_announced(patients: pd.DataFrame) -> None:
    frame = patients.head(40).assign(died=([1, 1, 1] + [0] * 37))
    model = fit_cox(frame, **OUTCOME, covariates=["age", "signature", "total_resection"])
    assert "few_events" in [notice.name for notice in model.notices]


@pytest.mark.parametrize(
    ("change", "covariates", "words"),
    [
        ({"flat": 1.0}, ["age", "flat"], "constant"),
        ({"twin": "age"}, ["age", "twin"], "collinear"),
        ({}, ["age", "nothing"], "not in the table"),
        ({}, ["age", "months"], "outcome"),
    ],
)
def test_bad_covariates(patients: pd.DataFrame, change: dict, covariates: list[str], words: str) -> None:
    frame = patients.assign(**{k: 2 * patients[v] + 1 if isinstance(v, str) else v for k, v in change.items()})
    with pytest.raises(InvalidTable, match=words):
        fit_cox(frame, **OUTCOME, covariates=covariates)


def test_no_events(patients: pd.DataFrame) -> None:
    with pytest.raises(TooFewCases):
        fit_cox(patients.assign(died=0), **OUTCOME, covariates=["age"])


def test_bootstrap_repeats_with_its_seed_and_centres_on_the_fit(patients: pd.DataFrame) -> None:
    options = {**OUTCOME, "covariates": ["age", "signature"], "replicates": 80}
    a, b = bootstrap_cox(patients, **options, seed=1), bootstrap_cox(patients, **options, seed=1)
    assert np.array_equal(a.coefficients, b.coefficients)
    model = fit_cox(patients, **OUTCOME, covariates=["age", "signature"])
    spread = a.coefficients.std(axis=0, ddof=1)
    assert spread == pytest.approx(model.standard_errors, rel=0.35)
    assert (np.abs(a.coefficients.mean(axis=0) - model.coefficients) < spread).all()


@pytest.mark.parametrize("seed", [1, 18, 23, 36])
def test_steps_that_overflow_end_in_a_notice(seed: int) -> None:
    """Eleven patients, six covariates: the likelihood runs away, and Newton's steps with it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(11, 6)), columns=list("abcdeg"))
    frame["b"], frame["c"] = rng.integers(0, 2, 11), rng.integers(0, 2, 11)
    frame["d"] = rng.choice([70.0, 80.0, 90.0], 11)
    frame["months"], frame["died"] = rng.exponential(size=11), (rng.random(11) < 0.8).astype(int)
    model = fit_cox(frame, **OUTCOME, covariates=list("abcdeg"))
    assert "monotone_likelihood" in {notice.name for notice in model.notices}
    assert np.isfinite(model.coefficients).all()
