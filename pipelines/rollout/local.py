"""Services over one storage as a place that serves: what answers for a model's bare name is a file in the registry.

Every running model_serving reads that file at each request, so a version is in service as soon as it is named there.
Whether it really serves is found out by asking it: a prediction whose answer is known.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import httpx

from pipelines.clients import connect
from pipelines.rollout.contract import RolloutFailed, ServingFigures
from pipelines.rollout.metrics import Sample, figures, increase, read_sample
from services.model_serving import registry
from services.model_serving.contracts import Prediction, PredictRequest
from services.model_serving.predictor import predict
from services.model_serving.registry import Registered
from services.shared.errors import GliaflowError, ServiceFault, Unavailable
from services.shared.settings import settings
from services.shared.storage import Storage

PROBES = 3
_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))
_TOLERANCE = 1e-9


class LocalRollout:
    """Brings versions of one model to the services of a storage; see :class:`pipelines.rollout.contract.Rollout`.

    Parameters
    ----------
    storage
        Whose registry the services read.
    model
        Name of the model.
    url
        Where model_serving listens; ``GLIAFLOW_MODEL_SERVING_URL`` where None, and this process where that is not set
        either.
    interval_s
        Seconds between two predictions while the place is watched, beside those that others ask for.
    """

    def __init__(self, storage: Storage, model: str, *, url: str | None = None, interval_s: float = 0.5) -> None:
        self._storage, self._model = storage, model
        self._url = url or settings().service_url("model_serving")
        self._interval_s = interval_s

    def current(self) -> str | None:
        """Return the version that answers for the model's bare name."""
        return registry.serving(self._storage, self._model)

    def deploy(self, entry: Registered) -> None:
        """Let a version answer for the model's bare name, on trial until it is promoted."""
        if self.current() != entry.version:
            registry.put_on_trial(self._storage, entry)

    def wait(self, *, seconds: float) -> None:
        """Wait until predictions come from the version asked for, with the numbers that its package gives.

        Raises
        ------
        RolloutFailed
            Where they do not within the time.
        """
        deadline = time.monotonic() + seconds
        answered, last = 0, ""
        while answered < PROBES:
            try:
                self._probe()
                answered += 1
            except GliaflowError as error:
                answered, last = 0, str(error)
                if time.monotonic() > deadline:
                    raise RolloutFailed(
                        "the version does not answer as it should",
                        step="roll out",
                        field=self._url or "model_serving in this process",
                        expected=f"{PROBES} predictions of {self._model}/{self.current()} within {seconds:g} s",
                        got=last,
                        remedy="what served before serves on; read the service's log, and roll out again",
                    ) from error
                time.sleep(min(1.0, self._interval_s))

    def observe(self, *, seconds: float) -> ServingFigures:
        """Return requests, errors and latency over the next seconds, by the service's own counters where it has a URL.

        Predictions of a patient at the training medians are asked for meanwhile, so that there is something to see.
        """
        before = self._sample()
        own = self._ask_for(seconds)
        after = self._sample()
        return figures([own if before is None or after is None else increase(before, after)])

    def undo(self) -> None:
        """Let the champion answer again."""
        registry.end_trial(self._storage, self._model)

    def _request(self) -> tuple[PredictRequest, Prediction]:
        """Return what is asked, and what the package in storage answers."""
        entry = registry.resolve(self._storage, self._model)
        package = registry.load(self._storage, entry)
        features = dict(zip(package.model.columns, package.model.medians.tolist(), strict=True))
        known = predict(package, features, model=entry.model, version=entry.version, case=None)
        return PredictRequest(model=self._model, features=features), known

    def _probe(self) -> None:
        request, known = self._request()
        got = connect("model_serving", url=self._url).predict(request)
        differs = [
            f"{name} {there}, expected {here}"
            for name, here, there in (
                ("version", known.version, got.version),
                ("probability", known.probability, got.probability),
                ("risk score", known.risk_score, got.risk_score),
            )
            if not _same(here, there)
        ]
        if differs:
            raise ServiceFault("the service answers for another model", step="roll out", got="; ".join(differs))

    def _ask_for(self, seconds: float) -> Sample:
        requests: Counter[str] = Counter()
        buckets: Counter[float] = Counter()
        request, _ = self._request()
        service = connect("model_serving", url=self._url)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            began = time.perf_counter()
            requests[_status(lambda: service.predict(request))] += 1
            taken = time.perf_counter() - began
            for bound in _BOUNDS_S:
                buckets[bound] += int(taken <= bound)
            time.sleep(max(0.0, min(self._interval_s, deadline - time.monotonic())))
        return Sample(requests, buckets)

    def _sample(self) -> Sample | None:
        if self._url is None:
            return None
        try:
            reply = httpx.get(f"{self._url.rstrip('/')}/metrics", timeout=10, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(
                "the service does not give its metrics",
                step="watch",
                field=f"{self._url}/metrics",
                got=type(error).__name__,
                remedy="see whether it runs, and whether GLIAFLOW_MODEL_SERVING_URL names it",
            ) from error
        return read_sample(reply.text)


def _same(here: float | str | None, there: float | str | None) -> bool:
    if isinstance(here, float) and isinstance(there, float):
        return abs(here - there) <= _TOLERANCE * max(1.0, abs(here))
    return here == there


def _status(call: Callable[[], object]) -> str:
    try:
        call()
    except GliaflowError:  # a probe is never the caller's fault
        return "500"
    return "200"
