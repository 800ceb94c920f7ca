"""Published slices of lower-grade glioma: every patient is judged once, by a network that had not seen him."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.lgg_segmentation import import_lgg_segmentation
from pipelines.training.imaging import ImagingOutcome, ImagingTrainParameters, train_imaging
from pipelines.training.imaging_data import usable_cases
from services.model_serving.contracts import ImagingRequest
from services.model_serving.imaging import predict_case
from services.model_serving.networks.specification import PAPER_SPECS
from services.shared.cohort import CaseKeys, Sequence, read_cohort
from services.shared.storage import Storage

SPEC = PAPER_SPECS["slice_classifier"].model_copy(update={"width": 4, "size": (32, 32), "classes": ("2", "3")})


@pytest.mark.real
@pytest.mark.slow
def test_grade_from_published_slices(storage: Storage, real_data: Path, tmp_path: Path) -> None:
    source = real_data / "kaggle_lgg_mri"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    release = tmp_path / "release"
    (release / "tumour_slices").mkdir(parents=True)
    for table in source.glob("data_*.csv"):
        shutil.copy(table, release)
    for scan in sorted((source / "tumour_slices").glob("*.zip"))[:24]:
        shutil.copy(scan, release / "tumour_slices")
    import_lgg_segmentation(storage, release, "lgg")
    cohort = read_cohort(storage, "lgg")
    grade = cohort.participants.set_index("participant_id")["grade"]
    cases, left_out = usable_cases(storage, cohort.cases, SPEC)
    assert left_out == {}
    cases = tuple(case for case in cases if grade[f"sub-{case.id}"] in (2, 3))
    classes = np.array([int(grade[f"sub-{case.id}"]) - 2 for case in cases])
    folds = np.empty(len(cases), dtype=np.int64)
    for value in (0, 1):
        folds[classes == value] = np.arange((classes == value).sum()) % 2
    result = train_imaging(
        storage,
        cases,
        ImagingOutcome(classes=classes),
        spec=SPEC,
        parameters=ImagingTrainParameters(epochs=2, batch=8, learning_rate=1e-3),
        seed=0,
        model="models/imaging/grade",
        folds=folds,
    )
    assert 0 <= result.metrics["auc_low"] <= result.metrics["auc"] <= result.metrics["auc_high"] <= 1
    assert result.metrics["patients"] == len(cases) >= 20
    table = pd.read_csv(io.StringIO(storage.read_text("models/imaging/grade/cross_validation.csv")))
    assert table["case_id"].tolist() == [case.id for case in cases]
    lacking = [case for case in cases if not storage.exists(CaseKeys(case).raw_image(Sequence.T1C))]
    for case in (*lacking[:1], cases[0]):
        said = predict_case(storage, ImagingRequest(case=case, model="models/imaging/grade"))
        assert said.label in SPEC.classes
        assert ("T1c" in said.missing) == (case in lacking)
