"""Train networks: of segmentation (the tumour's parts, the FLAIR abnormality), and those that tell outcomes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from prefect import flow

from pipelines.flows.imaging_inputs import imaging_patients
from pipelines.ledger import usable_cases
from pipelines.studies import ferroptosis_imaging
from pipelines.studies.imaging_outcome import study_folds
from pipelines.training.imaging import ImagingTrainResult, train_imaging
from pipelines.training.imaging_parameters import ImagingTraining
from pipelines.training.live import live_folder
from pipelines.training.segmentation import EpochFigures, TrainParameters, TrainResult, train_segmentation
from pipelines.training.slices import SliceTrainParameters, SliceTrainResult, train_slices
from services.model_serving.networks.specification import Architecture
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


@flow(name="train-imaging", validate_parameters=False)
def train_outcome(
    cohort: str,
    architecture: Architecture,
    training: ImagingTraining,
    seed: int,
    model: str,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[ImagingTrainResult, dict[str, str]]:
    """Train a network that tells an outcome from images: cross-validated in its study's folds, then on all patients.

    Parameters
    ----------
    cohort
        Name of the cohort; every patient of its ``study`` subset with images, tumour and outcome is learnt from.
    architecture
        The network.
    training
        What differs from the paper.
    seed
        Decides folds, tuning patients, first weights, order and mirroring.
    model
        Folder below which networks, figures and out-of-fold predictions are kept; of one that tells classes also
        ``folds.csv``, the columns of Front Neurosci 2022, 1082867, Table 2.
    progress
        Called after each epoch with trainings begun, trainings in all, and what is being done.

    Returns
    -------
    tuple of ImagingTrainResult and dict
        What came of it, and the reason by case of patients that were left out.
    """
    storage = open_storage()
    patients = imaging_patients(storage, cohort, architecture, training)
    folds = training.fold_count(architecture)
    result = train_imaging(
        storage,
        patients.cases,
        patients.outcome,
        spec=patients.spec,
        parameters=training.parameters(architecture),
        seed=seed,
        model=model,
        folds=study_folds(patients.outcome, folds=folds, seed=seed) if folds else None,
        threads=settings().workers,
        progress=progress,
        live=Path(storage.url(f"{model}/live")) if storage.is_local else None,
    )
    if "auc" in result.metrics:
        said = pd.read_csv(io.StringIO(storage.read_text(f"{model}/cross_validation.csv")), dtype={"case_id": str})
        named = said[said["outcome"] >= 0].replace({"outcome": dict(enumerate(ferroptosis_imaging.CLASSES))})
        figures = ferroptosis_imaging.fold_figures(named.assign(fold=named["fold"] + 1))
        table = figures.to_csv(index=False, float_format="%.10g", lineterminator="\n")
        storage.write_text(f"{model}/folds.csv", table)
    return result, patients.left_out
