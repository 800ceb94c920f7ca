"""Is a model worth using? Decision curves and clinical impact, for binary outcomes and for survival to a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from services.shared.errors import InvalidValue
from services.survival_analytics.inputs import (
    FloatArray,
    Follow,
    Notice,
    read_classes,
    read_follow_up,
    read_probability,
    read_vector,
)
from services.survival_analytics.risk_sets import survival_at

DEFAULT_THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit of one strategy.

    Attributes
    ----------
    strategy
        ``all``, ``none`` or the model's name.
    threshold, net_benefit, true_positive_rate, false_positive_rate
        Shape (t,): rates are per patient of the whole cohort; NaN where survival cannot be estimated (see notices).
    positive_rate
        Share of patients at or above the threshold.
    """

    strategy: str
    threshold: FloatArray
    positive_rate: FloatArray
    true_positive_rate: FloatArray
    false_positive_rate: FloatArray
    net_benefit: FloatArray


@dataclass(frozen=True, eq=False)
class DecisionCurves:
    """Decision curves of models beside treating everybody and nobody.

    Attributes
    ----------
    event_rate
        Share of patients with the event (by ``at``).
    at
        Time, or NaN for a binary outcome.
    """

    event_rate: float
    at: float
    curves: tuple[DecisionCurve, ...]
    notices: tuple[Notice, ...]

    def __getitem__(self, strategy: str) -> DecisionCurve:
        """Return the curve of one strategy."""
        for curve in self.curves:
            if curve.strategy == strategy:
                return curve
        raise InvalidValue(
            "Unknown strategy.",
            step="decision_curves",
            expected=", ".join(c.strategy for c in self.curves),
            got=strategy,
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per strategy and threshold."""
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "strategy": c.strategy,
                        "threshold": c.threshold,
                        "positive_rate": c.positive_rate,
                        "true_positive_rate": c.true_positive_rate,
                        "false_positive_rate": c.false_positive_rate,
                        "net_benefit": c.net_benefit,
                        "standardised_net_benefit": c.net_benefit / self.event_rate,
                    }
                )
                for c in self.curves
            ],
            ignore_index=True,
        )


@dataclass(frozen=True, eq=False)
class ClinicalImpact:
    """What a threshold means for a population: patients called high risk, and how many of them have the event."""

    population: int
    threshold: FloatArray
    high_risk: FloatArray
    high_risk_with_event: FloatArray

    def to_frame(self) -> pd.DataFrame:
        """Return one row per threshold."""
        return pd.DataFrame(
            {
                "threshold": self.threshold,
                "high_risk": self.high_risk,
                "high_risk_with_event": self.high_risk_with_event,
            }
        )


def _read_thresholds(thresholds: ArrayLike | None, *, step: str) -> FloatArray:
    if thresholds is None:
        return DEFAULT_THRESHOLDS.copy()
    values = np.sort(read_vector(thresholds, field="thresholds", step=step))
    if (values <= 0).any() or (values >= 1).any():
        raise InvalidValue("Thresholds lie strictly between 0 and 1.", step=step, field="thresholds", got=values)
    return values


def _odds(threshold: FloatArray) -> FloatArray:
    return threshold / (1 - threshold)


def decision_curves(
    outcome: ArrayLike, models: Mapping[str, ArrayLike], *, thresholds: ArrayLike | None = None
) -> DecisionCurves:
    """Compute decision curves for a binary outcome.

    Parameters
    ----------
    outcome
        Shape (n,): 1 = event, 0 = none.
    models
        Predicted probabilities by name, each of shape (n,).
    thresholds
        Strictly between 0 and 1; 0.01 to 0.99 if not given. A patient at the threshold counts as positive.

    Notes
    -----
    Vickers and Elkin (2006): TP/n - FP/n · pt/(1 - pt). R: ``dcurves::dca``, ``rmda::decision_curve``.
    """
    step = "decision_curves"
    y = read_classes(outcome, field="outcome", step=step)
    at = _read_thresholds(thresholds, step=step)
    rate = float(y.mean())
    ones, zeros = np.ones(at.size), np.zeros(at.size)
    curves = [
        DecisionCurve("all", at, ones, rate * ones, (1 - rate) * ones, rate - (1 - rate) * _odds(at)),
        DecisionCurve("none", at, zeros, zeros, zeros, zeros),
    ]
    for name, values in models.items():
        p = read_probability(values, y, field=name, step=step)
        tp, fp = _share_at_or_above(p[y == 1], at) * rate, _share_at_or_above(p[y == 0], at) * (1 - rate)
        curves.append(DecisionCurve(name, at, tp + fp, tp, fp, tp - fp * _odds(at)))
    return DecisionCurves(rate, float("nan"), tuple(curves), ())


def _share_at_or_above(values: FloatArray, thresholds: FloatArray) -> FloatArray:
    return 1 - np.searchsorted(np.sort(values), thresholds, side="left") / values.size


def survival_decision_curves(
    time: ArrayLike,
    event: ArrayLike,
    *,
    models: Mapping[str, ArrayLike],
    at: float,
    thresholds: ArrayLike | None = None,
    extend: bool = False,
) -> DecisionCurves:
    """Compute decision curves for the event by a time.

    Parameters
    ----------
    time, event
        Shape (n,).
    models
        Predicted probabilities of the event by ``at``, by name.
    at
        Time of the decision.
    thresholds
        As in :func:`decision_curves`.
    extend
        Where the follow-up of the patients above a threshold ends before ``at``: use their last Kaplan–Meier value.
        Otherwise the net benefit is NaN there and a notice ``short_follow_up`` says so (R: ``dcurves`` leaves it out).

    Notes
    -----
    Vickers et al. (2008): P(x ≥ pt) [(1 - S) - S · pt/(1 - pt)] with S the Kaplan–Meier survival of the positive.
    """
    step = "survival_decision_curves"
    follow = read_follow_up(time, event, step=step)
    grid = _read_thresholds(thresholds, step=step)
    rate = 1 - survival_at(follow, at)
    if not rate > 0:
        raise InvalidValue("No event happens by the time.", step=step, field="at", got=at)
    ones, zeros = np.ones(grid.size), np.zeros(grid.size)
    curves = [
        DecisionCurve("all", grid, ones, rate * ones, (1 - rate) * ones, rate - (1 - rate) * _odds(grid)),
        DecisionCurve("none", grid, zeros, zeros, zeros, zeros),
    ]
    notices = []
    for name, values in models.items():
        p = read_probability(values, follow.time, field=name, step=step)
        share, risk = _positive_risk(follow, p, grid, at, extend=extend)
        missing = np.isnan(risk)
        if missing.any():
            notices.append(
                Notice(
                    "short_follow_up", f"{name}: follow-up above {int(missing.sum())} thresholds ends before {at:g}."
                )
            )
        tp, fp = risk * share, (1 - risk) * share
        curves.append(DecisionCurve(name, grid, share, tp, fp, tp - fp * _odds(grid)))
    return DecisionCurves(rate, float(at), tuple(curves), tuple(notices))


def _positive_risk(
    follow: Follow, risk: FloatArray, thresholds: FloatArray, at: float, *, extend: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the share of patients at or above each threshold and their risk by the time (zero where nobody is)."""
    share, observed = np.zeros(thresholds.size), np.zeros(thresholds.size)
    known: tuple[int, float] | None = None
    for k, threshold in enumerate(thresholds):
        positive = risk >= threshold
        count = int(positive.sum())
        share[k] = count / risk.size
        if count == 0:
            continue
        if known is None or known[0] != count:
            value = 1 - survival_at(follow, at, subset=positive)
            if not extend and follow.time[positive].max() < at:
                value = float("nan")
            known = (count, value)
        observed[k] = known[1]
    return share, observed


def clinical_impact(
    outcome: ArrayLike,
    probability: ArrayLike,
    *,
    thresholds: ArrayLike | None = None,
    population: int = 1000,
    strictly_above: bool = True,
) -> ClinicalImpact:
    """Count, per population, patients called high risk and those of them with the event.

    Parameters
    ----------
    outcome, probability, thresholds
        As in :func:`decision_curves`.
    population
        Number of patients that counts refer to.
    strictly_above
        Whether a patient exactly at the threshold counts as low risk.
    """
    step = "clinical_impact"
    y = read_classes(outcome, field="outcome", step=step)
    p = read_probability(probability, y, field="probability", step=step)
    at = _read_thresholds(thresholds, step=step)
    side = "right" if strictly_above else "left"
    n = y.size
    high = n - np.searchsorted(np.sort(p), at, side=side)  # type: ignore[call-overload]
    cases = np.sort(p[y == 1])
    hits = cases.size - np.searchsorted(cases, at, side=side)  # type: ignore[call-overload]
    return ClinicalImpact(population, at, population * high / n, population * hits / n)


def survival_clinical_impact(
    time: ArrayLike,
    event: ArrayLike,
    *,
    risk: ArrayLike,
    at: float,
    thresholds: ArrayLike | None = None,
    population: int = 1000,
) -> ClinicalImpact:
    """Count, per population, patients at or above each threshold and the events expected among them by a time."""
    step = "survival_clinical_impact"
    follow = read_follow_up(time, event, step=step)
    p = read_probability(risk, follow.time, field="risk", step=step)
    grid = _read_thresholds(thresholds, step=step)
    share, observed = _positive_risk(follow, p, grid, at, extend=True)
    return ClinicalImpact(population, grid, population * share, population * share * observed)
