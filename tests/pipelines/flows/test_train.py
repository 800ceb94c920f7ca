"""The documented commands on slices: train on patients with masks, outline others, unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

from pipelines.cli import app
from pipelines.training.live import live_folder
from services.segmentation.abnormality import mask_key
from services.segmentation.contracts import DEFAULT_ABNORMALITY_MODEL
from services.shared.cohort import CaseKeys, Sequence, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import read_volume, write_volume

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]
PARAMS = "train_abnormality: {width: 8, side: 32, epochs: 8, batch: 4, learning_rate: 0.01, folds: 2}\n"


def write_cohort(storage: Storage, name: str, count: int, *, masks: bool) -> list[CaseKeys]:
    """Write patients whose FLAIR is bright in a disc."""
    found = []
    for number in range(count):
        keys = CaseKeys(CaseRef(cohort=name, id=f"{name}{number}"))
        rng = np.random.default_rng([number, count])
        y, x = np.mgrid[:40, :48]
        disc = (y - rng.integers(14, 26)) ** 2 + (x - rng.integers(16, 32)) ** 2 < 50
        inside = np.stack([disc] * 4)
        head = ((y - 20) / 19) ** 2 + ((x - 24) / 22) ** 2 < 1
        for sequence, contrast in ((Sequence.T1, -30), (Sequence.FLAIR, 70)):
            values = (100 + rng.normal(0, 6, inside.shape) + contrast * inside) * head
            write_volume(storage, keys.raw_image(sequence), sitk.GetImageFromArray(values.astype(np.float32)))
        if masks:
            write_volume(storage, keys.raw_segmentation, sitk.GetImageFromArray(inside.astype(np.uint8) * 2))
        found.append(keys)
    write_participants(storage, name, pd.DataFrame({"participant_id": [f"sub-{keys.case.id}" for keys in found]}))
    return found


def gliaflow(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_network_of_some_patients_outlines_others(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIAFLOW_RUNNER", "thread")
    monkeypatch.setenv("GLIAFLOW_WORKERS", "1")
    settings.cache_clear()
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS)
    write_cohort(storage, "open", 4, masks=True)
    new = write_cohort(storage, "new", 2, masks=False)
    task = ("--task", "flair-abnormality", "--params", str(params), "--cohort")
    trained = gliaflow("train", "segmentation", *task, "open")
    assert trained.exit_code == 0, trained.output
    live = live_folder(storage, DEFAULT_ABNORMALITY_MODEL)
    assert live is not None
    assert {path.name for path in live.iterdir()} == {"fold_1", "fold_2", "final"}
    outlined = gliaflow("segment", *task, "new")
    assert outlined.exit_code == 0, outlined.output
    for keys in new:
        assert sitk.GetArrayFromImage(read_volume(storage, mask_key(keys))).any()
    again = gliaflow("train", "segmentation", *task, "open")
    assert "unchanged" in again.output


def test_a_task_or_network_that_nobody_knows_is_named(storage: Storage) -> None:
    for arguments in (("train", "segmentation", "--task", "oedema"), ("train", "liver")):
        result = gliaflow(*arguments)
        assert isinstance(result.exception, NotFound)
