"""Numbers behind the box plots of what lies where networks look."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.reporting.highlighted import compare_highlighted, draw_highlighted

FA = np.array([0.5, 0.52, 0.48, 0.55, 0.95, 0.2, 0.22, 0.18, 0.25, np.nan])
GROUP = pd.Series(["low"] * 5 + ["high"] * 5, index=[f"p{n}" for n in range(10)])
MEANS = pd.DataFrame({"FA": FA, "MD": np.arange(10.0)}, index=GROUP.index)


def test_boxes_are_tukeys_and_the_test_is_of_both_groups():
    table = compare_highlighted(MEANS, GROUP).set_index(["map", "group"])
    low = table.loc[("FA", "low")]
    assert (low["patients"], low["median"], low["q1"], low["q3"]) == (5, 0.52, 0.5, 0.55)
    assert (low["low_whisker"], low["high_whisker"]) == (0.48, 0.55)  # 0.95 lies beyond 1.5 interquartile ranges
    assert low["mean"] == pytest.approx(0.6)
    assert table.loc[("FA", "high"), "patients"] == 4
    assert table.loc[("FA", "low"), "p"] == pytest.approx(0.0200, abs=2e-4)  # R: wilcox.test(exact = FALSE)
    assert table.loc[("MD", "high"), "p"] < 0.05


def test_a_group_without_patients_has_no_numbers():
    table = compare_highlighted(MEANS[["FA"]], pd.Series("low", index=GROUP.index))
    high = table[table["group"] == "high"].iloc[0]
    assert high["patients"] == 0
    assert np.isnan(high["median"])
    assert np.isnan(high["p"])
    assert draw_highlighted(table, MEANS[["FA"]], pd.Series("low", index=GROUP.index)).startswith(b"\x89PNG")


def test_the_figure_has_a_panel_for_each_map_and_never_changes():
    table = compare_highlighted(MEANS, GROUP)
    first = draw_highlighted(table, MEANS, GROUP, units=("", "µm²/ms"))
    assert first == draw_highlighted(table, MEANS, GROUP, units=("", "µm²/ms"))
    width, height = Image.open(io.BytesIO(first)).size
    assert width > height
