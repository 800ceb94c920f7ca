"""Write the dashboards that Grafana loads: ``dashboards/*.json``, from the panels that stand here.

python infra/grafana/draw.py            write
python infra/grafana/draw.py --check    exit with 1 where a file is not what would be written
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "dashboards"
_OURS = 'service_name=~"$service",endpoint!~"/livez|/readyz|/metrics|/healthz"'
_STEPS = 'endpoint=~"prepare|segment|segment_abnormality|extract"'
_MODEL = 'model=~"$model"'


@dataclass(frozen=True)
class Panel:
    """One panel: its queries by legend, and how they are shown."""

    title: str
    help: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: a choice at its top (label and the metric whose label it is), and panels."""

    name: str
    title: str
    choice: tuple[str, str, str]
    panels: tuple[Panel, ...]


DASHBOARDS = (
    Dashboard(
        "services",
        "gliaflow · services",
        ("service", "service_name", "bentoml_service_request_total"),
        (
            Panel("Up", "1: the last scrape succeeded", {"{{instance}}": "up"}, kind="stat"),
            Panel(
                "Requests in progress",
                "Requests that are being answered now",
                {"{{service_name}}": f"sum by (service_name) (bentoml_service_request_in_progress{{{_OURS}}})"},
            ),
            Panel(
                "Requests",
                "Answers a second by HTTP status",
                {
                    "{{service_name}} {{http_response_code}}": "sum by (service_name, http_response_code) "
                    f"(rate(bentoml_service_request_total{{{_OURS}}}[$__rate_interval]))"
                },
                unit="reqps",
            ),
            Panel(
                "Faults of the services",
                "Share of answers with status 5xx; a user's mistake is 4xx and does not count",
                {
                    "{{service_name}}": "sum by (service_name) (rate(bentoml_service_request_total"
                    f'{{{_OURS},http_response_code=~"5.."}}[$__rate_interval])) / sum by (service_name) '
                    f"(rate(bentoml_service_request_total{{{_OURS}}}[$__rate_interval]))"
                },
                unit="percentunit",
            ),
            Panel(
                "Seconds an answer, 95th percentile",
                "By service and endpoint",
                {
                    "{{service_name}}{{endpoint}}": "histogram_quantile(0.95, sum by (le, service_name, endpoint) "
                    f"(rate(bentoml_service_request_duration_seconds_bucket{{{_OURS}}}[$__rate_interval])))"
                },
                unit="s",
            ),
            Panel(
                "What became of requests",
                "Computed, found done, or refused with a reason",
                {
                    "{{endpoint}} {{outcome}}": "sum by (endpoint, outcome) "
                    '(increase(gliaflow_answers_total{service_name=~"$service"}[$__rate_interval]))'
                },
            ),
        ),
    ),
    Dashboard(
        "flows",
        "gliaflow · flows",
        ("step", "endpoint", f"gliaflow_answers_total{{{_STEPS}}}"),
        (
            Panel(
                "Cases treated",
                "In the chosen time, by step",
                {
                    "{{endpoint}}": "sum by (endpoint) (increase(gliaflow_answers_total"
                    '{endpoint=~"$step",outcome=~"computed|cached"}[$__range]))'
                },
                kind="stat",
            ),
            Panel(
                "Cases quarantined, by reason",
                "In the chosen time; the cohort's report says what to do about each",
                {
                    "{{endpoint}} {{outcome}}": "sum by (endpoint, outcome) (increase(gliaflow_answers_total"
                    '{endpoint=~"$step",outcome!~"computed|cached"}[$__range])) > 0'
                },
                kind="stat",
            ),
            Panel(
                "Cases an hour",
                "By step, computed and found done",
                {
                    "{{endpoint}} {{outcome}}": "3600 * sum by (endpoint, outcome) "
                    '(rate(gliaflow_answers_total{endpoint=~"$step"}[$__rate_interval]))'
                },
            ),
            Panel(
                "Seconds a case",
                "Mean over answers of a step, cached ones too",
                {
                    "{{endpoint}}": "sum by (endpoint) (rate(bentoml_service_request_duration_seconds_sum"
                    '{endpoint=~"/($step)"}[$__rate_interval])) / sum by (endpoint) '
                    '(rate(bentoml_service_request_duration_seconds_count{endpoint=~"/($step)"}[$__rate_interval]))'
                },
                unit="s",
            ),
            Panel(
                "Prefect server",
                "1: it answers; without it no flow starts",
                {"Prefect": 'up{job="prefect"}'},
                kind="stat",
            ),
        ),
    ),
    Dashboard(
        "drift",
        "gliaflow · drift",
        ("model", "model", "gliaflow_predictions_total"),
        (
            Panel(
                "Features outside what training knew",
                "Share of the features that predictions read lying beyond 4 standard deviations of the training mean",
                {
                    "{{model}} {{version}}": "sum by (model, version) (increase(gliaflow_prediction_features_total"
                    f'{{{_MODEL},state="outside"}}[1d])) / sum by (model, version) '
                    f"(increase(gliaflow_prediction_features_total{{{_MODEL}}}[1d]))"
                },
                unit="percentunit",
            ),
            Panel(
                "Features imputed",
                "Share of the features that were missing and took their training median",
                {
                    "{{model}} {{version}}": "sum by (model, version) (increase(gliaflow_prediction_features_total"
                    f'{{{_MODEL},state="imputed"}}[1d])) / sum by (model, version) '
                    f"(increase(gliaflow_prediction_features_total{{{_MODEL}}}[1d]))"
                },
                unit="percentunit",
            ),
            Panel(
                "Labels",
                "Share of each label; a change without a change of patients is drift",
                {
                    "{{model}} {{label}}": "sum by (model, label) (increase(gliaflow_predictions_total"
                    f"{{{_MODEL}}}[1d])) / on (model) group_left sum by (model) "
                    f"(increase(gliaflow_predictions_total{{{_MODEL}}}[1d]))"
                },
                unit="percentunit",
            ),
            Panel(
                "Probabilities",
                "Median and quartiles of the probability of the positive class",
                {
                    f"{{{{model}}}} {name}": f"histogram_quantile({share}, sum by (le, model) "
                    f"(increase(gliaflow_prediction_probability_bucket{{{_MODEL}}}[1d])))"
                    for name, share in (("lower quartile", 0.25), ("median", 0.5), ("upper quartile", 0.75))
                },
                unit="percentunit",
            ),
        ),
    ),
    Dashboard(
        "models",
        "gliaflow · models",
        ("model", "model", "gliaflow_predictions_total"),
        (
            Panel(
                "Versions that predict",
                "Predictions in the chosen time, by version",
                {
                    "{{model}} {{version}}": "sum by (model, version) "
                    f"(increase(gliaflow_predictions_total{{{_MODEL}}}[$__range])) > 0"
                },
                kind="stat",
            ),
            Panel(
                "Predictions an hour",
                "By version: a rollout shows as one giving way to the next",
                {
                    "{{model}} {{version}}": "3600 * sum by (model, version) "
                    f"(rate(gliaflow_predictions_total{{{_MODEL}}}[$__rate_interval]))"
                },
            ),
            Panel(
                "Predictions refused",
                "By reason: an unknown model, a changed file",
                {
                    "{{endpoint}} {{outcome}}": "sum by (endpoint, outcome) (increase(gliaflow_answers_total"
                    '{service_name="model_serving",outcome!~"computed|cached"}[$__rate_interval]))'
                },
            ),
            Panel(
                "Seconds a prediction",
                "Median and 95th percentile",
                {
                    f"{{{{endpoint}}}} {name}": f"histogram_quantile({share}, sum by (le, endpoint) (rate("
                    'bentoml_service_request_duration_seconds_bucket{service_name="model_serving",'
                    'endpoint=~"/predict.*|/explain"}[$__rate_interval])))'
                    for name, share in (("median", 0.5), ("95th percentile", 0.95))
                },
                unit="s",
            ),
        ),
    ),
)


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    """Return a panel as Grafana reads it."""
    return {
        "id": number,
        "title": panel.title,
        "description": panel.help,
        "type": panel.kind,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + i), "expr": query, "legendFormat": legend}
            for i, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, object]:
    """Return a dashboard as Grafana reads it."""
    name, label, metric = dashboard.choice
    panels = [panel_json(panel, i + 1, 12 * (i % 2), 8 * (i // 2)) for i, panel in enumerate(dashboard.panels)]
    choice = {
        "name": name,
        "type": "query",
        "query": f"label_values({metric}, {label})",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": f"gliaflow-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["gliaflow"],
        "editable": False,
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [choice]},
        "links": [{"type": "dashboards", "tags": ["gliaflow"], "title": "gliaflow", "asDropdown": True}],
        "panels": panels,
    }


if __name__ == "__main__":
    stale = []
    for each in DASHBOARDS:
        path = FOLDER / f"{each.name}.json"
        text = json.dumps(dashboard_json(each), indent=1, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: run python infra/grafana/draw.py")
