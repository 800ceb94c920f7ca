"""The house style of figures, and a figure as markup that stands inside a page.

A drawing becomes inline SVG whose colours are the page's CSS variables, so that it follows light and dark; a slice of
a volume becomes a PNG data URI. The same figure gives the same bytes.
"""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#1b2027", "#5a6572", "#d3dae1", "#fdfefe"

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, SKY, YELLOW = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#f0e442"
PURPLE = "#a8588a"  # theirs, darker: it must be seen on light and dark paper

_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", BLUE: "blue", ORANGE: "orange", RED: "red"}

# The greys of figures that the survival service draws, which stand in the page as ours do.
_ADOPTED = {"#000000": INK, "#333333": INK, "#6b6b6b": MUTED, "#d9d9d9": LINE}

in_house_style = mpl.rc_context(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": MUTED,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.labelsize": 9,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlecolor": INK,
        "figure.dpi": 96,
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "lines.linewidth": 1.8,
        "svg.fonttype": "none",
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
)
"""Decorates a function that draws: matplotlib looks its settings up while it draws."""


@dataclass(frozen=True)
class Picture:
    """A figure in a page: its markup, which names itself to a screen reader, the caption below it, and its name."""

    markup: str
    caption: str
    name: str = ""


def abbreviate(name: str, width: int) -> str:
    """Return a name of at most ``width`` characters, cut in its middle: names of features differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 3 // 5
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def new_figure(width_in: float = 4.2, height_in: float = 3.4) -> tuple[Figure, Axes]:
    """Return a figure free of pyplot's state, and its axes; to be called from a function in the house style."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def draw(figure: Figure, *, name: str, alt: str, caption: str) -> Picture:
    """Return a figure as inline SVG.

    Parameters
    ----------
    figure
        Drawn in the colours of this module.
    name
        Unique in the page: it keeps the identifiers of two figures apart.
    alt
        What a reader who cannot see the figure is told.
    caption
        What every reader is told.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return Picture(_inline(buffer.getvalue(), name=name, alt=alt), caption, name)


def standalone_svg(picture: Picture) -> str | None:
    """Return a drawing as an SVG file of its own, in the colours of a light page; None for a slice of a volume."""
    if not picture.markup.startswith("<svg"):
        return None
    body = picture.markup
    for colour, variable in _VARIABLES.items():
        body = body.replace(f"var(--{variable})", colour)
    head, _, drawing = body.partition(">")
    return (
        head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        + f' font-family="DejaVu Sans, sans-serif" style="background: {PAPER}">'
        + f"<desc>{html.escape(picture.caption)}</desc>{drawing}\n"
    )


def embed_png(png: bytes, *, alt: str, caption: str, width: int, height: int) -> Picture:
    """Return a PNG image as a data URI."""
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    return Picture(f'<img src="{uri}" width="{width}" height="{height}" alt="{html.escape(alt)}">', caption)


def _inline(svg: str, *, name: str, alt: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace("font-family: 'DejaVu Sans'; ", "")
    # Identifiers that nothing refers to would repeat from figure to figure.
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'href="#([^"]+)"', body))
    body = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", body)
    for identifier in sorted(used, key=len, reverse=True):
        for before, after in (('id="', '"'), ("url(#", ")"), ('href="#', '"')):
            body = body.replace(f"{before}{identifier}{after}", f"{before}{name}-{identifier}{after}")
    for grey, colour in _ADOPTED.items():
        body = re.sub(rf"(?<=(?:stroke|..fill): ){grey}", colour, body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    width, height = (round(float(n) * 96 / 72) for n in size.groups()) if size else (400, 320)
    opening = (
        f'<svg viewBox="{" ".join(["0", "0", *size.groups()]) if size else "0 0 300 240"}" width="{width}" '
        f'height="{height}" role="img" aria-label="{html.escape(alt)}">'
    )
    return opening + re.sub(r"\n\s*", "\n", body[body.index(">") + 1 :]).strip()
