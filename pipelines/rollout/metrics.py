"""What a service's counters say of the last while: requests, errors, latency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from pipelines.rollout.contract import ServingFigures

_OPEN_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/metrics", "/docs.json"})
_REQUESTS = "bentoml_service_request_total"
_DURATIONS = "bentoml_service_request_duration_seconds_bucket"


@dataclass(frozen=True)
class Sample:
    """Counters of one process at one moment: by status code, and by upper bound of the latency in seconds."""

    requests: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)


def read_sample(text: str) -> Sample:
    """Return the counters of a page of ``/metrics``; probes do not count as requests."""
    sample = Sample()
    for family in text_string_to_metric_families(text):
        for entry in family.samples:
            if entry.labels.get("endpoint") in _OPEN_PATHS:
                continue
            if entry.name == _REQUESTS:
                sample.requests[entry.labels["http_response_code"]] += int(entry.value)
            elif entry.name == _DURATIONS:
                sample.buckets[float(entry.labels["le"])] += int(entry.value)
    return sample


def increase(before: Sample, after: Sample) -> Sample:
    """Return what was added between two moments; a process that began again counts from zero."""
    if any(after.requests[code] < count for code, count in before.requests.items()):
        return after
    return Sample(
        Counter({code: count - before.requests[code] for code, count in after.requests.items()}),
        Counter({bound: count - before.buckets[bound] for bound, count in after.buckets.items()}),
    )


def figures(increases: Iterable[Sample]) -> ServingFigures:
    """Return requests, those that failed by the service's own fault (5xx), and the 95th percentile of the latency.

    The percentile is interpolated inside its bucket, as Prometheus' ``histogram_quantile`` does it.
    """
    requests: Counter[str] = Counter()
    buckets: Counter[float] = Counter()
    for each in increases:
        requests.update(each.requests)
        # Not "+=", which drops the empty buckets that bound the others from below.
        buckets.update(each.buckets)
    return ServingFigures(
        requests=sum(requests.values()),
        errors=sum(count for code, count in requests.items() if code.startswith("5")),
        latency_p95_s=_quantile(buckets, 0.95),
    )


def _quantile(buckets: Counter[float], share: float) -> float | None:
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    lower, below = 0.0, 0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / max(1, buckets[bound] - below)
        lower, below = bound, buckets[bound]
    return lower
