"""Promote a version by hand, or go back to the champion before: the same trial as after a retraining."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from prefect import flow

from pipelines.flows.version_inputs import held_out_patients
from pipelines.promotion.comparison import compare_versions
from pipelines.promotion.findings import Watched
from pipelines.promotion.gate import Decision, judge_challenger
from pipelines.promotion.lock import hold_lock, utc_now
from pipelines.promotion.parameters import RetrainParameters, ServingThresholds
from pipelines.rollout.contract import Rollout, RolloutFailed
from services.model_serving import registry
from services.model_serving.registry import Registered
from services.shared.errors import GliaflowError, InvalidValue, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage, open_storage

Say = Callable[[str], None]


class NotPromoted(GliaflowError):
    """A version did not pass the gate."""

    status = 409
    title = "Not promoted"


def place_of(storage: Storage, model: str, parameters: RetrainParameters) -> Rollout:
    """Return where a model is served: as the parameters say, else on the cluster whose Deployment the settings name."""
    named = "kubernetes_deployment" in settings().model_fields_set
    if (parameters.place or ("kubernetes" if named else "local")) == "kubernetes":
        from pipelines.rollout.kubernetes import KubernetesRollout

        return KubernetesRollout(model)
    from pipelines.rollout.local import LocalRollout

    return LocalRollout(storage, model)


def bring_to_service(place: Rollout, entry: Registered, thresholds: ServingThresholds) -> None:
    """Roll a version out; where it does not come to service, what served before serves again.

    Raises
    ------
    RolloutFailed
        With the reason.
    """
    place.deploy(entry)
    try:
        place.wait(seconds=thresholds.ready_s)
    except RolloutFailed:
        place.undo()
        raise


def watch(place: Rollout, thresholds: ServingThresholds) -> Watched:
    """Watch a version on trial; where its figures speak against it, or are not to be had, they say so."""
    figures = place.observe(seconds=thresholds.watch_s)
    return Watched(figures=figures, faults=thresholds.faults(figures))


def try_out(place: Rollout, entry: Registered, thresholds: ServingThresholds, say: Say) -> Watched:
    """Bring a version to service and watch it; where it does not serve well, what served before serves again.

    Raises
    ------
    RolloutFailed
        Where it is not served, or not well enough.
    """
    say(f"rolling out {entry.model}/{entry.version}")
    bring_to_service(place, entry, thresholds)
    say(f"watching it for {thresholds.watch_s:g} s")
    try:
        found = watch(place, thresholds)
    except GliaflowError:
        place.undo()
        raise
    if found.faults:
        place.undo()
        raise serves_badly(entry, found)
    return found


def serves_badly(entry: Registered, found: Watched) -> RolloutFailed:
    """Return what is wrong with a version that was watched."""
    return RolloutFailed(
        "the version does not serve well enough; what served before serves again",
        step="watch",
        field=f"{entry.model}/{entry.version}",
        got="; ".join(found.faults),
        remedy="read the service's log; 'retrain.serving' in params.yaml holds the limits",
    )


def compare_with_champion(storage: Storage, entry: Registered, parameters: RetrainParameters) -> Decision | None:
    """Return the gate's decision on a version against the champion; None where it is the champion itself."""
    name = registry.champion(storage, entry.model)
    if name == entry.version or name is None:
        return None
    champion = registry.resolve(storage, f"{entry.model}/{name}")
    patients = held_out_patients(storage, champion, entry, horizon_months=parameters.horizon_months)
    return judge_challenger(
        compare_versions(patients, champion=name, challenger=entry.version),
        registry.load(storage, champion).description,
        registry.load(storage, entry).description,
        thresholds=parameters.gate,
    )


@flow(name="promote", validate_parameters=False)
def promote_version(
    reference: str,
    parameters: RetrainParameters,
    *,
    reason: str = "",
    compared: bool = True,
    at: datetime | None = None,
    say: Say | None = None,
) -> tuple[Registered, Decision | None]:
    """Make a version champion: compare it on held-out patients, try it out, promote it.

    Parameters
    ----------
    reference
        ``MODEL/VERSION``, ``MODEL/latest`` or ``MODEL/challenger``.
    reason
        Why, for the history; needed where the version is not compared.
    compared
        Whether it must pass the gate against the champion.
    at
        The moment that the history states; now where None.
    say
        Called with what is being done.

    Raises
    ------
    NotPromoted
        Where the gate refuses it.
    RolloutFailed
        Where it does not come to service or serves badly; the champion serves again.
    Locked
        Where another promotion, rollback or retraining runs.
    """
    storage, say = open_storage(), say or _silent
    entry = registry.resolve(storage, reference)
    if not compared and not reason.strip():
        raise InvalidValue(
            "a promotion without a comparison needs a reason",
            step="promote",
            field="--reason",
            remedy="say for the history why this version may serve",
        )
    with hold_lock(storage, f"promotion of {entry.model}/{entry.version}") as lock:
        decision = None
        if compared:
            say("comparing it with the champion on held-out patients")
            decision = compare_with_champion(storage, entry, parameters)
            if decision is not None and not decision.promote:
                raise NotPromoted(
                    "the version did not pass the gate; the champion stays",
                    step="promote",
                    field=f"{entry.model}/{entry.version}",
                    got=decision.reason,
                    remedy="'retrain.gate' in params.yaml holds the thresholds",
                )
        lock.confirm()
        try_out(place_of(storage, entry.model, parameters), entry, parameters.serving, say)
        lock.confirm()
        told = reason.strip() or (decision.reason if decision else "champion already")
        registry.promote(storage, entry, reason=told, at=at or utc_now())
    return entry, decision


@flow(name="rollback", validate_parameters=False)
def roll_back(
    model: str,
    parameters: RetrainParameters,
    *,
    reason: str = "rolled back by hand",
    at: datetime | None = None,
    say: Say | None = None,
) -> Registered:
    """Make the champion before the present one champion again, once it serves.

    Raises
    ------
    NotFound
        Where there is no such model, or no earlier champion.
    RolloutFailed
        Where the earlier champion does not come to service; nothing changes then.
    Locked
        Where another promotion, rollback or retraining runs.
    """
    storage, say = open_storage(), say or _silent
    if registry.champion(storage, model) is None:
        raise NotFound(
            "there is no such model",
            field="model",
            expected=", ".join(registry.list_models(storage)) or "a registered model; there is none",
            got=model,
        )
    with hold_lock(storage, f"rollback of {model}") as lock:
        entry = registry.previous_champion(storage, model)
        say(f"rolling out {entry.model}/{entry.version}")
        bring_to_service(place_of(storage, model, parameters), entry, parameters.serving)
        lock.confirm()
        return registry.rollback(storage, model, reason=reason, at=at or utc_now())


def _silent(_: str) -> None:
    """Say nothing."""
