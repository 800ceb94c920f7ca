"""A run's record: each step once, what stopped it, and which run goes on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipelines.promotion.findings import Committed, Done
from pipelines.promotion.record import Recorder, Run, list_runs, read_run, run_id, unfinished_run
from services.shared.errors import Unavailable, UnreadableFile
from services.shared.storage import Storage

MONDAY = datetime(2031, 3, 3, 4, 0, tzinfo=UTC)


@pytest.fixture
def recorder(storage: Storage) -> Recorder:
    run = Run(id=run_id("grading", MONDAY), model="grading", began=MONDAY, trigger="test", champion="v0001-0")
    made = Recorder(storage, run, clock=lambda: MONDAY)
    made.begin()
    return made


def test_a_step_is_done_once_and_its_finding_kept(storage: Storage, recorder: Recorder) -> None:
    calls = []

    def commit() -> Committed:
        calls.append(1)
        return Committed(revision="abc")

    assert recorder.do("commit", commit, Committed).revision == "abc"
    run = read_run(storage, "20310303T040000Z-grading")
    assert run == recorder.run
    again = Recorder(storage, run, clock=lambda: MONDAY)
    assert again.do("commit", commit, Committed).revision == "abc"
    assert calls == [1]


def test_what_stops_a_run_is_written_down_until_it_goes_on(storage: Storage, recorder: Recorder) -> None:
    def fail() -> Done:
        raise Unavailable("the remote does not answer", remedy="mount it")

    with pytest.raises(Unavailable):
        recorder.do("push", fail, Done)
    run = unfinished_run(storage, "grading")
    assert run is not None
    assert run.problem is not None
    assert (run.problem["step"], run.problem["remedy"]) == ("push", "mount it")
    recorder.do("push", Done, Done)
    assert recorder.run.problem is None
    recorder.finish("kept", "not better")
    assert unfinished_run(storage, "grading") is None
    assert [each.outcome for each in list_runs(storage, "grading")] == ["kept"]
    assert list_runs(storage, "another") == ()


def test_a_record_that_cannot_be_read_is_named(storage: Storage, recorder: Recorder) -> None:
    storage.write_text(f"{recorder.run.folder}/run.json", "{}")
    with pytest.raises(UnreadableFile, match="20310303T040000Z-grading"):
        list_runs(storage)
