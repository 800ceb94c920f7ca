"""The command line's frame: options, progress, problems, and what becomes of quarantined cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from services.shared.errors import GliaflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines.outcomes import CaseOutcome

EXIT_QUARANTINED = 3
_STEPS_HELP = """From raw glioma MRI to fitted, evaluated, served and reported models.

Steps in order (`dvc repro` runs the same):

1. **simulate**, or **fetch** and **import** → raw/COHORT: images, clinical table, expression

2. **prepare** → derivatives/preprocessed/COHORT: aligned, bias-corrected, skull-stripped, normalised

3. **train** → models/segmentation: the segmentation network (`train NETWORK` → models/imaging: those of outcomes)

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


def print_problem(error: GliaflowError) -> None:
    """Print what went wrong and what to do."""
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
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show progress while the block lasts; it yields what to call with done, total and the case."""
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


@contextmanager
def bytes_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of a transfer while the block lasts; it yields what to call with bytes and the path."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<12}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("[dim]{task.fields[path]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, path="")

        def report(done: int, total: int, path: str) -> None:
            progress.update(task, completed=done, total=max(done, total), path=path)

        yield report


def conclude(step: str, outcomes: Sequence[CaseOutcome], tolerate: int) -> None:
    """Say what became of the cases; too many quarantined ones end the command."""
    for name in dict.fromkeys([step, *(outcome.step for outcome in outcomes)]):
        its = [outcome for outcome in outcomes if outcome.step == name]
        cached = sum(outcome.cached for outcome in its)
        dropped = sum(outcome.problem is not None for outcome in its)
        console.print(f"{name}: {len(its) - dropped} done ({cached} of them unchanged), {dropped} quarantined")
    bad = [outcome for outcome in outcomes if outcome.problem is not None]
    for outcome in bad:
        if outcome.problem is not None:
            print_problem(GliaflowError.from_problem(outcome.problem))
    if len(bad) > tolerate:
        raise typer.Exit(EXIT_QUARANTINED)


def cohort_name(name: str | None, params: Path | None) -> str:
    """Return the cohort that is meant: named, or the parameter file's."""
    from pipelines.parameters import read_value

    return name or read_value(params, "cohort", default="phantom")
