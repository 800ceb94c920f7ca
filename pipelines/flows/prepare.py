"""Prepare every case of a cohort: alignment, bias field, brain, normalisation; then its diffusion maps."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from pipelines.flows.fanout import Progress, case_runner, treat_cases
from pipelines.ledger import usable_cases
from pipelines.outcomes import Outcomes
from services.preprocessing.contracts import DiffusionRequest, PrepareParameters, PrepareRequest
from services.shared.cohort import CaseKeys, read_cohort
from services.shared.storage import open_storage


@flow(name="prepare", task_runner=case_runner(), validate_parameters=False)
def prepare_cohort(
    cohort: str,
    parameters: PrepareParameters,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Outcomes:
    """Prepare every case of a cohort, and make the diffusion maps of those that came with a series.

    A case whose series cannot be used keeps its other volumes: only what needs the maps goes without it.

    Parameters
    ----------
    cohort
        Name of the cohort.
    parameters
        What the step is told.
    only
        Labels of the cases to treat; None means all.
    progress
        Called with the number of finished cases, their total, and the label of the last one.
    """
    storage = open_storage()
    members = read_cohort(storage, cohort)
    outcomes = treat_cases(
        storage,
        usable_cases(storage, members, steps=(), only=only),
        step="prepare",
        call=("preprocessing", "prepare"),
        request=lambda case: PrepareRequest(case=case, parameters=parameters),
        progress=progress,
    )
    if not parameters.diffusion:
        return outcomes
    prepared = usable_cases(storage, members, steps=("prepare",), only=only)
    return outcomes + treat_cases(
        storage,
        [case for case in prepared if storage.exists(CaseKeys(case).raw_dwi("nii.gz"))],
        step="diffusion",
        call=("preprocessing", "prepare_diffusion"),
        request=lambda case: DiffusionRequest(case=case, seed=parameters.seed),
        progress=progress,
    )
