"""Dashboards and alerts ask only for what a really started service tells."""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml

from services.model_serving.contracts import PredictRequest, RegisterRequest
from services.shared.errors import NotFound
from services.shared.storage import Storage
from tests.contracts.servers import Server
from tests.infra.toy_model import write_toy_model

INFRA = Path(__file__).resolve().parents[2] / "infra"
DASHBOARDS = sorted((INFRA / "grafana/dashboards").glob("*.json"))
DRAWN = {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}
OF_PROMETHEUS = {"up", "ALERTS"}  # which it makes itself
OF_GRAFANA = {"__rate_interval", "__range"}
ALERT_TESTS = Path(__file__).with_name("alerts.yaml")
PROMTOOL = shutil.which("promtool")
GRAFANA = shutil.which("grafana-server")


def queries_of_dashboard(name: str) -> list[str]:
    asked = [target["expr"] for panel in DRAWN[name]["panels"] for target in panel["targets"]]
    asked += [
        re.fullmatch(r"label_values\((.+), \w+\)", choice["query"]).group(1)
        for choice in DRAWN[name]["templating"]["list"]
    ]
    return asked


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load((INFRA / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Return what a query selects; a query that Prometheus would refuse raises."""
    for variable, value in ((r"\$__rate_interval", "5m"), (r"\$__range", "6h"), (r"\$\w+", ".*")):
        query = re.sub(variable, value, query)
    found: list[promql_parser.VectorSelector] = []

    def collect(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(query), collect)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The samples' names that a started model_serving tells after a few calls, with the labels of each."""
    root = tmp_path_factory.mktemp("served") / "root"
    root.mkdir()
    write_toy_model(Storage(root), "studies/phantom/toy/model")
    server = Server("model_serving", root)
    try:
        with server.client() as client:
            client.register(RegisterRequest(folder="studies/phantom/toy/model"))
            client.register(RegisterRequest(folder="studies/phantom/toy/model"))
            client.predict(PredictRequest(model="toy", features={"a": 50.0, "b": None}))
            with pytest.raises(NotFound):
                client.predict(PredictRequest(model="none", features={}))
        text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    finally:
        server.stop()
    labels: dict[str, set[str]] = {"text": {text}}
    for name, inside in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    return labels


pytestmark = pytest.mark.xdist_group("dashboards")


def test_dashboards_are_those_that_are_drawn() -> None:
    subprocess.run([sys.executable, INFRA / "grafana/draw.py", "--check"], check=True)
    assert sorted(DRAWN) == ["drift", "flows", "models", "services"]


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_panels_say_what_they_show_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    panels = DRAWN[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in {"timeseries", "stat", "bargauge"}
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert all(re.search(rf"\b{label}\b", target["expr"]) for label in labels - {"instance"}), panel["title"]


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_choices_are_made_before_they_are_used(name: str) -> None:
    def used(text: str) -> set[str]:
        return set(re.findall(r"\$\{?(\w+)", text)) - OF_GRAFANA

    made: set[str] = set()
    for choice in DRAWN[name]["templating"]["list"]:
        assert used(choice["query"]) <= made
        made.add(choice["name"])
    asked: set[str] = set()
    for panel in DRAWN[name]["panels"]:
        of_panel = used(panel["title"]).union(*(used(target["expr"]) for target in panel["targets"]))
        assert panel.get("repeat") in {None, *of_panel}
        asked |= of_panel
    assert asked == made


def test_the_data_source_is_the_default_one() -> None:
    # An object as reference is read by Grafana 8.3 and later only, a name by the older ones: the default needs neither.
    (source,) = yaml.safe_load((INFRA / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    scraped = yaml.safe_load((INFRA / "prometheus/prometheus.yaml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    assert not any('"datasource"' in path.read_text() for path in DASHBOARDS)


@pytest.mark.skipif(GRAFANA is None, reason="no grafana-server on the path")
def test_a_real_grafana_takes_them(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    provisioning = tmp_path / "provisioning"
    shutil.copytree(INFRA / "grafana/provisioning", provisioning)
    provider = provisioning / "dashboards/gliaflow.yaml"
    provider.write_text(provider.read_text().replace("/etc/dashboards", str(INFRA / "grafana/dashboards")))
    paths = {"DATA": tmp_path, "LOGS": tmp_path, "PLUGINS": tmp_path / "plugins", "PROVISIONING": provisioning}
    server = {"GF_SERVER_HTTP_ADDR": "127.0.0.1", "GF_SERVER_HTTP_PORT": str(port), "GF_LOG_MODE": "console"}
    quiet = {"GF_ANALYTICS_REPORTING_ENABLED": "false", "GF_ANALYTICS_CHECK_FOR_UPDATES": "false"}
    settings = {**server, **quiet, **{f"GF_PATHS_{name}": str(path) for name, path in paths.items()}}
    home = os.environ.get("GF_PATHS_HOME", "/usr/share/grafana")
    log = tmp_path / "log.txt"
    with log.open("wb") as told:
        running = subprocess.Popen(
            [str(GRAFANA), "--homepath", home], env={**os.environ, **settings}, stdout=told, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", auth=("admin", "admin"), trust_env=False) as client:
            found: dict[str, str] = {}
            deadline = time.monotonic() + 120
            while len(found) < len(DRAWN):
                assert running.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(1)
                with contextlib.suppress(httpx.TransportError):
                    entries = client.get("/search", params={"type": "dash-db"}).json()
                    found = {entry["uid"]: entry["title"] for entry in entries}
            assert found == {drawn["uid"]: drawn["title"] for drawn in DRAWN.values()}
            for drawn in DRAWN.values():
                kept = client.get(f"/dashboards/uid/{drawn['uid']}").json()["dashboard"]
                assert kept["panels"] == drawn["panels"]
            assert [source["uid"] for source in client.get("/datasources").json() if source["isDefault"]] == [
                "prometheus"
            ]
    finally:
        running.terminate()
        running.wait(30)


def test_everything_asked_for_is_told(exported: dict[str, set[str]]) -> None:
    asked = [(name, query) for name in DRAWN for query in queries_of_dashboard(name)]
    asked += [(str(rule["alert"]), str(rule["expr"])) for rule in alerts()]
    assert len(asked) > 25
    for where, query in asked:
        for selector in selectors(query):
            assert selector.name in exported or selector.name in OF_PROMETHEUS, (where, selector.name)
            if selector.name in exported:
                wanted = {matcher.name for matcher in selector.matchers.matchers}
                assert wanted <= exported[selector.name], (where, query)


def test_what_became_of_requests_is_counted(exported: dict[str, set[str]]) -> None:
    (text,) = exported["text"]
    counted = re.findall(r'^gliaflow_answers_total\{endpoint="(\w+)",outcome="(\w+)".*\} (\S+)$', text, re.MULTILINE)
    times = {(endpoint, outcome): float(value) for endpoint, outcome, value in counted}
    # What may come is there before it comes: Prometheus sees no rise in a count that appears with its first answers.
    assert times.pop(("explain", "computed")) == times.pop(("predict", "fault")) == 0
    assert {of: value for of, value in times.items() if value} == {
        ("register", "computed"): 1,
        ("register", "cached"): 1,
        ("predict", "computed"): 1,
        ("predict", "NotFound"): 1,
    }
    states = dict(re.findall(r'^gliaflow_prediction_features_total\{.*state="(\w+)".*\} (\S+)$', text, re.MULTILINE))
    assert states == {"usual": "0.0", "outside": "1.0", "imputed": "1.0"}


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) > 5
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
def test_prometheus_takes_its_configuration() -> None:
    command = [str(PROMTOOL), "check", "config", INFRA / "prometheus/prometheus.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
def test_alerts_see_what_appears_at_once() -> None:
    done = subprocess.run([str(PROMTOOL), "test", "rules", ALERT_TESTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
def test_what_a_counter_gained_is_exact_unless_it_started_anew(tmp_path: Path) -> None:
    gained = runpy.run_path(str(INFRA / "grafana/draw.py"))["gained"]("m", "1h")
    scrapes_of_2h = {
        "long there": ("0+1x480", 240, 240),
        "at once, after 100 minutes": ("_x400 8x80", 8, 8),
        "at once, from 0": ("_x400 0x20 8x60", 8, 8),
        "started anew after 30": ("_x400 0+1x30 0+1x48", 78, 82),
        "of the hour before": ("5x480", 0, 0),
        "ended": ("_x300 7x50", 7, 7),
    }
    tests = [
        {
            "name": name,
            "interval": "15s",
            "input_series": [{"series": "m", "values": values}],
            "promql_expr_test": [
                {
                    "expr": f"({gained}) >= bool {least} and ({gained}) <= {most}",
                    "eval_time": "2h",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        }
        for name, (values, least, most) in scrapes_of_2h.items()
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"tests": tests}))
    done = subprocess.run([str(PROMTOOL), "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_query_of_no_metric_is_found_out() -> None:
    (selector,) = selectors("sum(rate(bentoml_no_such_total[5m]))")
    assert selector.name == "bentoml_no_such_total"
    with pytest.raises(ValueError, match="parenthesis"):
        selectors("sum(rate(up[5m])")
