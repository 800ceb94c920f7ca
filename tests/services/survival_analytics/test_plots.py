from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from services.shared.errors import InvalidValue
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.cox_screen import screen_covariates
from services.survival_analytics.gallery import draw_figures, write_gallery
from services.survival_analytics.plots import plot_forest, plot_scores, render_png, render_svg

EXPECTED = {
    "survival",
    "time-dependent-roc",
    "roc",
    "auc-matrix",
    "calibration",
    "survival-calibration",
    "decision-curves",
    "clinical-impact",
    "forest",
    "nomogram",
    "nomogram-logistic",
    "scores",
}


@pytest.fixture(scope="module")
def figures() -> dict[str, tuple[str, Figure]]:
    return draw_figures(150, seed=2)


def test_every_figure_is_drawn(figures: dict) -> None:
    assert set(figures) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_text_lies_inside_and_does_not_collide(figures: dict, name: str) -> None:
    figure = figures[name][1]
    figure.draw_without_rendering()
    page = figure.bbox.padded(2)
    renderer = figure.canvas.get_renderer()
    boxes = []
    for axes in figure.axes:
        shown = [t for t in axes.texts if t.get_text().strip()]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown += [k.label1 for k in axis.get_major_ticks() if low <= k.get_loc() <= high]
        shown += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for text in shown:
            if not text.get_text().strip() or not text.get_visible() or (not axes.axison and text not in axes.texts):
                continue
            box = text.get_window_extent(renderer)
            assert page.contains(*box.min), f"{text.get_text()!r} is clipped"
            assert page.contains(*box.max), f"{text.get_text()!r} is clipped"
            if text in axes.texts:
                boxes.append((text.get_text(), box))
    for position, (first, a) in enumerate(boxes):
        for second, b in boxes[position + 1 :]:
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(overlap) < 1.5, f"{first!r} and {second!r} overlap in {name}"


def test_same_bytes_at_every_call() -> None:
    first, second = (draw_figures(80, seed=1)["survival"][1] for _ in range(2))
    assert render_svg(first) == render_svg(second)
    assert render_png(first) == render_png(second)
    assert "<dc:date>" not in render_svg(first)


def test_user_settings_do_not_matter() -> None:
    plain = render_svg(draw_figures(80, seed=1)["roc"][1])
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "axes.facecolor": "red"}):
        assert render_svg(draw_figures(80, seed=1)["roc"][1]) == plain


def test_gallery_page_shows_every_file(tmp_path: Path) -> None:
    written = write_gallery(tmp_path)
    page = (tmp_path / "README.md").read_text()
    shown = set(re.findall(r"\]\(([\w-]+\.(?:svg|png))\)", page))
    assert shown == {path.name for path in written if path.suffix in (".svg", ".png")}
    assert sum(path.stat().st_size for path in written) < 1_500_000


def test_forest_names_what_cannot_be_drawn(patients) -> None:
    screen = screen_covariates(patients.assign(flat=1), "months", event="died", covariates=["age", "flat"])
    texts = [text.get_text() for axes in plot_forest(screen).axes for text in axes.texts]
    assert any("not estimable" in text for text in texts)
    separated = fit_cox(patients.assign(m=patients["died"]), "months", event="died", covariates=["m"])
    with pytest.raises(InvalidValue, match="finite limits"):
        plot_forest(separated)


def test_scores_must_be_numbers() -> None:
    with pytest.raises(InvalidValue):
        plot_scores({"a": [1.0, float("nan")]})
