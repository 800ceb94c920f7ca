"""A Deployment of model_serving as a place that serves: the version stands in its pods' environment.

One patch changes the version and keeps in an annotation what stood there before, so whoever comes after a crash can
go on or go back. The pods of a version are those whose environment names it; which ReplicaSet owns them does not
matter, and need not be readable.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from pipelines.cluster.connection import REQUEST_TIMEOUT_S, ChangedMeanwhile, Cluster, connect_cluster, explained
from pipelines.cluster.jobs import refusal_to_create
from pipelines.cluster.pods import Trouble, first_trouble
from pipelines.rollout.contract import RolloutFailed, ServingFigures
from pipelines.rollout.metrics import Sample, figures, increase, read_sample
from services.model_serving.registry import Registered
from services.shared.errors import GliaflowError, InvalidValue, Unavailable
from services.shared.settings import settings

PINS = "GLIAFLOW_MODEL_PINS"
CONTAINER = "service"
BEFORE = "gliaflow/served-before"
_PATCH = "application/strategic-merge-patch+json"
_TRIES = 10
_SCRAPE_S = 15.0

Progress = Callable[[str], None]
Pins = dict[str, str]


class KubernetesRollout:
    """Brings versions of one model to a Deployment; see :class:`pipelines.rollout.contract.Rollout`.

    Parameters
    ----------
    model
        Name of the model in the registry.
    cluster
        Where the Deployment is; the settings' cluster where None.
    deployment
        Its name; ``GLIAFLOW_KUBERNETES_DEPLOYMENT`` where None.
    undo_seconds
        How long the version before may take to serve again.
    poll_seconds
        How often the cluster is asked while waiting.
    progress
        Called with a sentence whenever something changed.
    """

    def __init__(
        self,
        model: str,
        *,
        cluster: Cluster | None = None,
        deployment: str | None = None,
        undo_seconds: float = 900.0,
        poll_seconds: float = 2.0,
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self.cluster = cluster or connect_cluster()
        self.deployment = deployment or settings().kubernetes_deployment
        self._undo_seconds = undo_seconds
        self._poll_seconds = poll_seconds
        self._progress = progress or (lambda _: None)
        self._said = ""

    def current(self) -> str | None:
        """Return the version that the pods are told to serve; None where they serve the champion."""
        return self._pins(self._read()).get(self.model)

    def deploy(self, entry: Registered) -> None:
        """Ask for a version to be served; returns at once. The same version again changes nothing.

        Raises
        ------
        InvalidValue
            Where the version is of another model.
        GliaflowError
            Where the cluster refuses; see :func:`pipelines.cluster.connection.explained`.
        """
        if entry.model != self.model:
            raise InvalidValue("the version is of another model", field="model", expected=self.model, got=entry.model)

        def change(found: client.V1Deployment) -> tuple[Pins, dict[str, Any]] | None:
            pins = self._pins(found)
            if pins.get(self.model) == entry.version:
                return None
            step = {"from": pins.get(self.model), "to": entry.version}
            return {**pins, self.model: entry.version}, {**self._before(found), self.model: step}

        if self._patch(change):
            self._say(f"{self._field}: {self.model} {entry.version} is asked for")

    def wait(self, *, seconds: float) -> None:
        """Wait until the version asked for is served by every pod.

        Where it is not, what served before is served again before the error is raised.

        Raises
        ------
        RolloutFailed
            Where it is not within the time, or cannot be: the image is not there, the container keeps crashing. The
            error names the Deployment, the pods' reason and what to do.
        """
        version = self.current()
        trouble = self._until_whole(seconds)
        if trouble is not None:
            raise self._taken_back(version, trouble)

    def observe(self, *, seconds: float) -> ServingFigures:
        """Return requests, errors and latency of the ready pods of the version over the next seconds.

        What a pod counted since its last reading is lost where it ends in between.

        Raises
        ------
        RolloutFailed
            Where no pod of the version is ready any more; what served before is then served again.
        """
        deadline = time.monotonic() + seconds
        last = {name: self._sample(name, address) for name, address in self._ready_pods()}
        added: list[Sample] = []
        while True:
            time.sleep(max(0.0, min(_SCRAPE_S, seconds / 4, deadline - time.monotonic())))
            pods = self._ready_pods()
            if not pods:
                trouble = self._trouble(self._read()) or Trouble(
                    reason="no pod is ready", message="every pod of the version is gone", remedy="read their logs"
                )
                raise self._taken_back(self.current(), trouble)
            for name, address in pods:
                sample = self._sample(name, address)
                if sample is not None:
                    added.append(increase(last.get(name) or Sample(), sample))
                    last[name] = sample
            if time.monotonic() >= deadline:
                return figures(added)

    def undo(self) -> None:
        """Serve again what was served before the last :meth:`deploy`, and wait for it.

        Raises
        ------
        RolloutFailed
            Where nothing was deployed, somebody else changed the version since, or what was before does not become
            ready either.
        """

        def change(found: client.V1Deployment) -> tuple[Pins, dict[str, Any]] | None:
            pins, before = self._pins(found), self._before(found)
            step = before.get(self.model)
            if step is None:
                raise self._failed(
                    "there is nothing to go back to", got="no version was rolled out", remedy="deploy a version first"
                )
            if pins.get(self.model) not in (step["from"], step["to"]):
                raise self._failed(
                    "somebody else changed the version since",
                    expected=step["to"],
                    got=pins.get(self.model),
                    remedy="deploy the version that is wanted",
                )
            if pins.get(self.model) == step["from"]:
                return None
            restored = {name: version for name, version in pins.items() if name != self.model}
            return restored | ({self.model: step["from"]} if step["from"] else {}), before

        if self._patch(change):
            self._say(f"{self._field}: back to {self.current() or 'the champion'}")
        trouble = self._until_whole(self._undo_seconds)
        if trouble is not None:
            raise self._failed(
                "what served before does not become ready either",
                got=trouble,
                remedy=f"{trouble.remedy}; helm rollback brings back the whole release",
            )

    # Reading

    @property
    def _field(self) -> str:
        return f"deployment {self.cluster.namespace}/{self.deployment}"

    def _read(self) -> client.V1Deployment:
        with explained(f"read {self._field}", field=self._field):
            return self.cluster.apps.read_namespaced_deployment(
                self.deployment, self.cluster.namespace, _request_timeout=REQUEST_TIMEOUT_S
            )

    def _pins(self, found: client.V1Deployment | client.V1Pod) -> Pins:
        spec = found.spec.template.spec if isinstance(found, client.V1Deployment) else found.spec
        for container in spec.containers:
            for variable in container.env or []:
                if container.name == CONTAINER and variable.name == PINS:
                    return dict(self._json(variable.value or "{}", PINS))
        return {}

    def _before(self, found: client.V1Deployment) -> dict[str, Any]:
        return dict(self._json((found.metadata.annotations or {}).get(BEFORE, "{}"), BEFORE))

    def _json(self, text: str, name: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._failed(
                f"{name} of the Deployment was edited by hand", expected="JSON", got=text, remedy="remove it"
            ) from error

    def _pods(self) -> list[client.V1Pod]:
        """Return the pods that are told to serve what the Deployment now asks for."""
        found = self._read()
        labels = ",".join(f"{name}={value}" for name, value in sorted(found.spec.selector.match_labels.items()))
        with explained(f"list the pods of {self._field}", field=self._field):
            pods = self.cluster.core.list_namespaced_pod(
                self.cluster.namespace, label_selector=labels, _request_timeout=REQUEST_TIMEOUT_S
            )
        wanted = self._pins(found)
        return [pod for pod in pods.items if self._pins(pod) == wanted and not pod.metadata.deletion_timestamp]

    def _ready_pods(self) -> list[tuple[str, str]]:
        return [
            (str(pod.metadata.name), str(pod.status.pod_ip))
            for pod in self._pods()
            if any(entry.type == "Ready" and entry.status == "True" for entry in pod.status.conditions or [])
        ]

    def _sample(self, name: str, address: str) -> Sample | None:
        """Return the counters of one pod; None where it does not answer, as one that is ending."""
        try:
            return read_sample(self._metrics(name, address))
        except (OSError, ApiException, HTTPError) as error:
            self._say(f"pod {name} does not tell its figures: {error}")
            return None

    def _metrics(self, name: str, address: str) -> str:
        if not self.cluster.inside:
            # The addresses of pods lead nowhere out here: the API server passes the question on.
            page = self.cluster.core.connect_get_namespaced_pod_proxy_with_path(
                name, self.cluster.namespace, "metrics", _request_timeout=REQUEST_TIMEOUT_S
            )
            return str(page)
        port = next(entry.container_port for entry in self._container().ports if entry.name == "http")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{address}:{port}/metrics", timeout=REQUEST_TIMEOUT_S) as reply:
            return str(reply.read().decode())

    def _container(self) -> client.V1Container:
        return next(entry for entry in self._read().spec.template.spec.containers if entry.name == CONTAINER)

    # Changing

    def _patch(self, change: Callable[[client.V1Deployment], tuple[Pins, dict[str, Any]] | None]) -> bool:
        """Write new pins on what was read, and read again where somebody else was faster."""
        for attempt in range(_TRIES):
            found = self._read()
            made = change(found)
            if made is None:
                return False
            pins, before = ({name: entry[name] for name in sorted(entry)} for entry in made)
            variable = {"name": PINS, "value": json.dumps(pins)}
            body = {
                "metadata": {
                    "resourceVersion": found.metadata.resource_version,
                    "annotations": {BEFORE: json.dumps(before)},
                },
                "spec": {"template": {"spec": {"containers": [{"name": CONTAINER, "env": [variable]}]}}},
            }
            try:
                with explained(f"change {self._field}", field=self._field):
                    self.cluster.apps.patch_namespaced_deployment(
                        self.deployment,
                        self.cluster.namespace,
                        body,
                        _content_type=_PATCH,
                        _request_timeout=REQUEST_TIMEOUT_S,
                    )
                return True
            except ChangedMeanwhile as error:
                self._say(f"{self._field} was changed by somebody else, read again: {error.got}")
                time.sleep(0.05 * (attempt + 1))
        raise Unavailable(
            "somebody else keeps changing the Deployment",
            field=self._field,
            expected=f"a quiet moment within {_TRIES} tries",
            remedy="look who writes it, an autoscaler or a controller, and try again",
        )

    # Waiting

    def _until_whole(self, seconds: float) -> Trouble | None:
        """Wait until every pod serves what is asked for; return why they do not."""
        deadline = time.monotonic() + seconds
        trouble: Trouble | None = None
        while True:
            try:
                found = self._read()
                missing = _missing(found)
                if missing is None:
                    self._say(f"{self._field}: {found.status.ready_replicas or 0} pods serve")
                    return None
                trouble = self._trouble(found)
                self._say(f"{self._field}: {trouble or missing}")
            except Unavailable as error:
                # The API server may be away for a moment: pods go on without it.
                missing = str(error)
                self._say(missing)
            if trouble is not None and trouble.hopeless:
                return trouble
            if time.monotonic() > deadline:
                return trouble or Trouble(
                    reason=f"not within {seconds:g} s",
                    message=missing,
                    remedy="give it more time, or read the pods' logs",
                )
            time.sleep(self._poll_seconds)

    def _trouble(self, found: client.V1Deployment) -> Trouble | None:
        for condition in found.status.conditions or []:
            if condition.type == "ReplicaFailure" and condition.status == "True":
                return refusal_to_create(condition.message or "")
        trouble = first_trouble(self.cluster, self._pods())
        late = any(entry.reason == "ProgressDeadlineExceeded" for entry in found.status.conditions or [])
        if not late or _seen(found) is False:
            return trouble
        if trouble is None:
            return Trouble(
                reason="ProgressDeadlineExceeded", message="no pod became ready", remedy="read its log", hopeless=True
            )
        return trouble.model_copy(update={"hopeless": True})

    def _taken_back(self, version: str | None, trouble: Trouble) -> RolloutFailed:
        """Go back, and return the error that says why and whether that went well."""
        try:
            self.undo()
            after = f"{self.current() or 'the champion'} serves again"
        except GliaflowError as error:
            after = f"going back failed as well: {error}"
        return self._failed(
            f"{self.model} {version} could not be brought to service; {after}",
            expected="every pod ready",
            got=trouble,
            remedy=trouble.remedy,
        )

    def _failed(
        self, detail: str, *, expected: object = None, got: object = None, remedy: str | None = None
    ) -> RolloutFailed:
        return RolloutFailed(detail, step="rollout", field=self._field, expected=expected, got=got, remedy=remedy)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._progress(text)


def _seen(found: client.V1Deployment) -> bool:
    """Return whether the controller has seen the last change, so that the status is about it."""
    return bool((found.status.observed_generation or 0) >= found.metadata.generation)


def _missing(found: client.V1Deployment) -> str | None:
    """Return what a rollout still waits for, as ``kubectl rollout status`` counts it; None where it is whole."""
    wanted, status = found.spec.replicas if found.spec.replicas is not None else 1, found.status
    updated, available = status.updated_replicas or 0, status.available_replicas or 0
    if not _seen(found):
        return "the cluster has not seen the change yet"
    if found.spec.paused:
        return "the Deployment is paused: kubectl rollout resume"
    if updated < wanted:
        return f"{updated} of {wanted} pods are of the new version"
    if (status.replicas or 0) > updated:
        return f"{(status.replicas or 0) - updated} pods of the old version still run"
    if available < updated:
        return f"{available} of {updated} pods are ready"
    return None
