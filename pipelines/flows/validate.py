"""Apply a registered model, unchanged, to the patients of another cohort."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from prefect import flow

from pipelines.flows.study_inputs import (
    StudyInput,
    features_of_release,
    features_of_store,
    reads_store,
    survival_cohort,
)
from pipelines.modelling.applied_model import apply_to_cohort, predict_cohort
from pipelines.modelling.feature_names import kind_of
from pipelines.modelling.makers import check_makers, state_makers
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_validation import judge_package, predict_signature
from pipelines.studies import STUDIES, ferroptosis, study
from services.model_serving import registry
from services.model_serving.package import Package
from services.shared.errors import InvalidValue
from services.shared.storage import Storage, open_storage

HORIZONS_MONTHS = (12.0, 24.0, 36.0)
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Validation:
    """What a model is worth on a cohort.

    Parameters
    ----------
    folder
        Storage key of what was written: ``metrics.json``, ``flow.json``, and tables.
    metrics
        Flat figures, with ``_low`` and ``_high`` as 95 % limits.
    """

    study: str
    model: str
    version: str
    cohort: str
    folder: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Judged:
    """Figures, tables (``predictions`` has one row a patient) and counts of a model on a cohort."""

    metrics: Mapping[str, float]
    tables: Mapping[str, pd.DataFrame]
    flow: Mapping[str, object]


@flow(name="validate", validate_parameters=False)
def validate_model(
    model: str,
    cohort: str,
    seed: int,
    features: Path | None = None,
    participants: Path | None = None,
    risk_groups_of: str | None = None,
) -> Validation:
    """Apply a registered model, unchanged, to the patients of another cohort and write what it is worth there.

    Parameters
    ----------
    model
        ``NAME``, ``NAME/latest`` or ``NAME/VERSION``.
    cohort
        Whose features and outcome are used.
    seed
        Decides the resamples behind confidence limits.
    features, participants
        Tables in place of the cohort's own.
    risk_groups_of
        A cohort whose ferroptosis study says who is at high risk, for a model of that group.

    Raises
    ------
    NotFound
        Where there is no such model or cohort.
    InvalidTable, InvalidValue, IdMismatch, TooFewCases
        Where the cohort does not have what the model needs.
    """
    storage = open_storage()
    entry = registry.resolve(storage, model)
    package = registry.load(storage, entry)
    name = package.description.study
    found = judge_model(
        storage, package, cohort, seed=seed, features=features, participants=participants, risk_groups_of=risk_groups_of
    )
    folder = f"validations/{cohort}/{entry.model}/{entry.version}"
    for table, rows in found.tables.items():
        text = rows.to_csv(index=False, float_format="%.10g", lineterminator="\n")
        storage.write_text(f"{folder}/{table}.csv", text)
    for file, content in (("flow", found.flow), ("metrics", found.metrics)):
        storage.write_text(f"{folder}/{file}.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    return Validation(name, entry.model, entry.version, cohort, folder, dict(found.metrics))


def judge_model(
    storage: Storage,
    package: Package,
    cohort: str,
    *,
    seed: int,
    features: Path | None = None,
    participants: Path | None = None,
    risk_groups_of: str | None = None,
) -> Judged:
    """Return what a packaged model is worth on a cohort and says of each patient; see :func:`validate_model`."""
    if _is_signature(package):
        data = _signature_input(storage, package, cohort, features, participants)
        applied = judge_package(
            package, data, cohort=cohort, horizons=HORIZONS_MONTHS, bootstraps=BOOTSTRAPS, seed=seed
        )
        tables = {"predictions": applied.predictions, **applied.figures.tables}
        return Judged(applied.figures.metrics, tables, applied.flow)
    given = _classifier_input(storage, package, cohort, features, participants, risk_groups_of)
    figures = apply_to_cohort(
        package,
        given.features,
        given.labels,
        clinical=given.clinical,
        excluded=given.excluded,
        bootstraps=BOOTSTRAPS,
        seed=seed,
    )
    tables = {"predictions": figures.predictions, "roc": figures.roc, "calibration": figures.calibration}
    return Judged(figures.metrics, tables, figures.flow)


def predict_patients(storage: Storage, package: Package, cohort: str) -> pd.DataFrame:
    """Return what a packaged model says of each patient of a cohort, one row each, be it a number or not."""
    if _is_signature(package):
        return predict_signature(package, _signature_input(storage, package, cohort))
    given = _classifier_input(storage, package, cohort)
    return predict_cohort(package, given.features, given.labels, clinical=given.clinical, excluded=given.excluded)


def _is_signature(package: Package) -> bool:
    name = package.description.study
    if name not in STUDIES:
        raise InvalidValue(
            "the model comes from no study of this version", field="model", expected=", ".join(STUDIES), got=name
        )
    return package.description.kind == "cox"


def _signature_input(
    storage: Storage,
    package: Package,
    cohort: str,
    features: Path | None = None,
    participants: Path | None = None,
) -> SurvivalData:
    name = package.description.study
    deep = _reads_deep(package) and reads_store(storage, cohort, name, features=features)
    given = survival_cohort(storage, cohort, name, features=features, participants=participants, deep=deep)
    if deep:
        check_makers(given.scale, package.description.platform, case=cohort, model=name)
    if name == ferroptosis.NAME:  # expression comes to the signature's scale first
        return ferroptosis.on_signature_scale(package, given)
    known = [column for column in package.model.columns if column in given.features]
    return given.data(known or None)


def _classifier_input(
    storage: Storage,
    package: Package,
    cohort: str,
    features: Path | None = None,
    participants: Path | None = None,
    risk_groups_of: str | None = None,
) -> StudyInput:
    name = package.description.study
    if reads_store(storage, cohort, name, features=features):
        deep = _reads_deep(package)
        given = features_of_store(storage, cohort, name, study(name), deep=deep, risk_groups_of=risk_groups_of)
        found = state_makers(given.makers, package.model.columns)
        check_makers(found, package.description.platform, case=cohort, model=name)
        return given
    return features_of_release(
        storage, cohort, study(name), features=features, participants=participants, risk_groups_of=risk_groups_of
    )


def _reads_deep(package: Package) -> bool:
    return any(kind_of(column) == "deep" for column in package.model.columns)
