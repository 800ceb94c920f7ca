"""Measures the fan-out over cases and what many cases cost; writes docs/benchmarks.md and docs/scaling.md."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.simulate import SimulateParameters, simulate_cohort
from services.shared.settings import quiet_libraries, settings
from services.shared.storage import Storage
from tests.benchmarks.page import BENCHMARKS, ROOT, write_section
from tests.benchmarks.scale import child
from tests.benchmarks.scale.cost import Prices
from tests.benchmarks.scale.pages import cost_lines, fan_out_lines
from tests.benchmarks.scale.preparing import COHORT, WARM

SCALING = ROOT / "docs" / "scaling.md"
FIGURES = ROOT / "docs" / "scaling.json"
IMAGES = "mri_brats_cases/BraTS2021_00495"
RUNNERS = ("process", "dask")
LIGHT = (100, 1000)
GATHERED = (100, 400)


def measure_light(root: Path, runner: str) -> list[dict]:
    """Return the fan-out's own cost at each number of light cases, one at a time."""
    return [
        {"cases": count, **child.run("light", root / f"light-{runner}-{count}", count, runner=runner, workers=1)}
        for count in LIGHT
    ]


def measure_real(root: Path, runner: str) -> dict[str, dict]:
    """Return what preparing the phantoms takes with one worker, with two, and with one of two killed."""
    return {
        way: child.run("preparing", root, int(way == "killed"), runner=runner, workers=1 if way == "one" else 2)
        for way in ("one", "two", "killed")
    }


def measure_stages(root: Path, images: Path) -> dict:
    """Return what one case at 1 mm takes step by step, and each further case where features are gathered."""
    stages = child.run("stages", root, images)
    less, more = (child.run("gathering", root, stages["cohort"], stages["case"], count) for count in GATHERED)
    further = more["cases"] - less["cases"]
    register = {name: (more[name] - less[name]) / further for name in ("cpu", "mb", "reads")}
    return {"steps": stages["steps"], "gpu": stages["gpu"], "register": register}


def measure(cases: int, images: Path) -> dict:
    """Return every figure that the pages tell."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        phantoms = Storage(root / "phantoms")
        for name, count in ((COHORT, cases), (WARM, 2)):
            parameters = SimulateParameters(cases=count, segmentation_cases=0)
            simulate_cohort(phantoms, name, parameters=parameters, seed=0)
        return {
            "processors": os.cpu_count(),
            "light": {runner: measure_light(root, runner) for runner in RUNNERS},
            "real": {runner: measure_real(root / "phantoms", runner) for runner in RUNNERS},
            "stages": measure_stages(root / "stages", images),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks scale", description=__doc__)
    parser.add_argument("--cases", type=int, default=8, help="phantom cases that are prepared")
    parser.add_argument("--priced-only", action="store_true", help="compute costs anew from docs/scaling.json")
    parser.add_argument("--dry", action="store_true", help="print, and write no page")
    parser.add_argument("--cores", type=int, nargs="+", default=[64, 1024], help="cores for which days are told")
    parser.add_argument("--currency", default="USD")
    prices = {
        "core_hour": (0.04, "one core for an hour"),
        "gpu_hour": (2.0, "one GPU for an hour"),
        "gb_month": (0.023, "one GB kept for a month"),
        "thousand_writes": (0.005, "1,000 PUT or LIST requests"),
        "thousand_reads": (0.0004, "1,000 GET or HEAD requests"),
    }
    for name, (default, what) in prices.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, help=f"price of {what}")
    given = parser.parse_args()
    images = settings().real_data / IMAGES
    if not given.priced_only and not images.is_dir():
        parser.exit(0, f"skipped: no {IMAGES} in the folder that GLIAFLOW_REAL_DATA names\n")
    quiet_libraries()
    figures = json.loads(FIGURES.read_text()) if given.priced_only else measure(given.cases, images.resolve())
    fan_out = fan_out_lines(figures)
    costs = cost_lines(
        figures,
        Prices(**{field.name: getattr(given, field.name) for field in fields(Prices)}),
        cores=given.cores,
        currency=given.currency,
    )
    print("\n".join([*fan_out, "", *costs]))
    if not given.dry:
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
        write_section(BENCHMARKS, "scale", fan_out)
        write_section(SCALING, "cost", costs)


if __name__ == "__main__":
    main()
