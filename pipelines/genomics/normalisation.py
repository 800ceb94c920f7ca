"""Between-sample normalisation: quantiles of a training distribution, and TMM library sizes of counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipelines.genomics.expression import FloatArray, check_counts, check_expression, take_genes
from services.shared.errors import InvalidValue, TooFewCases


@dataclass(frozen=True)
class QuantileNormalisation:
    """The mean distribution of training samples, which every sample is given rank by rank.

    Parameters
    ----------
    genes
        Genes of the training table.
    target
        Shape (genes,), ascending: mean of the samples' order statistics.
    """

    genes: tuple[str, ...]
    target: FloatArray

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return samples with the target distribution; a sample's result depends on no other sample."""
        frame = take_genes(frame, self.genes)
        values = check_expression(frame, step="quantile_normalisation")
        ranks = rankdata(values, method="average", axis=1) - 1.0
        mapped = np.interp(ranks, np.arange(self.target.size), self.target)
        return pd.DataFrame(mapped, index=frame.index, columns=frame.columns)


def fit_quantile_normalisation(frame: pd.DataFrame) -> QuantileNormalisation:
    """Learn the target distribution (limma: ``normalizeBetweenArrays(method = "quantile")``; Bolstad et al. 2003)."""
    values = check_expression(frame, step="fit_quantile_normalisation")
    return QuantileNormalisation(
        genes=tuple(frame.columns.astype(str)), target=np.asarray(np.sort(values, axis=1).mean(axis=0))
    )


def tmm_factors(counts: pd.DataFrame, *, log_ratio_trim: float = 0.3, sum_trim: float = 0.05) -> pd.Series:
    """Return the trimmed-mean-of-M-values factor by sample (edgeR: ``calcNormFactors``; Robinson & Oshlack 2010).

    Parameters
    ----------
    counts
        Samples x genes, whole numbers.
    log_ratio_trim, sum_trim
        Fractions of genes cut from each end by log ratio and by mean abundance.
    """
    reads = check_counts(counts).astype(np.float64)
    library = _library_sizes(counts, reads)
    reads = reads[:, reads.sum(axis=0) > 0]
    upper = np.array([np.quantile(row, 0.75) for row in reads]) / library
    if np.median(upper) < 1e-20:
        reference = int(np.argmax(np.sqrt(reads).sum(axis=1)))
    else:
        reference = int(np.argmin(np.abs(upper - upper.mean())))
    factors = np.array(
        [
            _trimmed_mean(row, reads[reference], size, library[reference], log_ratio_trim, sum_trim)
            for row, size in zip(reads, library, strict=True)
        ]
    )
    return pd.Series(factors / np.exp(np.log(factors).mean()), index=counts.index, name="tmm_factor")


def log_cpm(counts: pd.DataFrame, factors: pd.Series, *, prior_count: float = 2.0) -> pd.DataFrame:
    """Return log2 counts per million with a prior count scaled to library size (edgeR: ``cpm(log = TRUE)``)."""
    reads = check_counts(counts).astype(np.float64)
    if prior_count <= 0:
        raise InvalidValue("A prior count is positive.", step="log_cpm", field="prior_count", got=prior_count)
    library = _library_sizes(counts, reads) * factors.reindex(counts.index).to_numpy(dtype=np.float64)
    prior = library / library.mean() * prior_count
    values = np.log2((reads + prior[:, None]) / (library + 2 * prior)[:, None] * 1e6)
    return pd.DataFrame(values, index=counts.index, columns=counts.columns)


def _library_sizes(counts: pd.DataFrame, reads: FloatArray) -> FloatArray:
    sizes: FloatArray = reads.sum(axis=1)
    if (sizes == 0).any():
        empty = counts.index[sizes == 0]
        raise TooFewCases("A sample has no reads.", case=str(empty[0]), step="library_size", got="0 reads in all genes")
    return sizes


def _trimmed_mean(
    sample: FloatArray, reference: FloatArray, n_sample: float, n_reference: float, ratio_trim: float, sum_trim: float
) -> float:
    both = (sample > 0) & (reference > 0)
    s, r = sample[both], reference[both]
    if s.size == 0:
        return 1.0
    ratio = np.log2((s / n_sample) / (r / n_reference))
    abundance = (np.log2(s / n_sample) + np.log2(r / n_reference)) / 2
    variance = (n_sample - s) / n_sample / s + (n_reference - r) / n_reference / r
    if np.abs(ratio).max() < 1e-6:
        return 1.0
    low_ratio, low_sum = np.floor(s.size * ratio_trim) + 1, np.floor(s.size * sum_trim) + 1
    by_ratio, by_sum = rankdata(ratio), rankdata(abundance)
    kept = (by_ratio >= low_ratio) & (by_ratio <= s.size + 1 - low_ratio)
    kept &= (by_sum >= low_sum) & (by_sum <= s.size + 1 - low_sum)
    if not kept.any():
        return 1.0
    return float(2 ** (np.sum(ratio[kept] / variance[kept]) / np.sum(1 / variance[kept])))
