"""What a retraining is told: the section ``retrain`` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.promotion.drift import DriftThresholds
from pipelines.promotion.gate import GateThresholds
from pipelines.rollout.contract import ServingFigures
from services.model_serving.package import ModelName
from services.shared.contracts import Contract


class ServingThresholds(Contract):
    """How a version on trial must serve."""

    watch_s: float = Field(60.0, gt=0, description="Seconds that a version on trial is watched")
    ready_s: float = Field(300.0, gt=0, description="Seconds within which it must serve everywhere")
    min_requests: int = Field(20, ge=1, description="Requests from which its figures count")
    max_error_rate: float = Field(0.01, ge=0, lt=1, description="Largest share of requests that the service fails")
    max_latency_p95_s: float = Field(1.0, gt=0, description="Largest 95th percentile of seconds per request")

    def faults(self, figures: ServingFigures) -> tuple[str, ...]:
        """Return what speaks against a version that served like this; nothing where it may stay."""
        found = []
        if figures.requests < self.min_requests:
            found.append(f"{figures.requests} requests, expected at least {self.min_requests}")
        if figures.error_rate > self.max_error_rate:
            found.append(f"{figures.error_rate:.1%} of requests failed, expected at most {self.max_error_rate:.1%}")
        if figures.latency_p95_s is None or figures.latency_p95_s > self.max_latency_p95_s:
            told = "not known" if figures.latency_p95_s is None else f"{figures.latency_p95_s:.3f} s"
            found.append(f"95th percentile of latency {told}, expected at most {self.max_latency_p95_s:g} s")
        return tuple(found)


class NewCases(Contract):
    """Where new cases come from: a release as ``gliaflow import`` reads it."""

    importer: str = Field(description="Name of the release, as 'gliaflow import --help' lists them")
    source: str = Field(description="File or folder, read anew at each retraining")
    participants: str | None = Field(None, description="Clinical table to join")
    options: dict[str, str] = Field(default_factory=dict, description="What the importer lets one choose")


class RetrainParameters(Contract):
    """Parameters of retraining, promotion and rollback."""

    model: ModelName = Field("grading", description="Registered model that is kept fresh")
    targets: tuple[str, ...] = Field((), description="DVC stages to reproduce; the stage of the model's study if empty")
    new_cases: NewCases | None = Field(None, description="What is imported first; None: cases come into raw/ otherwise")
    min_new_cases: int = Field(20, ge=1, description="New labelled cases that start a retraining")
    horizon_months: float = Field(24.0, gt=0, description="Time of the Brier score and calibration of a signature")
    allow_schema_change: bool = Field(default=False, description="Whether columns may come, go or change their type")
    place: Literal["local", "kubernetes"] | None = Field(
        None, description="Where the model is served; default the cluster where GLIAFLOW_KUBERNETES_DEPLOYMENT is set"
    )
    gate: GateThresholds = GateThresholds()
    drift: DriftThresholds = DriftThresholds()
    serving: ServingThresholds = ServingThresholds()
