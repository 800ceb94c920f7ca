"""What a process counts for Prometheus; a service's ``/metrics`` shows it beside BentoML's own figures.

BentoML names the folder that worker processes share their counts through only after a service's module is imported, so
``prometheus_client`` is imported where something is counted first.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram


@dataclass(frozen=True)
class _Metrics:
    answers: Counter
    predictions: Counter
    features: Counter
    scores: Histogram


_making = threading.Lock()


def _metrics() -> _Metrics:
    with _making:  # a second thread that counts for the first time must not register them again
        return _made()


@lru_cache(maxsize=1)
def _made() -> _Metrics:
    from prometheus_client import Counter, Histogram

    model = ("model", "version")
    return _Metrics(
        answers=Counter(
            "gliaflow_answers_total",
            "Answers by what became of the request: computed, cached, fault, or the class of the problem",
            ("service_name", "endpoint", "outcome"),
        ),
        predictions=Counter("gliaflow_predictions_total", "Predictions by model version and label", (*model, "label")),
        features=Counter(
            "gliaflow_prediction_features_total",
            "Features that predictions read: usual, outside what training knew, or imputed",
            (*model, "state"),
        ),
        scores=Histogram(
            "gliaflow_prediction_probability",
            "Probability of the positive class",
            model,
            buckets=tuple(tenth / 10 for tenth in range(1, 11)),
        ),
    )


def count_answer(service: str, endpoint: str, outcome: str) -> None:
    """Count one answer of an endpoint.

    Parameters
    ----------
    service, endpoint
        Who answered.
    outcome
        ``computed``, ``cached``, ``fault``, or the class of the problem that the caller got.
    """
    _metrics().answers.labels(service, endpoint, outcome).inc()


def show_answers(service: str, endpoint: str) -> None:
    """Show an endpoint's answers as 0: Prometheus sees no rise in a count that appears with its first answers."""
    for outcome in ("computed", "cached", "fault"):
        _metrics().answers.labels(service, endpoint, outcome)


def count_prediction(
    *, model: str, version: str, label: str, probability: float | None, features: int, outside: int, imputed: int
) -> None:
    """Count one prediction, and how far its features are from what the model was trained on.

    Parameters
    ----------
    model, version, label
        The registered version, and the class that it gave.
    probability
        Of the positive class; None where the model gives a risk score.
    features, outside, imputed
        Features that the model reads; how many of them lay outside what training knew, and how many were missing.
    """
    metrics = _metrics()
    metrics.predictions.labels(model, version, label).inc()
    for state, number in (("usual", features - outside - imputed), ("outside", outside), ("imputed", imputed)):
        metrics.features.labels(model, version, state).inc(max(0, number))
    if probability is not None:
        metrics.scores.labels(model, version).observe(probability)
