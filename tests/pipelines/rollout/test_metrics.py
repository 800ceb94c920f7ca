"""Counters of a service, as Prometheus' text shows them, become figures."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.rollout.metrics import Sample, figures, increase, read_sample

LABELS = 'service_name="model_serving",service_version="not available"'
PAGE = f"""
# HELP bentoml_service_request_total Total number of HTTP requests
# TYPE bentoml_service_request_total counter
bentoml_service_request_total{{endpoint="/predict",http_response_code="200",{LABELS}}} 8.0
bentoml_service_request_total{{endpoint="/predict",http_response_code="400",{LABELS}}} 1.0
bentoml_service_request_total{{endpoint="/explain",http_response_code="500",{LABELS}}} 1.0
bentoml_service_request_total{{endpoint="/readyz",http_response_code="503",{LABELS}}} 90.0
# HELP bentoml_service_request_duration_seconds API HTTP request duration in seconds
# TYPE bentoml_service_request_duration_seconds histogram
bentoml_service_request_duration_seconds_bucket{{endpoint="/predict",http_response_code="200",le="0.1",{LABELS}}} 6.0
bentoml_service_request_duration_seconds_bucket{{endpoint="/predict",http_response_code="200",le="0.2",{LABELS}}} 8.0
bentoml_service_request_duration_seconds_bucket{{endpoint="/predict",http_response_code="200",le="+Inf",{LABELS}}} 10.0
bentoml_service_request_duration_seconds_bucket{{endpoint="/readyz",http_response_code="503",le="0.1",{LABELS}}} 90.0
bentoml_service_request_duration_seconds_bucket{{endpoint="/readyz",http_response_code="503",le="+Inf",{LABELS}}} 90.0
"""


def test_faults_of_the_service_are_errors_and_probes_are_no_requests() -> None:
    found = figures([read_sample(PAGE)])
    assert (found.requests, found.errors) == (10, 1)
    # 9.5 of 10 lie beyond the last bound, so the bound is all that is known.
    assert found.latency_p95_s == pytest.approx(0.2)


def test_only_what_was_added_counts() -> None:
    before, after = read_sample(PAGE), read_sample(PAGE.replace("} 8.0", "} 18.0").replace("} 10.0", "} 20.0"))
    found = figures([increase(before, after)])
    assert (found.requests, found.errors) == (10, 0)
    # All ten were added between 0.1 and 0.2 s: 0.1 + 0.1 × 9.5 / 10.
    assert found.latency_p95_s == pytest.approx(0.195)


def test_a_process_that_began_again_counts_from_zero() -> None:
    later = Sample(Counter({"200": 3}), Counter({0.1: 3, float("inf"): 3}))
    assert figures([increase(read_sample(PAGE), later)]).requests == 3


def test_a_silent_place_has_no_latency() -> None:
    found = figures([increase(read_sample(PAGE), read_sample(PAGE)), Sample()])
    assert (found.requests, found.error_rate, found.latency_p95_s) == (0, 0.0, None)
