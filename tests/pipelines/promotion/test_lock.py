"""One holder at a time; a lease that ran out, or whose process is gone, is taken over once."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.promotion import lock as locks
from pipelines.promotion.lock import FOLDER, LEASE, Lock, Locked, hold_lock, read_lease, take_lock
from services.shared.storage import Storage


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = datetime(2031, 3, 3, 4, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_second_one_is_told_who_holds_it(storage: Storage, clock: Clock) -> None:
    held = pytest.raises(Locked, match=r"retraining of grading on .* until 2031-03-03 04:10 UTC")
    with hold_lock(storage, "retraining of grading", clock=clock), held:
        take_lock(storage, "promotion", clock=clock)
    lease = read_lease(storage)
    assert lease is not None
    assert not lease.is_held(clock())
    take_lock(storage, "promotion", clock=clock).release()


def test_a_lease_is_taken_over_when_it_has_run_out_and_its_holder_stops(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(locks.socket, "gethostname", lambda: "elsewhere")
        first = take_lock(storage, "first", clock=clock)
    clock.now += LEASE - timedelta(seconds=1)
    with pytest.raises(Locked, match="first on elsewhere"):
        take_lock(storage, "second", clock=clock)
    first.confirm()  # renewed
    clock.now += LEASE - timedelta(seconds=1)
    with pytest.raises(Locked):
        take_lock(storage, "second", clock=clock)
    clock.now += timedelta(seconds=1)
    second = take_lock(storage, "second", clock=clock)
    with pytest.raises(Locked, match="took over"):
        first.confirm()
    first.release()  # says nothing any more
    second.confirm()
    assert read_lease(storage) is not None
    assert read_lease(storage).owner == "second"  # type: ignore[union-attr]


def test_a_process_that_was_killed_holds_nothing(storage: Storage) -> None:
    code = (
        "import os, signal; from pipelines.promotion.lock import take_lock;"
        "from services.shared.storage import Storage;"
        f"take_lock(Storage({storage.root!r}), 'killed'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    lease = read_lease(storage)
    assert lease is not None
    assert (lease.owner, lease.released) == ("killed", False)
    take_lock(storage, "next").release()


def test_of_many_takers_one_succeeds(storage: Storage, clock: Clock) -> None:
    def take(number: int) -> Lock | None:
        try:
            return take_lock(storage, f"taker {number}", clock=clock)
        except Locked:
            return None

    with ThreadPoolExecutor(16) as pool:
        for _ in range(5):
            got = [lock for lock in pool.map(take, range(16)) if lock is not None]
            assert len(got) == 1
            got[0].release()
    assert len(storage.files(FOLDER)) <= 3  # old leases are cleared away


def test_a_thread_renews_the_lease_of_a_long_step(
    storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", timedelta(seconds=0.3))
    with hold_lock(storage, "long", clock=locks.utc_now):
        before = read_lease(storage)
        time.sleep(0.5)
        after = read_lease(storage)
    assert before is not None
    assert after is not None
    assert after.until > before.until
