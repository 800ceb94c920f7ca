"""``gliaflow``: from raw MRI to fitted, evaluated, served and reported models."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.shared.contracts import case_label
from services.shared.errors import GliaflowError, InvalidValue
from services.shared.settings import SERVICE_NAMES, quiet_libraries
from services.shared.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines.flows.fanout import CaseOutcome
    from services.model_serving.package import Estimate

EXIT_QUARANTINED = 3
_STEPS_HELP = """From raw glioma MRI to fitted, evaluated, served and reported models.

Steps in order (`dvc repro` runs the same):

1. **simulate** or **import** → raw/COHORT: images, clinical table, expression

2. **prepare** → derivatives/preprocessed/COHORT: aligned, bias-corrected, skull-stripped, normalised

3. **train** → models/segmentation: the segmentation network

4. **segment** → derivatives/segmentation/COHORT: tumour core, whole tumour, enhancing tumour, oedema

5. **extract** → features/COHORT: radiomic features, registered in the feature store

6. **study** NAME → studies/COHORT/NAME: nested cross-validation, figures, deployable model

7. **report** → reports/COHORT/report.html

8. **predict** CASE: one patient's prediction through the serving API

Everything lives below GLIAFLOW_STORAGE_ROOT (default: ./workspace). Start with `gliaflow demo`.
"""

app = typer.Typer(
    help=_STEPS_HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
console = Console(stderr=True)
out = Console()

CohortOption = Annotated[
    str | None, typer.Option("--cohort", "-c", help="Cohort below raw/ [default: 'cohort' of the parameter file]")
]
ParamsOption = Annotated[
    Path | None, typer.Option("--params", "-p", help="Parameter file [default: ./params.yaml where there is one]")
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="Treat this case only; may be given several times")
]
TolerateOption = Annotated[
    int, typer.Option(min=0, help=f"Quarantined cases to accept; more of them make the exit code {EXIT_QUARANTINED}")
]


def main() -> None:
    """Run the command line; a user's mistake is one message, not a traceback."""
    quiet_libraries()
    try:
        app()
    except GliaflowError as error:
        _print_problem(error)
        sys.exit(1)
    except ValidationError as error:
        first = error.errors(include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or error.title
        _print_problem(InvalidValue(first["msg"], field=field, expected=first["type"], got=repr(first["input"])))
        sys.exit(1)


def _print_problem(error: GliaflowError) -> None:
    where = " · ".join(part for part in (error.case, error.step) if part)
    console.print(f"[bold red]{error.title}[/]{f' ({where})' if where else ''}: {error.detail}", highlight=False)
    for name, value in (
        ("field", error.field),
        ("expected", error.expected),
        ("got", error.got),
        ("what to do", error.remedy),
    ):
        if value:
            console.print(f"  [dim]{name:>10}[/]  {value}", highlight=False, markup=True)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[case]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, case="")

        def report(done: int, total: int, case: str = "") -> None:
            progress.update(task, completed=done, total=total, case=case)

        yield report


def _conclude(step: str, outcomes: Sequence[CaseOutcome], tolerate: int) -> None:
    """Say what became of the cases; too many quarantined ones end the command."""
    bad = [outcome for outcome in outcomes if outcome.problem is not None]
    cached = sum(outcome.cached for outcome in outcomes)
    console.print(f"{step}: {len(outcomes) - len(bad)} done ({cached} of them unchanged), {len(bad)} quarantined")
    for outcome in bad:
        if outcome.problem is not None:
            _print_problem(GliaflowError.from_problem(outcome.problem))
    if len(bad) > tolerate:
        raise typer.Exit(EXIT_QUARANTINED)


def _cohort(name: str | None, params: Path | None) -> str:
    from pipelines.parameters import read_value

    return name or read_value(params, "cohort", default="phantom")


@app.command()
def simulate(
    cohort: CohortOption = None,
    params: ParamsOption = None,
    cases: Annotated[int | None, typer.Option(min=1, help="Patients of the studies")] = None,
    segmentation_cases: Annotated[int | None, typer.Option(min=0, help="Patients that train the network")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed [default: 'seed' of the parameter file]")] = None,
    null: Annotated[bool, typer.Option("--null/--planted", help="Plant no effect: nothing can be learnt")] = False,  # noqa: FBT002
) -> None:
    """Make the **phantom cohort**: patients with known, planted effects (see docs/phantom.md)."""
    from pipelines.parameters import read_section, read_value
    from pipelines.simulate import SimulateParameters, simulate_cohort
    from services.shared.settings import settings

    given = {"cases": cases, "segmentation_cases": segmentation_cases}
    parameters = read_section(params, "simulate", SimulateParameters).model_copy(
        update={name: value for name, value in given.items() if value is not None} | {"workers": settings().workers}
    )
    name = _cohort(cohort, params)
    with _progress("Simulating") as progress:
        made = simulate_cohort(
            open_storage(),
            name,
            parameters=parameters,
            seed=read_value(params, "seed", default=0) if seed is None else seed,
            null=null,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print(f"simulate: {len(made.cases)} patients in raw/{name}")


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="Release: 'nifti' for folders of NIfTI images (BraTS, BIDS, TCIA names)")],
    source: Annotated[Path, typer.Argument(help="A case folder, or a folder of case folders")],
    cohort: Annotated[str, typer.Argument(help="Cohort to make or to add to")],
    participants: Annotated[
        Path | None, typer.Option(help="Clinical table (CSV or TSV); its identifiers match the folders' names")
    ] = None,
    tolerate: TolerateOption = 0,
) -> None:
    """Import a **release** as its publisher lays it out.

    Example: `gliaflow import nifti BraTS2021_00495 brats`
    """
    from pipelines.datasets.nifti import import_nifti
    from services.shared.errors import NotFound

    if name != "nifti":
        raise NotFound("there is no importer of this name", got=name, expected="nifti")
    with _progress("Importing") as progress:
        imported, problems = import_nifti(open_storage(), source, cohort, participants=participants, progress=progress)
    for case in imported:
        console.print(f"  sub-{case.case.id}: {', '.join(case.found)}", highlight=False)
    console.print(f"import: {len(imported)} cases in raw/{cohort}, {len(problems)} left out")
    for problem in problems:
        _print_problem(problem)
    if len(problems) > tolerate:
        raise typer.Exit(EXIT_QUARANTINED)


@app.command()
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
    with _progress("Preparing") as progress:
        outcomes = prepare_cohort(_cohort(cohort, params), parameters, only=only, progress=progress)
    _conclude("prepare", outcomes, tolerate)


@app.command()
def train(cohort: CohortOption = None, params: ParamsOption = None) -> None:
    """**Train** the segmentation network on the cohort's subset 'segmentation'."""
    from pipelines.flows.train import train_network
    from pipelines.parameters import read_section, read_value
    from pipelines.training.segmentation import TrainParameters

    with _progress("Training") as progress:
        result = train_network(
            _cohort(cohort, params),
            read_section(params, "train", TrainParameters),
            seed=read_value(params, "seed", default=0),
            progress=lambda now, epochs: progress(now.epoch, epochs, f"tuning Dice {now.tuning_dice_mean:.2f}"),
        )
    dice = ", ".join(f"{region} {value:.2f}" for region, value in result.tuning_dice.items() if value is not None)
    state = "unchanged" if result.cached else f"{result.seconds:.0f} s on {result.device}"
    console.print(f"train: {result.model}, tuning Dice {dice} ({state})", highlight=False)


@app.command()
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
    with _progress("Segmenting") as progress:
        outcomes = segment_cohort(_cohort(cohort, params), parameters, only=only, progress=progress)
    _conclude("segment", outcomes, tolerate)


@app.command()
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
    with _progress("Extracting") as progress:
        outcomes = extract_cohort(_cohort(cohort, params), parameters, only=only, progress=progress)
    _conclude("extract", outcomes, tolerate)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Study: grading or atrx")],
    cohort: CohortOption = None,
    params: ParamsOption = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Table (Parquet or CSV) with one row a patient, in place of the feature store; "
            "its name is then the default of --cohort"
        ),
    ] = None,
    participants: Annotated[Path | None, typer.Option(help="Clinical table of --features (CSV or TSV)")] = None,
) -> None:
    """Run a **study**: selection and classifier inside nested cross-validation, permuted labels, deployable model.

    Example: `gliaflow study grading --features published.csv --participants clinic.csv --cohort published`
    """
    from pipelines.flows.study import run_study
    from pipelines.parameters import read_section, read_value
    from pipelines.studies import study as find_study

    parameters = read_section(params, name, find_study(name).Parameters)
    # A table of its own is a cohort of its own: its results must not take the place of another's.
    cohort = case_label(features.stem) if features is not None and cohort is None else _cohort(cohort, params)
    with _progress(name.capitalize()) as progress:
        model = run_study(
            cohort,
            name,
            parameters,
            seed=read_value(params, "seed", default=0),
            features=features,
            participants=participants,
            progress=progress,
        )
    _print_figures(cohort, [name])
    console.print(f"study: model {model.model}/{model.version}", highlight=False)


def _print_figures(cohort: str, studies: Sequence[str] | None = None) -> None:
    from pipelines.reporting.report import summary_table

    rows = summary_table(open_storage(), cohort, studies)
    table = Table("", *(row.study for row in rows), box=box.SIMPLE_HEAD)
    table.add_row("Patients (positive)", *(f"{row.patients} ({row.positives})" for row in rows))
    for name, figures in (
        ("AUC", [row.auc for row in rows]),
        ("Sensitivity", [row.sensitivity for row in rows]),
        ("Specificity", [row.specificity for row in rows]),
        ("Accuracy", [row.accuracy for row in rows]),
        ("AUC, permuted labels", [row.permuted_auc for row in rows]),
    ):
        table.add_row(name, *map(_figure, figures))
    table.add_row("AUC of the paper", *("–" if row.published is None else f"{row.published.auc:.3f}" for row in rows))
    out.print(table)
    out.print("Out of fold, with 95 % confidence intervals.", style="dim")


def _figure(figure: Estimate | None) -> str:
    if figure is None:
        return "not run"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


@app.command()
def report(cohort: CohortOption = None, params: ParamsOption = None) -> None:
    """Write the **report**: one page with every figure, picture and dropped-out patient."""
    from pipelines.reporting.report import write_report

    storage = open_storage()
    name = _cohort(cohort, params)
    paths = write_report(storage, name)
    out.print(paths.url, soft_wrap=True, highlight=False)


@app.command()
def predict(
    case: Annotated[str, typer.Argument(help="Case: COHORT/sub-ID, or sub-ID with --cohort")],
    model: Annotated[str, typer.Option(help="Registered model: NAME, NAME/latest or NAME/VERSION")] = "grading",
    cohort: CohortOption = None,
    params: ParamsOption = None,
) -> None:
    """**Predict** one patient's probability or risk score through the serving API, with the reasons."""
    from pipelines.predict import predict_case
    from services.shared.contracts import CaseRef

    folder, _, label = case.rpartition("/")
    reference = CaseRef(cohort=folder or _cohort(cohort, params), id=label.removeprefix("sub-"))
    found = predict_case(reference, model)
    if found.risk_score is not None:
        last = found.survival[-1]
        told = f"risk score [bold]{found.risk_score:+.3f}[/], survival to {last.months:g} months {last.probability:.3f}"
    else:
        told = f"{found.positive_label} with probability [bold]{found.probability:.3f}[/]"
    out.print(
        f"[bold]{found.case}[/]: {told} → {found.label} "
        f"(threshold {found.threshold:.3f}; {found.model}/{found.version})",
        highlight=False,
    )
    table = Table("Feature", "Value", "z", f"Effect ({found.effect_unit})")
    for effect in found.effects[:10]:
        value = "missing" if effect.value is None else f"{effect.value:.4g}"
        table.add_row(effect.feature, value, f"{effect.z:+.2f}", f"{effect.effect:+.3f}")
    out.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]{warning}[/]", highlight=False)


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="One of: " + ", ".join(SERVICE_NAMES))] = "model_serving",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs GLIAFLOW_TOKEN")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """**Serve** one of the five services over HTTP, with /readyz, /metrics and /docs.json."""
    from pipelines.serve import serve_service

    serve_service(name, host=host, port=port)


@app.command()
def demo(
    params: ParamsOption = None,
    null: Annotated[bool, typer.Option("--null/--planted", help="Without effects: every AUC should cover 0.5")] = False,  # noqa: FBT002
) -> None:
    """Run the **whole main job** on a phantom cohort, then predict a new patient. About 10 minutes on 2 cores."""
    from pipelines.parameters import read_value
    from pipelines.studies import STUDY_NAMES
    from services.shared.cohort import read_cohort

    started = time.monotonic()
    name = _cohort(None, params)
    newcomer = f"{name}-new"
    simulate(cohort=name, params=params, null=null)
    prepare(cohort=name, params=params)
    train(cohort=name, params=params)
    segment(cohort=name, params=params)
    extract(cohort=name, params=params)
    for each in STUDY_NAMES:
        study(each, cohort=name, params=params)
    console.rule("A new patient")
    simulate(
        cohort=newcomer,
        params=params,
        cases=1,
        segmentation_cases=0,
        seed=read_value(params, "seed", default=0) + 1,
        null=null,
    )
    prepare(cohort=newcomer, params=params)
    segment(cohort=newcomer, params=params)
    extract(cohort=newcomer, params=params)
    predict(
        f"{newcomer}/{read_cohort(open_storage(), newcomer).cases[0].id}",
        model="grading/latest",
        cohort=newcomer,
        params=params,
    )
    console.rule("Figures")
    _print_figures(name)
    report(cohort=name, params=params)
    console.print(f"demo: done in {(time.monotonic() - started) / 60:.1f} minutes")


@app.command()
def doctor() -> None:
    """Look at **this machine**: is everything here that the main job needs?"""
    from pipelines.doctor import examine

    table = Table("Check", "Found", "What to do")
    checks = []
    for check in examine():
        checks.append(check)
        table.add_row(
            check.name, f"[{'green' if check.well else 'red'}]{check.found}[/]", "" if check.well else check.remedy
        )
    out.print(table)
    if not all(check.well for check in checks):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
