"""One retraining at a time: a lease in storage that its holder renews, and that others may take once it has run out.

Each lease is a file ``retraining/lock/<number>.json``, and the highest number counts. A lease is taken by creating the
next number, which of several takers one succeeds in; only its holder writes to it again. A holder that was away for
longer than its lease finds a higher number, and stops.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from services.shared.contracts import Contract
from services.shared.errors import GliaflowError
from services.shared.storage import Storage

FOLDER = "retraining/lock"
LEASE = timedelta(minutes=10)
_ENDING = ".json"

Clock = Callable[[], datetime]


class Locked(GliaflowError):
    """Somebody else holds the lock."""

    status = 409
    title = "Already running"


class Lease(Contract):
    """Who holds the lock, and until when."""

    owner: str
    host: str
    process: int
    taken: datetime
    until: datetime
    released: bool = False

    def is_held(self, now: datetime) -> bool:
        """Return whether the lock is taken: not given back, not run out, and its process not known to be gone."""
        if self.released or now >= self.until:
            return False
        return self.host != socket.gethostname() or _is_alive(self.process)


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


def read_lease(storage: Storage) -> Lease | None:
    """Return the lease that counts, or None where nobody ever took one."""
    number = _newest(storage)
    return None if number == 0 else _read(storage, number)


class Lock:
    """A lease that is held."""

    def __init__(self, storage: Storage, number: int, lease: Lease, clock: Clock) -> None:
        self._storage, self._number, self._lease, self._clock = storage, number, lease, clock
        self._writing = threading.Lock()

    def confirm(self) -> None:
        """Make sure that the lock is still held, and renew it.

        Raises
        ------
        Locked
            Where another took it after it had run out.
        """
        if _newest(self._storage) != self._number:
            raise Locked(
                "another retraining took over while this one was away for longer than its lease",
                step="lock",
                field=FOLDER,
                got=_describe(read_lease(self._storage)),
                remedy="nothing is lost: the other one goes on from the last finished step",
            )
        with self._writing:
            self._lease = self._lease.model_copy(update={"until": self._clock() + LEASE})
            self._write()

    def release(self) -> None:
        """Give the lock back."""
        with self._writing:
            self._lease = self._lease.model_copy(update={"released": True})
            if _newest(self._storage) == self._number:
                self._write()

    def _write(self) -> None:
        self._storage.write_text(_key(self._number), self._lease.model_dump_json() + "\n")


def take_lock(storage: Storage, owner: str, *, clock: Clock = utc_now) -> Lock:
    """Take the lock, or say who holds it.

    Parameters
    ----------
    owner
        What is being done, for whoever finds the lock taken.

    Raises
    ------
    Locked
        Naming the holder and until when its lease lasts.
    """
    number, now = _newest(storage), clock()
    held = _read(storage, number) if number else None
    lease = Lease(owner=owner, host=socket.gethostname(), process=os.getpid(), taken=now, until=now + LEASE)
    if (held is not None and held.is_held(now)) or not storage.create_text(
        _key(number + 1), lease.model_dump_json() + "\n"
    ):
        raise Locked(
            "another retraining, promotion or rollback is running",
            step="lock",
            field=FOLDER,
            expected="one at a time",
            got=_describe(read_lease(storage)),
            remedy="wait for it; a lease whose process is gone may be taken at once, any other when it has run out",
        )
    for old in range(max(1, number - 1), number):  # the one before stays, as a trace of who had it
        storage.remove(_key(old))
    return Lock(storage, number + 1, lease, clock)


@contextmanager
def hold_lock(storage: Storage, owner: str, *, clock: Clock = utc_now) -> Iterator[Lock]:
    """Hold the lock while the block lasts; a thread renews it, so that a long step does not lose it.

    Raises
    ------
    Locked
        See :func:`take_lock`.
    """
    lock = take_lock(storage, owner, clock=clock)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE.total_seconds() / 3):
            try:
                lock.confirm()
            except Locked:
                return  # the next step confirms as well, and stops there

    thread = threading.Thread(target=renew, name="retraining lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        over.set()
        thread.join()
        lock.release()


def _key(number: int) -> str:
    return f"{FOLDER}/{number:08d}{_ENDING}"


def _newest(storage: Storage) -> int:
    numbers = [key.rpartition("/")[2].removesuffix(_ENDING) for key in storage.files(FOLDER, _ENDING)]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _read(storage: Storage, number: int) -> Lease | None:
    try:
        return Lease.model_validate_json(storage.read_bytes(_key(number)))
    except ValidationError:
        return None  # of a layout that nobody holds


def _describe(lease: Lease | None) -> str:
    if lease is None:
        return "nobody any more"
    return f"{lease.owner} on {lease.host}, process {lease.process}, until {lease.until:%Y-%m-%d %H:%M} UTC"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
