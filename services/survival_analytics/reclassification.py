"""What a new model moves: net reclassification and integrated discrimination improvement, binary and survival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from services.shared.errors import GliaflowError, InvalidValue, TooFewCases
from services.survival_analytics.inputs import (
    BoolArray,
    FloatArray,
    Follow,
    IntArray,
    Notice,
    read_classes,
    read_follow_up,
    read_probability,
)
from services.survival_analytics.risk_sets import (
    censoring_steps,
    evaluate_steps,
    survival_at,
    tabulate,
)

CensoringMethod = Literal["km", "ipw"]


@dataclass(frozen=True)
class Improvement:
    """An estimate with its asymptotic standard error, limits and p-value."""

    estimate: float
    standard_error: float
    z: float
    lower: float
    upper: float
    p_value: float


@dataclass(frozen=True, eq=False)
class BinaryReclassification:
    """Reclassification of cases and controls by a new model.

    Attributes
    ----------
    up_cases, down_cases, up_controls, down_controls
        Shares that move.
    nri, nri_cases, nri_controls
        Net reclassification improvement and its parts.
    idi
        Integrated discrimination improvement.
    table_cases, table_controls
        Shape (c, c): old category in rows, new one in columns; empty without categories.
    """

    n_cases: int
    n_controls: int
    up_cases: float
    down_cases: float
    up_controls: float
    down_controls: float
    nri: Improvement
    nri_cases: Improvement
    nri_controls: Improvement
    idi: Improvement
    sensitivity_gain: float
    specificity_gain: float
    table_cases: IntArray
    table_controls: IntArray
    notices: tuple[Notice, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per index."""
        rows = {"NRI": self.nri, "NRI cases": self.nri_cases, "NRI controls": self.nri_controls, "IDI": self.idi}
        return pd.DataFrame([{"index": name, **vars(value)} for name, value in rows.items()])


@dataclass(frozen=True, eq=False)
class SurvivalReclassification:
    """Reclassification by a new model for the event by a time (R: ``nricens``).

    Attributes
    ----------
    nri, nri_cases, nri_controls, up_cases, down_cases, down_controls, up_controls
        Estimates.
    lower, upper
        Percentile limits of those seven by bootstrap over patients, in the same order; NaN without a bootstrap.
    table
        Shape (c, c): all patients, old category in rows; empty without categories.
    """

    at: float
    method: CensoringMethod
    nri: float
    nri_cases: float
    nri_controls: float
    up_cases: float
    down_cases: float
    down_controls: float
    up_controls: float
    lower: FloatArray
    upper: FloatArray
    replicates: int
    table: IntArray

    @property
    def estimates(self) -> FloatArray:
        """The seven estimates in their order of listing."""
        return np.array(
            [
                self.nri,
                self.nri_cases,
                self.nri_controls,
                self.up_cases,
                self.down_cases,
                self.down_controls,
                self.up_controls,
            ]
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per estimate."""
        names = ["NRI", "NRI+", "NRI-", "Pr(Up|Case)", "Pr(Down|Case)", "Pr(Down|Ctrl)", "Pr(Up|Ctrl)"]
        return pd.DataFrame({"index": names, "estimate": self.estimates, "lower": self.lower, "upper": self.upper})


def _improvement(estimate: float, error: float, level: float) -> Improvement:
    half = float(ndtri(1 - (1 - level) / 2)) * error
    if error > 0:
        z = estimate / error
        return Improvement(estimate, error, z, estimate - half, estimate + half, 2 * float(ndtr(-abs(z))))
    return Improvement(estimate, 0.0, 0.0, estimate, estimate, 1.0)


def _categorise(p: FloatArray, cuts: FloatArray) -> IntArray:
    return np.searchsorted(cuts, p, side="right").astype(np.int64)


def _read_cuts(cuts: Sequence[float] | None, *, step: str) -> FloatArray:
    if cuts is None:
        return np.zeros(0)
    values = np.asarray(cuts, dtype=np.float64)
    if values.size == 0 or (np.diff(values) <= 0).any() or (values <= 0).any() or (values >= 1).any():
        raise InvalidValue("Risk categories need ascending cuts between 0 and 1.", step=step, field="cuts", got=values)
    return values


def _moves(
    old: FloatArray, new: FloatArray, cuts: FloatArray, minimum_change: float
) -> tuple[BoolArray, BoolArray, IntArray, IntArray]:
    if cuts.size:
        a, b = _categorise(old, cuts), _categorise(new, cuts)
        return b > a, b < a, a, b
    empty = np.zeros(0, dtype=np.int64)
    return new - old > minimum_change, old - new > minimum_change, empty, empty


def _cross(a: IntArray, b: IntArray, size: int) -> IntArray:
    if size < 2:
        return np.zeros((0, 0), dtype=np.int64)
    return np.bincount(a * size + b, minlength=size * size).reshape(size, size)


def reclassify(
    outcome: ArrayLike,
    old: ArrayLike,
    *,
    new: ArrayLike,
    cuts: Sequence[float] | None = None,
    minimum_change: float = 0.0,
    level: float = 0.95,
) -> BinaryReclassification:
    """Compute NRI and IDI for a binary outcome.

    Parameters
    ----------
    outcome
        Shape (n,): 1 = case, 0 = control.
    old, new
        Predicted probabilities of the two models.
    cuts
        Ascending cuts of risk categories [low, high); without them the NRI is continuous.
    minimum_change
        Continuous NRI: a smaller change of the prediction does not count.
    level
        Confidence level.

    Notes
    -----
    Pencina et al. (2008, 2011); asymptotic errors as R ``Hmisc::improveProb``, counts as ``nricens::nribin``. A model
    that adds noise has a positive expected NRI in its own training data: prefer decision curves.
    """
    step = "reclassify"
    y = read_classes(outcome, field="outcome", step=step)
    p_old = read_probability(old, y, field="old", step=step)
    p_new = read_probability(new, y, field="new", step=step)
    limits = _read_cuts(cuts, step=step)
    up, down, a, b = _moves(p_old, p_new, limits, minimum_change)
    cases, controls = y == 1, y == 0
    n1, n0 = int(cases.sum()), int(controls.sum())
    u1, d1, u0, d0 = int(up[cases].sum()), int(down[cases].sum()), int(up[controls].sum()), int(down[controls].sum())
    part1, part0 = u1 / n1 - d1 / n1, d0 / n0 - u0 / n0
    v1 = (u1 + d1) / n1**2 - (u1 - d1) ** 2 / n1**3
    v0 = (u0 + d0) / n0**2 - (u0 - d0) ** 2 / n0**3
    change = p_new - p_old
    gain1, gain0 = float(change[cases].mean()), float(change[controls].mean())
    v_idi = change[cases].var(ddof=1) / n1 + change[controls].var(ddof=1) / n0 if min(n1, n0) > 1 else 0.0
    notices: tuple[Notice, ...] = ()
    if not (up.any() or down.any()):
        notices = (Notice("no_change", "No patient changes category: all indices are zero by definition."),)
    size = limits.size + 1
    return BinaryReclassification(
        n1,
        n0,
        u1 / n1,
        d1 / n1,
        u0 / n0,
        d0 / n0,
        _improvement(part1 + part0, float(np.sqrt(v1 + v0)), level),
        _improvement(part1, float(np.sqrt(v1)), level),
        _improvement(part0, float(np.sqrt(v0)), level),
        _improvement(gain1 - gain0, float(np.sqrt(v_idi)), level),
        gain1,
        -gain0,
        _cross(a[cases] if a.size else a, b[cases] if b.size else b, size),
        _cross(a[controls] if a.size else a, b[controls] if b.size else b, size),
        notices,
    )


def reclassify_survival(
    time: ArrayLike,
    event: ArrayLike,
    *,
    old: ArrayLike,
    new: ArrayLike,
    at: float,
    cuts: Sequence[float] | None = None,
    minimum_change: float = 0.0,
    method: CensoringMethod = "km",
    replicates: int = 0,
    seed: int = 0,
    level: float = 0.95,
) -> SurvivalReclassification:
    """Compute the NRI for the event by a time, with censoring.

    Parameters
    ----------
    time, event
        Shape (n,).
    old, new
        Predicted probabilities of the event by ``at``.
    at
        Time of the prediction.
    cuts, minimum_change
        As in :func:`reclassify`.
    method
        ``km``: Kaplan–Meier among those who move up or down. ``ipw``: cases and controls weighted by the inverse
        probability of being uncensored.
    replicates, seed, level
        Bootstrap over patients for percentile limits.

    Notes
    -----
    Pencina, D'Agostino and Steyerberg (2011), Uno et al. (2013); R ``nricens``.
    """
    step = "reclassify_survival"
    follow = read_follow_up(time, event, step=step)
    p_old = read_probability(old, follow.time, field="old", step=step)
    p_new = read_probability(new, follow.time, field="new", step=step)
    if method not in get_args(CensoringMethod):
        raise InvalidValue("Unknown method.", step=step, expected=get_args(CensoringMethod), got=method)
    limits = _read_cuts(cuts, step=step)
    up, down, a, b = _moves(p_old, p_new, limits, minimum_change)
    rule: Callable[[Follow, BoolArray, BoolArray, float], FloatArray] = (
        _nri_by_curves if method == "km" else _nri_by_weights
    )
    estimates = rule(follow, up, down, at)
    lower, upper = np.full(7, np.nan), np.full(7, np.nan)
    done = 0
    if replicates:
        rng = np.random.default_rng(seed)
        samples = []
        for _ in range(replicates):
            rows = rng.integers(0, len(follow), len(follow))
            try:
                samples.append(rule(Follow(follow.time[rows], follow.event[rows]), up[rows], down[rows], at))
            except GliaflowError:
                continue
        done = len(samples)
        if done < max(2, replicates // 2):
            raise TooFewCases("Most bootstrap samples have no case or no control.", step=step, got=f"{done}")
        lower, upper = np.quantile(np.array(samples), [(1 - level) / 2, 1 - (1 - level) / 2], axis=0)
    nri, nri_cases, nri_controls, up_cases, down_cases, down_controls, up_controls = estimates.tolist()
    return SurvivalReclassification(
        float(at),
        method,
        nri,
        nri_cases,
        nri_controls,
        up_cases,
        down_cases,
        down_controls,
        up_controls,
        lower,
        upper,
        done,
        _cross(a, b, limits.size + 1),
    )


def _nri_by_curves(follow: Follow, up: BoolArray, down: BoolArray, at: float) -> FloatArray:
    alive = survival_at(follow, at)
    if not 0 < alive < 1:
        raise TooFewCases("Survival at the time is zero or one.", step="reclassify_survival", field="at", got=alive)
    shares = []
    for moved in (up, down):
        share = float(moved.mean())
        still = survival_at(follow, at, subset=moved) if share > 0 else 0.0
        shares.append(((1 - still) * share / (1 - alive), still * share / alive))
    (up_case, up_control), (down_case, down_control) = shares
    if not (up.any() or down.any()):
        return np.zeros(7)
    return _summarise(up_case, down_case, down_control, up_control)


def _nri_by_weights(follow: Follow, up: BoolArray, down: BoolArray, at: float) -> FloatArray:
    table = tabulate(follow, merge_ties=False)
    uncensored = evaluate_steps(table.time, censoring_steps(table, events_first=False), follow.time)
    cases = (follow.time <= at) & (follow.event == 1)
    controls = follow.time > at
    weight = np.zeros(len(follow))
    if not cases.any() or not controls.any() or (uncensored[cases] <= 0).any():
        raise TooFewCases(
            "There is no usable case or no control at the time.", step="reclassify_survival", field="at", got=at
        )
    weight[cases] = 1 / uncensored[cases]
    total = weight.sum()
    return _summarise(
        float(weight @ up / total),
        float(weight @ down / total),
        float(down[controls].mean()),
        float(up[controls].mean()),
    )


def _summarise(up_case: float, down_case: float, down_control: float, up_control: float) -> FloatArray:
    part1, part0 = up_case - down_case, down_control - up_control
    return np.array([part1 + part0, part1, part0, up_case, down_case, down_control, up_control])
