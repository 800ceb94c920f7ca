"""The flow of patients: who enters, who leaves after which step and why; reasons and counts, never a name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from pipelines.ledger import STEPS
from pipelines.reporting.figures import Stage, draw_flow
from pipelines.reporting.picture import Picture
from pipelines.reporting.sources import CohortState, StudyOutputs
from pipelines.reporting.tables import Table

Branch = tuple[str, int, tuple[tuple[str, int], ...]]


def draw_patient_flow(state: CohortState, outputs: Sequence[StudyOutputs]) -> Picture:
    """Draw the way of a cohort's patients into its studies."""
    return draw_flow(_stages(state, outputs), [branch for study in outputs for branch in _branches(state, study)])


def left_out_table(state: CohortState, outputs: Sequence[StudyOutputs]) -> Table:
    """Return every reason for which a release's rows or a study's patients were left out, with counts."""
    rows = [("import", reason, str(count)) for reason, count in _import_reasons(state)]
    for study in outputs:
        for label, _, reasons in _branches(state, study):
            rows += [(f"study {label}", reason, str(count)) for reason, count in reasons]
    return Table("Left out, by step and reason", ("Step", "Reason", "Count"), tuple(rows), numeric=(2,))


def excluded_reasons(flow: Mapping[str, object], *, hidden: frozenset[str] = frozenset()) -> list[tuple[str, int]]:
    """Return why a study left patients out, the most frequent reason first, without naming anybody.

    Parameters
    ----------
    flow
        A study's ``flow.json``.
    hidden
        Patients whom an earlier step counts already.
    """
    excluded = flow.get("patients_excluded")
    named = excluded.items() if isinstance(excluded, dict) else ()
    reasons = Counter(anonymous(str(reason), str(label)) for label, reason in named if label not in hidden)
    unlabelled = flow.get("patients_without_outcome")
    if isinstance(unlabelled, list) and unlabelled:
        reasons["outcome is missing"] += len(unlabelled)
    return _ranked(reasons)


def anonymous(reason: str, label: str) -> str:
    """Return a reason without the patient that it may name."""
    if not any(character.isdigit() for character in label):
        return reason
    return re.sub(rf"(?<!\w)(?:sub-)?{re.escape(label)}(?!\w)", "…", reason)


def _ranked(reasons: Counter[str]) -> list[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def _import_reasons(state: CohortState) -> list[tuple[str, int]]:
    if state.release is None:
        return []
    return _ranked(Counter(anonymous(reason, label) for label, reason in state.release.dropped.items()))


def _branches(state: CohortState, study: StudyOutputs) -> list[Branch]:
    """Return one branch a cohort that a study learns from or is tried on."""
    hidden = frozenset(label for dropped in state.quarantine.values() for label in dropped)
    branches: list[Branch] = [(study.name, study.patients, tuple(excluded_reasons(study.flow, hidden=hidden)))]
    others = study.flow.get("validation")
    for name, flow in sorted(others.items()) if isinstance(others, dict) else ():
        if not isinstance(flow, dict):
            continue
        patients = int(study.metrics.get(f"validation_{name}_patients") or flow.get("patients_studied") or 0)
        branches.append((f"{study.name}, tried on {name}", patients, tuple(excluded_reasons(flow))))
    return branches


def _stages(state: CohortState, outputs: Sequence[StudyOutputs]) -> list[Stage]:
    if state.everyone is None or state.members is None:
        given = [study.flow.get("patients_given") for study in outputs]
        return [Stage("In the table of features", max((n for n in given if isinstance(n, int)), default=0))]
    everyone = len(state.everyone.cases)
    stages = []
    if state.release is not None:
        held = everyone + len(state.release.dropped)
        stages.append(Stage("In the release", held, tuple(_import_reasons(state))))
    if not state.imaged:
        return [*stages, Stage("In the cohort", everyone)]
    members = {case.id for case in state.members.cases}
    others = everyone - len(members)
    trainers = (("train the segmentation network", others),) if others else ()
    stages.append(Stage("In the clinical table", everyone, trainers))
    remaining, reasons_left = set(members), Counter[str]()
    for step in STEPS:
        for label, problem in sorted(state.quarantine[step].items()):
            if label in remaining:
                reasons_left[f"{step}: {problem.get('detail', 'unknown')}"] += 1
                remaining.discard(label)
    extracted = remaining & set(state.manifests["extract"])
    if len(remaining) > len(extracted):
        reasons_left["not treated by every step yet"] += len(remaining) - len(extracted)
    stages.append(Stage("For the studies", len(members), tuple(reasons_left.most_common())))
    stages.append(Stage("With features", len(extracted)))
    return stages
