"""Commands that treat images, a step each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
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

TASKS = ("tumour", "flair-abnormality")
TaskOption = Annotated[str, typer.Option("--task", help="What to outline: " + " or ".join(TASKS))]


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


def train(
    what: Annotated[str, typer.Argument(help="What to train: segmentation")] = "segmentation",
    task: TaskOption = "tumour",
    cohort: CohortOption = None,
    params: ParamsOption = None,
) -> None:
    """**Train** a segmentation network; a training that was stopped goes on.

    `tumour`: core, oedema and enhancing part, on the prepared cases of the subset 'segmentation'.
    `flair-abnormality`: the outline on slices of T1, FLAIR and T1c as imported, cross-validated by patient.
    """
    from services.shared.errors import NotFound

    if what != "segmentation":
        raise NotFound("there is nothing to train of this name", got=what, expected="segmentation")
    if _task(task) == "tumour":
        _train_tumour(cohort_name(cohort, params), params)
    else:
        _train_abnormality(cohort_name(cohort, params), params)


def _task(name: str) -> str:
    from services.shared.errors import NotFound

    if name not in TASKS:
        raise NotFound("there is no such task", field="--task", got=name, expected=", ".join(TASKS))
    return name


def _train_tumour(cohort: str, params: Path | None) -> None:
    from pipelines.flows.train import train_network
    from pipelines.parameters import read_section, read_value
    from pipelines.training.segmentation import TrainParameters

    with progress_bar("Training") as progress:
        result = train_network(
            cohort,
            read_section(params, "train", TrainParameters),
            seed=read_value(params, "seed", default=0),
            progress=lambda now, epochs: progress(now.epoch, epochs, f"tuning Dice {now.tuning_dice_mean:.2f}"),
        )
    dice = ", ".join(f"{region} {value:.2f}" for region, value in result.tuning_dice.items() if value is not None)
    state = "unchanged" if result.cached else f"{result.seconds:.0f} s on {result.device}"
    console.print(f"train: {result.model}, tuning Dice {dice} ({state})", highlight=False)


def _train_abnormality(cohort: str, params: Path | None) -> None:
    from pipelines.flows.train import train_abnormality
    from pipelines.parameters import read_section, read_value
    from pipelines.training.slices import SliceTrainParameters

    with progress_bar("Training") as progress:
        result = train_abnormality(
            cohort,
            read_section(params, "train_abnormality", SliceTrainParameters),
            seed=read_value(params, "seed", default=0),
            progress=progress,
        )
    for case, reason in result.left_out.items():
        console.print(f"  left out: {case}: {reason}", highlight=False)
    judged = (
        "not cross-validated"
        if result.dice_mean is None
        else f"Dice of unseen patients: mean {result.dice_mean:.3f}, median {result.dice_median:.3f}; "
        f"HD95, median {result.hd95_mm_median:.1f} mm"
    )
    state = "unchanged" if result.cached else f"{result.seconds:.0f} s for the last network on {result.device}"
    console.print(f"train: {result.model}, {result.cases} patients. {judged} ({state})", highlight=False)


def segment(
    cohort: CohortOption = None,
    params: ParamsOption = None,
    only: OnlyOption = None,
    task: TaskOption = "tumour",
    source: Annotated[str | None, typer.Option(help="auto, expert or network (task tumour)")] = None,
    tolerate: TolerateOption = 0,
) -> None:
    """**Segment**: the tumour's parts by an expert's mask or the network, or the outline of the FLAIR abnormality."""
    from pipelines.flows.segment import outline_abnormality, segment_cohort
    from pipelines.parameters import read_section
    from services.segmentation.contracts import AbnormalityParameters, SegmentParameters

    name = cohort_name(cohort, params)
    with progress_bar("Segmenting") as progress:
        if _task(task) == "tumour":
            parameters = read_section(params, "segment", SegmentParameters)
            if source is not None:
                parameters = SegmentParameters.model_validate({**parameters.model_dump(), "source": source})
            outcomes = segment_cohort(name, parameters, only=only, progress=progress)
        else:
            outline = read_section(params, "segment_abnormality", AbnormalityParameters)
            outcomes = outline_abnormality(name, outline, only=only, progress=progress)
    _print_dice(outcome.result for outcome in outcomes if outcome.result)
    conclude("segment", outcomes, tolerate)


def _print_dice(results: Iterable[dict[str, object]]) -> None:
    """Print the agreement with imported masks, where cases have one."""
    import statistics

    found = [dice for result in results if isinstance(dice := result.get("dice"), float)]
    if found:
        console.print(
            f"  Dice with the imported masks of {len(found)} cases: mean {statistics.fmean(found):.3f}, "
            f"median {statistics.median(found):.3f}",
            highlight=False,
        )


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
