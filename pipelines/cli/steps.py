"""Commands that treat images, a step each."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.app import (
    CohortOption,
    OnlyOption,
    ParamsOption,
    TolerateOption,
    cohort_name,
    conclude,
    console,
    progress_bar,
)


def prepare(
    cohort: CohortOption = None,
    params: ParamsOption = None,
    only: OnlyOption = None,
    tolerate: TolerateOption = 0,
) -> None:
    """**Prepare** images: align to T1c and atlas, correct bias, extract the brain, normalise intensities."""
    from pipelines.flows.prepare import prepare_cohort
    from pipelines.parameters import read_section
    from services.preprocessing.contracts import PrepareParameters

    parameters = read_section(params, "prepare", PrepareParameters)
    with progress_bar("Preparing") as progress:
        outcomes = prepare_cohort(cohort_name(cohort, params), parameters, only=only, progress=progress)
    conclude("prepare", outcomes, tolerate)


def train(cohort: CohortOption = None, params: ParamsOption = None) -> None:
    """**Train** the segmentation network on the cohort's subset 'segmentation'."""
    from pipelines.flows.train import train_network
    from pipelines.parameters import read_section, read_value
    from pipelines.training.segmentation import TrainParameters

    with progress_bar("Training") as progress:
        result = train_network(
            cohort_name(cohort, params),
            read_section(params, "train", TrainParameters),
            seed=read_value(params, "seed", default=0),
            progress=lambda now, epochs: progress(now.epoch, epochs, f"tuning Dice {now.tuning_dice_mean:.2f}"),
        )
    dice = ", ".join(f"{region} {value:.2f}" for region, value in result.tuning_dice.items() if value is not None)
    state = "unchanged" if result.cached else f"{result.seconds:.0f} s on {result.device}"
    console.print(f"train: {result.model}, tuning Dice {dice} ({state})", highlight=False)


def segment(
    cohort: CohortOption = None,
    params: ParamsOption = None,
    only: OnlyOption = None,
    source: Annotated[str | None, typer.Option(help="auto, expert or network")] = None,
    tolerate: TolerateOption = 0,
) -> None:
    """**Segment** the tumour: an expert's mask where the case has one, else the network."""
    from pipelines.flows.segment import segment_cohort
    from pipelines.parameters import read_section
    from services.segmentation.contracts import SegmentParameters

    parameters = read_section(params, "segment", SegmentParameters)
    if source is not None:
        parameters = SegmentParameters.model_validate({**parameters.model_dump(), "source": source})
    with progress_bar("Segmenting") as progress:
        outcomes = segment_cohort(cohort_name(cohort, params), parameters, only=only, progress=progress)
    conclude("segment", outcomes, tolerate)


def extract(
    cohort: CohortOption = None,
    params: ParamsOption = None,
    only: OnlyOption = None,
    tolerate: TolerateOption = 0,
) -> None:
    """**Extract** radiomic features and register them in the feature store."""
    from pipelines.flows.extract import extract_cohort
    from pipelines.parameters import read_section
    from services.feature_store.contracts import ExtractParameters

    parameters = read_section(params, "extract", ExtractParameters)
    with progress_bar("Extracting") as progress:
        outcomes = extract_cohort(cohort_name(cohort, params), parameters, only=only, progress=progress)
    conclude("extract", outcomes, tolerate)
