"""What the tests put into a cluster: light things whose names and shape are the chart's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.charts.rendered import RELEASE

Object = dict[str, Any]
DEPLOYMENT = f"{RELEASE}-model-serving"
NO_IMAGE = "registry.invalid/gliaflow/no-such-image:1"
GPU = "nvidia.com/gpu"

SERVER = """
import json, os, sys, threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

pins = json.loads(os.environ.get("GLIAFLOW_MODEL_PINS", "{}"))
told = json.loads(os.environ["BEHAVIOUR"])
behaviour = next((told[version] for version in pins.values() if version in told), "well")
if behaviour == "crash":
    sys.exit("there is no such version of the model")
counts, lock = Counter(), threading.Lock()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        code = 503 if behaviour == "unready" and path == "/readyz" else 500 if path == "/fail" else 200
        body = page() if path == "/metrics" else "ok"
        with lock:
            counts[path, code] += path != "/metrics"
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

def page():
    lines = ["# TYPE bentoml_service_request_total counter"]
    duration = "bentoml_service_request_duration_seconds"
    lower = [f"# TYPE {duration} histogram"]
    for (path, code), count in counts.items():
        labels = f'endpoint="{path}",http_response_code="{code}",service_name="model_serving"'
        lines.append(f"bentoml_service_request_total{{{labels}}} {count}")
        for bound in ("0.1", "0.2", "+Inf"):
            lower.append(f'{duration}_bucket{{{labels},le="{bound}"}} {0 if bound == "0.1" else count}')
        lower += [f"{duration}_count{{{labels}}} {count}", f"{duration}_sum{{{labels}}} {count * 0.15}"]
    return "\\n".join([*lines, *lower, ""])

ThreadingHTTPServer((os.environ["POD_IP"], 3000), Handler).serve_forever()
"""
"""Answers probes and counts requests as model_serving does; BEHAVIOUR says how each version behaves."""


def server(
    image: str,
    *,
    replicas: int = 2,
    behaviour: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
) -> Object:
    """Return a Deployment that serves nothing but answers like model_serving."""
    labels = {"app.kubernetes.io/name": "model-serving", "app.kubernetes.io/instance": RELEASE}
    container = {
        "name": "service",
        "image": image,
        "command": ["python", "-S", "-E", "-c", SERVER],
        "ports": [{"name": "http", "containerPort": 3000}],
        "env": [
            {"name": "BEHAVIOUR", "value": json.dumps(dict(behaviour or {}))},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": dict(limits or {})},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT},
        "spec": {
            "replicas": replicas,
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 2},
            },
        },
    }


def job(
    name: str,
    image: str,
    *,
    code: str = "print('done')",
    limits: Mapping[str, str] | None = None,
    node_selector: Mapping[str, str] | None = None,
) -> Object:
    """Return a Job that runs a line of Python."""
    container = {
        "name": "prefect-job",
        "image": image,
        "command": ["python", "-S", "-E", "-c", code],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"limits": dict(limits or {})},
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "nodeSelector": dict(node_selector or {}),
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


def quota(**hard: str) -> Object:
    """Return a quota on pods, or on what else is named."""
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
