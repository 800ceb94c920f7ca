"""The house style: colours that colour-blind readers can tell apart, plain axes, and files that never change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito (2008), ordered so that the first pairs differ most in lightness too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 2)))
GREY = "#6B6B6B"
LIGHT = "#D9D9D9"
_RULES: Mapping[str, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "gliaflow",
    "svg.fonttype": "path",
    "path.simplify": True,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, whatever the user's matplotlib settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _RULES.items():
            mpl.rcParams[name] = value  # type: ignore[index]
        yield


def new_figure(*, width: float = 4.6, height: float = 3.8) -> Figure:
    """Return an empty figure (inches) with a canvas of its own: no global state."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def colour_of(position: int) -> str:
    """Return the colour of a series."""
    return COLOURS[position % len(COLOURS)]


def dash_of(position: int) -> str | tuple[int, tuple[float, ...]]:
    """Return the line style of a series, so that series differ without colour."""
    return DASHES[position % len(DASHES)]


def label_axes(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Name both axes and the plot."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)


def format_p(p: float) -> str:
    """Write a p-value for a figure."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def render_svg(figure: Figure) -> str:
    """Return the figure as SVG text, the same at every call."""
    buffer = BytesIO()
    with house_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def render_png(figure: Figure, *, dpi: int = 130) -> bytes:
    """Return the figure as PNG bytes, the same at every call."""
    buffer = BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``stem.svg`` and ``stem.png`` and return their paths."""
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    svg.parent.mkdir(parents=True, exist_ok=True)
    svg.write_text(render_svg(figure), encoding="utf-8")
    png.write_bytes(render_png(figure))
    return svg, png
