"""Commands that serve, show and look after the platform."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from pipelines.cli.app import ParamsOption, cohort_name, console, out
from pipelines.cli.data import simulate
from pipelines.cli.steps import extract, prepare, segment, train
from pipelines.cli.studies import predict, print_figures, report, study
from services.shared.settings import SERVICE_NAMES
from services.shared.storage import open_storage


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


def demo(
    params: ParamsOption = None,
    null: Annotated[bool, typer.Option("--null/--planted", help="Without effects: every AUC should cover 0.5")] = False,  # noqa: FBT002
) -> None:
    """Run the **whole main job** on a phantom cohort, then predict a new patient. About 10 minutes on 2 cores."""
    from pipelines.parameters import read_value
    from services.shared.cohort import read_cohort

    started = time.monotonic()
    name = cohort_name(None, params)
    newcomer = f"{name}-new"
    simulate(cohort=name, params=params, null=null)
    prepare(cohort=name, params=params)
    train(cohort=name, params=params)
    segment(cohort=name, params=params)
    extract(cohort=name, params=params)
    for each in ("grading", "atrx", "ferroptosis"):
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
    print_figures(name)
    report(cohort=name, params=params)
    console.print(f"demo: done in {(time.monotonic() - started) / 60:.1f} minutes")


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
