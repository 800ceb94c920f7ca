"""Batch adjustment fitted on training samples alone: ComBat and removal of batch means.

An adjustment knows the batches it was fitted on. A sample of another batch is refused: to bring a new platform near,
give it the training distribution (``normalisation``), which needs no other sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pipelines.genomics.expression import FloatArray, check_expression, take_genes
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases

_CONVERGED = 1e-4  # of the empirical Bayes iterations, as in sva
_MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class BatchMeans:
    """Shift of each gene in each training batch (limma: ``removeBatchEffect``).

    Parameters
    ----------
    shifts
        Batches x genes; their sum over batches is zero.
    """

    shifts: pd.DataFrame

    def apply(self, frame: pd.DataFrame, batch: pd.Series) -> pd.DataFrame:
        """Return samples less their batch's shift."""
        frame = take_genes(frame, self.shifts.columns)
        values = check_expression(frame, step="remove_batch_means")
        labels = _labels(frame, batch, self.shifts.index)
        return pd.DataFrame(values - self.shifts.loc[labels].to_numpy(), index=frame.index, columns=frame.columns)


@dataclass(frozen=True)
class Combat:
    """Location and scale of each gene in each training batch, shrunk by empirical Bayes (Johnson et al. 2007).

    Parameters
    ----------
    mean, scale
        By gene: grand mean and pooled standard deviation. Scale 0 marks a gene that stays as it is.
    location, variance
        Batches x genes, on the standardised scale.
    effects
        Covariates x genes: effects that are kept.
    reference
        Batch that stays as it is, if any.
    mean_only
        Whether only locations were adjusted.
    """

    mean: pd.Series
    scale: pd.Series
    location: pd.DataFrame
    variance: pd.DataFrame
    effects: pd.DataFrame
    reference: str | None
    mean_only: bool

    @property
    def unadjusted(self) -> tuple[str, ...]:
        """Genes that do not vary within some training batch; they are left alone."""
        return tuple(str(gene) for gene in self.scale.index[self.scale == 0])

    def apply(self, frame: pd.DataFrame, batch: pd.Series, *, covariates: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return adjusted samples of batches that were seen in training.

        Raises
        ------
        IdMismatch
            Where a gene or a batch is not known, or covariates differ from those of the fit.
        """
        frame = take_genes(frame, self.mean.index)
        values = check_expression(frame, step="combat")
        labels = _labels(frame, batch, self.location.index)
        x = _covariates(frame, covariates)
        x = x[[name for name in x.columns if name in self.effects.index or (x[name] != 1).any()]]
        if list(x.columns) != list(self.effects.index):
            raise IdMismatch(
                "The covariates are not those of the fit.",
                step="combat",
                expected=", ".join(self.effects.index) or "none",
                got=", ".join(map(str, x.columns)) or "none",
            )
        scale = self.scale.to_numpy()
        adjusted = scale > 0
        stand = self.mean.to_numpy() + x.to_numpy(dtype=np.float64) @ self.effects.to_numpy()
        safe = np.where(adjusted, scale, 1.0)
        z = (values - stand) / safe
        z = (z - self.location.loc[labels].to_numpy()) / np.sqrt(self.variance.loc[labels].to_numpy())
        result = np.where(adjusted, z * safe + stand, values)
        if self.reference is not None:
            own = np.array([label == self.reference for label in labels])
            result[own] = values[own]
        return pd.DataFrame(result, index=frame.index, columns=frame.columns)


def fit_batch_means(frame: pd.DataFrame, batch: pd.Series, *, design: pd.DataFrame | None = None) -> BatchMeans:
    """Estimate batch shifts beside effects to keep (limma: ``removeBatchEffect``).

    Parameters
    ----------
    frame
        Training samples x genes, log2 scale.
    batch
        Batch by sample.
    design
        Samples x columns with an intercept, whose effects are kept; default the intercept alone.
    """
    step = "fit_batch_means"
    values = check_expression(frame, step=step)
    labels = _labels(frame, batch)
    levels = sorted(set(labels))
    indicator = _indicator(labels, levels)
    coded = indicator[:, :-1] - indicator[:, -1:]
    kept = np.ones((len(frame), 1)) if design is None else _covariates(frame, design).to_numpy(dtype=np.float64)
    full = np.hstack([kept, coded])
    _require_rank(full, step)
    coefficients = np.linalg.lstsq(full, values, rcond=None)[0][kept.shape[1] :]
    shifts = np.vstack([coefficients, -coefficients.sum(axis=0, keepdims=True)])
    return BatchMeans(shifts=pd.DataFrame(shifts, index=levels, columns=frame.columns))


def fit_combat(
    frame: pd.DataFrame,
    batch: pd.Series,
    *,
    covariates: pd.DataFrame | None = None,
    reference: str | None = None,
    mean_only: bool = False,
    prior: Literal["parametric", "nonparametric"] = "parametric",
) -> Combat:
    """Estimate batch effects by ComBat (sva: ``ComBat``).

    Parameters
    ----------
    frame
        Training samples x genes, log2 scale.
    batch
        Batch by sample. One sample in a batch means that only locations are adjusted.
    covariates
        Samples x columns whose effects are kept; an intercept is ignored.
    reference
        Batch to which the others are brought.
    mean_only, prior
        Whether scales stay; normal and inverse gamma priors, or the empirical distribution.

    Raises
    ------
    InvalidTable
        Where batches and covariates are confounded.
    TooFewCases
        Where there is one batch, or fewer than two genes vary within every batch.
    """
    step = "fit_combat"
    values = check_expression(frame, step=step)
    labels = np.array(_labels(frame, batch))
    levels = sorted(set(labels))
    if len(levels) < 2:
        raise TooFewCases("Batch adjustment needs two batches.", step=step, field="batch", got=", ".join(levels))
    if reference is not None and str(reference) not in levels:
        raise InvalidValue(
            "The reference batch does not occur.", step=step, field="reference", expected=levels, got=reference
        )
    reference = None if reference is None else str(reference)
    members = [np.flatnonzero(labels == level) for level in levels]
    sizes = np.array([len(m) for m in members])
    mean_only = mean_only or bool((sizes == 1).any())
    varies = np.ones(values.shape[1], bool)
    for rows in members:
        if len(rows) > 1:
            varies &= np.ptp(values[rows], axis=0) > 0
    if varies.sum() < 2:
        raise TooFewCases("Fewer than two genes vary within every batch.", step=step, got=int(varies.sum()))
    y = values[:, varies]
    x = _without_intercept(_covariates(frame, covariates))
    covariate = x.to_numpy(dtype=np.float64)
    design = _indicator(list(labels), levels)
    if reference is not None:
        design[:, levels.index(reference)] = 1.0
    full = np.hstack([design, covariate])
    _require_rank(full, step)
    beta = np.linalg.lstsq(full, y, rcond=None)[0]
    residual = y - full @ beta
    if reference is None:
        mean = sizes / sizes.sum() @ beta[: len(levels)]
        pooled = np.mean(residual**2, axis=0)
    else:
        mean = beta[levels.index(reference)]
        pooled = np.mean(residual[members[levels.index(reference)]] ** 2, axis=0)
    scale = np.sqrt(pooled)
    effects = beta[len(levels) :]
    z = (y - mean - covariate @ effects) / scale
    gamma = np.linalg.lstsq(design, z, rcond=None)[0]
    location, variance = np.empty_like(gamma), np.ones_like(gamma)
    for k, rows in enumerate(members):
        delta = np.ones(y.shape[1]) if mean_only else z[rows].var(axis=0, ddof=1)
        if prior == "nonparametric":
            location[k], variance[k] = _nonparametric(z[rows], gamma[k], delta)
        elif mean_only:
            location[k] = _posterior_mean(gamma[k], gamma[k].mean(), 1.0, 1.0, gamma[k].var(ddof=1))
        else:
            location[k], variance[k] = _parametric(z[rows], gamma[k], delta)
        if levels[k] == reference:
            location[k], variance[k] = 0.0, 1.0
    # With a reference, its column is 1 for every sample and its own effect 0, so one row a batch serves both codings.
    genes = frame.columns
    return Combat(
        mean=_spread(mean, varies, genes, 0.0),
        scale=_spread(scale, varies, genes, 0.0),
        location=_spread_rows(location, varies, levels, genes, 0.0),
        variance=_spread_rows(variance, varies, levels, genes, 1.0),
        effects=_spread_rows(effects, varies, [str(c) for c in x.columns], genes, 0.0),
        reference=reference,
        mean_only=mean_only,
    )


def _parametric(z: FloatArray, gamma: FloatArray, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
    n = len(z)
    prior_mean, prior_variance = gamma.mean(), gamma.var(ddof=1)
    m, s2 = delta.mean(), delta.var(ddof=1)
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    location, variance = gamma, delta
    for _ in range(_MAX_ITERATIONS):
        new_location = _posterior_mean(gamma, prior_mean, n, variance, prior_variance)
        squares = np.sum((z - new_location) ** 2, axis=0)
        new_variance = (0.5 * squares + rate) / (n / 2 + shape - 1)
        # Relative to the signed value, as sva does: the stopping point is part of the result.
        change = max(
            np.max(np.abs(new_location - location) / location), np.max(np.abs(new_variance - variance) / variance)
        )
        location, variance = new_location, new_variance
        if not change > _CONVERGED:
            return location, variance
    raise InvalidTable("Batch effects did not converge.", step="fit_combat", got=f"{_MAX_ITERATIONS} iterations")


def _nonparametric(z: FloatArray, gamma: FloatArray, delta: FloatArray) -> tuple[FloatArray, FloatArray]:
    n, genes = z.shape
    location, variance = np.empty(genes), np.empty(genes)
    log_norm = -(n / 2) * np.log(2 * np.pi * delta)
    means, squares = z.mean(axis=0), np.sum((z - z.mean(axis=0)) ** 2, axis=0)
    for g in range(genes):
        distance = squares[g] + n * (means[g] - gamma) ** 2
        likelihood = np.exp(log_norm - distance / (2 * delta))
        likelihood[g] = 0.0
        total = likelihood.sum()
        location[g], variance[g] = likelihood @ gamma / total, likelihood @ delta / total
    return location, variance


def _posterior_mean(
    gamma: FloatArray, prior_mean: float, n: float, variance: FloatArray | float, prior_variance: float
) -> FloatArray:
    result: FloatArray = (prior_variance * n * gamma + variance * prior_mean) / (prior_variance * n + variance)
    return result


def _labels(frame: pd.DataFrame, batch: pd.Series, known: pd.Index | None = None) -> list[str]:
    aligned = batch.reindex(frame.index) if batch.index.is_unique else None
    if aligned is None or aligned.isna().any():
        lost = frame.index if aligned is None else frame.index[aligned.isna()]
        raise IdMismatch(
            "A sample has no batch, or several.",
            case=str(lost[0]),
            step="batch",
            field="batch",
            expected="one batch per sample",
        )
    labels = [str(label) for label in aligned]
    strange = sorted(set(labels) - set(known)) if known is not None else []
    if strange:
        raise IdMismatch(
            "A batch was not seen in training, so its effect is not known.",
            step="batch",
            field="batch",
            expected=", ".join(map(str, known if known is not None else [])),
            got=", ".join(strange),
            remedy="give samples of a new batch the training distribution (fit_quantile_normalisation)",
        )
    return labels


def _covariates(frame: pd.DataFrame, covariates: pd.DataFrame | None) -> pd.DataFrame:
    if covariates is None:
        return pd.DataFrame(index=frame.index)
    x = covariates.reindex(frame.index)
    x.columns = x.columns.astype(str)
    if x.isna().any().any():
        lost = x.index[x.isna().any(axis=1)]
        raise IdMismatch("A sample lacks a covariate.", case=str(lost[0]), step="batch", got=f"{len(lost)} samples")
    return x


def _without_intercept(x: pd.DataFrame) -> pd.DataFrame:
    return x[[name for name in x.columns if (x[name] != 1).any()]]


def _indicator(labels: list[str], levels: list[str]) -> FloatArray:
    return np.array([[float(label == level) for level in levels] for label in labels])


def _require_rank(design: FloatArray, step: str) -> None:
    rank = int(np.linalg.matrix_rank(design))
    if rank < design.shape[1]:
        raise InvalidTable(
            "Batches and covariates are confounded: their effects cannot be told apart.",
            step=step,
            expected=f"{design.shape[1]} independent columns",
            got=f"{rank}",
            remedy="drop the covariate, or merge batches",
        )


def _spread(values: FloatArray, varies: np.ndarray, genes: pd.Index, rest: float) -> pd.Series:
    full = np.full(len(genes), rest)
    full[varies] = values
    return pd.Series(full, index=genes)


def _spread_rows(values: FloatArray, varies: np.ndarray, rows: list[str], genes: pd.Index, rest: float) -> pd.DataFrame:
    full = np.full((len(rows), len(genes)), rest)
    full[:, varies] = values
    return pd.DataFrame(full, index=rows, columns=genes)
