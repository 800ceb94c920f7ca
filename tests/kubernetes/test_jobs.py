"""Steps of gliaflow as Jobs: a real Prefect server and worker, the chart's job template, the worker's own rights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from kubernetes import client
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cluster.connection import Cluster
from pipelines.flows.jobs import JobHandle, JobNotStarted, JobSpec, submit, wait
from pipelines.flows.segment import segment_cohort
from pipelines.ledger import read_quarantine
from services.segmentation.contracts import SegmentParameters
from services.shared.cohort import CaseKeys, write_participants
from services.shared.errors import InvalidValue, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage
from tests.charts.rendered import NAMESPACE, Rendered
from tests.kubernetes.manifests import GPU
from tests.kubernetes.place import PATIENCE_S, Place, apply, connection
from tests.pipelines.flows.test_fanout import write_case

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]
STEP = ("simulate", "--cohort", "try", "--cases", "1", "--segmentation-cases", "0")


@pytest.fixture(scope="module")
def space(place: Place, release: Rendered) -> Iterator[tuple[Cluster, Cluster]]:
    """A namespace with what the chart's jobs need, as administrator and as promoter."""
    stand_in = place.require_stand_in("pods of a real cluster cannot reach the Prefect server of this test")
    name = "gliaflow-jobs"
    admin = place.admin(name)
    admin.core.create_namespace({"metadata": {"name": name}})
    for account in ("worker", "job", "promoter"):
        apply(admin, release.named("ServiceAccount", account))
        if account != "job":
            apply(admin, release.named("Role", account), release.named("RoleBinding", account))
    token = {"kind": "Secret", "metadata": {"name": "gliaflow-token"}, "stringData": {"token": "t"}}
    apply(admin, release.named("ConfigMap", "pipelines"), token)
    apply(admin, *release.of("PersistentVolumeClaim"))
    (container,) = release.named("Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    stand_in.images[container["image"]] = stand_in.images[place.image]
    yield admin, connection(place.account(name, "rel-promoter"), name, inside=True)
    admin.core.delete_namespace(name)


@pytest.fixture(scope="module")
def worker(
    place: Place, release: Rendered, space: tuple[Cluster, Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The chart's worker, started with the chart's command on the chart's template."""
    from prefect.settings import PREFECT_API_URL

    folder = tmp_path_factory.mktemp("worker")
    namespace = space[0].namespace
    template = folder / "base-job-template.json"
    text = release.named("ConfigMap", "worker")["data"]["base-job-template.json"]
    template.write_text(text.replace(f'"{NAMESPACE}"', f'"{namespace}"'))
    (container,) = release.named("Deployment", "worker")["spec"]["template"]["spec"]["containers"]
    program, *words = container["command"]
    words = [word.replace("/etc/gliaflow/base-job-template.json", str(template)) for word in words]
    given = {entry["name"]: entry["value"].replace(NAMESPACE, namespace) for entry in container["env"]}
    given = {name: value for name, value in given.items() if name.startswith("PREFECT_")}
    log = (folder / "log.txt").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", program, *(word for word in words if word != "--with-healthcheck")],
        env={
            **os.environ,
            **given,
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_HOME": str(folder),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_LEVEL": "INFO",
            "KUBECONFIG": str(place.account(namespace, "rel-worker")),
        },
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for_pool(process, folder / "log.txt")
        yield (folder / "log.txt").as_posix()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:  # it waits for a job that a failed test left behind
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        log.close()


def _wait_for_pool(process: subprocess.Popen[bytes], log: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with get_client(sync_client=True) as prefect:
            try:
                prefect.read_work_pool("gliaflow")
            except ObjectNotFound:
                time.sleep(0.5)
            else:
                return


@pytest.mark.slow
def test_a_step_runs_on_a_gpu_node(place: Place, space: tuple[Cluster, Cluster], worker: str) -> None:
    admin, promoter = space
    said: list[str] = []
    spec = JobSpec(arguments=STEP, name="simulate", gpus=1, node_selector={"nvidia.com/gpu.present": "true"})
    key = uuid.uuid4().hex
    handle = submit(spec, key=key)
    assert submit(spec, key=key) == handle
    result = wait(handle, pending_seconds=PATIENCE_S, poll_seconds=0.5, cluster=promoter, progress=said.append)
    (pod,) = admin.core.list_namespaced_pod(admin.namespace).items
    log = admin.core.read_namespaced_pod_log(pod.metadata.name, admin.namespace)
    assert result.well, (result, said, Path(worker).read_text(), log)
    assert pod.spec.node_name == "gpu-node"
    assert pod.spec.containers[0].resources.limits[GPU] == "1"
    assert pod.spec.service_account_name == "rel-job"
    assert "simulate: 1 patients in raw/try" in log
    user = f"system:serviceaccount:{admin.namespace}:rel-worker"
    stand_in = place.require_stand_in("a real cluster does not tell what was asked of it")
    asked = [entry for entry in stand_in.access.asked if entry.user == user]
    assert asked
    assert [entry for entry in asked if not entry.allowed] == []


@pytest.mark.slow
def test_a_job_that_no_node_takes_is_taken_back(space: tuple[Cluster, Cluster], worker: str) -> None:
    admin, promoter = space
    said: list[str] = []
    handle = submit(JobSpec(arguments=STEP, name="train", gpus=64))
    with pytest.raises(JobNotStarted) as caught:
        wait(handle, pending_seconds=12, poll_seconds=0.5, cluster=promoter, progress=said.append)
    assert "Pending, no GPU node" in str(caught.value.got), (said, Path(worker).read_text())
    assert caught.value.detail.endswith("s and was cancelled")
    assert any("Insufficient nvidia.com/gpu" in line for line in said)
    jobs = client.BatchV1Api(admin.api).list_namespaced_job(admin.namespace).items
    assert [entry.metadata.name for entry in jobs if entry.metadata.name.startswith("train")] == []


@pytest.mark.slow
def test_cases_of_a_step_are_computed_by_a_job(
    place: Place,
    release: Rendered,
    space: tuple[Cluster, Cluster],
    worker: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin, _ = space
    stand_in = place.require_stand_in("the volume of a real cluster cannot be read from here")
    (claim,) = release.of("PersistentVolumeClaim")
    root = stand_in.kubelet.folder / "claims" / admin.namespace / claim["metadata"]["name"]
    root.mkdir(parents=True, exist_ok=True)
    for name, value in (("STORAGE_ROOT", root), ("RUNNER", "kubernetes"), ("WORKERS", 1), ("JOB_CORES", 1)):
        monkeypatch.setenv(f"GLIAFLOW_{name}", str(value))
    settings.cache_clear()
    storage = Storage(root)
    cases = [write_case(storage, "a"), write_case(storage, "b", labels=(9,))]
    write_participants(storage, "c", pd.DataFrame({"participant_id": [f"sub-{case.id}" for case in cases]}))
    try:
        outcomes = segment_cohort("c", SegmentParameters(source="expert"))
    finally:
        settings.cache_clear()
    assert [outcome.case for outcome in outcomes] == cases, Path(worker).read_text()
    assert [outcome.problem is None for outcome in outcomes] == [True, False], outcomes[0].problem
    assert set(read_quarantine(storage, "c", "segment")) == {"b"}
    assert storage.exists(CaseKeys(cases[0]).segmentation)
    jobs = client.BatchV1Api(admin.api).list_namespaced_job(admin.namespace).items
    assert sum(entry.metadata.name.startswith("gliaflow-segment") for entry in jobs) == 1


def test_what_the_template_does_not_take_is_refused(worker: str) -> None:
    assert worker
    with pytest.raises(InvalidValue, match="Prefect refuses"):
        submit(JobSpec(arguments=STEP, env={"A": "1"}).model_copy(update={"role": "nobody"}))


def test_a_pool_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_WORK_POOL", "nowhere")
    settings.cache_clear()
    with pytest.raises(NotFound, match="no such work pool"):
        submit(JobSpec(arguments=STEP))
    # On the command line, what follows the step is the step's own.
    told = CliRunner().invoke(app, ["submit", "--gpus", "1", "train", "--cohort", "phantom"])
    assert isinstance(told.exception, NotFound)
    settings.cache_clear()


def test_a_label_of_nodes_has_a_value() -> None:
    told = CliRunner().invoke(app, ["submit", "--node", "gpu", "train"])
    assert (told.exit_code, "LABEL=VALUE" in told.output) == (2, True)


@pytest.mark.parametrize(("step", "role"), [("promote", "promoter"), ("rollback", "promoter"), ("extract", "job")])
def test_a_step_that_rolls_models_out_runs_as_promoter(step: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[JobSpec] = []

    def remember(spec: JobSpec, *, key: str | None) -> JobHandle:
        assert key is None
        found.append(spec)
        return JobHandle(flow_run=uuid.uuid4(), name=spec.name)

    monkeypatch.setattr("pipelines.flows.jobs.submit", remember)
    told = CliRunner().invoke(app, ["submit", "--detach", step, "grading"])
    assert told.exit_code == 0, told.output
    assert [spec.role for spec in found] == [role]


def test_variables_are_those_of_the_charts_template(release: Rendered) -> None:
    spec = JobSpec(
        arguments=STEP,
        gpus=1,
        cpu="2",
        memory="8Gi",
        node_selector={"a": "b"},
        runtime_class="nvidia",
        image="i:1",
        env={"A": "1"},
        role="promoter",
    )
    known = json.loads(release.named("ConfigMap", "worker")["data"]["base-job-template.json"])["variables"]
    assert set(spec.variables()) <= set(known["properties"])
    assert release.flow_run(**spec.variables())["spec"]["template"]["spec"]["containers"][0]["image"] == "i:1"
