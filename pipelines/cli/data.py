"""Commands that get data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.app import (
    EXIT_QUARANTINED,
    CohortOption,
    OnlyOption,
    ParamsOption,
    TolerateOption,
    bytes_bar,
    cohort_name,
    console,
    out,
    print_problem,
    progress_bar,
)
from services.shared.errors import GliaflowError, InvalidValue
from services.shared.storage import open_storage


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
    name = cohort_name(cohort, params)
    with progress_bar("Simulating") as progress:
        made = simulate_cohort(
            open_storage(),
            name,
            parameters=parameters,
            seed=read_value(params, "seed", default=0) if seed is None else seed,
            null=null,
            progress=lambda done, total: progress(done, total, ""),
        )
    console.print(f"simulate: {len(made.cases)} patients in raw/{name}")


def fetch(
    name: Annotated[str, typer.Argument(help="Open release, see the list below")],
    out_folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that takes it; made where it is absent")],
    only: OnlyOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many patients")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be fetched and write nothing")] = False,  # noqa: FBT002
    tolerate: Annotated[int, typer.Option(min=0, help="Files that may fail before the exit code is 3")] = 0,
) -> None:
    """Fetch an **open release** from its publisher (TCIA, GDC); a second run goes on, checks and mends."""
    from pipelines.fetch.run import fetch_release

    with bytes_bar("Fetching") as progress:
        got = fetch_release(name, out_folder, only=tuple(only or ()), limit=limit, dry_run=dry_run, progress=progress)
    if dry_run:
        for path in got.planned:
            out.print(path, highlight=False)
        console.print(f"fetch: {len(got.planned)} to fetch, {megabytes(got.planned_bytes)} as far as stated")
    else:
        console.print(f"fetch: {len(got.files)} files whole in {got.out}, {megabytes(got.bytes)} fetched now")
    for path, reasons in got.restarted.items():
        console.print(f"  began again: {path}: {', '.join(reasons)}", highlight=False)
    for reason, count in Counter(got.left_out.values()).most_common():
        console.print(f"  left out: {count} × {reason}", highlight=False)
    console.print(f"{got.licence}. Cite: {got.citation}", highlight=False)
    if got.by_hand:
        console.print(got.by_hand, highlight=False)
    for problem in got.failed.values():
        print_problem(GliaflowError.from_problem(problem))
    if len(got.failed) > tolerate:
        raise typer.Exit(EXIT_QUARANTINED)


def megabytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:,.1f} MB"


def fetch_help() -> str:
    """Return the list of open releases for the command's help."""
    from pipelines.fetch import DESCRIPTIONS

    return "\n\n".join(f"- **{name}**: {what}" for name, what in DESCRIPTIONS.items())


def import_(
    name: Annotated[str, typer.Argument(help="Release, see the list below")],
    source: Annotated[Path, typer.Argument(help="File or folder, as the publisher lays it out")],
    cohort: Annotated[str, typer.Argument(help="Cohort to make; 'nifti' can also add to one")],
    participants: Annotated[
        Path | None,
        typer.Option(help="Clinical table to join (CSV, TSV, or a folder that 'tcga' reads); identifiers must match"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What the importer lets one choose, see below; several times"),
    ] = None,
    tolerate: TolerateOption = 0,
) -> None:
    """Import a **release** as its publisher lays it out: images, clinical table, expression, features."""
    from pipelines.datasets import IMAGE_IMPORTERS

    options = _options(option or ())
    if name in IMAGE_IMPORTERS:
        if options:
            raise InvalidValue("an importer of images has no options", step="import", field=", ".join(options))
        _import_images(name, source, cohort, participants, tolerate)
    else:
        _import_tables(name, source, cohort, participants, options)


def _options(written: Iterable[str]) -> dict[str, str]:
    """Return the values by name of ``NAME=VALUE``."""
    options: dict[str, str] = {}
    for text in written:
        name, equals, value = text.partition("=")
        if not equals or not name or name in options or name in ("source", "participants"):
            raise InvalidValue(
                "an option is not NAME=VALUE, or occurs twice",
                step="import",
                field="option",
                expected="such as scale=linear",
                got=text,
            )
        options[name] = value
    return options


def _import_images(name: str, source: Path, cohort: str, participants: Path | None, tolerate: int) -> None:
    from pipelines.datasets import image_importer

    with progress_bar("Importing") as progress:
        imported, problems = image_importer(name)(
            open_storage(), source, cohort, participants=participants, progress=progress
        )
    for case in imported:
        console.print(f"  sub-{case.case.id}: {', '.join(case.found)}", highlight=False)
    console.print(f"import: {len(imported)} cases in raw/{cohort}, {len(problems)} left out")
    for problem in problems:
        print_problem(problem)
    if len(problems) > tolerate:
        raise typer.Exit(EXIT_QUARANTINED)


def _import_tables(name: str, source: Path, cohort: str, participants: Path | None, options: dict[str, str]) -> None:
    from pipelines.datasets import importer
    from pipelines.datasets.release import write_release

    module = importer(name)
    with progress_bar("Importing") as progress:
        progress(0, 1, source.name)
        release = module.read_release(source, participants=participants, **options)
        write_release(open_storage(), cohort, release)
        progress(1, 1, source.name)
    for matrix, table in sorted(release.matrices.items()):
        scale = release.scale.get(matrix, "")
        console.print(f"  {matrix}: {len(table)} × {table.shape[1]}{f', {scale}' if scale else ''}", highlight=False)
    for reason, count in Counter(release.dropped.values()).most_common():
        console.print(f"  left out: {count} × {reason}", highlight=False)
    for what, count in sorted(release.counted.items()):
        console.print(f"  {what}: {count}", highlight=False)
    console.print(f"import: {len(release.participants)} patients in raw/{cohort}. {release.licence}", highlight=False)


def releases_help() -> str:
    """Return the list of releases for the command's help."""
    from pipelines.datasets import IMAGE_IMPORTERS, IMPORTERS

    return "\n\n".join(f"- **{name}**: {what}" for name, what in {**IMAGE_IMPORTERS, **IMPORTERS}.items())
