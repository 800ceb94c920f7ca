"""The main job on real public input, read from the folder that GLIAFLOW_REAL_DATA names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner, Result

from pipelines.cli import app
from services.model_serving.package import (
    Estimate,
    FittedModel,
    LogisticClassifier,
    ModelCard,
    TrainingData,
    pack,
    write_package,
)
from services.model_serving.registry import register_package
from services.shared.cohort import SEQUENCES, CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.storage import Storage
from services.shared.volume import read_volume

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.xdist_group("prefect"),
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.timeout(1200),
]
COLUMNS = ("T1c_WT_original_firstorder_Mean", "FLAIR_ED_original_glcm_Contrast")


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text("prepare: {voxel_mm: 3.0}\nsegment: {source: expert}\n")
    return path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def register_two_feature_model(storage: Storage) -> None:
    model = FittedModel(
        columns=COLUMNS,
        medians=np.zeros(2),
        means=np.zeros(2),
        scales=np.ones(2),
        classifier=LogisticClassifier(coefficients=np.array([0.1, 0.1]), intercept=0.0),
        threshold=0.5,
    )
    card = ModelCard(
        study="two-features",
        classes=("LGG", "HGG"),
        intended_use="Shows that features of a real case reach a model.",
        metrics={"auc": Estimate(value=0.5)},
        training=TrainingData(
            patients=2, patients_by_class={"LGG": 1, "HGG": 1}, features_sha256="0" * 64, labels_sha256="0" * 64
        ),
        code_version="1",
        packages={},
    )
    write_package(storage, "packages/two-features", pack(model, card))
    register_package(storage, "packages/two-features")


def test_skull_stripped_case_with_expert_mask_goes_all_the_way(storage: Storage, real_data: Path, params: Path) -> None:
    run("import", "nifti", real_data / "mri_brats_cases" / "BraTS2021_00495", "brats")
    for command in ("prepare", "segment", "extract"):
        run(command, "--cohort", "brats", "--params", params)
    keys = CaseKeys(CaseRef(cohort="brats", id="BraTS202100495"))
    quality = json.loads(storage.read_text(keys.quality))
    assert quality["skull_stripped"]
    assert quality["atlas_dice"] > 0.9
    raw, carried = (
        sitk.GetArrayFromImage(read_volume(storage, key, pixel_type=sitk.sitkUInt8)) > 0
        for key in (keys.raw_segmentation, keys.segmentation)
    )
    assert carried.sum() * 27 == pytest.approx(raw.sum(), rel=0.03)
    register_two_feature_model(storage)
    answer = run("predict", "brats/BraTS202100495", "--model", "two-features").stdout
    assert "with probability" in answer
    assert "missing" not in answer


def test_native_scan_is_aligned_and_stripped(storage: Storage, real_data: Path, params: Path) -> None:
    run("import", "nifti", real_data / "mri_raw_tcga", "tcga")
    run("prepare", "--cohort", "tcga", "--params", params)
    keys = CaseKeys(CaseRef(cohort="tcga", id="TCGA020054"))
    quality = json.loads(storage.read_text(keys.quality))
    assert not quality["skull_stripped"]
    assert 1000 < quality["brain_volume_ml"] < 2000
    assert quality["atlas_dice"] > 0.85  # slices of 6.5 mm; there is no true mask
    brain = sitk.GetArrayFromImage(read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)) > 0
    for sequence in SEQUENCES:
        values = sitk.GetArrayFromImage(read_volume(storage, keys.preprocessed_image(sequence)))
        assert np.all(values[~brain] == values[~brain][0])
        if sequence != Sequence.T1C:
            numbers = quality["sequences"][sequence.value]
            assert numbers["nmi_after"] > numbers["nmi_before"]


def test_published_table_of_167_patients(storage: Storage, real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("grading: {permutations: 1}\n")
    table = real_data / "tcia_bakas_radiomics"
    run("import", "bakas", table, "bakas", "--participants", real_data / "tcga_glioma_clinical")
    run("study", "grading", "--cohort", "bakas", "--params", tmp_path / "params.yaml")
    found = json.loads(storage.read_text("studies/bakas/grading/metrics.json"))
    assert found["patients"] == 167
    assert found["auc_low"] > 0.8
    run("report", "--cohort", "bakas")
    assert storage.exists("reports/bakas/report.html")
