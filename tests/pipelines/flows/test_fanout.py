"""The fan-out over a real service: segmentation by expert masks on small prepared volumes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from prefect import flow
from pydantic import BaseModel

from pipelines import dask_runner, runners
from pipelines.flows import fanout
from pipelines.flows.segment import segment_cohort
from pipelines.ledger import read_quarantine, update_quarantine, usable_cases
from pipelines.outcomes import CaseOutcome, Outcomes
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.shared.cohort import SEQUENCES, CaseKeys, Region, read_cohort, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue, MissingSequence, Unavailable
from services.shared.settings import ServiceName, settings
from services.shared.storage import Storage
from services.shared.volume import write_volume

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]
EXPERT = SegmentParameters(source="expert")


def write_case(storage: Storage, label: str, *, labels: tuple[int, ...] = (1, 2, 4)) -> CaseRef:
    keys = CaseKeys(CaseRef(cohort="c", id=label))
    values = np.zeros((12, 12, 12), np.float32)
    for sequence in SEQUENCES:
        write_volume(storage, keys.preprocessed_image(sequence), sitk.GetImageFromArray(values + 1))
        storage.write_text(keys.raw_image(sequence), "")
    mask = np.zeros(values.shape, np.uint8)
    for index, value in enumerate(labels):
        mask[2:8, 2:8, 2 * index + 2 : 2 * index + 4] = value
    write_volume(storage, keys.brain_mask, sitk.GetImageFromArray(np.ones(values.shape, np.uint8)))
    write_volume(storage, keys.preprocessed_segmentation, sitk.GetImageFromArray(mask))
    return keys.case


@pytest.fixture
def cohort(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> list[CaseRef]:
    monkeypatch.setenv("GLIAFLOW_RUNNER", "thread")
    cases = [write_case(storage, "a"), write_case(storage, "b", labels=(9,)), write_case(storage, "c")]
    frame = pd.DataFrame({"participant_id": [f"sub-{case.id}" for case in cases], "subset": "study"})
    write_participants(storage, "c", frame)
    return cases


def test_bad_case_is_quarantined_and_the_others_go_on(storage: Storage, cohort: list[CaseRef]) -> None:
    seen: list[tuple[int, int, str]] = []
    outcomes = segment_cohort("c", EXPERT, progress=lambda *now: seen.append(now))
    assert [outcome.case for outcome in outcomes] == cohort
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    problem = outcomes[1].problem
    assert problem is not None
    assert problem["type"] == "urn:gliaflow:InvalidMask"
    assert (problem["case"], problem["step"]) == ("c/sub-b", "segment")
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert set(read_quarantine(storage, "c", "segment")) == {"b"}
    later = usable_cases(storage, read_cohort(storage, "c"), steps=("prepare", "segment"))
    assert [case.id for case in later] == ["a", "c"]
    assert not storage.exists(CaseKeys(cohort[1]).segmentation)


def test_second_run_computes_nothing_and_a_new_case_itself_alone(storage: Storage, cohort: list[CaseRef]) -> None:
    first = segment_cohort("c", EXPERT, only=["a", "c"])
    assert [outcome.cached for outcome in first] == [False, False]
    write_case(storage, "d")
    frame = pd.DataFrame({"participant_id": ["sub-a", "sub-b", "sub-c", "sub-d"], "subset": "study"})
    write_participants(storage, "c", frame)
    again = segment_cohort("c", EXPERT, only=["a", "c", "d"])
    assert [outcome.cached for outcome in again] == [True, True, False]
    assert again[2].result is not None
    assert set(again[2].result["volumes_ml"]) == {region.value for region in Region}


def test_mended_case_leaves_the_quarantine(storage: Storage, cohort: list[CaseRef]) -> None:
    segment_cohort("c", EXPERT)
    write_case(storage, "b")
    segment_cohort("c", EXPERT, only=["b"])
    assert read_quarantine(storage, "c", "segment") == {}


def test_case_quarantined_earlier_is_left_out(storage: Storage, cohort: list[CaseRef]) -> None:
    update_quarantine(storage, "prepare", {cohort[0]: MissingSequence("lacks one").to_problem()})
    assert [outcome.case.id for outcome in segment_cohort("c", EXPERT)] == ["b", "c"]


VICTIM = "c"


def call_and_hang_once(service: ServiceName, endpoint: str, request: SegmentRequest) -> BaseModel:
    """In a worker: the first time that the victim's first file is written but not in place, wait to be killed."""
    note = Path(settings().storage_root) / "worker.pid"
    replace = os.replace

    def hang(source: str, target: str) -> None:
        if request.case.id == VICTIM and not note.exists():
            note.write_text(str(os.getpid()))
            time.sleep(600)
        replace(source, target)

    with patch("os.replace", hang):
        return runners.call_service(service, endpoint, request)


@pytest.fixture
def killer(storage: Storage) -> Iterator[threading.Thread]:
    """A thread that kills the worker that hangs."""
    note = Path(settings().storage_root) / "worker.pid"

    def kill() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.02)
        os.kill(int(note.read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield thread
    thread.join(timeout=10)
    runners.close_runners()


@pytest.mark.parametrize("runner", ["process", "dask"])
def test_killed_worker_costs_no_case(
    storage: Storage, cohort: list[CaseRef], killer: threading.Thread, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    undisturbed = segment_cohort("c", EXPERT)
    written = CaseKeys(CaseRef(cohort="c", id=VICTIM)).segmentation
    expected = storage.sha256(written)
    storage.remove("derivatives/segmentation/c")
    monkeypatch.setenv("GLIAFLOW_RUNNER", runner)
    monkeypatch.setenv("GLIAFLOW_WORKERS", "2")
    monkeypatch.setattr({"process": runners, "dask": dask_runner}[runner], "call_service", call_and_hang_once)
    settings.cache_clear()
    outcomes = segment_cohort("c", EXPERT)
    assert not killer.is_alive()
    assert [outcome.case for outcome in outcomes] == cohort
    assert [facts(outcome) for outcome in outcomes] == [facts(outcome) for outcome in undisturbed]
    assert storage.sha256(written) == expected
    assert set(read_quarantine(storage, "c", "segment")) == {"b"}


def facts(outcome: CaseOutcome) -> dict[str, object]:
    """What an outcome says, but for how long it took."""
    return outcome.model_dump(exclude={"result": {"seconds"}})


class LightRunner:
    """Simulated light cases: it answers at once, and notes how many cases it had at a time."""

    def __init__(self, slots: int, failing: tuple[str, ...] = ()) -> None:
        self.slots = slots
        self.most = 0
        self.tries: Counter[str] = Counter()
        self._failing = failing
        self._now = 0
        self._lock = threading.Lock()

    def call(self, service: str, endpoint: str, request: SegmentRequest) -> BaseModel:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.tries[request.case.id] += 1
        time.sleep(0.002)
        with self._lock:
            self._now -= 1
        if request.case.id in self._failing and self.tries[request.case.id] < 2:
            raise Unavailable("the service did not answer")
        return request.case

    def close(self) -> None:
        pass


def run_lightly(storage: Storage, runner: LightRunner, count: int, monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    monkeypatch.setattr(fanout, "choose_runner", lambda service: runner)
    cases = [CaseRef(cohort="c", id=f"{number:03d}") for number in range(count)]
    seen: list[int] = []

    @flow(task_runner=fanout.case_runner(), validate_parameters=False)
    def treat() -> Outcomes:
        return fanout.treat_cases(
            storage,
            cases,
            step="segment",
            call=("segmentation", "segment"),
            request=lambda case: SegmentRequest(case=case, parameters=EXPERT),
            progress=lambda done, total, label: seen.append(done),
        )

    outcomes = treat()
    assert [outcome.case for outcome in outcomes] == cases
    assert seen == list(range(1, count + 1))
    return outcomes


def test_large_cohort_is_few_tasks_and_few_cases_at_a_time(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "MIN_TASKS", 8)
    submitted: list[str] = []
    submit = fanout._treat_batch.submit
    monkeypatch.setattr(
        fanout._treat_batch,
        "submit",
        lambda step, label, batch: (submitted.append(label), submit(step, label, batch))[1],
    )
    runner = LightRunner(slots=3)
    run_lightly(storage, runner, 50, monkeypatch)
    assert runner.most == 3
    assert submitted[:2] == ["000…002", "003…005"]
    assert len(submitted) == 17


def test_passing_fault_is_tried_again_and_told(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runners, "RETRY_DELAYS_S", (0.0, 0.0))
    runner = LightRunner(slots=1, failing=("001",))
    outcomes = run_lightly(storage, runner, 3, monkeypatch)
    assert [outcome.problem for outcome in outcomes] == [None, None, None]
    assert dict(runner.tries) == {"000": 1, "001": 2, "002": 1}
    (line,) = [record.getMessage() for record in caplog.records if record.name == "gliaflow.runners"]
    assert line == "c/sub-001, segment: the service did not answer; tried again in 0 s"


def test_service_that_nobody_answers_for_stops_the_run(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "RETRY_DELAYS_S", ())
    monkeypatch.setenv("GLIAFLOW_SEGMENTATION_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GLIAFLOW_WORKERS", "1")
    settings.cache_clear()
    runners._resident.cache_clear()
    labels = [f"{number:03d}" for number in range(30)]
    for label in labels:
        for sequence in SEQUENCES:
            storage.write_text(CaseKeys(CaseRef(cohort="c", id=label)).raw_image(sequence), "")
    write_participants(storage, "c", pd.DataFrame({"participant_id": [f"sub-{label}" for label in labels]}))
    with pytest.raises(Unavailable, match="did not answer"):
        segment_cohort("c", EXPERT)
    assert len(read_quarantine(storage, "c", "segment")) == fanout.UNAVAILABLE_IN_A_ROW
    runners._resident.cache_clear()


CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def test_cluster_by_its_address(
    storage: Storage, cohort: list[CaseRef], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    monkeypatch.setenv("GLIAFLOW_RUNNER", "dask")
    with subprocess.Popen([sys.executable, str(script)], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            monkeypatch.setenv("GLIAFLOW_DASK_SCHEDULER", process.stdout.readline().strip())
            settings.cache_clear()
            assert runners.choose_runner("segmentation").slots == 1
            outcomes = segment_cohort("c", EXPERT)
            assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
            monkeypatch.setenv("GLIAFLOW_STORAGE_ROOT", str(tmp_path))
            settings.cache_clear()
            with pytest.raises(InvalidValue, match="another storage root"):
                runners.choose_runner("segmentation")
        finally:
            runners.close_runners()
            process.stdin.close()


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [("tcp://127.0.0.1:1", Unavailable, "did not answer"), ("nowhere://x", InvalidValue, "not the address")],
)
def test_scheduler_that_cannot_be_reached(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, address: str, error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(dask_runner, "CONNECT_S", 1)
    monkeypatch.setenv("GLIAFLOW_RUNNER", "dask")
    monkeypatch.setenv("GLIAFLOW_DASK_SCHEDULER", address)
    settings.cache_clear()
    with pytest.raises(error, match=said):
        runners.choose_runner("segmentation")
