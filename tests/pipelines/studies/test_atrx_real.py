"""ATRX study on published radiomics of TCGA's lower-grade gliomas."""

from __future__ import annotations

import pytest

from pipelines.datasets import bakas
from pipelines.studies import atrx

FAST = {"folds": 3, "inner_folds": 3, "lasso_folds": 3, "permutations": 0, "trees": 10, "bootstraps": 200}


@pytest.mark.real
def test_imaging_models_and_fusion_of_lower_grade_glioma(real_data):
    folder, clinic = real_data / "tcia_bakas_radiomics", real_data / "tcga_glioma_clinical"
    if not (folder.is_dir() and clinic.is_dir()):
        pytest.skip("published radiomics or TCGA's clinical tables are not there")
    release = bakas.read_release(folder, participants=clinic)
    patients = release.participants.set_index(release.participants["participant_id"].str.removeprefix("sub-"))
    patients = patients[patients["grade_group"] == "LGG"]
    features = release.matrices["features"].loc[patients.index]
    astrocytoma = atrx.Parameters.model_validate({**FAST, "population": "idh_mutant_noncodel"})
    labels = atrx.read_labels(patients, features.index)
    result = atrx.run(features, labels, clinical=patients, parameters=astrocytoma, seed=0)
    flow, models = result.flow, result.more_tables["models"].set_index("model")
    assert flow["patients_studied"] + len(flow["patients_excluded"]) + len(flow["patients_without_outcome"]) == len(
        features
    )
    assert set(flow["patients_excluded"].values()) >= {"idh WT", "codeletion_1p19q codel"}
    assert models.index[models["absent"] == ""].tolist() == [
        *("edema_radiomics", "tumour_radiomics", "overall_radiomics", "clinical", "fusion")
    ]
    assert result.metrics["fusion_auc_low"] <= result.metrics["fusion_auc"] <= result.metrics["fusion_auc_high"]
