"""What promotion asks of a place that serves models, be it this machine or a cluster."""

from __future__ import annotations

from typing import Protocol

from services.model_serving.registry import Registered
from services.shared.contracts import Contract
from services.shared.errors import GliaflowError


class RolloutFailed(GliaflowError):
    """A model version could not be brought to service; what served before serves again, or the error says otherwise."""

    status = 502
    title = "Rollout failed"


class ServingFigures(Contract):
    """How a place served over a while."""

    requests: int
    errors: int
    latency_p95_s: float | None

    @property
    def error_rate(self) -> float:
        """Errors per request; 0 where nobody asked."""
        return self.errors / self.requests if self.requests else 0.0


class Rollout(Protocol):
    """A place that serves one version of a model at a time."""

    def current(self) -> str | None:
        """Return the version that is served, or None where none was ever rolled out."""

    def deploy(self, entry: Registered) -> None:
        """Ask for a version to be served; returns at once. The same version again changes nothing."""

    def wait(self, *, seconds: float) -> None:
        """Wait until the version asked for is served everywhere.

        Raises
        ------
        RolloutFailed
            Where it is not within the time, with the reason that the place gives.
        """

    def observe(self, *, seconds: float) -> ServingFigures:
        """Return requests, errors and latency over the next seconds."""

    def undo(self) -> None:
        """Serve again what was served before the last :meth:`deploy`, and wait for it."""
