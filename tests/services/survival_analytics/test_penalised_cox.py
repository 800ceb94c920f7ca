from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sksurv.linear_model import CoxnetSurvivalAnalysis

from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.inputs import Follow
from services.survival_analytics.penalised_cox import cross_validate, fit_path, partial_deviance


@pytest.fixture(scope="module")
def wide() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 60))
    time = rng.exponential(size=120) * np.exp(-x[:, 0] + 0.8 * x[:, 1])
    limit = rng.exponential(2.0, 120)
    frame = pd.DataFrame(x, columns=[f"g{j}" for j in range(60)])
    return frame, np.minimum(time, limit) + 1e-6, (time <= limit).astype(int)


def test_optimality_conditions_hold_along_the_path(wide: tuple) -> None:
    x, time, event = wide
    path = fit_path(x, time, event=event, l1_ratio=0.7, threshold=1e-14)
    matrix = x.to_numpy()
    scale = matrix.std(axis=0)
    follow = Follow(np.asarray(time), np.asarray(event))
    for k in (5, 20, path.lambdas.size - 1):
        beta, step = path.coefficients[k], 1e-6
        for j in (0, 1, 7, 30):
            shift = np.zeros(60)
            shift[j] = step
            up, down = (partial_deviance(follow, (matrix @ (beta + s * shift))[:, None])[0] for s in (1, -1))
            gradient = -(up - down) / (2 * step) / 2 / 120 / scale[j]
            ridge = 0.3 * path.lambdas[k] * beta[j] * scale[j]
            if beta[j] != 0:
                assert gradient - ridge == pytest.approx(0.7 * path.lambdas[k] * np.sign(beta[j]), abs=2e-6)
            else:
                assert abs(gradient) <= 0.7 * path.lambdas[k] + 2e-6


def test_equals_scikit_survival(wide: tuple) -> None:
    x, time, event = wide
    y = np.array(list(zip(event.astype(bool), time, strict=True)), dtype=[("event", bool), ("time", float)])
    standardised = ((x - x.mean()) / x.to_numpy().std(axis=0)).to_numpy()
    path = fit_path(standardised, time, event=event, threshold=1e-14)
    peer = CoxnetSurvivalAnalysis(l1_ratio=1.0, alphas=path.lambdas[1:15], tol=1e-12, max_iter=10**6).fit(
        standardised, y
    )
    assert path.coefficients[1:15] == pytest.approx(peer.coef_.T, abs=1e-6)


def test_a_vanishing_penalty_gives_the_plain_fit(patients: pd.DataFrame) -> None:
    columns = ["age", "grade", "signature"]
    path = fit_path(
        patients[columns], patients["months"], event=patients["died"], lambdas=[1e-3, 1e-9], threshold=1e-15
    )
    model = fit_cox(patients, "months", event="died", covariates=columns, ties="breslow")
    assert path.coefficients[-1] == pytest.approx(model.coefficients, rel=1e-5)


def test_first_penalty_keeps_everything_out_and_constants_stay_out(wide: tuple) -> None:
    x, time, event = wide
    path = fit_path(x.assign(flat=3.0), time, event=event)
    assert path.nonzero[0] == 0
    assert path.nonzero[1] >= 1
    assert not path.coefficients[:, -1].any()
    assert (np.diff(path.deviance_ratio) > -1e-9).all()


def test_unpenalised_covariate_enters_first(wide: tuple) -> None:
    x, time, event = wide
    factor = np.ones(60)
    factor[30] = 0.0
    path = fit_path(x, time, event=event, penalty_factor=factor, count=20)
    assert path.coefficients[0, 30] != 0 or path.coefficients[1, 30] != 0


def test_cross_validation_finds_the_planted_covariates(wide: tuple) -> None:
    x, time, event = wide
    result = cross_validate(x, time, event=event, folds=5, seed=1)
    again = cross_validate(x, time, event=event, folds=5, seed=1, workers=2)
    assert {"g0", "g1"} <= set(result.selected().index)
    assert result.lambda_1se >= result.lambda_min
    assert np.array_equal(result.mean, again.mean)
    by_concordance = cross_validate(x, time, event=event, folds=5, seed=1, measure="concordance")
    assert by_concordance.mean.max() > 0.6


def test_interpolation_between_penalties(wide: tuple) -> None:
    x, time, event = wide
    path = fit_path(x, time, event=event)
    middle = (path.lambdas[4] + path.lambdas[5]) / 2
    assert path.coefficients_at(middle)[0] == pytest.approx((path.coefficients[4] + path.coefficients[5]) / 2)
    assert path.coefficients_at(path.lambdas[7])[0] == pytest.approx(path.coefficients[7])
    assert path.predict(x, penalty=middle) == pytest.approx(x.to_numpy() @ path.coefficients_at(middle)[0])


def test_running_out_of_passes_is_announced(wide: tuple) -> None:
    x, time, event = wide
    path = fit_path(x, time, event=event, max_passes=60)
    assert path.notices[0].name == "path_cut_short"
    assert path.lambdas.size < 100


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"time": np.zeros(120)}, InvalidValue, "above zero"),
        ({"l1_ratio": 1.5}, InvalidValue, "l1_ratio"),
        ({"lambdas": [-1.0]}, InvalidValue, "negative"),
        ({"x": np.ones((120, 3))}, InvalidTable, "constant"),
        ({"x": np.ones((119, 3))}, InvalidValue, "numbers of rows"),
        ({"x": np.full((120, 2), np.nan)}, InvalidValue, "missing"),
        ({"event": np.zeros(120)}, TooFewCases, "No event"),
    ],
)
def test_bad_input(wide: tuple, change: dict, error: type, words: str) -> None:
    x, time, event = wide
    with pytest.raises(error, match=words):
        fit_path(**{"x": x, "time": time, "event": event, **change})


def test_fold_without_events_is_refused(wide: tuple) -> None:
    x, time, event = wide
    folds = np.where(event == 0, 0, np.arange(120) % 2 + 1)
    with pytest.raises(TooFewCases, match="fold has no event"):
        cross_validate(x, time, event=event, folds=folds)


def test_a_path_that_orders_every_death_ends_in_finite_coefficients() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(29, 29))
    months = np.exp(-4 * x[:, 0] + 3 * x[:, 1])
    event = np.ones(29, dtype=int)
    event[rng.permutation(29)[:8]] = 0
    path = fit_path(x, months, event=event, smallest_ratio=1e-8)
    assert np.isfinite(path.coefficients).all()
