"""What Prefect and Prometheus know of the small cohort, and whether alerts and dashboards read it.

Reads the passwords of infra/.env from the environment.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

PREFECT = "http://127.0.0.1:4200/api"
PROMETHEUS = "http://127.0.0.1:9090/api/v1"
DASHBOARDS = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
FLOWS = {"prepare", "segment", "extract", "study"}
PREDICTIONS = 40
ANSWERS = {("prepare", "computed"): 3, ("segment", "computed"): 3, ("extract", "computed"): 3, ("extract", "cached"): 3}


def ask(url: str, body: object | None = None, *, password: str | None = None) -> object:
    """Return the JSON that a server answers."""
    headers = {"Content-Type": "application/json"}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"gliaflow:{password}".encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=20) as reply:  # noqa: S310
        return json.load(reply)


def flow_runs() -> dict[str, set[str]]:
    """Return the states of the flow runs that Prefect's server knows, by flow."""
    password = os.environ["PREFECT_PASSWORD"]
    names = {flow["id"]: flow["name"] for flow in ask(f"{PREFECT}/flows/filter", {}, password=password)}
    found: dict[str, set[str]] = {}
    for run in ask(f"{PREFECT}/flow_runs/filter", {}, password=password):
        found.setdefault(names[run["flow_id"]], set()).add(run["state_type"])
    return found


def samples(query: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and values of a query to Prometheus."""
    answer = ask(f"{PROMETHEUS}/query?query={urllib.parse.quote(query)}")
    return [(entry["metric"], float(entry["value"][1])) for entry in answer["data"]["result"]]


def rule_states() -> dict[str, str]:
    """Return the state of each alert: inactive, pending or firing; or the fault of its evaluation."""
    groups = ask(f"{PROMETHEUS}/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["name"]: rule["state"] if rule["health"] == "ok" else f"{rule['health']}: {rule}" for rule in rules}


def drawn(dashboard: Path) -> tuple[int, int]:
    """Return how many of a dashboard's queries, asked as Grafana would, have an answer, and how many there are."""
    queries = [
        target["expr"] for panel in json.loads(dashboard.read_text())["panels"] for target in panel.get("targets", ())
    ]
    found = 0
    for query in queries:
        asked = query.replace("$__rate_interval", "4m").replace("$__range", "1h")
        found += bool(samples(re.sub(r"\$\w+", ".*", asked)))
    return found, len(queries)


def main() -> None:
    """Compare, and say what is missing."""
    runs = flow_runs()
    sys.stdout.write(f"Prefect: {runs}\n")
    if not all("COMPLETED" in runs.get(name, ()) for name in FLOWS):
        sys.exit(f"Prefect knows no completed run of each of {sorted(FLOWS)}")
    deadline = time.monotonic() + 90
    while True:  # a scrape comes every 15 s
        answers = {
            (labels["endpoint"], labels["outcome"]): value
            for labels, value in samples("sum by (endpoint, outcome) (gliaflow_answers_total)")
        }
        predictions = sum(value for _, value in samples("gliaflow_predictions_total"))
        if all(answers.get(key, 0) >= count for key, count in ANSWERS.items()) and predictions >= PREDICTIONS:
            break
        if time.monotonic() > deadline:
            sys.exit(
                f"Prometheus counts {answers}, {predictions:g} predictions; expected at least {ANSWERS}, {PREDICTIONS}"
            )
        time.sleep(5)
    down = [labels["instance"] for labels, value in samples("up") if value == 0]
    sys.stdout.write(f"Prometheus: {answers}, {predictions:g} predictions, targets down: {down or 'none'}\n")
    if down:
        sys.exit("a target is down")
    rules = rule_states()
    sys.stdout.write(f"Alerts: {rules}\n")
    if not rules or not set(rules.values()) <= {"inactive", "pending", "firing"}:
        sys.exit("an alert cannot be evaluated")
    for dashboard in sorted(DASHBOARDS.glob("*.json")):
        found, asked = drawn(dashboard)
        while not found and time.monotonic() < deadline:  # an increase shows from the second scrape on
            time.sleep(5)
            found, asked = drawn(dashboard)
        sys.stdout.write(f"Dashboard {dashboard.stem}: {found} of {asked} queries have something to draw\n")
        if not found:
            sys.exit(f"the dashboard {dashboard.stem} draws nothing of this cohort")


if __name__ == "__main__":
    main()
