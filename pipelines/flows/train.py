"""Train the segmentation network on the cohort's subset that is set aside for it."""

from __future__ import annotations

from collections.abc import Callable

from prefect import flow

from pipelines.ledger import usable_cases
from pipelines.training.segmentation import EpochFigures, TrainParameters, TrainResult, train_segmentation
from services.shared.cohort import read_cohort
from services.shared.settings import settings
from services.shared.storage import open_storage


@flow(name="train", validate_parameters=False)
def train_network(
    cohort: str,
    parameters: TrainParameters,
    seed: int,
    progress: Callable[[EpochFigures, int], None] | None = None,
) -> TrainResult:
    """Train the segmentation network on the cohort's subset that is set aside for it.

    Parameters
    ----------
    cohort
        Name of the cohort; its ``segmentation`` subset is learnt from.
    parameters
        How the network is trained.
    seed
        Decides the split, the first weights and the order of cases.
    progress
        Called after each epoch with its figures and the number of epochs.
    """
    storage = open_storage()
    cases = usable_cases(storage, read_cohort(storage, cohort).subset("segmentation"), steps=("prepare",))
    return train_segmentation(
        storage, cases, parameters=parameters, seed=seed, threads=settings().workers, progress=progress
    )
