"""Commands that get data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.app import (
    EXIT_QUARANTINED,
    CohortOption,
    ParamsOption,
    TolerateOption,
    cohort_name,
    console,
    print_problem,
    progress_bar,
)
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
    with progress_bar("Importing") as progress:
        imported, problems = import_nifti(open_storage(), source, cohort, participants=participants, progress=progress)
    for case in imported:
        console.print(f"  sub-{case.case.id}: {', '.join(case.found)}", highlight=False)
    console.print(f"import: {len(imported)} cases in raw/{cohort}, {len(problems)} left out")
    for problem in problems:
        print_problem(problem)
    if len(problems) > tolerate:
        raise typer.Exit(EXIT_QUARANTINED)
