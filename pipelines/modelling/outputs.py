"""Write a study's results: figures for ``dvc metrics``, curves for ``dvc plots``, and the model package."""

from __future__ import annotations

import dataclasses
import json

from pipelines.modelling.study import StudyResult
from services.model_serving.package import pack, write_package
from services.shared.storage import Storage

TABLES = ("predictions", "folds", "roc", "calibration", "permuted", "comparison", "features")


def study_folder(cohort: str, study: str) -> str:
    """Return the storage key of a study's folder."""
    return f"studies/{cohort}/{study}"


def write_study(storage: Storage, cohort: str, result: StudyResult) -> list[str]:
    """Write a study below ``studies/<cohort>/<study>/`` and return the keys; the same result gives the same bytes.

    ``metrics.json`` (flat), ``flow.json``, ``parameters.json``, one CSV for each table, and the package ``model/``.
    """
    folder = study_folder(cohort, result.study)
    keys = []
    for name in TABLES:
        key = f"{folder}/{name}.csv"
        storage.write_text(key, getattr(result, name).to_csv(index=False, float_format="%.10g", lineterminator="\n"))
        keys.append(key)
    training = result.card.training.model_copy(update={"cohort": cohort})
    keys += write_package(
        storage, f"{folder}/model", pack(result.model, dataclasses.replace(result.card, training=training))
    )
    for name in ("flow", "parameters", "metrics"):
        key = f"{folder}/{name}.json"
        storage.write_text(key, json.dumps(getattr(result, name), indent=2, allow_nan=False) + "\n")
        keys.append(key)
    return keys
