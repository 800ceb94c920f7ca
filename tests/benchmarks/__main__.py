"""Run every benchmark: ``python -m tests.benchmarks [NAME …]``; options go to the last one named."""

from __future__ import annotations

import runpy
import sys

NAMES = ("survival", "radiomics", "segmentation", "scale")

if __name__ == "__main__":
    given = sys.argv[1:]
    first = next((i for i, word in enumerate(given) if word.startswith("-")), len(given))
    names, options = given[:first] or NAMES, given[first:]
    for name in names:
        print(f"== {name}", flush=True)
        sys.argv = [name, *(options if name == names[-1] else ())]
        runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__", alter_sys=False)
