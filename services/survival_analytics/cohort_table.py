""" "Table 1": the characteristics of a cohort by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from services.shared.errors import GliaflowError
from services.survival_analytics.hypothesis import (
    chi_square,
    cross_tabulate,
    fisher_exact,
    kruskal_wallis,
    mann_whitney,
    t_test,
)
from services.survival_analytics.inputs import (
    BoolArray,
    FloatArray,
    IntArray,
    Notice,
    format_level,
    read_groups,
    require_column,
)


@dataclass(frozen=True, eq=False)
class CohortTable:
    """Rows of characteristic, level, a summary in each group and overall, and a test.

    Numbers are mean ± SD, or median [quartiles] for the columns named non-normal; categories are counts and percent.
    """

    groups: tuple[str, ...]
    rows: pd.DataFrame
    notices: tuple[Notice, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the table."""
        return self.rows.copy()


def describe_cohort(
    frame: pd.DataFrame,
    group: str,
    *,
    columns: Sequence[str],
    categorical: Sequence[str] = (),
    non_normal: Sequence[str] = (),
    fisher_below: float = 5.0,
) -> CohortTable:
    """Summarise columns by group and test for differences.

    Parameters
    ----------
    frame, group
        Table, and the column that holds the groups.
    columns
        Columns to describe, in order. Missing values are counted and left out.
    categorical
        Columns to treat as categories; columns that are not numeric always are.
    non_normal
        Numeric columns to describe by median and quartiles and to compare by ranks; others by mean, SD and Welch's t.
    fisher_below
        2×2 tables with an expected count below this are tested exactly.

    Returns
    -------
    CohortTable
        With a notice ``not_tested`` for each column whose test is not defined.
    """
    step = "describe_cohort"
    codes, labels = read_groups(pd.Series(require_column(frame, group, step=step)), field=group, step=step)
    heads = [f"{label} (n={int(np.sum(codes == g))})" for g, label in enumerate(labels)]
    overall = f"all (n={codes.size})"
    rows: list[dict[str, str | float]] = []
    notices: list[Notice] = []
    for name in columns:
        series = pd.Series(require_column(frame, name, step=step))
        known = series.notna().to_numpy()
        as_category = name in categorical or not pd.api.types.is_numeric_dtype(series.infer_objects())
        values, g = series[known], codes[known]
        try:
            test, p_value = _test(
                values, g, as_category=as_category, ranks=name in non_normal, fisher_below=fisher_below
            )
        except GliaflowError as error:
            notices.append(Notice("not_tested", f"{name}: {error.detail}"))
            test, p_value = "", float("nan")
        missing = int(np.sum(~known))
        common: dict[str, str | float] = {"test": test, "p_value": p_value, "missing": missing}
        if as_category:
            for position, level in enumerate(sorted(values.unique().tolist())):
                row: dict[str, str | float] = {"characteristic": name, "level": format_level(level)}
                hit = (values == level).to_numpy()
                row[overall] = _share(hit, np.ones(g.size, dtype=bool))
                row |= {head: _share(hit, g == k) for k, head in enumerate(heads)}
                later: dict[str, str | float] = {"test": "", "p_value": float("nan"), "missing": ""}
                rows.append(row | (common if position == 0 else later))
        else:
            numbers = values.to_numpy(dtype=np.float64)
            describe = _quartiles if name in non_normal else _moments
            row = {"characteristic": name, "level": "", overall: describe(numbers)}
            row |= {head: describe(numbers[g == k]) for k, head in enumerate(heads)}
            rows.append(row | common)
    order = ["characteristic", "level", overall, *heads, "missing", "test", "p_value"]
    return CohortTable(labels, pd.DataFrame(rows, columns=order), tuple(notices))


def _test(
    values: pd.Series,
    group: IntArray,
    *,
    as_category: bool,
    ranks: bool,
    fisher_below: float,
) -> tuple[str, float]:
    if as_category:
        table = cross_tabulate(values.map(format_level), group)
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1)
        if table.shape == (2, 2) and expected.min() < fisher_below:
            return "Fisher", fisher_exact(table).p_value
        return "chi-square", chi_square(table).p_value
    numbers = values.to_numpy(dtype=np.float64)
    parts = [numbers[group == code] for code in np.unique(group)]
    if len(parts) == 2:
        if ranks:
            return "Mann-Whitney", mann_whitney(parts[0], parts[1]).p_value
        return "Welch t", t_test(parts[0], parts[1]).p_value
    return "Kruskal-Wallis", kruskal_wallis(numbers, group).p_value


def _share(hit: BoolArray, rows: BoolArray) -> str:
    total = int(rows.sum())
    count = int(np.sum(hit & rows))
    return f"{count} ({100 * count / total:.1f}%)" if total else "0"


def _moments(x: FloatArray) -> str:
    if x.size == 0:
        return "none"
    spread = float(x.std(ddof=1)) if x.size > 1 else 0.0
    return f"{x.mean():.4g} ± {spread:.3g}"


def _quartiles(x: FloatArray) -> str:
    if x.size == 0:
        return "none"
    q1, q2, q3 = np.quantile(x, [0.25, 0.5, 0.75])
    return f"{q2:.4g} [{q1:.4g}, {q3:.4g}]"
