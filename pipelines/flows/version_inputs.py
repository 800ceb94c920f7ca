"""What comparing versions and looking for drift needs: predictions of both, features, outcomes, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.datasets.release import read_matrix
from pipelines.flows.study_inputs import read_store, reads_store
from pipelines.flows.validate import predict_patients
from pipelines.modelling.feature_names import kind_of as feature_kind
from pipelines.modelling.held_out import is_held_out
from pipelines.modelling.signature import predicted_survival
from pipelines.parameters import read_section
from pipelines.promotion.comparison import HeldOutPatients
from pipelines.promotion.drift import Drift, DriftThresholds, measure_drift, split_cases
from pipelines.studies import kind_of, parameters_of, study, survival_study
from services.model_serving import registry
from services.model_serving.package import Package, case_hash, read_training_cases
from services.model_serving.registry import Registered
from services.shared.cohort import read_cohort
from services.shared.errors import InvalidValue, NotFound
from services.shared.storage import Storage


def cohort_of(package: Package) -> str:
    """Return the cohort that a model learnt from.

    Raises
    ------
    InvalidValue
        Where its package does not say.
    """
    cohort = package.description.training.cohort
    if cohort is None:
        raise InvalidValue(
            "the model does not say which cohort it learnt from",
            field="training.cohort",
            got=package.description.study,
            remedy="train it with 'gliaflow study' on a cohort of the storage",
        )
    return cohort


def training_cases(storage: Storage, entry: Registered) -> frozenset[str]:
    """Return the hashes of the patients that a version learnt from.

    Raises
    ------
    NotFound
        Where nobody wrote them down.
    """
    found = read_training_cases(storage, entry.folder)
    if found is None:
        raise NotFound(
            "nobody wrote down which patients the version learnt from, so none can be held out from it",
            step="compare",
            field=entry.folder,
            got=f"{entry.model}/{entry.version}",
            remedy="train a version with this release and promote it once by hand: "
            "'gliaflow promote MODEL/VERSION --without-comparison --reason …'",
        )
    return found


def labelled_cases(storage: Storage, package: Package, params: Path | None) -> tuple[str, ...]:
    """Return the patients of a model's cohort that a study could learn from now: with an outcome, and not held out."""
    name = package.description.study
    participants = read_cohort(storage, cohort_of(package)).subset("study").participants
    labels = participants["participant_id"].astype(str).str.removeprefix("sub-")
    if kind_of(name) == "survival":
        months = pd.to_numeric(participants["os_months"], errors="coerce")
        known = (months > 0) & participants["event"].notna()
    else:
        known = study(name).read_labels(participants, pd.Index(labels)).notna()
    share = _held_out_share(package, params)
    return tuple(sorted(str(label) for label in labels[known.to_numpy()] if not is_held_out(str(label), share)))


def drift_since(storage: Storage, champion: Registered, thresholds: DriftThresholds, params: Path | None) -> Drift:
    """Compare the champion's features in patients that came since with those that it learnt from.

    Patients who were held out all along would hide what is new.
    """
    package = registry.load(storage, champion)
    table = _features(storage, package)
    table = table[[name for name in package.model.columns if name in table]]
    known = read_training_cases(storage, champion.folder)
    if known is None:
        return Drift(reference_patients=0, new_patients=0)
    reference, new = split_cases(map(str, table.index), known)
    share = _held_out_share(package, params)
    new = [case_id for case_id in new if not is_held_out(case_id, share)]
    return measure_drift(table.loc[reference], table.loc[new], thresholds=thresholds)


def held_out_patients(
    storage: Storage, champion: Registered, challenger: Registered, *, horizon_months: float
) -> HeldOutPatients:
    """Return what both versions say of the patients from whom neither has learnt.

    Raises
    ------
    NotFound
        Where it is not known who they are.
    InvalidTable
        Where the cohort lacks a column that a version needs.
    """
    packages = [registry.load(storage, entry) for entry in (champion, challenger)]
    cohort = cohort_of(packages[1])
    seen = training_cases(storage, champion) | training_cases(storage, challenger)
    tables = []
    for package in packages:
        table = predict_patients(storage, package, cohort)
        table = table.assign(case_id=table["case_id"].astype(str)).set_index("case_id").sort_index()
        tables.append(table[[case_hash(str(label)) not in seen for label in table.index]])
    both = tables[0].index.intersection(tables[1].index)
    old, new = (table.loc[both] for table in tables)
    participants = read_cohort(storage, cohort).participants
    labels = participants["participant_id"].astype(str).str.removeprefix("sub-")
    clinical = participants.set_index(pd.Index(labels)).reindex(both)
    ids = tuple(map(str, both))
    if packages[1].description.kind != "cox":
        chances = [table["probability"].to_numpy(dtype=np.float64) for table in (old, new)]
        event = np.asarray(new["outcome"] == packages[1].description.positive_label, dtype=np.float64)
        return HeldOutPatients(ids, event, None, chances[0], chances[1], chances[0], chances[1], clinical)
    scores = [table["risk_score"].to_numpy(dtype=np.float64) for table in (old, new)]
    risks = [
        1 - predicted_survival(package.model, score, [horizon_months])[:, 0]
        for package, score in zip(packages, scores, strict=True)
    ]
    return HeldOutPatients(
        ids,
        new["event"].to_numpy(dtype=np.float64),
        new["months"].to_numpy(dtype=np.float64),
        scores[0],
        scores[1],
        risks[0],
        risks[1],
        clinical,
        horizon_months,
    )


def _held_out_share(package: Package, params: Path | None) -> float:
    name = package.description.study
    return read_section(params, name, parameters_of(name)).held_out_share


def _features(storage: Storage, package: Package) -> pd.DataFrame:
    cohort, name = cohort_of(package), package.description.study
    if reads_store(storage, cohort, name):
        deep = any(feature_kind(column) == "deep" for column in package.model.columns)
        return read_store(storage, cohort, name, deep=deep).table
    return read_matrix(
        storage, cohort, "features" if kind_of(name) == "classification" else survival_study(name).MATRIX
    )
