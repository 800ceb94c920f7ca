"""A study on a published table, run and served by the platform: made in the worker, asked over HTTP.

The table is of 40 made-up patients whose grade shifts three of twelve features.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.clients import connect
from services.model_serving.contracts import PredictRequest

FOLDER = Path(tempfile.gettempdir()) / "check"
PARAMETERS = (
    "grading: {folds: 3, inner_folds: 3, permutations: 0, bootstraps: 0, trees: 20, c: [1.0], gamma: [0.1]}\nseed: 1\n"
)


def main() -> None:
    """Run the study and ask for the prediction of each patient."""
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    ids = [f"p{number:02d}" for number in range(40)]
    grade = np.repeat([2, 4], 20)
    values = rng.normal(size=(40, 12))
    values[:, :3] += 2.0 * (grade == 4)[:, None]
    table = pd.DataFrame(values, columns=[f"feature{number}" for number in range(12)])
    table.assign(case_id=ids).to_csv(FOLDER / "published.csv", index=False)
    pd.DataFrame({"participant_id": ids, "grade": grade}).to_csv(FOLDER / "clinic.csv", index=False)
    (FOLDER / "params.yaml").write_text(PARAMETERS)
    command = ["gliaflow", "study", "grading", "--cohort", "published", "--params", str(FOLDER / "params.yaml")]
    tables = ["--features", str(FOLDER / "published.csv"), "--participants", str(FOLDER / "clinic.csv")]
    subprocess.run([*command, *tables], check=True)
    serving = connect("model_serving")
    found = [
        serving.predict(PredictRequest(model="grading-published", features=dict(row))).label
        for row in table.to_dict("records")
    ]
    right = sum(label == ("HGG" if g == 4 else "LGG") for label, g in zip(found, grade, strict=True))
    sys.stdout.write(f"{right} of 40 patients of the training table get their own grade back\n")
    if right < 30:
        sys.exit("the served model does not know its own training patients")


if __name__ == "__main__":
    main()
