"""Put what a benchmark measured between its markers in a page; nothing is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "RESULTS.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"


def write_section(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the lines between ``<!-- begin NAME … -->`` and ``<!-- end NAME -->``."""
    text = page.read_text(encoding="utf-8")
    begin = text.index(f"<!-- begin {name}")
    start = text.index("\n", begin) + 1
    stop = text.index(f"<!-- end {name} -->")
    page.write_text(text[:start] + "\n" + "\n".join(lines) + "\n\n" + text[stop:], encoding="utf-8")
