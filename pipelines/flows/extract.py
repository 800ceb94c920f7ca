"""Extract the features of every segmented case, then register the cohort's tables in the feature store."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from pipelines.clients import connect
from pipelines.flows.fanout import Progress, case_runner, treat_cases
from pipelines.ledger import STEPS, usable_cases
from pipelines.outcomes import Outcomes
from services.feature_store.contracts import ExtractParameters, ExtractRequest, RegisterRequest, RegisterResult
from services.model_serving.contracts import DeepParameters, DeepRequest
from services.shared.cohort import read_cohort
from services.shared.storage import open_storage


@flow(name="extract", task_runner=case_runner(), validate_parameters=False)
def extract_cohort(
    cohort: str,
    parameters: ExtractParameters,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
    deep: DeepParameters | None = None,
) -> Outcomes:
    """Extract the radiomic features of every segmented case, then register the cohort's tables in the feature store.

    Parameters
    ----------
    cohort
        Name of the cohort; its ``study`` subset is treated.
    parameters
        What the step is told.
    only
        Labels of the cases to treat; None means all.
    progress
        Called with the number of finished cases, their total, and the label of the last one.
    deep
        Which deep features are made besides, after the radiomic ones; None makes none.
    """
    storage = open_storage()
    members = read_cohort(storage, cohort).subset("study")
    outcomes = treat_cases(
        storage,
        usable_cases(storage, members, steps=("prepare", "segment"), only=only),
        step="extract",
        call=("feature_store", "extract"),
        request=lambda case: ExtractRequest(case=case, parameters=parameters),
        progress=progress,
    )
    finished = usable_cases(storage, members, steps=STEPS)
    if deep is not None:
        outcomes += treat_cases(
            storage,
            usable_cases(storage, members, steps=STEPS, only=only),
            step="deep",
            call=("model_serving", "deep_features"),
            request=lambda case: DeepRequest(case=case, parameters=deep),
            progress=progress,
        )
    _register(RegisterRequest(cohort=cohort, cases=tuple(finished)))
    return outcomes


@task(name="register", cache_policy=NO_CACHE, persist_result=False)
def _register(request: RegisterRequest) -> RegisterResult:
    return connect("feature_store").register(request)
