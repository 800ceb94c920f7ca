"""Where an imaging network looked in each patient of a cohort, and what lies there in both risk groups."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pandas as pd
from prefect import flow

from pipelines.flows.fanout import Progress, case_runner, treat_cases
from pipelines.ledger import usable_cases
from pipelines.outcomes import Outcomes
from pipelines.reporting.highlighted import compare_highlighted, draw_highlighted
from services.model_serving.contracts import ExplainRequest, Explanation
from services.model_serving.deep_features import unseen_network
from services.model_serving.networks.specification import ImagingSpec
from services.shared.cohort import read_cohort
from services.shared.errors import NotFound
from services.shared.storage import Storage, open_storage
from services.shared.trained_network import read_card

UNITS = {"FA": "", "MD": "µm²/ms", "AD": "µm²/ms", "RD": "µm²/ms"}


@dataclass(frozen=True)
class HighlightedGroups:
    """What became of each case, and the comparison of both groups with where it stands."""

    outcomes: Outcomes
    table: pd.DataFrame
    table_key: str
    figure_key: str


@flow(name="explain", task_runner=case_runner(), validate_parameters=False)
def explain_cohort(cohort: str, model: str, progress: Progress | None = None) -> HighlightedGroups:
    """Explain a cross-validated network in every patient that it was judged on, each by the fold that never saw him.

    Groups are what that fold said: risk above the mean of its training patients, or the positive class.

    Parameters
    ----------
    cohort
        Name of the cohort that the network was trained on.
    model
        Folder of the network, as models/imaging/diffusion-survival.
    progress
        Called with the number of finished cases, their total, and the label of the last one.

    Raises
    ------
    NotFound
        Where the network was not cross-validated.
    """
    storage = open_storage()
    spec = read_card(storage, model, ImagingSpec).spec
    group = predicted_groups(storage, model, spec)
    cases = [case for case in usable_cases(storage, read_cohort(storage, cohort), steps=()) if case.id in group.index]
    judges = {case: unseen_network(storage, model, case) for case in cases}
    outcomes = treat_cases(
        storage,
        sorted(cases, key=judges.__getitem__),  # one network after another: each is loaded once
        step="explain",
        call=("model_serving", "explain"),
        request=lambda case: ExplainRequest(case=case, model=judges[case]),
        progress=progress,
    )
    found = [Explanation.model_validate(outcome.result) for outcome in outcomes if outcome.result]
    names = [str(name) for name in (*spec.sequences, *spec.maps)]
    means = pd.DataFrame([e.means for e in found], index=[e.case.id for e in found], columns=names, dtype=float)
    group = group.reindex(means.index)
    groups = ("low risk", "high risk") if spec.task == "survival" else spec.classes
    table = compare_highlighted(means, group, groups=groups)
    folder = f"derivatives/explanations/{cohort}/{model}"
    table_key, figure_key = f"{folder}/by_group.csv", f"{folder}/by_group.png"
    storage.write_text(table_key, table.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    units = [UNITS.get(name, "prepared intensity") for name in names]
    storage.write_bytes(figure_key, draw_highlighted(table, means, group, units=units))
    return HighlightedGroups(outcomes, table, table_key, figure_key)


def predicted_groups(storage: Storage, model: str, spec: ImagingSpec) -> pd.Series:
    """Return the group of each patient by id, as said by the network that never saw him.

    Raises
    ------
    NotFound
        Where the network was not cross-validated.
    """
    key = f"{model}/cross_validation.csv"
    if not storage.exists(key):
        raise NotFound(
            "the network was not cross-validated",
            field=key,
            got=model,
            remedy="train it with folds: 'folds' in the section train_imaging",
        )
    said = pd.read_csv(io.StringIO(storage.read_text(key)), dtype={"case_id": str}).set_index("case_id")
    if spec.task == "survival":
        return (said["risk_score"] >= 0).map({False: "low risk", True: "high risk"})
    positive = said["probability"] >= said["threshold"]
    return positive.map({False: spec.classes[0], True: spec.classes[1]})
