"""Commands that keep models fresh: retrain, promote, roll back, list, schedule."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipelines.cli.app import ParamsOption, console, out, print_problem, progress_bar
from services.shared.errors import GliaflowError
from services.shared.storage import open_storage

if TYPE_CHECKING:
    from pipelines.promotion.gate import Decision
    from pipelines.promotion.parameters import RetrainParameters

EXIT_NOT_PROMOTED = 4


def retrain(
    params: ParamsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing")] = False,  # noqa: FBT002
    anew: Annotated[  # noqa: FBT002
        bool, typer.Option("--anew", help="Begin another run instead of going on with an unfinished one")
    ] = False,
) -> None:
    """**Retrain** the model of params.yaml where its inputs changed; promote what came out if it earns it.

    Pulls data, imports new cases, reproduces what changed, compares with the champion on held-out patients, and after
    the gate pushes, tags, rolls out, watches and promotes, or goes back. A run that was ended anywhere goes on there.
    Exit code 4: the version passed the gate and did not serve well.
    """
    from pipelines.flows.retrain import retrain as run_retraining

    if dry_run:
        _print_plan(params)
        return
    with progress_bar("Retraining") as progress:
        run = run_retraining(params=None if params is None else str(params), anew=anew, progress=progress)
    console.print(f"retrain: {run.outcome}: {run.reason}", highlight=False)
    out.print(open_storage().url(f"{run.folder}/report.html"), soft_wrap=True, highlight=False)
    if run.problem is not None:
        print_problem(GliaflowError.from_problem(run.problem))
        raise typer.Exit(EXIT_NOT_PROMOTED)


def _print_plan(params: Path | None) -> None:
    from pipelines.flows.plan import plan_retraining

    plan = plan_retraining(params)
    out.print(f"model {plan.model}, champion {plan.champion}", highlight=False)
    if plan.unfinished is not None:
        out.print(f"goes on with run {plan.unfinished}, after: {', '.join(plan.done) or 'nothing'}", highlight=False)
    out.print(f"{plan.labelled} patients with an outcome, {plan.new} of them new; {plan.drift}", highlight=False)
    out.print(plan.importing, highlight=False)
    table = Table("Stage", "Why it runs", box=box.SIMPLE_HEAD)
    for stage in plan.stages:
        table.add_row(stage.stage, "; ".join(stage.reasons) or f"if these change: {', '.join(stage.follows)}")
    out.print(table if plan.stages else "no stage has to run")
    for problem in plan.obstacles:
        print_problem(GliaflowError.from_problem(problem))
    console.print("dry run: nothing was changed")


def promote(
    version: Annotated[str, typer.Argument(metavar="MODEL/VERSION", help="Also MODEL/latest, MODEL/challenger")],
    params: ParamsOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the history")] = "",
    without_comparison: Annotated[  # noqa: FBT002
        bool, typer.Option("--without-comparison", help="Do not ask the gate; needs --reason")
    ] = False,
) -> None:
    """**Promote** a version by hand: compare it on held-out patients, roll it out, watch it, make it champion.

    Example: `gliaflow promote grading/v0002-0123456789ab`
    """
    from pipelines.flows.promote import promote_version

    entry, decision = promote_version(
        version,
        _parameters(params),
        reason=reason,
        compared=not without_comparison,
        say=lambda text: console.print(f"promote: {text}", highlight=False),
    )
    if decision is not None:
        _print_checks(decision)
    console.print(f"promote: {entry.model}/{entry.version} is champion", highlight=False)


def rollback(
    model: Annotated[str, typer.Argument(help="Registered model")],
    params: ParamsOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the history")] = "rolled back by hand",
) -> None:
    """**Roll back** to the champion before the present one; once more goes further back."""
    from pipelines.flows.promote import roll_back

    entry = roll_back(
        model,
        _parameters(params),
        reason=reason,
        say=lambda text: console.print(f"rollback: {text}", highlight=False),
    )
    console.print(f"rollback: {entry.model}/{entry.version} is champion again", highlight=False)


def models(
    model: Annotated[str | None, typer.Argument(help="One model, with its history")] = None,
) -> None:
    """List registered **models**: versions, who is champion, challenger or on trial, and who was."""
    from services.model_serving import registry

    storage = open_storage()
    table = Table("Version", "", "Trained on", "Out of fold", box=box.SIMPLE_HEAD)
    for name in [registry.resolve(storage, model).model] if model else registry.list_models(storage):
        aliases = {
            registry.CHAMPION: registry.champion(storage, name),
            registry.CHALLENGER: registry.challenger(storage, name),
            "on trial": registry.serving(storage, name),
        }
        if aliases["on trial"] == aliases[registry.CHAMPION]:
            aliases["on trial"] = None
        for entry in registry.list_versions(storage, name):
            description = registry.load(storage, entry).description
            figure = description.metrics.get("c_index") or description.metrics.get("auc")
            measure = "C" if "c_index" in description.metrics else "AUC"
            table.add_row(
                f"{name}/{entry.version}",
                ", ".join(alias for alias, version in aliases.items() if version == entry.version),
                f"{description.training.patients} patients of {description.training.cohort or 'a table'}",
                "–" if figure is None else f"{measure} {figure.value:.3f}",
            )
    out.print(table)
    if model:
        history = Table("When, UTC", "What", "Champion", "Before", "Why", box=box.SIMPLE_HEAD)
        for change in registry.history(storage, registry.resolve(storage, model).model):
            history.add_row(
                f"{change.at:%Y-%m-%d %H:%M}", change.action, change.champion, change.previous or "–", change.reason
            )
        out.print(history if history.row_count else "the first version is champion; none was promoted since")


def schedule(
    cron: Annotated[str, typer.Option(help="When to retrain, five fields; empty: not by the clock")] = "0 3 * * 1",
    timezone: Annotated[str, typer.Option(help="In which the cron is meant")] = "UTC",
    new_cases: Annotated[
        int | None,
        typer.Option(min=0, help="Retrain on so many new labelled cases; 0: never [default: retrain.min_new_cases]"),
    ] = None,
    drift: Annotated[bool, typer.Option(help="Retrain when features drift")] = True,  # noqa: FBT002
    every_minutes: Annotated[int, typer.Option(min=1, help="How often to look for new cases and drift")] = 60,
    work_pool: Annotated[str, typer.Option(help="Prefect work pool whose worker stands in this repository")] = (
        "gliaflow"
    ),
    params: ParamsOption = None,
) -> None:
    """**Schedule** retraining on the Prefect server that PREFECT_API_URL names.

    `gliaflow schedule --cron "0 3 * * 1" --new-cases 20 --drift`, then `prefect worker start --pool gliaflow`.
    """
    from pipelines.flows.schedules import Schedule, create_deployments

    chosen = Schedule(
        cron=cron or None,
        timezone=timezone,
        new_cases=new_cases != 0,
        min_new_cases=new_cases or None,
        drift=drift,
        every=timedelta(minutes=every_minutes),
    )
    for name in create_deployments(Path.cwd(), chosen, work_pool=work_pool, params=params):
        out.print(name, highlight=False)
    console.print(f"schedule: a worker must run here: prefect worker start --pool {work_pool}", highlight=False)


def _parameters(params: Path | None) -> RetrainParameters:
    from pipelines.parameters import read_section
    from pipelines.promotion.parameters import RetrainParameters

    return read_section(params, "retrain", RetrainParameters)


def _print_checks(decision: Decision) -> None:
    table = Table("Check", "Expected", "Found", box=box.SIMPLE_HEAD)
    for check in decision.checks:
        table.add_row(check.name, check.expected, check.got)
    out.print(table)
