"""A light look, at intervals, whether there is a reason to retrain: new labelled cases, or features that drifted."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.deployments import run_deployment

from pipelines.flows.retraining_steps import look, workspace_of
from pipelines.parameters import read_section
from pipelines.promotion.findings import Checked
from pipelines.promotion.parameters import RetrainParameters
from pipelines.versioning.repository import Repository
from services.model_serving import registry
from services.shared.contracts import Contract

RETRAIN = "retrain/gliaflow"
"""Flow and deployment that a reason starts."""


class Reason(Contract):
    """Why to retrain; ``text`` is empty where there is no reason."""

    text: str
    started: bool = False


def reason_to_retrain(found: Checked, parameters: RetrainParameters, *, new_cases: bool, drift: bool) -> str:
    """Return why to retrain, or nothing.

    Drift alone is a reason only together with new patients since the last retraining, so that drift that a retraining
    has seen does not start the next one.

    Parameters
    ----------
    new_cases, drift
        Which reasons count.
    """
    reasons = []
    if new_cases and found.new >= parameters.min_new_cases:
        reasons.append(f"{found.new} new labelled cases")
    if drift and found.drift.drifted and found.new > 0:
        moved = found.drift.drifted
        reasons.append(f"drift of {len(moved)} features, {moved[0]} foremost")
    return " and ".join(reasons)


@flow(name="watch", validate_parameters=False)
def watch_for_reasons(
    params: str | None = None,
    folder: str | None = None,
    *,
    new_cases: bool = True,
    min_new_cases: int | None = None,
    drift: bool = True,
    start: bool = True,
) -> Reason:
    """Look for new labelled cases and drift, and start the retraining where there is a reason.

    Parameters
    ----------
    params, folder
        As of :func:`pipelines.flows.retrain.retrain`.
    new_cases, drift
        Which reasons count.
    min_new_cases
        How many new labelled cases are a reason; None takes the parameter file's.
    start
        Whether the deployment of ``retrain`` is started; otherwise the reason is only told.
    """
    repository = Repository.open(None if folder is None else Path(folder))
    path = Path(params) if params is not None else repository.root / "params.yaml"
    parameters = read_section(path, "retrain", RetrainParameters)
    if min_new_cases is not None:
        parameters = parameters.model_copy(update={"min_new_cases": min_new_cases})
    storage = workspace_of(repository)
    champion = registry.resolve(storage, f"{parameters.model}/{registry.CHAMPION}")
    found = look(storage, repository, parameters, champion, path)
    text = reason_to_retrain(found, parameters, new_cases=new_cases, drift=drift)
    if not text or not start:
        return Reason(text=text)
    run_deployment(
        RETRAIN,
        parameters={"params": params, "folder": folder, "trigger": text},
        timeout=0,
        as_subflow=False,
        # The same state of the data starts one run, however often it is looked at.
        idempotency_key=f"{champion.model}/{champion.version}: {found.labelled} labelled, {text}",
    )
    return Reason(text=text, started=True)
