"""Correlation of many variables with one, with the false discovery rate over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from pipelines.genomics.expression import FloatArray, check_expression
from services.shared.errors import IdMismatch, InvalidTable, TooFewCases
from services.survival_analytics.multiplicity import adjust_p_values


@dataclass(frozen=True)
class Correlations:
    """Correlation of each variable with the target.

    Parameters
    ----------
    names
        Variables that vary, in the table's order.
    r, p, fdr
        Coefficient, two-sided p of its t statistic, Benjamini-Hochberg adjusted p.
    constant
        Variables that do not vary and therefore have no correlation.
    samples
        Number of samples.
    """

    names: tuple[str, ...]
    r: FloatArray
    p: FloatArray
    fdr: FloatArray
    constant: tuple[str, ...]
    samples: int

    def to_frame(self) -> pd.DataFrame:
        """Return one row a variable, in the table's order."""
        return pd.DataFrame({"r": self.r, "p": self.p, "fdr": self.fdr}, index=pd.Index(self.names, name="variable"))


def correlate(
    frame: pd.DataFrame, target: pd.Series, *, method: Literal["pearson", "spearman"] = "pearson"
) -> Correlations:
    """Correlate every column with a target.

    Parameters
    ----------
    frame
        Samples x variables (genes, pathway scores).
    target
        One value a sample of the frame.

    Raises
    ------
    IdMismatch, InvalidTable, TooFewCases
        Where a sample has no target, the target does not vary, or there are fewer than three samples.
    """
    step = "correlate"
    x = check_expression(frame, step=step)
    y = target.reindex(frame.index).to_numpy(dtype=np.float64)
    if not np.isfinite(y).all():
        lost = frame.index[~np.isfinite(y)]
        raise IdMismatch("A sample has no target value.", case=str(lost[0]), step=step, got=f"{len(lost)} samples")
    if len(y) < 3:
        raise TooFewCases("Correlation needs three samples.", step=step, got=len(y))
    if np.ptp(y) == 0:
        raise InvalidTable("The target does not vary.", step=step, field=str(target.name))
    varies = np.ptp(x, axis=0) > 0
    names = frame.columns.astype(str)
    x = x[:, varies]
    if method == "spearman":
        x, y = stats.rankdata(x, axis=0), stats.rankdata(y)
    x, y = x - x.mean(axis=0), y - y.mean()
    r = np.clip(x.T @ y / np.sqrt(np.sum(x**2, axis=0) * (y @ y)), -1, 1)
    df = len(y) - 2
    with np.errstate(divide="ignore"):
        p = 2 * stats.t.sf(np.abs(r) * np.sqrt(df / (1 - r**2)), df)
    return Correlations(
        names=tuple(names[varies]),
        r=r,
        p=p,
        fdr=adjust_p_values(p),
        constant=tuple(names[~varies]),
        samples=len(y),
    )
