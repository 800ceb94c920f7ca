"""Differential expression of read counts by negative binomial models (DESeq2; Love et al. 2014), through PyDESeq2.

Where PyDESeq2 0.5 parts from DESeq2 1.38:

- dispersion trend: where the parametric fit fails, DESeq2 takes a local regression and PyDESeq2 the mean. `trend` of
  the result names the one used; fold changes then differ slightly, p-values more.
- no likelihood ratio test.
- the smallest dispersion DESeq2 reports (1e-8) appears at slightly other values.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pipelines.genomics.expression import FloatArray, check_counts
from services.shared.errors import IdMismatch, InvalidTable, MissingDependency, TooFewCases

Trend = Literal["parametric", "mean"]


@dataclass(frozen=True)
class CountComparison:
    """Wald tests of one coefficient, by gene.

    Parameters
    ----------
    genes
        Names, in the table's order; every array has one value a gene.
    base_mean
        Mean of normalised counts.
    log_fold_change, standard_error, statistic, p
        Log2 fold change, its error, Wald statistic and two-sided p; NaN where all counts are zero, and p also where a
        count is an outlier by Cook's distance.
    fdr
        Benjamini-Hochberg after independent filtering by base mean; NaN where filtered out.
    dispersion
        Final dispersion.
    size_factors
        By sample, median of ratios.
    trend
        Dispersion trend that was fitted.
    coefficient
        Column of the design that was tested.
    """

    genes: tuple[str, ...]
    base_mean: FloatArray
    log_fold_change: FloatArray
    standard_error: FloatArray
    statistic: FloatArray
    p: FloatArray
    fdr: FloatArray
    dispersion: FloatArray
    size_factors: pd.Series
    trend: Trend
    coefficient: str

    def to_frame(self) -> pd.DataFrame:
        """Return one row a gene, in the table's order."""
        names = ("base_mean", "log_fold_change", "standard_error", "statistic", "p", "fdr", "dispersion")
        return pd.DataFrame({name: getattr(self, name) for name in names}, index=pd.Index(self.genes, name="gene"))

    def select(self, *, fdr: float = 0.25, log_fold_change: float = 0.1) -> tuple[str, ...]:
        """Return genes with an FDR below and an absolute log fold change above the thresholds."""
        kept = (np.nan_to_num(self.fdr, nan=1.0) < fdr) & (np.abs(self.log_fold_change) > log_fold_change)
        return tuple(gene for gene, keep in zip(self.genes, kept, strict=True) if keep)


def compare_counts(
    counts: pd.DataFrame,
    design: pd.DataFrame,
    *,
    coefficient: str,
    alpha: float = 0.1,
    filters: bool = True,
    workers: int = 1,
) -> CountComparison:
    """Test one coefficient by DESeq2's Wald test.

    Parameters
    ----------
    counts
        Samples x genes, whole numbers (floats that are whole count as such).
    design
        Samples x coefficients with an intercept (`differential.design_matrix`).
    coefficient
        Column to test.
    alpha
        False discovery rate for which independent filtering is optimised.
    filters
        Whether Cook's distances and independent filtering take part.
    workers
        Processes.

    Raises
    ------
    InvalidTable, IdMismatch, TooFewCases
        Where counts are no counts, samples differ, or the design is confounded.
    """
    step = "compare_counts"
    reads = check_counts(counts)
    if set(design.index) != set(counts.index):
        raise IdMismatch("Design and counts have different samples.", step=step, expected=len(counts), got=len(design))
    if coefficient not in design.columns:
        raise InvalidTable("The coefficient is not in the design.", step=step, field=coefficient)
    if np.linalg.matrix_rank(design.to_numpy(dtype=np.float64)) < design.shape[1]:
        raise InvalidTable("The design is confounded: its columns are not independent.", step=step)
    if not (reads > 0).all(axis=0).any():
        raise TooFewCases(
            "No gene has reads in every sample, so size factors have no basis.",
            step=step,
            remedy="leave out samples with hardly any reads",
        )
    try:
        from pydeseq2.dds import DeseqDataSet
        from pydeseq2.default_inference import DefaultInference
        from pydeseq2.ds import DeseqStats
    except ImportError as exc:
        raise MissingDependency("PyDESeq2 is not installed.", step=step, remedy="pip install pydeseq2") from exc
    design = design.loc[counts.index].astype(np.float64)
    table = pd.DataFrame(reads, index=counts.index.astype(str), columns=counts.columns.astype(str))
    design.index = table.index
    inference = DefaultInference(n_cpus=workers)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        fitted = DeseqDataSet(counts=table, metadata=design, design=design, inference=inference, quiet=True)
        fitted.deseq2()
        contrast = (design.columns == coefficient).astype(np.float64)
        tested = DeseqStats(
            fitted,
            contrast=contrast,
            alpha=alpha,
            cooks_filter=filters,
            independent_filter=filters,
            inference=inference,
            quiet=True,
        )
        tested.summary()
    result = tested.results_df
    parametric = fitted.fit_type == "parametric" and "trend_coeffs" in fitted.uns
    return CountComparison(
        genes=tuple(table.columns),
        base_mean=result["baseMean"].to_numpy(dtype=np.float64),
        log_fold_change=result["log2FoldChange"].to_numpy(dtype=np.float64),
        standard_error=result["lfcSE"].to_numpy(dtype=np.float64),
        statistic=result["stat"].to_numpy(dtype=np.float64),
        p=result["pvalue"].to_numpy(dtype=np.float64),
        fdr=result["padj"].to_numpy(dtype=np.float64),
        dispersion=np.asarray(fitted.var["dispersions"], dtype=np.float64),
        size_factors=pd.Series(np.asarray(fitted.obs["size_factors"]), index=counts.index, name="size_factor"),
        trend="parametric" if parametric else "mean",
        coefficient=coefficient,
    )
