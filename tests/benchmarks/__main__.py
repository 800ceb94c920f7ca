"""Run every benchmark: ``python -m tests.benchmarks [NAME …]``."""

from __future__ import annotations

import runpy
import sys

NAMES = ("survival", "radiomics")

if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}", flush=True)
        sys.argv = [name]
        runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__", alter_sys=False)
