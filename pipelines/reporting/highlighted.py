"""What lies where networks look, by risk group: box-plot numbers of each map, test and figure.

EBioMedicine 2021, 103583, section 2.7: mean of each diffusion map inside the highlighted region, high against low risk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from services.survival_analytics.hypothesis import mann_whitney
from services.survival_analytics.plots.style import colour_of, format_p, house_style, new_figure, render_png

WHISKER = 1.5
"""Whiskers reach to the last value within this many interquartile ranges of the box (Tukey)."""


def compare_highlighted(
    means: pd.DataFrame, group: pd.Series, *, groups: tuple[str, str] = ("low", "high")
) -> pd.DataFrame:
    """Return box-plot numbers of each map by group, with the P of Mann and Whitney's test between both.

    Parameters
    ----------
    means
        Mean of each map inside the highlighted region, one row a patient; NaN where nothing was highlighted.
    group
        Group of each patient, indexed alike.

    Returns
    -------
    pandas.DataFrame
        One row a map and group: ``map``, ``group``, ``patients``, ``mean``, ``low_whisker``, ``q1``, ``median``,
        ``q3``, ``high_whisker``, ``p`` (NaN where a group has nobody, or all values are equal).
    """
    rows: list[dict[str, object]] = []
    for name in means.columns:
        parts = [_known(means.loc[group == each, name]) for each in groups]
        tested = min(map(len, parts)) > 0 and np.ptp(np.concatenate(parts)) > 0
        p = mann_whitney(parts[1], parts[0]).p_value if tested else float("nan")
        rows += [{"map": name, "group": each, **_box(part), "p": p} for each, part in zip(groups, parts, strict=True)]
    return pd.DataFrame(rows)


def _known(values: pd.Series) -> npt.NDArray[np.float64]:
    return np.asarray(values.dropna(), dtype=np.float64)


def _box(values: npt.NDArray[np.float64]) -> dict[str, float | int]:
    names = ("mean", "low_whisker", "q1", "median", "q3", "high_whisker")
    if len(values) == 0:
        return {"patients": 0} | dict.fromkeys(names, float("nan"))
    q1, median, q3 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    reach = WHISKER * (q3 - q1)
    within = values[(values >= q1 - reach) & (values <= q3 + reach)]
    found = (float(values.mean()), float(within.min()), q1, median, q3, float(within.max()))
    return {"patients": len(values)} | dict(zip(names, found, strict=True))


def draw_highlighted(table: pd.DataFrame, means: pd.DataFrame, group: pd.Series, *, units: Sequence[str] = ()) -> bytes:
    """Return a PNG with a panel a map: the boxes of a comparison, and every patient's value beside them.

    Parameters
    ----------
    table
        Of :func:`compare_highlighted`.
    units
        Unit of each map, for the axes.
    """
    maps = list(dict.fromkeys(table["map"]))
    with house_style():
        figure = new_figure(width=1.9 * len(maps) + 0.5, height=3.2)
        for position, name in enumerate(maps):
            axes = figure.add_subplot(1, len(maps), position + 1)
            rows = table[table["map"] == name]
            for place, (_, row) in enumerate(rows.iterrows()):
                values = _known(means.loc[group == row["group"], name])
                spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
                axes.scatter(place + spread, np.sort(values), s=9, color=colour_of(place), alpha=0.55, linewidths=0)
                if row["patients"]:
                    box = {key: row[key] for key in ("q1", "q3")} | {"med": row["median"]}
                    box |= {"whislo": row["low_whisker"], "whishi": row["high_whisker"], "fliers": []}
                    axes.bxp([box], positions=[place], widths=0.5, showfliers=False, medianprops={"color": "#333333"})
            axes.set_xticks(
                range(len(rows)), [f"{g}\nn = {n}" for g, n in zip(rows["group"], rows["patients"], strict=True)]
            )
            p = float(rows["p"].iloc[0])
            axes.set_title(f"{name}  {format_p(p)}" if p == p else name)
            axes.set_ylabel(units[position] if position < len(units) else "")
        return render_png(figure)
