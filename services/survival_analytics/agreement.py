"""Agreement between raters or segmentations: intraclass correlation, and overlap summaries by region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import fdtrc, fdtri

from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.inputs import FloatArray, Notice, require_column

IccForm = Literal["ICC(1,1)", "ICC(2,1)", "ICC(3,1)", "ICC(1,k)", "ICC(2,k)", "ICC(3,k)"]
AverageLimits = Literal["satterthwaite", "spearman-brown"]


@dataclass(frozen=True)
class Icc:
    """One form of the intraclass correlation.

    Attributes
    ----------
    form
        Shrout and Fleiss' name. ICC(2,…) is absolute agreement of random raters, ICC(3,…) consistency of fixed ones.
    estimate, lower, upper
        Coefficient and limits.
    f, degrees_of_freedom, degrees_of_freedom_2, p_value
        Test that the coefficient is zero.
    """

    form: IccForm
    estimate: float
    f: float
    degrees_of_freedom: float
    degrees_of_freedom_2: float
    p_value: float
    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class IccTable:
    """All six forms for n subjects and k raters."""

    n_subjects: int
    n_raters: int
    level: float
    rows: tuple[Icc, ...]
    notices: tuple[Notice, ...] = ()

    def __getitem__(self, form: IccForm) -> Icc:
        """Return one form."""
        for row in self.rows:
            if row.form == form:
                return row
        raise InvalidValue("Unknown form.", step="intraclass_correlation", expected=get_args(IccForm), got=form)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per form."""
        return pd.DataFrame([vars(row) for row in self.rows])


def intraclass_correlation(
    ratings: ArrayLike, *, level: float = 0.95, average_limits: AverageLimits = "satterthwaite"
) -> IccTable:
    """Compute the six intraclass correlations of Shrout and Fleiss.

    Parameters
    ----------
    ratings
        Shape (n, k): subjects in rows, raters in columns, complete.
    level
        Confidence level.
    average_limits
        Limits of ICC(2,k): with degrees of freedom computed for the average (R: ``irr::icc``), or those of ICC(2,1)
        stepped up (R: ``psych::ICC``). The other limits are the same in both.

    Raises
    ------
    TooFewCases
        Fewer than two subjects or raters, or ratings without any variance.

    Notes
    -----
    Shrout and Fleiss (1979), McGraw and Wong (1996). The test of the agreement forms has Satterthwaite's degrees of
    freedom (irr); psych tests ICC(2,·) with those of ICC(3,·), see the row of ICC(3,1).
    """
    step = "intraclass_correlation"
    x = np.asarray(ratings, dtype=np.float64)
    if x.ndim != 2:
        raise InvalidValue("Ratings must form a table of subjects and raters.", step=step, got=x.shape)
    if average_limits not in get_args(AverageLimits):
        raise InvalidValue("Unknown limits.", step=step, expected=get_args(AverageLimits), got=average_limits)
    n, k = x.shape
    if n < 2 or k < 2:
        raise TooFewCases("At least two subjects and two raters are needed.", step=step, got=f"{n} × {k}")
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise InvalidValue(
            "A rating is missing or infinite.", step=step, field=f"rater {column}", got=f"{x[row, column]} in row {row}"
        )
    grand = x.mean()
    between = k * float(np.sum((x.mean(axis=1) - grand) ** 2))
    raters = n * float(np.sum((x.mean(axis=0) - grand) ** 2))
    total = float(np.sum((x - grand) ** 2))
    ms_r = between / (n - 1)
    ms_w = (total - between) / (n * (k - 1))
    ms_c = raters / (k - 1)
    ms_e = float(np.sum((x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + grand) ** 2)) / ((n - 1) * (k - 1))
    tiny = 1e-14 * max(total, 1e-300)
    if total == 0 or ms_e <= tiny or ms_w <= tiny:
        raise TooFewCases(
            "The raters do not differ beyond a shift: F tests and limits of the correlation do not exist.",
            step=step,
            got="no residual variance",
        )
    tail = (1 - level) / 2
    d1, dw, de = float(n - 1), float(n * (k - 1)), float((n - 1) * (k - 1))
    fw, fe = ms_r / ms_w, ms_r / ms_e
    one_low, one_high = fw / _quantile(d1, dw, tail), fw * _quantile(dw, d1, tail)
    three_low, three_high = fe / _quantile(d1, de, tail), fe * _quantile(de, d1, tail)
    agreement = (ms_r - ms_e) / (ms_r + (k - 1) * ms_e + k * (ms_c - ms_e) / n)
    average = (ms_r - ms_e) / (ms_r + (ms_c - ms_e) / n)
    v1 = _satterthwaite(ms_c, ms_e, k * agreement / (n * (1 - agreement)), n, k)
    low2, high2 = _agreement_limits(ms_r, ms_c, ms_e, v1, n, k, tail)
    vk = _satterthwaite(ms_c, ms_e, k * average / (n * (1 - average)), n, k)
    if average_limits == "satterthwaite":
        fl, fu = _quantile(d1, vk, tail), _quantile(vk, d1, tail)
        low2k = n * (ms_r - fl * ms_e) / (fl * (ms_c - ms_e) + n * ms_r)
        high2k = n * (fu * ms_r - ms_e) / (ms_c - ms_e + n * fu * ms_r)
    else:
        low2k, high2k = k * low2 / (1 + low2 * (k - 1)), k * high2 / (1 + high2 * (k - 1))
    rows = (
        Icc(
            "ICC(1,1)", _single(fw, k), fw, d1, dw, float(fdtrc(d1, dw, fw)), _single(one_low, k), _single(one_high, k)
        ),
        Icc("ICC(2,1)", agreement, fe, d1, v1, float(fdtrc(d1, v1, fe)), low2, high2),
        Icc(
            "ICC(3,1)",
            _single(fe, k),
            fe,
            d1,
            de,
            float(fdtrc(d1, de, fe)),
            _single(three_low, k),
            _single(three_high, k),
        ),
        Icc("ICC(1,k)", 1 - 1 / fw, fw, d1, dw, float(fdtrc(d1, dw, fw)), 1 - 1 / one_low, 1 - 1 / one_high),
        Icc("ICC(2,k)", average, fe, d1, vk, float(fdtrc(d1, vk, fe)), low2k, high2k),
        Icc("ICC(3,k)", 1 - 1 / fe, fe, d1, de, float(fdtrc(d1, de, fe)), 1 - 1 / three_low, 1 - 1 / three_high),
    )
    return IccTable(n, k, level, rows)


def _single(f: float, k: int) -> float:
    return (f - 1) / (f + k - 1)


def _quantile(d1: float, d2: float, tail: float) -> float:
    return float(fdtri(d1, d2, 1 - tail))


def _satterthwaite(ms_c: float, ms_e: float, a: float, n: int, k: int) -> float:
    b = 1 + a * (n - 1)
    return float((a * ms_c + b * ms_e) ** 2 / ((a * ms_c) ** 2 / (k - 1) + (b * ms_e) ** 2 / ((n - 1) * (k - 1))))


def _agreement_limits(
    ms_r: float, ms_c: float, ms_e: float, v: float, n: int, k: int, tail: float
) -> tuple[float, float]:
    fl, fu = _quantile(n - 1, v, tail), _quantile(v, n - 1, tail)
    spread = k * ms_c + (k * n - k - n) * ms_e
    return n * (ms_r - fl * ms_e) / (fl * spread + n * ms_r), n * (fu * ms_r - ms_e) / (spread + n * fu * ms_r)


@dataclass(frozen=True, eq=False)
class OverlapSummary:
    """Overlap measures by region: mean, SD, median, quartiles, and how many cases had no value."""

    rows: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """Return one row per region and measure."""
        return self.rows.copy()


def summarise_overlap(
    frame: pd.DataFrame, region: str, *, measures: Sequence[str] = ("dice", "hd95_mm")
) -> OverlapSummary:
    """Summarise Dice and Hausdorff distances by region.

    Parameters
    ----------
    frame
        One row per case and region.
    region
        Column that names the region.
    measures
        Columns to summarise. An infinite distance (an empty mask) counts as missing and is reported as such.

    Raises
    ------
    InvalidTable
        Unknown column, or a measure that is not numeric.
    """
    step = "summarise_overlap"
    labels = pd.Series(require_column(frame, region, step=step)).astype(str)
    rows = []
    for measure in measures:
        try:
            values = pd.Series(require_column(frame, measure, step=step)).astype(float)
        except ValueError as error:
            raise InvalidTable(
                f"Column '{measure}' is not numeric.", step=step, field=measure, got=str(error)
            ) from error
        for label in sorted(labels.unique()):
            part = values[(labels == label).to_numpy()].to_numpy()
            known: FloatArray = part[np.isfinite(part)]
            quartiles = np.quantile(known, [0.25, 0.5, 0.75]) if known.size else np.full(3, np.nan)
            rows.append(
                {
                    "region": label,
                    "measure": measure,
                    "cases": part.size,
                    "missing": part.size - known.size,
                    "mean": known.mean() if known.size else np.nan,
                    "sd": known.std(ddof=1) if known.size > 1 else np.nan,
                    "median": quartiles[1],
                    "q1": quartiles[0],
                    "q3": quartiles[2],
                }
            )
    return OverlapSummary(pd.DataFrame(rows))
