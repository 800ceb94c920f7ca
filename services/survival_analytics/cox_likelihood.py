"""Cox's partial likelihood, its derivatives, and the Newton iteration that maximises it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from services.shared.errors import InvalidTable
from services.survival_analytics.inputs import FloatArray, Follow, IntArray, Notice
from services.survival_analytics.risk_sets import merge_near_ties

Ties = Literal["efron", "breslow"]
MAX_ITERATIONS = 40
RELATIVE_TOLERANCE = 1e-13


@dataclass(frozen=True, eq=False)
class Stratum:
    """The risk sets of one stratum, patients in ascending time.

    Attributes
    ----------
    rows
        Shape (m,): row of the table for each sorted patient.
    covariates
        Shape (m, p), centred and scaled.
    deaths
        Shape (d,): sorted positions of the patients with an event.
    block
        Shape (d,): event time of each death, counted from 0.
    first
        Shape (k,): first sorted position at each event time, where its risk set begins.
    death_start
        Shape (k,): first entry of ``deaths`` at each event time.
    fraction
        Shape (d,): share of the tied deaths already taken out of the risk set (0 under Breslow).
    last_block
        Shape (m,): number of event times at or before the own time.
    time
        Shape (k,): event times.
    """

    rows: IntArray
    covariates: FloatArray
    deaths: IntArray
    block: IntArray
    first: IntArray
    death_start: IntArray
    fraction: FloatArray
    last_block: IntArray
    time: FloatArray
    tied: bool


@dataclass(frozen=True, eq=False)
class Design:
    """Covariates ready for the partial likelihood, with the shift and scale that were taken out."""

    strata: tuple[Stratum, ...]
    shift: FloatArray
    scale: FloatArray
    n_events: int


@dataclass(frozen=True, eq=False)
class Maximum:
    """Where the partial likelihood is largest, on the scale of the data.

    Attributes
    ----------
    coefficients, covariance
        Shape (p,) and (p, p).
    log_likelihood_null, log_likelihood
        At zero and at the maximum.
    score_test
        Rao's score statistic at zero.
    """

    coefficients: FloatArray
    covariance: FloatArray
    log_likelihood_null: float
    log_likelihood: float
    score_test: float
    iterations: int
    unbounded: FloatArray
    converged: bool


def build_stratum(follow: Follow, rows: IntArray, covariates: FloatArray, *, ties: Ties) -> Stratum:
    """Sort one stratum and find its event times."""
    order = np.lexsort((1 - follow.event[rows], follow.time[rows]))
    rows = rows[order]
    time, event = follow.time[rows], follow.event[rows]
    deaths = np.flatnonzero(event)
    event_times, block, count = np.unique(time[deaths], return_inverse=True, return_counts=True)
    start = np.concatenate(([0], np.cumsum(count)[:-1])).astype(np.int64)
    fraction = (np.arange(deaths.size) - start[block]) / count[block] if ties == "efron" else np.zeros(deaths.size)
    return Stratum(
        rows,
        np.ascontiguousarray(covariates[rows]),
        deaths,
        block.astype(np.int64),
        np.searchsorted(time, event_times, side="left"),
        start,
        fraction,
        np.searchsorted(event_times, time, side="right"),
        event_times,
        bool(fraction.any()),
    )


def build_design(follow: Follow, covariates: FloatArray, strata: IntArray | None, *, ties: Ties) -> Design:
    """Standardise covariates and sort patients within strata."""
    shift = covariates.mean(axis=0)
    centred = covariates - shift
    scale = np.abs(centred).mean(axis=0)
    scale[scale == 0] = 1.0
    centred /= scale
    merged = Follow(merge_near_ties(follow.time), follow.event)
    codes = np.zeros(len(follow), dtype=np.int64) if strata is None else strata
    layers = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        layers.append(build_stratum(merged, rows, centred, ties=ties))
    return Design(tuple(layers), shift, scale, int(follow.event.sum()))


@dataclass(frozen=True, eq=False)
class Moments:
    """Risk-set sums of one stratum at given coefficients, one entry per death (Efron step).

    Attributes
    ----------
    risk
        Shape (m,): exp of the linear predictor by sorted patient.
    denominator
        Shape (d,): Σ risk over the (partly thinned) risk set.
    mean
        Shape (d, p): risk-weighted covariate mean.
    """

    risk: FloatArray
    denominator: FloatArray
    mean: FloatArray


def risk_set_moments(stratum: Stratum, eta: FloatArray) -> Moments:
    """Return the risk-set sums at linear predictors ``eta`` (sorted order)."""
    risk = np.exp(eta)
    weighted = risk[:, None] * stratum.covariates
    at_risk = np.add.reduceat(risk, stratum.first) if stratum.first.size else risk[:0]
    s0 = at_risk[::-1].cumsum()[::-1]
    sums = np.add.reduceat(weighted, stratum.first, axis=0) if stratum.first.size else weighted[:0]
    s1 = sums[::-1].cumsum(axis=0)[::-1]
    denominator, numerator = s0[stratum.block], s1[stratum.block]
    if stratum.tied:
        dead = np.add.reduceat(risk[stratum.deaths], stratum.death_start)
        dead_x = np.add.reduceat(weighted[stratum.deaths], stratum.death_start, axis=0)
        denominator = denominator - stratum.fraction * dead[stratum.block]
        numerator = numerator - stratum.fraction[:, None] * dead_x[stratum.block]
    return Moments(risk, denominator, numerator / denominator[:, None])


def exposure(stratum: Stratum, per_death: FloatArray) -> FloatArray:
    """Sum per-death increments over the risk sets that each sorted patient belongs to.

    Tied deaths are in their own thinned risk sets with weight one minus ``fraction``.
    """
    by_block = np.add.reduceat(per_death, stratum.death_start) if per_death.size else per_death
    total = np.concatenate(([0.0], np.cumsum(by_block)))[stratum.last_block]
    if stratum.tied:
        thinned = np.add.reduceat(per_death * stratum.fraction, stratum.death_start)
        total[stratum.deaths] -= thinned[stratum.block]
    return total


def evaluate(design: Design, beta: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Return log partial likelihood, score and information at standardised coefficients."""
    p = beta.size
    value, score, information = 0.0, np.zeros(p), np.zeros((p, p))
    for stratum in design.strata:
        if stratum.deaths.size == 0:
            continue
        eta = stratum.covariates @ beta
        top = float(eta.max())
        moments = risk_set_moments(stratum, eta - top)
        x_dead = stratum.covariates[stratum.deaths]
        value += float(np.sum(eta[stratum.deaths] - top) - np.sum(np.log(moments.denominator)))
        score += x_dead.sum(axis=0) - moments.mean.sum(axis=0)
        weight = moments.risk * exposure(stratum, 1.0 / moments.denominator)
        root = np.sqrt(np.maximum(weight, 0.0))[:, None] * stratum.covariates
        information += root.T @ root - moments.mean.T @ moments.mean
    return value, score, information


def maximise(design: Design) -> Maximum:
    """Maximise the partial likelihood by Newton's method with step halving.

    Raises
    ------
    InvalidTable
        The information is singular at zero: covariates are collinear.
    """
    p = design.shift.size
    beta = np.zeros(p)
    value, score, information = evaluate(design, beta)
    null = value
    factor = _factorise(information, at_zero=True)
    score_test = float(score @ cho_solve(factor, score))
    converged, iterations = False, 0
    while iterations < MAX_ITERATIONS:
        iterations += 1
        step = cho_solve(factor, score)
        proposal = beta + step
        new_value, new_score, new_information = _evaluate_far(design, proposal)
        halvings = 0
        while new_value < value - 1e-9 * (1 + abs(value)) and halvings < 30:
            step = step / 2
            proposal = beta + step
            new_value, new_score, new_information = _evaluate_far(design, proposal)
            halvings += 1
        if not np.isfinite(new_value):
            break
        change = abs(new_value - value)
        beta, value, score, information = proposal, new_value, new_score, new_information
        try:
            factor = _factorise(information, at_zero=False)
        except LinAlgError:
            break
        if halvings == 0 and change <= RELATIVE_TOLERANCE * max(1.0, abs(value)):
            converged = True
            break
    step = cho_solve(factor, score)
    unbounded = np.flatnonzero(np.abs(step) > 1e-4 * np.maximum(1.0, np.abs(beta))).astype(np.float64)
    if unbounded.size == 0:
        beta = beta + step
    covariance = cho_solve(factor, np.eye(p)) / np.outer(design.scale, design.scale)
    return Maximum(
        beta / design.scale,
        covariance,
        null,
        value,
        score_test,
        iterations,
        unbounded,
        converged or unbounded.size == 0,
    )


def _evaluate_far(design: Design, beta: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Return log likelihood, score and information; minus infinity where a step went so far that they overflow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value, score, information = evaluate(design, beta)
    finite = np.isfinite(value) and np.isfinite(score).all() and np.isfinite(information).all()
    return (value if finite else -np.inf), score, information


def _factorise(information: FloatArray, *, at_zero: bool) -> tuple[FloatArray, bool]:
    diagonal = np.diag(information)
    try:
        factor = cho_factor(information)
        if at_zero and np.any(np.diag(factor[0]) ** 2 < 1e-11 * np.maximum(diagonal, 1e-300)):
            raise LinAlgError
    except LinAlgError:
        if not at_zero:
            raise
        raise InvalidTable(
            "The covariates are collinear: their coefficients are not determined.",
            step="fit_cox",
            expected="covariates none of which is a combination of the others",
            got="a singular information matrix",
            remedy="Remove a covariate (for indicator columns: leave one level out).",
        ) from None
    return factor  # type: ignore[no-any-return]


def monotone_notice(maximum: Maximum, names: tuple[str, ...]) -> tuple[Notice, ...]:
    """Return a notice for coefficients that the likelihood drives to infinity."""
    if maximum.unbounded.size == 0:
        return ()
    hit = ", ".join(names[int(j)] for j in maximum.unbounded)
    return (
        Notice(
            "monotone_likelihood",
            f"The likelihood keeps rising as the coefficient of {hit} grows: all events lie on one side of it. "
            "Its hazard ratio, standard error and Wald test mean nothing; use a penalised fit or the likelihood ratio.",
        ),
    )
