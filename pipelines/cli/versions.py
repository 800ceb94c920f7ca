"""Commands that keep versions of data and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipelines.cli.app import console, out, progress_bar

if TYPE_CHECKING:
    from pipelines.versioning.changes import Changes

EXIT_DIFFERS = 4
_HELP = """Keep **versions** of data and models: what changed, push, pull, rebuild.

Git keeps code, parameters and hashes, DVC keeps what the hashes stand for, in a folder beside the checkout or where
GLIAFLOW_DVC_REMOTE says (a folder, or s3://bucket/prefix with the standard AWS credentials). The tag
model/NAME/VERSION names the revision that made a model. See docs/versions.md.
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode="markdown")


@app.command()
def status(
    model: Annotated[
        str | None, typer.Argument(help="Registered model: NAME or NAME/VERSION [default: every champion]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a list of models")] = False,  # noqa: FBT002
) -> None:
    """Tell **what changed** since a model's champion was trained: cases, features, columns, parameters, code.

    Example: `gliaflow data status grading`
    """
    from pipelines.versioning.changes import changes_since_training
    from pipelines.versioning.models import champions
    from pipelines.versioning.repository import Repository

    repository = Repository.open()
    models = champions(repository) if model is None else [model]
    found = []
    with progress_bar("Comparing") as progress:
        for name in models:
            found.append(changes_since_training(repository, name, progress))  # noqa: PERF401
    if json:
        out.print_json("[" + ",".join(changes.model_dump_json() for changes in found) + "]")
        return
    for changes in found:
        _print_changes(changes)
    if not models:
        console.print("status: no model is registered; 'gliaflow study' registers one")


def _print_changes(changes: Changes) -> None:
    from pipelines.versioning.tables import shorten

    title = f"{changes.model}/{changes.version} ({changes.revision[:12]})"
    if changes.is_none:
        out.print(f"{title}: nothing has changed since it was trained", highlight=False)
        return
    table = Table("What", "Change", box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for what, entries in (("cases of {}", changes.cohorts), ("rows of {}", changes.features)):
        for entry in entries:
            name = getattr(entry, "cohort", None) or getattr(entry, "table", "")
            for how, labels in (("added", entry.added), ("removed", entry.removed), ("changed", entry.changed)):
                if labels:
                    table.add_row(what.format(name), f"{len(labels)} {how}: {shorten(labels)}")
    for column in changes.columns:
        table.add_row("columns", str(column))
    for parameter in changes.parameters:
        table.add_row(f"parameter {parameter.name}", f"{parameter.before} → {parameter.after}")
    for code in changes.code:
        table.add_row(f"code of {code.stage}", shorten(code.files))
    for folder in changes.unlisted:
        table.add_row("data", f"{folder} differs; keep it with 'gliaflow data add' to see how")
    out.print(table)


@app.command()
def pull() -> None:
    """**Pull** the data of the checked-out version from the remote into the workspace.

    Nothing changes unless the remote has all of it; files that no version has are never removed.
    """
    from pipelines.versioning.repository import Repository

    repository = Repository.open()
    with progress_bar("Pulling") as progress:
        repository.pull(progress)
    console.print(f"pull: the data of {repository.revision()[:12]} are in the workspace")


@app.command()
def push() -> None:
    """**Push** the data of the checked-out version to the remote, and check that all of it arrived.

    What a push that was cut off left out, or what is damaged there, is sent again.
    """
    from pipelines.versioning.repository import Repository

    repository = Repository.open()
    with progress_bar("Pushing") as progress:
        repository.push(progress)
    console.print("push: the remote has every object of dvc.lock")


@app.command()
def add(cohort: Annotated[str, typer.Argument(help="Cohort below raw/")]) -> None:
    """**Add** an imported cohort to the version, or bring it up to date there; then commit the file that is named."""
    from pipelines.versioning.repository import Repository

    repository = Repository.open()
    with progress_bar("Hashing") as progress:
        progress(0, 1, cohort)
        file = repository.keep(cohort)
        progress(1, 1, cohort)
    name = file.relative_to(repository.root)
    console.print(f"add: raw/{cohort} is in {name}; 'git add {name}' and commit it", highlight=False)


@app.command()
def save(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages or outputs of dvc.yaml [default: all]")] = None,
) -> None:
    """**Save** outputs that were changed in place into dvc.lock without running their stages, such as by a promotion.

    A stage whose inputs changed too must run: it is left out, or refused where it is named.
    """
    from pipelines.versioning.repository import Repository

    with progress_bar("Saving") as progress:
        progress(0, 1, "")
        saved = Repository.open().save(stages or ())
        progress(1, 1, "")
    told = f"dvc.lock holds the outputs of {', '.join(saved)} as they are; commit it" if saved else "nothing to save"
    console.print(f"save: {told}", highlight=False)


@app.command()
def tag(model: Annotated[str, typer.Argument(help="Registered model: NAME, NAME/latest or NAME/VERSION")]) -> None:
    """**Tag** the last commit as the one that made a model, so that it can be compared with and made again."""
    from pipelines.versioning.models import tag_model
    from pipelines.versioning.repository import Repository

    repository = Repository.open()
    console.print(f"tag: {tag_model(repository, model)} is {repository.revision()[:12]}", highlight=False)


@app.command()
def rebuild(
    model: Annotated[
        str,
        typer.Argument(help="Registered model: NAME or NAME/VERSION; or a network's key, such as models/segmentation"),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Revision whose network is meant [default: the last commit]")
    ] = None,
) -> None:
    """**Rebuild** a past model from its revision's code, parameters and data, and compare it with the one kept.

    A model of tables must be the same byte for byte, a network within a tolerance. The exit code is 4 where it is not.

    Example: `gliaflow data rebuild grading/v0001-0123456789ab`
    """
    from pipelines.versioning.networks import OUTPUT_TOLERANCE, WEIGHT_TOLERANCE
    from pipelines.versioning.rebuild import rebuild_model
    from pipelines.versioning.repository import Repository

    with progress_bar("Rebuilding") as progress:
        found = rebuild_model(Repository.open(), model, revision=revision, progress=progress)
    name = found.model if found.version is None else f"{found.model}/{found.version}"
    title = f"{name}, made again at {found.revision[:12]} by the stage {found.stage}"
    if not found.differences:
        out.print(f"{title}: same bytes", highlight=False, soft_wrap=True)
        return
    if found.network is not None:
        apart = (
            f"weights differ by up to {found.network.weights:.2g} of their array's root mean square "
            f"(tolerance {WEIGHT_TOLERANCE:g}), outputs by up to {found.network.outputs:.2g} ({OUTPUT_TOLERANCE:g})"
        )
        verdict = "same network" if found.is_same else "another network"
        out.print(f"{title}: {verdict}; {apart}", highlight=False, soft_wrap=True)
    else:
        out.print(f"{title}: not the same", highlight=False, soft_wrap=True)
    for line in found.differences:
        out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if not found.is_same:
        raise typer.Exit(EXIT_DIFFERS)
