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
NETWORKS = ("risk-group", "grade", "grade-survival", "diffusion-survival", "slice-classifier")
TaskOption = Annotated[str, typer.Option("--task", help="What to outline: " + " or ".join(TASKS))]


def prepare(
    cohort: CohortOption = None,
    params: ParamsOption = None,
    only: OnlyOption = None,
    tolerate: TolerateOption = 0,
) -> None:
    """**Prepare** images: align to T1c and atlas, correct bias, extract the brain, normalise intensities.

    Cases with a diffusion series also get maps of FA, MD, AD and RD.
    """
    from pipelines.flows.prepare import prepare_cohort
    from pipelines.parameters import read_section
    from services.preprocessing.contracts import PrepareParameters

    parameters = read_section(params, "prepare", PrepareParameters)
    with progress_bar("Preparing") as progress:
        outcomes = prepare_cohort(cohort_name(cohort, params), parameters, only=only, progress=progress)
    conclude("prepare", outcomes, tolerate)


def train(
    what: Annotated[str, typer.Argument(help=f"segmentation, or a network: {', '.join(NETWORKS)}")] = "segmentation",
    task: TaskOption = "tumour",
    cohort: CohortOption = None,
    params: ParamsOption = None,
    name: Annotated[str | None, typer.Option(help="Folder below models/imaging [default: the network's name]")] = None,
) -> None:
    """**Train** a network; a training that was stopped goes on.

    **segmentation** `--task tumour`: core, oedema and enhancing part, on the prepared cases of the subset
    'segmentation'. `--task flair-abnormality`: the outline on slices of T1, FLAIR and T1c as imported.

    **risk-group**: ferroptosis risk group (3D ResNet-50, four sequences). **grade**: LGG or HGG (3D ResNet-18 with
    squeeze-and-excitation). **grade-survival**: grade II or III and survival at once (2D ResNet-18).
    **diffusion-survival**: survival from FA, MD, AD, RD (ResNet-34). **slice-classifier**: ATRX, IDH, MGMT or grade
    from one slice as imported (`outcome` in the section). They learn from prepared and segmented patients, are
    cross-validated in their study's folds and kept below models/imaging. The section `train_imaging` of the parameter
    file overrides any number of the papers.

    Examples: `gliaflow train grade --cohort phantom`; `dvc exp run -S train_imaging.epochs=20`
    """
    from services.shared.errors import NotFound

    if what in NETWORKS:
        _train_outcome(cohort_name(cohort, params), params, what, name or what)
        return
    if what != "segmentation":
        raise NotFound(
            "there is nothing to train of this name", got=what, expected=", ".join(("segmentation", *NETWORKS))
        )
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


def _train_outcome(cohort: str, params: Path | None, what: str, name: str) -> None:
    from typing import cast

    from pipelines.flows.train import train_outcome
    from pipelines.parameters import read_section, read_value
    from pipelines.training.imaging_parameters import ImagingTraining
    from services.model_serving.networks.specification import Architecture

    with progress_bar("Training") as progress:
        result, left_out = train_outcome(
            cohort,
            cast(Architecture, what.replace("-", "_")),
            read_section(params, "train_imaging", ImagingTraining),
            seed=read_value(params, "seed", default=0),
            model=f"models/imaging/{name}",
            progress=progress,
        )
    for case, reason in left_out.items():
        console.print(f"  left out: {case}: {reason}", highlight=False)
    figures = ", ".join(
        f"{title} {result.metrics[key]:.3f} ({result.metrics[f'{key}_low']:.3f}–{result.metrics[f'{key}_high']:.3f})"
        for key, title in (("auc", "AUC"), ("c_index", "C-index"))
        if key in result.metrics
    )
    state = "unchanged" if result.cached else f"{result.seconds:.0f} s for the last network on {result.device}"
    judged = f"of unseen patients: {figures}" if figures else "not cross-validated"
    console.print(f"train: {result.model}, {result.cases} patients, {judged} ({state})", highlight=False)
    for note in result.notes:
        console.print(f"  [yellow]{note}[/]", highlight=False)


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
    deep: Annotated[bool, typer.Option("--deep", help="Deep features too: ResNet-34's and trained networks'")] = False,  # noqa: FBT002
    tolerate: TolerateOption = 0,
) -> None:
    """**Extract** radiomic features, and deep ones with `--deep`, and register them in the feature store.

    Deep features follow the section `extract_deep`: a thousand of ResNet-34 for each region on each sequence
    (`weights`: ImageNet's, else random), and the pooled features of `networks` trained by `gliaflow train`, each
    patient's from a fold that never saw him, with what they say of him: a risk, or log-odds. `gliaflow study NAME
    --deep` learns from both kinds.

    Example: `gliaflow extract --deep` after `gliaflow train diffusion-survival`, with
    `extract_deep: {sequences: [], networks: [models/imaging/diffusion-survival]}`
    """
    from pipelines.flows.extract import extract_cohort
    from pipelines.parameters import read_section
    from services.feature_store.contracts import ExtractParameters
    from services.model_serving.contracts import DeepParameters

    parameters = read_section(params, "extract", ExtractParameters)
    chosen = read_section(params, "extract_deep", DeepParameters) if deep else None
    with progress_bar("Extracting") as progress:
        outcomes = extract_cohort(cohort_name(cohort, params), parameters, only=only, deep=chosen, progress=progress)
    conclude("extract", outcomes, tolerate)
