from __future__ import annotations

import re

import numpy as np
import pytest

from pipelines.reporting.figures import Stage, draw_by_region, draw_comparison, draw_flow, roc_band
from pipelines.reporting.picture import BLUE, draw, in_house_style, new_figure
from services.model_serving.package import Estimate


@in_house_style
def line(name: str) -> str:
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color=BLUE)
    return draw(figure, name=name, alt='a "quoted" <line>', caption="").markup


def test_drawing_is_inline_themed_and_repeatable() -> None:
    markup = line("one")
    assert markup == line("one")
    assert markup.startswith("<svg ")
    assert markup.endswith("</svg>")
    assert 'aria-label="a &quot;quoted&quot; &lt;line&gt;"' in markup
    assert BLUE not in markup
    assert "var(--blue)" in markup
    assert not re.search(r"metadata|xmlns|xlink|<!|<style|DejaVu", markup)


def test_identifiers_of_two_drawings_differ() -> None:
    one, two = (set(re.findall(r' id="([^"]+)"', line(name))) for name in ("one", "two"))
    assert one
    assert not one & two
    assert all(f"#{name}" in line("one") for name in one)


def test_house_style_leaves_no_trace() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    line("one")
    assert dict(mpl.rcParams) == before


def test_band_holds_the_curve_of_many_patients() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2 == 1
    score = rng.normal(size=400) + 1.0 * truth
    rates, low, high = roc_band(truth, score)
    thresholds = np.quantile(score[~truth], 1 - rates)
    curve = (score[truth][None] > thresholds[:, None]).mean(axis=1)
    inside = (low - 0.02 <= curve) & (curve <= high + 0.02)
    assert inside.mean() > 0.98
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    # Binomial standard error of a sensitivity near 0.5 from 200 patients, plus that of the threshold.
    middle = int(np.argmin(np.abs(curve - 0.5)))
    assert 0.1 < high[middle] - low[middle] < 0.35


def test_band_of_separated_classes_is_one() -> None:
    truth = np.array([False] * 5 + [True] * 5)
    _, low, high = roc_band(truth, np.arange(10.0))
    assert low.min() == high.min() == 1.0


def test_flow_states_counts_and_sums_up_many_reasons() -> None:
    reasons = tuple((f"reason {i}", 1) for i in range(5))
    picture = draw_flow([Stage("All", 9, reasons), Stage("Left", 4)], [("grading", 3, (("outcome is missing", 1),))])
    for text in ("n = 9", "n = 4", "Study grading", "1 × outcome is missing", "2 for other reasons"):
        assert text in picture.markup
    assert "reason 3" not in picture.markup


@pytest.mark.parametrize("values", [np.array([np.nan, np.nan]), np.array([0.5]), np.array([0.2, np.nan, 0.9])])
def test_regions_may_lack_values(values: np.ndarray) -> None:
    picture = draw_by_region("dice", {"WT": values}, title="Dice", label="Dice", caption="", limits=(0, 1))
    known = int(np.isfinite(values).sum())
    assert (f"(n = {known})" in picture.caption) == (known > 0)


def test_comparison_shows_estimates_without_an_interval() -> None:
    rows = [
        ("ours", "nested", Estimate(value=0.8, low=0.6, high=0.9), None),
        ("published", "paper", Estimate(value=0.9), None),
    ]
    told = draw_comparison("x", rows).markup
    assert "nested 0.800 [0.600–0.900]; paper 0.900" in told
