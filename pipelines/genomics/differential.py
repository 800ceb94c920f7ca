"""Differential expression by linear models with moderated t (limma; Smyth 2004, Law et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from pipelines.genomics.expression import FloatArray, check_counts, check_expression
from pipelines.genomics.lowess import fit_lowess
from pipelines.genomics.moderation import Prior, fit_variance_prior, log_odds
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.multiplicity import adjust_p_values


@dataclass(frozen=True)
class ModeratedT:
    """Moderated t statistics of one coefficient, by gene.

    Parameters
    ----------
    genes
        Names, in the table's order; every array has one value a gene.
    log_fold_change, low, high
        Coefficient (log2 units for an indicator) with its confidence limits.
    mean
        Average expression.
    t, p, fdr
        Moderated t, two-sided p, and Benjamini-Hochberg adjusted p over all genes.
    log_odds
        Log odds that a gene differs (limma's B, prior probability 1 %).
    prior
        Prior of the variances; a trend gives one prior variance a gene.
    constant
        Genes that do not vary; their t rests on the prior alone.
    coefficient
        Column of the design that was tested.
    """

    genes: tuple[str, ...]
    log_fold_change: FloatArray
    low: FloatArray
    high: FloatArray
    mean: FloatArray
    t: FloatArray
    p: FloatArray
    fdr: FloatArray
    log_odds: FloatArray
    prior: Prior
    constant: tuple[str, ...]
    coefficient: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row a gene, in the table's order."""
        names = ("log_fold_change", "low", "high", "mean", "t", "p", "fdr", "log_odds")
        return pd.DataFrame({name: getattr(self, name) for name in names}, index=pd.Index(self.genes, name="gene"))

    def select(self, *, fdr: float = 0.05, log_fold_change: float = 1.0) -> tuple[str, ...]:
        """Return genes with an FDR below and an absolute log fold change above the thresholds."""
        kept = (self.fdr < fdr) & (np.abs(self.log_fold_change) > log_fold_change)
        return tuple(gene for gene, keep in zip(self.genes, kept, strict=True) if keep)


@dataclass(frozen=True)
class Voom:
    """Counts made ready for linear models.

    Parameters
    ----------
    values
        Samples x genes, log2 counts per million.
    weights
        Shape (samples, genes): precision predicted from the mean-variance trend.
    """

    values: pd.DataFrame
    weights: FloatArray


@dataclass(frozen=True)
class _LinearFit:
    coefficients: FloatArray  # (coefficients, genes)
    unscaled: FloatArray  # (genes,) standard error over sigma, of the tested coefficient
    variance: FloatArray  # (genes,)
    df: int


def design_matrix(
    samples: pd.DataFrame, *, group: str, case: object, batch: str | None = None, numeric: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return intercept, batch indicators, numeric covariates and, last, the group's indicator named ``group``.

    Parameters
    ----------
    samples
        One row a sample.
    group, case
        Column of the groups and the value that counts 1.
    batch, numeric
        Columns to adjust for.

    Raises
    ------
    InvalidTable
        Where a column is not there or misses values, or the group has one value.
    """
    step = "design_matrix"
    for column in (group, *([batch] if batch else []), *numeric):
        if column not in samples:
            raise InvalidTable("A column of the design is not there.", step=step, field=column)
        if samples[column].isna().any():
            raise InvalidTable(
                "A column of the design misses values.", step=step, field=column, got=int(samples[column].isna().sum())
            )
    indicator = (samples[group] == case).to_numpy(dtype=np.float64)
    if indicator.min() == indicator.max():
        raise InvalidTable(
            "The group has one value.", step=step, field=group, expected=f"some samples with {case!r} and some without"
        )
    columns: dict[str, object] = {"intercept": np.ones(len(samples))}
    if batch:
        labels = samples[batch].astype(str)
        for level in sorted(set(labels))[1:]:
            columns[f"{batch}_{level}"] = (labels == level).to_numpy(dtype=np.float64)
    columns |= {name: samples[name].to_numpy(dtype=np.float64) for name in numeric}
    return pd.DataFrame({**columns, group: indicator}, index=samples.index)


def moderated_t(
    frame: pd.DataFrame,
    design: pd.DataFrame,
    *,
    coefficient: str,
    trend: bool = False,
    weights: FloatArray | None = None,
    confidence: float = 0.95,
) -> ModeratedT:
    """Fit a linear model a gene and moderate its variance (limma: ``lmFit``, ``eBayes``, ``topTable``).

    Parameters
    ----------
    frame
        Samples x genes, log2 scale.
    design
        Samples x coefficients, full rank, with an intercept.
    coefficient
        Column of the design to test.
    trend
        Whether the prior variance follows average expression.
    weights
        Shape (samples, genes), as of `voom`.

    Raises
    ------
    InvalidTable, IdMismatch, TooFewCases
        Where the design is confounded, samples differ, or no residual degree of freedom is left.
    """
    step = "moderated_t"
    y = check_expression(frame, step=step)
    x = _design(frame, design, step)
    if coefficient not in design.columns:
        raise InvalidValue(
            "The coefficient is not in the design.",
            step=step,
            field="coefficient",
            expected=list(design.columns),
            got=coefficient,
        )
    tested = list(design.columns).index(coefficient)
    fit = _fit(y, x, tested, weights)
    mean = y.mean(axis=0)
    prior = fit_variance_prior(fit.variance, fit.df, trend_over=mean if trend else None)
    posterior = prior.squeeze(fit.variance, fit.df)
    df_total = min(fit.df + prior.df, float(fit.df * y.shape[1]))
    effect = fit.coefficients[tested]
    error = fit.unscaled * np.sqrt(posterior)
    t = effect / error
    p = 2 * stats.t.sf(np.abs(t), df_total)
    half = error * stats.t.ppf((1 + confidence) / 2, df_total)
    genes = tuple(frame.columns.astype(str))
    return ModeratedT(
        genes=genes,
        log_fold_change=effect,
        low=effect - half,
        high=effect + half,
        mean=mean,
        t=t,
        p=p,
        fdr=adjust_p_values(p),
        log_odds=log_odds(t, fit.unscaled, df_total, prior),
        prior=prior,
        constant=tuple(gene for gene, flat in zip(genes, np.ptp(y, axis=0) == 0, strict=True) if flat),
        coefficient=coefficient,
    )


def voom(counts: pd.DataFrame, design: pd.DataFrame, *, factors: pd.Series, span: float = 0.5) -> Voom:
    """Return log2 counts per million with a precision weight for each (limma: ``voom``; Law et al. 2014).

    Parameters
    ----------
    counts
        Samples x genes, whole numbers.
    factors
        Normalisation factor by sample (`normalisation.tmm_factors`).
    span
        Fraction of genes in each local fit of the mean-variance trend.
    """
    reads = check_counts(counts).astype(np.float64)
    x = _design(counts, design, "voom")
    library = reads.sum(axis=1) * factors.reindex(counts.index).to_numpy(dtype=np.float64)
    y = np.log2((reads + 0.5) / (library + 1)[:, None] * 1e6)
    fit = _fit(y, x, 0, None)
    expressed = reads.sum(axis=0) > 0
    size = y.mean(axis=0) + np.mean(np.log2(library + 1)) - np.log2(1e6)
    trend = fit_lowess(size[expressed], fit.variance[expressed] ** 0.25, span=span)
    fitted = x @ fit.coefficients
    predicted = trend(np.log2(2**fitted * (library + 1)[:, None] / 1e6))
    return Voom(values=pd.DataFrame(y, index=counts.index, columns=counts.columns), weights=predicted**-4.0)


def _design(frame: pd.DataFrame, design: pd.DataFrame, step: str) -> FloatArray:
    if not design.index.is_unique or set(design.index) != set(frame.index):
        raise IdMismatch(
            "Design and expression have different samples.",
            step=step,
            expected=f"{len(frame)} samples",
            got=f"{len(design)} in the design, {len(set(design.index) & set(frame.index))} common",
        )
    x = design.loc[frame.index].to_numpy(dtype=np.float64)
    if not np.isfinite(x).all():
        raise InvalidTable("The design holds missing values.", step=step)
    rank = int(np.linalg.matrix_rank(x))
    if rank < x.shape[1]:
        raise InvalidTable(
            "The design is confounded: its columns are not independent.",
            step=step,
            expected=f"rank {x.shape[1]}",
            got=f"rank {rank}",
            remedy="leave out the batch, or merge batches that hold one group only",
        )
    if len(x) <= x.shape[1]:
        raise TooFewCases(
            "No residual degree of freedom is left.", step=step, expected=f"over {x.shape[1]} samples", got=len(x)
        )
    return x


def _fit(y: FloatArray, x: FloatArray, tested: int, weights: FloatArray | None) -> _LinearFit:
    df = x.shape[0] - x.shape[1]
    if weights is None:
        q, r = np.linalg.qr(x)
        coefficients = np.linalg.solve(r, q.T @ y)
        variance = np.sum((y - x @ coefficients) ** 2, axis=0) / df
        unscaled = np.full(y.shape[1], np.linalg.norm(np.linalg.inv(r)[tested]))
        return _LinearFit(coefficients, unscaled, variance, df)
    if weights.shape != y.shape or not (weights > 0).all():
        raise InvalidValue("Weights must be positive, one a value.", step="moderated_t", expected=y.shape)
    root = np.sqrt(weights.T)
    scaled_x, scaled_y = root[:, :, None] * x, root * y.T
    q, r = np.linalg.qr(scaled_x)
    beta = np.linalg.solve(r, np.einsum("gnp,gn->gp", q, scaled_y)[:, :, None])[:, :, 0]
    variance = np.sum((scaled_y - np.einsum("gnp,gp->gn", scaled_x, beta)) ** 2, axis=1) / df
    unscaled = np.linalg.norm(np.linalg.inv(r)[:, tested, :], axis=1)
    return _LinearFit(beta.T, unscaled, variance, df)
