from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression

from services.shared.errors import InvalidTable, InvalidValue, OneClass
from services.survival_analytics.logistic import fit_logistic, maximise_logistic, select_stepwise

COVARIATES = ["age", "grade", "signature"]


def test_equals_scikit_learn_and_the_information(patients: pd.DataFrame) -> None:
    model = fit_logistic(patients, "died", covariates=COVARIATES)
    x = patients[COVARIATES].to_numpy(float)
    peer = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, patients["died"])
    assert model.coefficients == pytest.approx([*peer.intercept_, *peer.coef_[0]], rel=1e-6)
    p = model.predict_risk(patients)
    design = np.column_stack((np.ones(len(x)), x))
    information = design.T @ ((p * (1 - p))[:, None] * design)
    assert model.covariance == pytest.approx(np.linalg.inv(information), rel=1e-5)
    y = patients["died"].to_numpy()
    assert model.deviance == pytest.approx(-2 * np.sum(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-12)


def test_profile_limits_are_where_the_deviance_rises_by_the_quantile(patients: pd.DataFrame) -> None:
    model = fit_logistic(patients, "died", covariates=["age", "signature"], profile=True)
    y = patients["died"].to_numpy()
    rest = np.column_stack((np.ones(len(y)), patients["age"]))

    def excess(beta: float) -> float:
        fit = maximise_logistic(rest, y, offset=patients["signature"].to_numpy() * beta)
        return fit.deviance - model.deviance - chi2.ppf(0.95, 1)

    b, se = model.coefficients[2], model.standard_errors[2]
    exact = np.exp([brentq(excess, b - 4 * se, b), brentq(excess, b, b + 4 * se)])
    # R reads the limits off a spline through the profile.
    assert [model.profile_lower[2], model.profile_upper[2]] == pytest.approx(exact, rel=1e-3)


def test_separation_is_announced(patients: pd.DataFrame) -> None:
    frame = patients.assign(marker=patients["died"] * 2.0 - 1)
    model = fit_logistic(frame, "died", covariates=["marker", "age"], profile=True)
    assert "separation" in [notice.name for notice in model.notices]
    assert np.isnan(model.profile_lower).all()


def test_quasi_separation_is_announced(patients: pd.DataFrame) -> None:
    marker = np.where((patients["died"] == 1) & (patients.index % 3 == 0), 1.0, 0.0)
    model = fit_logistic(patients.assign(marker=marker), "died", covariates=["marker", "age"])
    assert "separation" in [notice.name for notice in model.notices]


def test_few_events_are_announced(patients: pd.DataFrame) -> None:
    frame = patients.head(30).assign(died=[1, 1] + [0] * 28)
    model = fit_logistic(frame, "died", covariates=["age", "signature"])
    assert "few_events" in [notice.name for notice in model.notices]


def test_stepwise_keeps_the_planted_covariates() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(400, 8)), columns=[f"x{j}" for j in range(8)])
    frame["y"] = (rng.random(400) < 1 / (1 + np.exp(-frame["x1"] + frame["x5"]))).astype(int)
    columns = [f"x{j}" for j in range(8)]
    for direction in ("backward", "forward", "both"):
        result = select_stepwise(frame, "y", covariates=columns, direction=direction, penalty=float(np.log(400)))
        assert set(result.selected) == {"x1", "x5"}
        assert (np.diff(result.criterion) < 0).all()


def test_stepwise_may_select_nothing() -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"x": rng.normal(size=60), "y": rng.integers(0, 2, 60)})
    result = select_stepwise(frame, "y", covariates=["x"], penalty=50.0)
    assert result.selected == ()
    assert result.model is None


def test_bad_input(patients: pd.DataFrame) -> None:
    with pytest.raises(InvalidTable, match="collinear"):
        fit_logistic(patients.assign(b=patients["age"] * 2), "died", covariates=["age", "b"])
    with pytest.raises(InvalidTable, match="constant"):
        fit_logistic(patients.assign(b=1.0), "died", covariates=["b"])
    with pytest.raises(OneClass):
        fit_logistic(patients.assign(died=1), "died", covariates=["age"])
    with pytest.raises(InvalidValue):
        select_stepwise(patients, "died", covariates=["age"], direction="sideways")
