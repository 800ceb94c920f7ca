"""Run a study on features of the feature store, or of any table, and register the model that it fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from pipelines.clients import connect
from pipelines.datasets.bakas import is_bakas_folder, read_bakas
from pipelines.datasets.participants import read_participants
from pipelines.ledger import STEPS, read_quarantine, usable_cases
from pipelines.modelling.outputs import study_folder, write_study
from pipelines.modelling.study import Progress, StudyParameters
from pipelines.modelling.tables import read_feature_table
from pipelines.studies import Study, study
from services.feature_store.contracts import EntityRow, HistoricalRequest
from services.feature_store.tables import scan_timestamps
from services.model_serving.contracts import RegisterRequest, RegisterResult
from services.shared.cohort import read_cohort
from services.shared.errors import TooFewCases
from services.shared.storage import Storage, open_storage


@dataclass(frozen=True)
class StudyInput:
    """What a study learns from: features by case, class by case, and who is left out for what reason."""

    features: pd.DataFrame
    labels: pd.Series
    excluded: dict[str, str]


@flow(name="study", validate_parameters=False)
def run_study(
    cohort: str,
    name: str,
    parameters: StudyParameters,
    seed: int,
    features: Path | None = None,
    participants: Path | None = None,
    progress: Progress | None = None,
) -> RegisterResult:
    """Run a study on features of the feature store, or of any table, and register the model that it fits.

    Parameters
    ----------
    cohort
        Name of the cohort, and of the folder that takes the results.
    name
        The study.
    parameters
        What the study is told.
    seed
        Decides folds and permutations.
    features
        A table (Parquet or CSV) with one row a patient, or a folder with the published TCGA radiomics; None takes the
        study's features from the feature store as they were known at each patient's scan.
    participants
        The clinical table of ``features``; None takes the cohort's.
    progress
        Called with folds done, folds in all, and what is being done.
    """
    storage = open_storage()
    module = study(name)
    if features is None:
        given = features_of_store(storage, cohort, name, module)
    else:
        given = features_of_table(storage, cohort, module, features, participants)
    result = module.run(
        given.features, given.labels, parameters=parameters, seed=seed, excluded=given.excluded, progress=progress
    )
    write_study(storage, cohort, result)
    model = name if features is None else f"{name}-{cohort}"
    return _register(RegisterRequest(folder=f"{study_folder(cohort, name)}/model", model=model))


def features_of_store(storage: Storage, cohort: str, name: str, module: Study) -> StudyInput:
    """Return a study's features as the feature store knew them at each patient's scan.

    Raises
    ------
    TooFewCases
        Where no case of the cohort has features.
    """
    members = read_cohort(storage, cohort).subset("study")
    excluded = {
        label: f"{step}: {problem['title']}"
        for step in STEPS
        for label, problem in read_quarantine(storage, cohort, step).items()
    }
    cases = [case.id for case in usable_cases(storage, members, steps=STEPS)]
    if not cases:
        raise TooFewCases("no case has features", case=cohort, step=name, remedy="run 'gliaflow extract' first")
    moments = scan_timestamps(members)
    rows = tuple(EntityRow(case_id=case, event_timestamp=moments[case].to_pydatetime()) for case in cases)
    wanted = HistoricalRequest(cohort=cohort, rows=rows, names=(f"radiomics_{name}",))
    answer = connect("feature_store").historical_features(wanted)
    table = pd.DataFrame([row.features for row in answer.rows], index=pd.Index(cases, name="case_id"), dtype=float)
    return StudyInput(table, module.read_labels(members.participants, table.index), excluded)


def features_of_table(
    storage: Storage, cohort: str, module: Study, features: Path, participants: Path | None
) -> StudyInput:
    """Return the features and classes of a published table."""
    if features.is_dir() and is_bakas_folder(features):
        bakas = read_bakas(features)
        return StudyInput(bakas.features, bakas.labels, {})
    table = read_feature_table(features).features
    clinic = read_cohort(storage, cohort).participants if participants is None else read_participants(participants)
    return StudyInput(table, module.read_labels(clinic, table.index), {})


@task(name="register model", cache_policy=NO_CACHE, persist_result=False)
def _register(request: RegisterRequest) -> RegisterResult:
    return connect("model_serving").register(request)
