"""Segment every prepared case of a cohort, by an expert's mask or by the network."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from pipelines.flows.fanout import Progress, case_runner, treat_cases
from pipelines.ledger import usable_cases
from pipelines.outcomes import Outcomes
from services.segmentation.contracts import (
    AbnormalityParameters,
    AbnormalityRequest,
    SegmentParameters,
    SegmentRequest,
)
from services.shared.cohort import read_cohort
from services.shared.storage import open_storage


@flow(name="segment", task_runner=case_runner(), validate_parameters=False)
def segment_cohort(
    cohort: str,
    parameters: SegmentParameters,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Outcomes:
    """Segment every prepared case of a cohort, by an expert's mask or by the network.

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
    """
    storage = open_storage()
    members = read_cohort(storage, cohort).subset("study")
    return treat_cases(
        storage,
        usable_cases(storage, members, steps=("prepare",), only=only),
        step="segment",
        call=("segmentation", "segment"),
        request=lambda case: SegmentRequest(case=case, parameters=parameters),
        progress=progress,
    )


@flow(name="segment-abnormality", task_runner=case_runner(), validate_parameters=False)
def outline_abnormality(
    cohort: str,
    parameters: AbnormalityParameters,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Outcomes:
    """Outline the FLAIR abnormality in every case of a cohort, on its images as they were imported.

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
    return treat_cases(
        storage,
        usable_cases(storage, read_cohort(storage, cohort), steps=(), only=only),
        step="segment",
        call=("segmentation", "segment_abnormality"),
        request=lambda case: AbnormalityRequest(case=case, parameters=parameters),
        progress=progress,
    )
