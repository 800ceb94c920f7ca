"""What two processes of ``torchrun`` learn together is what one would: both segmentation networks in one run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.training.segmentation import train_segmentation
from pipelines.training.slices import train_slices
from services.shared.errors import InvalidValue
from services.shared.storage import Storage
from tests.pipelines.training import test_segmentation, test_slices

TUMOUR = test_segmentation.SMALL.model_copy(update={"batch_size": 2, "normalisation": "instance"})
SLICES = test_slices.SMALL.model_copy(update={"folds": 2, "epochs": 2})
SCRIPT = """
import sys
from pathlib import Path

import torch
from pipelines.training.segmentation import TrainParameters, train_segmentation
from pipelines.training.slices import SliceTrainParameters, train_slices
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue
from services.shared.storage import open_storage

volumes = [CaseRef(cohort="demo", id=f"c{i}") for i in range(5)]
slices = [CaseRef(cohort="lgg", id=f"P{i}") for i in range(4)]
plan = TrainParameters.model_validate_json(sys.argv[1])
more = {"seed": 1, "threads": 1}
tumour = train_segmentation(open_storage(), volumes, parameters=plan, model="models/both", **more)
outline = train_slices(
    open_storage(), slices, parameters=SliceTrainParameters.model_validate_json(sys.argv[2]),
    model="models/both-slices", **more,
)
try:
    train_segmentation(
        open_storage(), volumes, parameters=plan.model_copy(update={"batch_size": 1}), model="models/refused", **more
    )
    refused = ""
except InvalidValue as error:
    refused = error.field
told = f"{tumour.weights_sha256} {outline.weights_sha256} {refused}"
Path(f"told-{torch.distributed.get_rank()}").write_text(told)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_would(storage: Storage, tmp_path: Path) -> None:
    volumes = [test_segmentation.write_case(storage, index) for index in range(5)]
    slices = [test_slices.write_case(storage, f"P{index}", seed=index) for index in range(4)]
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, TUMOUR.model_dump_json(), SLICES.model_dump_json()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [(tmp_path / f"told-{rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0].endswith(" batch_size")
    alone = train_segmentation(storage, volumes, parameters=TUMOUR, seed=1, threads=1)
    train_slices(storage, slices, parameters=SLICES, seed=1)
    first, second = (
        pd.read_csv(io.StringIO(storage.read_text(f"{model}/training.csv"))) for model in ("models/both", alone.model)
    )
    losses = ["learning_rate", "training_loss", "tuning_loss"]
    np.testing.assert_allclose(first[losses], second[losses], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(
        first, second, atol=0.02
    )  # a Dice of small cases counts voxels whose classes all but tie
    for model, other in (("models/both", alone.model), ("models/both-slices", "models/flair-abnormality")):
        with np.load(storage.url(f"{model}/weights.npz")) as both, np.load(storage.url(f"{other}/weights.npz")) as one:
            # Adam makes whole steps of gradients that are all but zero: single weights may go another way.
            apart = np.concatenate([np.abs(both[name] - one[name]).ravel() for name in one.files])
            assert apart.mean() < 5e-4
    assert [name for name in storage.files("models") if "checkpoint" in name] == []


def test_a_batch_that_processes_cannot_share_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [test_slices.write_case(storage, f"P{index}", seed=index) for index in range(2)]
    monkeypatch.setattr("pipelines.training.slice_fit.process_count", lambda: 3)
    with pytest.raises(InvalidValue, match="multiple of 3"):
        train_slices(storage, cases, parameters=SLICES.model_copy(update={"folds": 0}), seed=1)
