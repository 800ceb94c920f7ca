"""Train networks of segmentation: of the tumour's parts on prepared volumes, of the FLAIR abnormality on slices."""

from __future__ import annotations

from collections.abc import Callable

from prefect import flow

from pipelines.ledger import usable_cases
from pipelines.training.live import live_folder
from pipelines.training.segmentation import EpochFigures, TrainParameters, TrainResult, train_segmentation
from pipelines.training.slices import SliceTrainParameters, SliceTrainResult, train_slices
from services.segmentation.contracts import DEFAULT_ABNORMALITY_MODEL, DEFAULT_MODEL
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
        storage,
        cases,
        parameters=parameters,
        seed=seed,
        threads=settings().workers,
        progress=progress,
        live=live_folder(storage, DEFAULT_MODEL),
    )


@flow(name="train-abnormality", validate_parameters=False)
def train_abnormality(
    cohort: str,
    parameters: SliceTrainParameters,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> SliceTrainResult:
    """Train the network that outlines the FLAIR abnormality on a cohort's imported images and masks.

    Parameters
    ----------
    cohort
        Name of the cohort; every case with FLAIR and a mask is learnt from.
    parameters
        How the network is trained and cross-validated.
    seed
        Decides folds, first weights and the order of slices.
    progress
        Called with epochs done and in all, over every fold, and what is being done.
    """
    storage = open_storage()
    cases = read_cohort(storage, cohort).cases
    return train_slices(
        storage,
        cases,
        parameters=parameters,
        seed=seed,
        threads=settings().workers,
        progress=progress,
        live=live_folder(storage, DEFAULT_ABNORMALITY_MODEL),
    )
