"""Dashboards and alerts ask only for what a really started service tells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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
OF_PROMETHEUS = {"up"}  # which it makes itself


def queries_of_dashboard(path: Path) -> list[str]:
    found = json.loads(path.read_text())
    asked = [target["expr"] for panel in found["panels"] for target in panel["targets"]]
    asked += [
        re.fullmatch(r"label_values\((.+), \w+\)", choice["query"]).group(1) for choice in found["templating"]["list"]
    ]
    return asked


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load((INFRA / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Return what a query selects; a query that Prometheus would refuse raises."""
    for variable, value in (("$__rate_interval", "5m"), ("$__range", "6h"), ("$service", ".*"), ("$step", ".*")):
        query = query.replace(variable, value)
    found: list[promql_parser.VectorSelector] = []

    def collect(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(query.replace("$model", ".*")), collect)
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
    assert [path.stem for path in DASHBOARDS] == ["drift", "flows", "models", "services"]


def test_everything_asked_for_is_told(exported: dict[str, set[str]]) -> None:
    asked = [(path.name, query) for path in DASHBOARDS for query in queries_of_dashboard(path)]
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
    assert {(endpoint, outcome): float(times) for endpoint, outcome, times in counted} == {
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


def test_a_query_of_no_metric_is_found_out() -> None:
    (selector,) = selectors("sum(rate(bentoml_no_such_total[5m]))")
    assert selector.name == "bentoml_no_such_total"
    with pytest.raises(ValueError, match="parenthesis"):
        selectors("sum(rate(up[5m])")
