"""Commands that run steps on a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.app import console

PROMOTING = frozenset({"promote", "rollback", "retrain"})
"""Steps that roll a model out, and so need the rights of the chart's promoter."""


def submit(
    arguments: Annotated[
        list[str], typer.Argument(metavar="STEP …", help="A step and its options, as after `gliaflow` on this machine")
    ],
    gpus: Annotated[int, typer.Option(min=0, help="GPUs, or MIG slices where the chart names one")] = 0,
    cpu: Annotated[str | None, typer.Option(help="CPUs, for example 4 or 500m [default: the chart's]")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory, for example 16Gi [default: the chart's]")] = None,
    node: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE that a node must have; may be repeated")] = None,
    key: Annotated[str | None, typer.Option(help="The same key again waits for the same job")] = None,
    pending: Annotated[float, typer.Option(min=1, help="Minutes that it may stay Pending")] = 30.0,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Wait until it has ended")] = True,  # noqa: FBT002
) -> None:
    """Run a step as a **job of a cluster**, through Prefect's work pool: `gliaflow submit --gpus 1 train --cohort C`.

    Options of `submit` come before the step. The job reads and writes the cluster's storage. While it is Pending, the
    reason is shown (no GPU node, a quota, an image that cannot be pulled) where a kubeconfig lets it be read; a job
    that does not start in time is taken back. A step that rolls models out runs as the chart's promoter. Needs
    PREFECT_API_URL.
    """
    from pipelines.flows import jobs

    spec = jobs.JobSpec(
        arguments=tuple(arguments),
        name=f"gliaflow-{arguments[0]}",
        gpus=gpus,
        cpu=cpu,
        memory=memory,
        node_selector=_labels(node or []),
        role="promoter" if arguments[0] in PROMOTING else "job",
    )
    handle = jobs.submit(spec, key=key)
    console.print(f"submit: {spec.name} is flow run {handle.flow_run}", highlight=False)
    if not wait:
        return
    with console.status(spec.name):
        result = jobs.wait(handle, pending_seconds=pending * 60, progress=_say)
    console.print(f"submit: {result.outcome} after {result.seconds:.0f} s", highlight=False)
    if not result.well:
        console.print(result.message, highlight=False, markup=False)
        raise typer.Exit(1)


def treat(key: Annotated[str, typer.Argument(help="Key of the chunk below the storage root")]) -> None:
    """**Treat** a chunk of cases that a flow on the runner `kubernetes` wrote; its jobs call this.

    The outcomes, quarantined cases with them, are written beside the chunk. The flow that waits keeps the ledger.
    """
    from pipelines.chunks import treat_chunk
    from services.shared.storage import open_storage

    outcomes = treat_chunk(open_storage(), key)
    bad = sum(outcome.problem is not None for outcome in outcomes)
    console.print(f"treat: {len(outcomes) - bad} done, {bad} quarantined")


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)


def _labels(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not LABEL=VALUE", param_hint="--node")
        found[name] = value
    return found
