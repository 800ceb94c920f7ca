"""How much a fitted model explains: pseudo-R², Gini's mean difference, and rank correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import chdtrc, expit

from services.survival_analytics.cox_model import CoxModel
from services.survival_analytics.inputs import FloatArray, IntArray, read_classes, require_column
from services.survival_analytics.logistic import LogisticModel
from services.survival_analytics.roc import roc


@dataclass(frozen=True)
class ModelStrength:
    """Strength of a model (R: the ``stats`` of ``rms::cph`` and ``lrm``).

    Attributes
    ----------
    likelihood_ratio, degrees_of_freedom, p_value
        Test of all coefficients.
    r_squared
        Nagelkerke's R².
    r_squared_n, r_squared_n_adjusted
        1 - exp(-LR/n), and with LR reduced by the degrees of freedom.
    effective_n, r_squared_effective, r_squared_effective_adjusted
        The same with the effective sample size: events of a Cox model, 3 n p (1 - p) of a logistic one.
    c, d_xy, gamma, tau_a
        Rank correlations of prediction and outcome; gamma and tau-a are NaN for survival.
    g, g_ratio, g_probability
        Gini's mean difference of the linear predictor, its exponential, and that of predicted probabilities.
    brier
        Mean squared error; NaN for survival.
    """

    n: int
    n_events: int
    likelihood_ratio: float
    degrees_of_freedom: int
    p_value: float
    r_squared: float
    r_squared_n: float
    r_squared_n_adjusted: float
    effective_n: float
    r_squared_effective: float
    r_squared_effective_adjusted: float
    c: float
    d_xy: float
    gamma: float
    tau_a: float
    g: float
    g_ratio: float
    g_probability: float
    brier: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([vars(self)])


def gini_mean_difference(values: FloatArray) -> float:
    """Return the mean absolute difference of all pairs, in O(n log n)."""
    x = np.sort(values)
    n = x.size
    weight = 4.0 * np.arange(1, n + 1) - 2 * (n + 1)
    return float(weight @ x / (n * (n - 1)))


def measure_cox_strength(model: CoxModel, frame: pd.DataFrame) -> ModelStrength:
    """Measure a Cox model in the patients that it was fitted to."""
    nan = float("nan")
    lp = model.predict_risk(frame)
    g = gini_mean_difference(lp)
    return _strength(
        model.n,
        model.n_events,
        model.likelihood_ratio.statistic,
        len(model.covariates),
        -2 * model.log_likelihood_null,
        float(model.n_events),
        model.concordance.estimate,
        (nan, nan),
        g,
        nan,
        nan,
    )


def measure_logistic_strength(
    model: LogisticModel, frame: pd.DataFrame, outcome: str, *, probability_bins: int | None = None
) -> ModelStrength:
    """Measure a logistic model in patients with a known outcome.

    Parameters
    ----------
    model, frame, outcome
        Model, patients, and the column of their outcome.
    probability_bins
        Count predictions in the same one of that many intervals as tied in the rank correlations; R's ``lrm`` has
        5,000. Exact if not given.
    """
    y = read_classes(
        np.asarray(require_column(frame, outcome, step="model_strength")), field=outcome, step="model_strength"
    )
    p = model.predict_risk(frame)
    lp = np.log(p) - np.log1p(-p)
    ranked = p if probability_bins is None else np.floor(p * probability_bins)
    c, gamma, tau = _rank_measures(y, ranked)
    share = float(y.mean())
    return _strength(
        y.size,
        int(y.sum()),
        model.null_deviance - model.deviance,
        len(model.covariates),
        model.null_deviance,
        3 * y.size * share * (1 - share),
        c,
        (gamma, tau),
        gini_mean_difference(lp),
        gini_mean_difference(expit(lp)),
        float(np.mean((p - y) ** 2)),
    )


def _rank_measures(y: IntArray, score: FloatArray) -> tuple[float, float, float]:
    c = roc(y, score).area
    n1 = int(y.sum())
    pairs = n1 * (y.size - n1)
    _, index = np.unique(score, return_inverse=True)
    tied = float(np.bincount(index, weights=y) @ np.bincount(index, weights=1 - y))
    excess = (2 * c - 1) * pairs
    return c, excess / (pairs - tied) if pairs > tied else 0.0, excess / (y.size * (y.size - 1) / 2)


def _strength(
    n: int,
    n_events: int,
    ratio: float,
    p: int,
    null: float,
    effective: float,
    c: float,
    ranks: tuple[float, float],
    g: float,
    g_probability: float,
    brier: float,
) -> ModelStrength:
    reduced = max(ratio - p, 0.0)
    return ModelStrength(
        n,
        n_events,
        ratio,
        p,
        float(chdtrc(p, max(ratio, 0.0))),
        float((1 - np.exp(-ratio / n)) / (1 - np.exp(-null / n))),
        float(1 - np.exp(-ratio / n)),
        float(1 - np.exp(-reduced / n)),
        effective,
        float(1 - np.exp(-ratio / effective)),
        float(1 - np.exp(-reduced / effective)),
        c,
        2 * (c - 0.5),
        ranks[0],
        ranks[1],
        g,
        float(np.exp(g)),
        g_probability,
        brier,
    )
