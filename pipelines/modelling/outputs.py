"""Write a study's results: figures for ``dvc metrics``, curves for ``dvc plots``, and the model package."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pandas as pd

from pipelines.modelling.makers import state_makers
from pipelines.modelling.study import StudyResult
from pipelines.modelling.survival_study import SurvivalStudyResult
from services.model_serving.package import TRAINING_CASES, list_training_cases, pack, write_package
from services.shared.storage import Storage

TABLES = ("predictions", "folds", "roc", "calibration", "permuted", "comparison", "features")


def study_folder(cohort: str, study: str) -> str:
    """Return the storage key of a study's folder."""
    return f"studies/{cohort}/{study}"


def write_study(
    storage: Storage,
    cohort: str,
    result: StudyResult | SurvivalStudyResult,
    *,
    makers: Mapping[str, str] | None = None,
) -> list[str]:
    """Write a study below ``studies/<cohort>/<study>/`` and return the keys; the same result gives the same bytes.

    ``study.json`` (its kind: classification or survival), ``metrics.json`` (flat), ``flow.json``, ``parameters.json``,
    one CSV for each table, documents as they are, the package ``model/``, and a folder for each further package.
    ``makers`` says who made the deep features, which each package states of those that its model reads.
    """
    folder = study_folder(cohort, result.study)
    kind, tables, documents = _contents(result)
    keys = [f"{folder}/study.json"]
    storage.write_text(keys[0], json.dumps({"kind": kind}) + "\n")
    for name, table in tables.items():
        key = f"{folder}/{name}.csv"
        storage.write_text(key, table.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
        keys.append(key)
    for name, text in documents.items():
        key = f"{folder}/{name}"
        storage.write_text(key, text)
        keys.append(key)
    further = result.packages if isinstance(result, StudyResult) else {}
    cases = {TRAINING_CASES: list_training_cases(_training_cases(tables["predictions"]))}
    for name, (model, card) in {**further, "model": (result.model, result.card)}.items():
        training = card.training.model_copy(update={"cohort": cohort})
        platform = state_makers(makers or {}, model.columns) if card.platform is None else card.platform
        files = pack(model, dataclasses.replace(card, training=training, platform=platform)) | cases
        keys += write_package(storage, f"{folder}/{name}", files)
    for name in ("flow", "parameters", "metrics"):
        key = f"{folder}/{name}.json"
        storage.write_text(key, json.dumps(getattr(result, name), indent=2, allow_nan=False) + "\n")
        keys.append(key)
    return keys


def _training_cases(predictions: pd.DataFrame) -> list[str]:
    """Return the patients that the final model learnt from: those with an out-of-fold prediction."""
    own = predictions[predictions["part"] == "cv"] if "part" in predictions else predictions
    return [str(label) for label in own["case_id"]]


def _contents(result: StudyResult | SurvivalStudyResult) -> tuple[str, dict[str, pd.DataFrame], dict[str, str]]:
    if isinstance(result, SurvivalStudyResult):
        return "survival", result.tables, result.documents
    own = {name: getattr(result, name) for name in TABLES}
    return "classification", {**own, **result.more_tables}, result.documents
