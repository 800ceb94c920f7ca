"""Pathway scores by sample: GSVA, ssGSEA, combined z-score and PLAGE.

GSVA and the z-scores compare a sample with the others of its table, so scores of different tables are not on one
scale; ssGSEA without normalisation depends on the sample alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import special, stats

from pipelines.genomics.expression import FloatArray, check_expression
from pipelines.genomics.gene_sets import GeneSets, Restricted, restrict
from services.shared.errors import InvalidTable, InvalidValue, TooFewCases

Kernel = Literal["gaussian", "poisson", "none"]
# The cumulative normal is read from a table of 10,000 steps up to ten bandwidths, as the R package does.
_TABLE_STEPS, _TABLE_REACH = 10_000, 10.0
_NORMAL_CDF = special.ndtr(_TABLE_REACH * np.arange(_TABLE_STEPS + 1) / _TABLE_STEPS)
_BANDWIDTHS_PER_SD = 4.0
_POISSON_SHIFT = 0.5


@dataclass(frozen=True)
class PathwayScores:
    """Scores of gene sets.

    Parameters
    ----------
    values
        Samples x gene sets.
    size
        Genes of each set that the table has.
    dropped
        Genes found, by name of a set outside the limits of size.
    constant
        Genes left out because they do not vary.
    """

    values: pd.DataFrame
    size: dict[str, int]
    dropped: dict[str, int]
    constant: tuple[str, ...]


def gsva(
    frame: pd.DataFrame,
    sets: GeneSets,
    *,
    kernel: Kernel = "gaussian",
    difference: bool = True,
    absolute_ranking: bool = False,
    least: int = 1,
    most: int | None = None,
) -> PathwayScores:
    """Return gene set variation scores (Hänzelmann et al. 2013; R: ``gsva``).

    Parameters
    ----------
    frame
        Samples x genes: log2 values for the Gaussian kernel, counts for the Poisson one.
    kernel
        Smoothing of each gene's distribution over samples; ``none`` takes the empirical one.
    difference, absolute_ranking
        Whether the score is the sum of the largest and the smallest deviation of the random walk, rather than the one
        of larger size; and whether it is their difference, so that genes at both extremes count alike.
    least, most
        Limits of a set's size within the table.
    """
    if kernel not in get_args(Kernel):
        raise InvalidValue("Unknown kernel.", step="gsva", field="kernel", expected=get_args(Kernel), got=kernel)
    values, genes, constant = _varying(frame, "gsva")
    if kernel == "poisson" and ((values < 0).any() or (values != np.round(values)).any()):
        raise InvalidTable("The Poisson kernel needs counts.", step="gsva", expected="whole numbers of at least 0")
    found = restrict(sets, genes, least=least, most=most, step="gsva")
    density = _distribution(values, kernel)
    n_genes = len(genes)
    order = np.argsort(-density, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(n_genes), order.shape), axis=1)
    weight = np.abs(np.arange(n_genes, 0, -1) - n_genes / 2)
    scores = []
    for columns in _columns(found, genes):
        low, high = _walk_extremes(np.sort(place[:, columns], axis=1), weight, n_genes)
        if difference:
            scores.append(high - low if absolute_ranking else high + low)
        else:
            scores.append(np.where(high > -low, high, low))
    return _scores(frame, found, scores, constant)


def ssgsea(
    frame: pd.DataFrame,
    sets: GeneSets,
    *,
    normalise: bool = True,
    exponent: float = 0.25,
    least: int = 1,
    most: int | None = None,
) -> PathwayScores:
    """Return single-sample enrichment scores (Barbie et al. 2009; R: ``gsva(method = "ssgsea")``).

    Parameters
    ----------
    normalise
        Whether scores are divided by their range over all sets and samples of the table.
    exponent
        Weight of a gene's rank within the set.
    """
    values = check_expression(frame, step="ssgsea")
    genes = [str(gene) for gene in frame.columns]
    found = restrict(sets, genes, least=least, most=most, step="ssgsea")
    n = len(genes)
    rank = np.floor(stats.rankdata(values, axis=1))
    order = np.argsort(-rank, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(n), order.shape), axis=1)
    weight = rank**exponent
    scores = []
    for columns in _columns(found, genes):
        behind = n - place[:, columns].astype(np.float64)
        inside = np.sum(weight[:, columns] * behind, axis=1) / np.sum(weight[:, columns], axis=1)
        rest = n - len(columns)
        outside = (n * (n + 1) / 2 - behind.sum(axis=1)) / rest if rest else np.zeros(len(frame))
        scores.append(inside - outside)
    result = _scores(frame, found, scores, ())
    if not normalise:
        return result
    span = float(np.ptp(result.values.to_numpy()))
    if span == 0:
        raise TooFewCases("All scores are equal, so they have no range to divide by.", step="ssgsea")
    return PathwayScores(result.values / span, result.size, result.dropped, ())


def z_score(frame: pd.DataFrame, sets: GeneSets, *, least: int = 1, most: int | None = None) -> PathwayScores:
    """Return the sum of a set's standardised genes over the root of their number (Lee et al. 2008)."""
    z, genes, constant = _standardised(frame, "z_score")
    found = restrict(sets, genes, least=least, most=most, step="z_score")
    scores = [z[:, columns].sum(axis=1) / np.sqrt(len(columns)) for columns in _columns(found, genes)]
    return _scores(frame, found, scores, constant)


def plage(frame: pd.DataFrame, sets: GeneSets, *, least: int = 1, most: int | None = None) -> PathwayScores:
    """Return the leading direction of a set's standardised genes over samples (Tomfohr et al. 2005).

    A score has unit length over the samples; its sign is chosen such that it rises with the set's mean.
    """
    z, genes, constant = _standardised(frame, "plage")
    found = restrict(sets, genes, least=least, most=most, step="plage")
    scores = []
    for columns in _columns(found, genes):
        block = z[:, columns]
        direction = np.linalg.svd(block, full_matrices=False)[0][:, 0]
        scores.append(direction if direction @ block.sum(axis=1) >= 0 else -direction)
    return _scores(frame, found, scores, constant)


def _distribution(values: FloatArray, kernel: Kernel) -> FloatArray:
    """Return the log odds of each gene's cumulative distribution, shape (samples, genes)."""
    samples = len(values)
    if kernel == "none":
        share = np.column_stack(
            [np.searchsorted(np.sort(column), column, side="right") for column in values.T]
        ) / float(samples)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(share / (1 - share)))
    total = np.zeros_like(values)
    width = values.std(axis=0, ddof=1) / _BANDWIDTHS_PER_SD
    for other in values:  # one at a time: ties depend on the order of summation
        if kernel == "poisson":
            total += special.pdtr(values, other + _POISSON_SHIFT)
        else:
            distance = (values - other) / width
            step = np.minimum(np.abs(distance) / _TABLE_REACH * _TABLE_STEPS, _TABLE_STEPS).astype(np.int64)
            cdf = np.where(np.abs(distance) > _TABLE_REACH, 1.0, _NORMAL_CDF[step])
            total += np.where(distance < 0, 1 - cdf, cdf)
    share = total / samples
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log((1 - share) / share))


def _walk_extremes(place: np.ndarray, weight: FloatArray, n_genes: int) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and highest point of the walk down the ranking, from 0; extremes lie at the set's genes."""
    size = place.shape[1]
    steps = weight[place]
    total = steps.sum(axis=1, keepdims=True)
    risen = np.cumsum(np.divide(steps, total, out=np.zeros_like(steps), where=total > 0), axis=1)
    rest = n_genes - size
    fallen = (place - np.arange(size)) / rest if rest else np.zeros_like(steps)
    before = np.column_stack([np.zeros(len(place)), risen[:, :-1]]) - fallen
    return np.minimum(before.min(axis=1), 0.0), np.maximum((risen - fallen).max(axis=1), 0.0)


def _varying(frame: pd.DataFrame, step: str) -> tuple[FloatArray, list[str], tuple[str, ...]]:
    values = check_expression(frame, step=step)
    if len(values) < 2:
        raise TooFewCases("The score compares samples.", step=step, expected="at least 2", got=len(values))
    varies = np.ptp(values, axis=0) > 0
    names = frame.columns.astype(str)
    if varies.sum() < 2:
        raise TooFewCases("Fewer than two genes vary.", step=step, got=int(varies.sum()))
    return values[:, varies], list(names[varies]), tuple(names[~varies])


def _standardised(frame: pd.DataFrame, step: str) -> tuple[FloatArray, list[str], tuple[str, ...]]:
    values, genes, constant = _varying(frame, step)
    return (values - values.mean(axis=0)) / values.std(axis=0, ddof=1), genes, constant


def _columns(found: Restricted, genes: list[str]) -> list[list[int]]:
    position = {gene: index for index, gene in enumerate(genes)}
    return [[position[gene] for gene in members] for members in found.sets.values()]


def _scores(
    frame: pd.DataFrame, found: Restricted, scores: list[FloatArray], constant: tuple[str, ...]
) -> PathwayScores:
    return PathwayScores(
        values=pd.DataFrame(np.column_stack(scores), index=frame.index, columns=list(found.sets)),
        size={name: len(genes) for name, genes in found.sets.items()},
        dropped=found.dropped,
        constant=constant,
    )
