"""Which stages of dvc.yaml would run, and why."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from pipelines.versioning.tracked import makers_of, name_of, read_stages
from services.shared.errors import NotFound

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage as DvcStage

OUTPUT = "output "
"""How a reason begins that is of an output; any other is of what the stage reads, or of its command."""


@dataclass(frozen=True)
class StagePlan:
    """A stage that would run.

    Parameters
    ----------
    stage
        Its name in dvc.yaml.
    reasons
        What changed: dependencies, parameters, outputs, the command. Empty where nothing of its own has.
    follows
        Stages before it that would run; it runs too if they change what it reads.
    """

    stage: str
    reasons: tuple[str, ...]
    follows: tuple[str, ...]

    @property
    def is_certain(self) -> bool:
        """Whether it runs whatever the stages before it make."""
        return bool(self.reasons)


def plan_stages(repo: Repo, targets: tuple[str, ...]) -> tuple[StagePlan, ...]:
    """Return the stages that would run, in order; see :meth:`Repository.plan`."""
    from dvc.repo.reproduce import get_active_graph, plan_repro

    planned: dict[str, StagePlan] = {}
    graph = get_active_graph(repo.index.graph)
    for stage in plan_repro(graph, matching_stages(repo, targets) if targets else None):
        name = name_of(repo, stage)
        reasons = reasons_to_run(stage)
        follows = tuple(sorted({name_of(repo, before) for before in graph.successors(stage)} & planned.keys()))
        if reasons or follows:
            planned[name] = StagePlan(name, reasons, follows)
    return tuple(planned.values())


def matching_stages(repo: Repo, targets: tuple[str, ...]) -> list[DvcStage]:
    """Return the stages that have a target's name, or make a path in or around it; all without targets."""
    every = {name_of(repo, stage): stage for stage in repo.index.stages}
    if not targets:
        return list(every.values())
    known = read_stages(repo)
    found: dict[str, DvcStage] = {}
    for target in targets:
        names = [target] if target in every else [stage.name for stage in makers_of(known, target)]
        if not names:
            raise NotFound(
                "there is no such stage", field="target", expected=f"one of {', '.join(sorted(every))}", got=target
            )
        found |= {name: every[name] for name in names}
    return list(found.values())


def reasons_to_run(stage: DvcStage) -> tuple[str, ...]:
    """Return what DVC's status of a stage says, a line each."""
    if stage.cmd and not any(out.hash_info for out in stage.outs):
        return ("it has never run",)
    lines: list[str] = []
    for entry in chain.from_iterable(stage.status().values()):
        if isinstance(entry, str):
            lines.append(entry)
            continue
        for what, changes in entry.items():
            for path, change in changes.items():
                if isinstance(change, dict):  # parameters, by name
                    lines += [f"parameter {name} of {path}: {how}" for name, how in change.items()]
                else:
                    lines.append(f"{OUTPUT if 'outs' in what else 'dependency '}{path}: {change}")
    return tuple(lines)
