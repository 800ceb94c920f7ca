"""Reference cases: where they are, and how one is read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

OWN_CASES = Path(__file__).parents[1] / "cases"
DEFAULT_FOLDER = Path(__file__).parents[3].parent / "shared" / "r-oracle"


@dataclass(frozen=True)
class Case:
    """One JSON file of R results; inputs lie in ``../inputs``."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def method(self) -> str:
        return self.name.split("__")[0]

    @cached_property
    def content(self) -> dict:
        return json.loads(self.path.read_text())

    @property
    def result(self) -> dict:
        return self.content["result"]

    def table(self, position: int = 0) -> pd.DataFrame:
        return self.read(self.content["inputs"][position])

    def read(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.path.parents[1] / "inputs" / name)

    def companion(self, name: str) -> pd.DataFrame | None:
        path = self.path.parents[1] / "inputs" / name
        return pd.read_csv(path) if path.is_file() else None

    def outcome_column(self) -> str:
        """Name of the binary outcome: the file of predictions repeats it as y."""
        frame, file = self.table(), self.content["inputs"][0]
        predictions = self.companion(file.replace(".csv", "_pred.csv"))
        if predictions is not None:
            same = [c for c in frame if frame[c].dtype != object and np.array_equal(frame[c], predictions["y"])]
            if same:
                return "y" if "y" in same else same[0]
        return "y"


def folders() -> list[Path]:
    """The reference folder that the environment names, or the one beside the repository; and the tree's own copy."""
    named = Path(os.environ.get("GLIAFLOW_R_ORACLE", DEFAULT_FOLDER))
    return [folder for folder in (named, OWN_CASES) if (folder / "outputs").is_dir()]


def find_cases(methods: set[str]) -> list[Case]:
    """Every case of the methods, the named folder's before the own copy's."""
    found: dict[str, Case] = {}
    for folder in folders():
        for path in sorted((folder / "outputs").glob("*.json")):
            case = Case(path)
            if case.method in methods:
                found.setdefault(case.name, case)
    return list(found.values())
