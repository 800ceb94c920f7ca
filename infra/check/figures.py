"""What Prefect and Prometheus know of the small cohort, and whether alerts and dashboards read it.

    python3 infra/check/figures.py prometheus [grafana]     with grafana, what dashboards ask is asked through it

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
GRAFANA = "http://127.0.0.1:3000/api"
DASHBOARDS = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
FLOWS = {"prepare", "segment", "extract", "study"}
PREDICTIONS = 40
ANSWERS = {("prepare", "computed"): 3, ("segment", "computed"): 3, ("extract", "computed"): 3, ("extract", "cached"): 3}


def ask(url: str, body: object | None = None, *, user: str = "", password: str = "") -> object:
    """Return the JSON that a server answers."""
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=20) as reply:  # noqa: S310
        return json.load(reply)


def flow_runs() -> dict[str, set[str]]:
    """Return the states of the flow runs that Prefect's server knows, by flow."""
    login = {"user": "gliaflow", "password": os.environ["PREFECT_PASSWORD"]}
    names = {flow["id"]: flow["name"] for flow in ask(f"{PREFECT}/flows/filter", {}, **login)}
    found: dict[str, set[str]] = {}
    for run in ask(f"{PREFECT}/flow_runs/filter", {}, **login):
        found.setdefault(names[run["flow_id"]], set()).add(run["state_type"])
    return found


def ask_grafana(path: str) -> object:
    """Return what Grafana's API answers its administrator."""
    return ask(f"{GRAFANA}/{path}", user="admin", password=os.environ["GRAFANA_PASSWORD"])


def samples(query: str, *, grafana: bool = False) -> list[tuple[dict[str, str], float]]:
    """Return the labels and values of a query to Prometheus, through Grafana's data source or straight."""
    asked = f"query?query={urllib.parse.quote(query)}"
    if grafana:
        source = ask_grafana("datasources/uid/prometheus")["id"]
        answer = ask_grafana(f"datasources/proxy/{source}/api/v1/{asked}")
    else:
        answer = ask(f"{PROMETHEUS}/{asked}")
    return [(entry["metric"], float(entry["value"][1])) for entry in answer["data"]["result"]]


def rule_states() -> dict[str, str]:
    """Return the state of each alert: inactive, pending or firing; or the fault of its evaluation."""
    groups = ask(f"{PROMETHEUS}/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["name"]: rule["state"] if rule["health"] == "ok" else f"{rule['health']}: {rule}" for rule in rules}


def dashboards(*, grafana: bool) -> dict[str, dict[str, object]]:
    """Return each dashboard by its name: as Grafana has it in its folder, or as its file is."""
    drawn_ones = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
    if not grafana:
        return drawn_ones
    held = {entry["uid"] for entry in ask_grafana("search?type=dash-db") if entry.get("folderTitle") == "gliaflow"}
    missing = [name for name, board in drawn_ones.items() if board["uid"] not in held]
    if missing:
        sys.exit(f"Grafana's folder gliaflow lacks the dashboards {missing}; it has {sorted(held)}")
    return {name: ask_grafana(f"dashboards/uid/{board['uid']}")["dashboard"] for name, board in drawn_ones.items()}


def drawn(dashboard: dict[str, object], *, grafana: bool) -> tuple[int, int]:
    """Return how many of a dashboard's queries, asked as Grafana would, have an answer, and how many there are."""
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    found = 0
    for query in queries:
        asked = query.replace("$__rate_interval", "4m").replace("$__range", "1h")
        found += bool(samples(re.sub(r"\$\w+", ".*", asked), grafana=grafana))
    return found, len(queries)


def main() -> None:
    """Compare, and say what is missing."""
    grafana = "grafana" in sys.argv[1:]
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
    for name, dashboard in dashboards(grafana=grafana).items():
        found, asked = drawn(dashboard, grafana=grafana)
        while not found and time.monotonic() < deadline:  # an increase shows from the second scrape on
            time.sleep(5)
            found, asked = drawn(dashboard, grafana=grafana)
        where = "in Grafana" if grafana else "of Prometheus"
        sys.stdout.write(f"Dashboard {name}: {found} of {asked} queries have something to draw, asked {where}\n")
        if not found:
            sys.exit(f"the dashboard {name} draws nothing of this cohort")


if __name__ == "__main__":
    main()
