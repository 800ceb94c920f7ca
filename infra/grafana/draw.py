"""Write the dashboards that Grafana loads: ``dashboards/*.json``, from the panels that stand here.

python infra/grafana/draw.py            write
python infra/grafana/draw.py --check    exit with 1 where a file is not what would be written
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "dashboards"
_COLUMNS = 24  # of Grafana's grid
_OURS = 'service_name=~"$service",endpoint!~"/livez|/readyz|/metrics|/healthz"'
_STEPS = 'endpoint=~"prepare|prepare_diffusion|segment|segment_abnormality|extract|deep_features"'
_DONE = 'outcome=~"computed|cached"'
_REFUSED = 'outcome!~"computed|cached"'
_MODEL = 'model=~"$model"'
_GREEN_THEN_RED = ((None, "green"), (1.0, "red"))


@dataclass(frozen=True)
class Panel:
    """One panel: its queries by legend, and how they are shown.

    ``repeat`` names a choice: the panel stands once for each of its values. ``thresholds`` are colours from a value on;
    ``band`` names the lower and the upper line of a band to fill, ``colours`` those of lines by a pattern.
    A ``stat`` or ``bargauge`` shows what is now.
    """

    title: str
    help: str
    queries: dict[str, str]
    unit: str = "short"
    decimals: int | None = None
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    thresholds: tuple[tuple[float | None, str], ...] = ((None, "green"),)
    maximum: float | None = None
    names_only: bool = False
    repeat: str | None = None
    band: tuple[str, str] | None = None
    colours: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A choice at a dashboard's top: the values that a label of a metric has; a hidden one is for ``repeat``."""

    name: str
    label: str
    metric: str
    hidden: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: its choices, panels from left to right and down, and the time that it shows at first.

    ``points`` bounds those of each line: what is counted over a day costs Prometheus much for each.
    """

    name: str
    title: str
    choices: tuple[Choice, ...]
    panels: tuple[Panel, ...]
    since: str = "now-6h"
    refresh: str = "30s"
    points: int | None = None


def gained(counter: str, window: str) -> str:
    """Return what a counter gained in a window, also one that appears in it: ``increase`` misses its first value.

    Of a counter that appears, its height is exact where its process was not started anew since.
    """
    rise = f"increase({counter}[{window}])"
    height = f"max_over_time({counter}[{window}]) and resets({counter}[{window}]) == 0"
    return f"{rise} and {counter} offset {window} or {height} or {rise} + min_over_time({counter}[{window}])"


def share_of_features(state: str) -> str:
    """Return the share, over a day, of the features that predictions read in one state."""
    part, whole = (
        f"sum by (model, version) ({gained(f'gliaflow_prediction_features_total{{{labels}}}', '1d')})"
        for labels in (f'{_MODEL},state="{state}"', _MODEL)
    )
    return f"{part} / {whole}"


DASHBOARDS = (
    Dashboard(
        "services",
        "gliaflow · services",
        (Choice("service", "service_name", "bentoml_service_request_total"),),
        (
            Panel(
                "Answering",
                "Green: the last scrape succeeded. Red: it did not; look at the container's log and health check",
                {"{{instance}}": "up"},
                kind="stat",
                width=16,
                height=4,
                thresholds=((None, "red"), (1.0, "green")),
                names_only=True,
            ),
            Panel(
                "Alerts",
                "Those that fire now; Prometheus says what to do about each",
                {
                    "{{alertname}}": 'count by (alertname) (ALERTS{alertstate="firing"}) '
                    'or on () label_replace(vector(0), "alertname", "none", "", "")'
                },
                kind="stat",
                width=8,
                height=4,
                thresholds=_GREEN_THEN_RED,
                names_only=True,
            ),
            Panel(
                "Requests",
                "Answers a second",
                {
                    "{{service_name}}": "sum by (service_name) "
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
                maximum=1,
            ),
            Panel(
                "Seconds an answer, 95th percentile",
                "By endpoint; as fine as the histogram's buckets",
                {
                    "{{service_name}}{{endpoint}}": "histogram_quantile(0.95, sum by (le, service_name, endpoint) "
                    f"(rate(bentoml_service_request_duration_seconds_bucket{{{_OURS}}}[$__rate_interval])))"
                },
                unit="s",
            ),
            Panel(
                "Requests in progress",
                "Requests that are being answered now",
                {"{{service_name}}": f"sum by (service_name) (bentoml_service_request_in_progress{{{_OURS}}})"},
            ),
            Panel(
                "What became of requests",
                "In the chosen time: computed, found done, refused with a reason, or a fault",
                {
                    "{{endpoint}} {{outcome}}": "sort_desc(sum by (endpoint, outcome) ("
                    + gained('gliaflow_answers_total{service_name=~"$service"}', "$__range")
                    + ") > 0)"
                },
                kind="bargauge",
                decimals=0,
                width=24,
                height=9,
                colours={"/^(?!.* (computed|cached)$)/": "orange"},
            ),
        ),
    ),
    Dashboard(
        "flows",
        "gliaflow · flows",
        (Choice("step", "endpoint", f"gliaflow_answers_total{{{_STEPS}}}"),),
        (
            Panel(
                "Cases treated",
                "In the chosen time, by step",
                {
                    "{{endpoint}}": "sum by (endpoint) ("
                    + gained(f'gliaflow_answers_total{{endpoint=~"$step",{_DONE}}}', "$__range")
                    + ")"
                },
                kind="stat",
                decimals=0,
                width=20,
                height=5,
            ),
            Panel(
                "Prefect",
                "Red: its server does not answer, and no flow starts",
                {"server": 'up{job="prefect"}'},
                kind="stat",
                width=4,
                height=5,
                thresholds=((None, "red"), (1.0, "green")),
                names_only=True,
            ),
            Panel(
                "Cases quarantined, by reason",
                "In the chosen time; the cohort's report says what to do about each",
                {
                    "{{endpoint}} {{outcome}}": "sum by (endpoint, outcome) ("
                    + gained(f'gliaflow_answers_total{{endpoint=~"$step",{_REFUSED}}}', "$__range")
                    + ') > 0 or on () label_replace(vector(0), "outcome", "none", "", "")'
                },
                kind="stat",
                decimals=0,
                width=24,
                height=5,
                thresholds=_GREEN_THEN_RED,
            ),
            Panel(
                "Cases an hour",
                "By step, computed and found done",
                {
                    "{{endpoint}} {{outcome}}": "3600 * sum by (endpoint, outcome) "
                    f'(rate(gliaflow_answers_total{{endpoint=~"$step",{_DONE}}}[$__rate_interval])) > 0'
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
        ),
    ),
    Dashboard(
        "drift",
        "gliaflow · drift",
        (
            Choice("model", "model", "gliaflow_predictions_total"),
            Choice("classifier", "model", f"gliaflow_prediction_probability_count{{{_MODEL}}}", hidden=True),
        ),
        (
            Panel(
                "Features outside what training knew",
                "Share, over a day, of the features that predictions read lying beyond 4 standard deviations of the "
                "training mean; an alert fires above 5 %",
                {"{{model}} {{version}}": share_of_features("outside")},
                unit="percentunit",
                thresholds=((None, "green"), (0.05, "red")),
            ),
            Panel(
                "Features imputed",
                "Share, over a day, of the features that were missing and took their training median; an alert fires "
                "above 20 %",
                {"{{model}} {{version}}": share_of_features("imputed")},
                unit="percentunit",
                thresholds=((None, "green"), (0.2, "red")),
            ),
            Panel(
                "Labels of $model",
                "Share of each label over a day; a change without a change of patients is drift",
                {
                    "{{label}}": f"sum by (model, label) ({gained(f'gliaflow_predictions_total{{{_MODEL}}}', '1d')})"
                    f" / on (model) group_left sum by (model) "
                    f"({gained(f'gliaflow_predictions_total{{{_MODEL}}}', '1d')})"
                },
                unit="percentunit",
                maximum=1,
                repeat="model",
            ),
            Panel(
                "Probabilities by $classifier",
                "Median and quartiles, over a day, of the probability of the positive class",
                {
                    name: f"histogram_quantile({share}, sum by (le) ("
                    + gained('gliaflow_prediction_probability_bucket{model=~"$classifier"}', "1d")
                    + "))"
                    for name, share in (("upper quartile", 0.75), ("median", 0.5), ("lower quartile", 0.25))
                },
                unit="percentunit",
                maximum=1,
                repeat="classifier",
                band=("lower quartile", "upper quartile"),
            ),
        ),
        since="now-7d",
        refresh="5m",
        points=170,
    ),
    Dashboard(
        "models",
        "gliaflow · models",
        (Choice("model", "model", "gliaflow_predictions_total"),),
        (
            Panel(
                "Versions that predict",
                "Predictions in the chosen time, by version",
                {
                    "{{model}} {{version}}": "sort_desc(sum by (model, version) ("
                    + gained(f"gliaflow_predictions_total{{{_MODEL}}}", "$__range")
                    + ") > 0)"
                },
                kind="bargauge",
                decimals=0,
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
                "Requests refused, by reason",
                "In the chosen time, of all models: an unknown model, a changed file",
                {
                    "{{endpoint}} {{outcome}}": "sort_desc(sum by (endpoint, outcome) ("
                    + gained(f'gliaflow_answers_total{{service_name="model_serving",{_REFUSED}}}', "$__range")
                    + ') > 0) or on () label_replace(vector(0), "outcome", "none", "", "")'
                },
                kind="bargauge",
                decimals=0,
                thresholds=_GREEN_THEN_RED,
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


def options(panel: Panel) -> dict[str, object]:
    """Return the options of a panel's kind."""
    if panel.kind == "timeseries":
        legend = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    reduce = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
    if panel.kind == "bargauge":
        return {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True}
    how = {"textMode": "name", "colorMode": "background"} if panel.names_only else {"textMode": "value_and_name"}
    return {"reduceOptions": reduce, "graphMode": "none", "justifyMode": "center", "colorMode": "value", **how}


def override(matcher: str, which: str, **properties: object) -> dict[str, object]:
    """Return what holds for some of a panel's lines only."""
    set_to = [{"id": name, "value": value} for name, value in properties.items()]
    return {"matcher": {"id": matcher, "options": which}, "properties": set_to}


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    """Return a panel as Grafana reads it."""
    now = panel.kind != "timeseries"
    steps = [{"value": value, "color": colour} for value, colour in panel.thresholds]
    defaults: dict[str, object] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if now:
        defaults["color"] = {"mode": "thresholds"}
    else:
        limit = "dashed" if len(steps) > 1 else "off"
        defaults["custom"] = {"lineWidth": 2, "fillOpacity": 8, "pointSize": 4, "thresholdsStyle": {"mode": limit}}
    overrides = [
        override("byRegexp", pattern, color={"mode": "fixed", "fixedColor": colour})
        for pattern, colour in panel.colours.items()
    ]
    if panel.band is not None:
        lower, upper = panel.band
        overrides.append(override("byName", upper, **{"custom.fillBelowTo": lower, "custom.fillOpacity": 20}))
    repeat = {"repeat": panel.repeat, "repeatDirection": "h", "maxPerRow": 4} if panel.repeat else {}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.help,
        "type": panel.kind,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": options(panel),
        "targets": [
            {"refId": chr(65 + i), "expr": query, "legendFormat": legend, "instant": now, "range": not now}
            for i, (legend, query) in enumerate(panel.queries.items())
        ],
        **repeat,
    }


def choice_json(choice: Choice) -> dict[str, object]:
    """Return a choice as Grafana reads it."""
    return {
        "name": choice.name,
        "type": "query",
        "query": f"label_values({choice.metric}, {choice.label})",
        "refresh": 2,
        "sort": 1,
        "hide": 2 if choice.hidden else 0,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard_json(dashboard: Dashboard) -> dict[str, object]:
    """Return a dashboard as Grafana reads it: panels fill rows from the left; a repeated one has its row alone."""
    panels: list[dict[str, object]] = []
    bound = {} if dashboard.points is None else {"maxDataPoints": dashboard.points}
    x, y, height = 0, 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        if x + panel.width > _COLUMNS or (panel.repeat and x):
            x, y = 0, y + height
        panels.append(panel_json(panel, number, x, y) | bound)
        x, height = _COLUMNS if panel.repeat else x + panel.width, panel.height
    return {
        "uid": f"gliaflow-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["gliaflow"],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "time": {"from": dashboard.since, "to": "now"},
        "refresh": dashboard.refresh,
        "templating": {"list": [choice_json(choice) for choice in dashboard.choices]},
        "links": [
            {
                "type": "dashboards",
                "tags": ["gliaflow"],
                "title": "gliaflow",
                "tooltip": "The other dashboards",
                "icon": "external link",
                "url": "",
                "asDropdown": True,
                "includeVars": False,
                "keepTime": False,
                "targetBlank": False,
            }
        ],
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
