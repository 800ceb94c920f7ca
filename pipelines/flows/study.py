"""Run a study on features of the feature store, of an imported release, or of any table, and register its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from pipelines.clients import connect
from pipelines.flows.study_inputs import (
    features_of_release,
    features_of_store,
    reads_store,
    survival_cohort,
)
from pipelines.modelling.makers import check_makers
from pipelines.modelling.outputs import study_folder, write_study
from pipelines.modelling.study import Progress, StudyParameters
from pipelines.modelling.survival_study import SurvivalStudyParameters
from pipelines.studies import kind_of, study, survival_study
from services.model_serving.contracts import RegisterRequest, RegisterResult
from services.shared.errors import InvalidValue
from services.shared.storage import open_storage


@flow(name="study", validate_parameters=False)
def run_study(
    cohort: str,
    name: str,
    parameters: StudyParameters | SurvivalStudyParameters,
    seed: int,
    features: Path | None = None,
    participants: Path | None = None,
    validation: Sequence[str] = (),
    risk_groups_of: str | None = None,
    deep: bool = False,  # noqa: FBT001, FBT002 - the flow is called by name
    progress: Progress | None = None,
) -> RegisterResult:
    """Run a study and register the model that it fits.

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
        A table (Parquet or CSV) with one row a patient. None takes the matrix of an imported release, or of a cohort of
        images the study's features from the feature store as they were known at each patient's scan.
    participants
        The clinical table of ``features``; None takes the cohort's.
    validation
        Cohorts that a survival study's signature is applied to, unchanged.
    risk_groups_of
        A cohort with a finished ferroptosis study, whose out-of-fold risk groups are these patients' outcome.
    deep
        Whether the study takes the feature store's deep features, beside the radiomic ones where it has such.
    progress
        Called with folds done, folds in all, and what is being done.

    Raises
    ------
    NotFound
        Where there is no such study, cohort or matrix.
    InvalidValue
        Where validation cohorts are given to a study that classifies; where deep features are asked for beside a table,
        or a validation cohort's come from other networks.
    """
    storage = open_storage()
    stored = reads_store(storage, cohort, name, features=features, deep=deep)
    beside: tuple[str, ...] = ()
    if kind_of(name) == "survival":
        training = survival_cohort(
            storage, cohort, name, features=features, participants=participants, deep=deep
        ).without_held_out(parameters.held_out_share)
        others = {other: survival_cohort(storage, other, name, deep=deep) for other in validation}
        if deep:
            for other in others.values():
                check_makers(other.scale, training.scale, case=other.name, model=name)
        result = survival_study(name).run(
            training,
            others,
            parameters=SurvivalStudyParameters.model_validate(parameters),
            seed=seed,
            progress=progress,
        )
        write_study(storage, cohort, result)
    elif validation:
        raise InvalidValue(
            "a classification study has no validation cohorts",
            step=name,
            field="validation",
            got=", ".join(validation),
            remedy="register its model, then run 'gliaflow validate' on each cohort",
        )
    else:
        module = study(name)
        given = (
            features_of_store(storage, cohort, name, module, deep=deep, risk_groups_of=risk_groups_of)
            if stored
            else features_of_release(
                storage,
                cohort,
                module,
                features=features,
                participants=participants,
                risk_groups_of=risk_groups_of,
            )
        ).without_held_out(parameters.held_out_share)
        found = module.run(
            given.features,
            given.labels,
            clinical=given.clinical,
            parameters=StudyParameters.model_validate(parameters),
            seed=seed,
            excluded=given.excluded,
            progress=progress,
        )
        write_study(storage, cohort, found, makers=given.makers)
        beside = tuple(sorted(found.packages))
    # A model of tables must not become the champion of the images' model of the same name.
    model = name if stored else f"{name}-{cohort}"
    folder = study_folder(cohort, name)
    for part in beside:
        _register(RegisterRequest(folder=f"{folder}/{part}", model=f"{model}-{part}"))
    return _register(RegisterRequest(folder=f"{folder}/model", model=model))


@task(name="register model", cache_policy=NO_CACHE, persist_result=False)
def _register(request: RegisterRequest) -> RegisterResult:
    return connect("model_serving").register(request)
