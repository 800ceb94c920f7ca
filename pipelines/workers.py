"""Worker processes on this machine: started afresh, gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import LifoQueue
from typing import ParamSpec, TypeVar

from services.shared.errors import Unavailable

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def start_workers(count: int) -> ProcessPoolExecutor:
    """Return a pool of worker processes that share nothing with this one and end with it, however it ends."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)


class WorkerLanes:
    """Resident worker processes with one call at a time each, so that one that is ended takes no other call with it.

    A pool of several processes loses every call in flight when one of its processes is killed.

    Parameters
    ----------
    count
        Number of processes; each is started by the first call that finds no other one idle.
    """

    def __init__(self, count: int) -> None:
        self._idle: LifoQueue[ProcessPoolExecutor] = LifoQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(start_workers(1))

    def call(self, function: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """Return what a function returns in the next idle process.

        Raises
        ------
        Unavailable
            Where the process ended before it answered; a fresh one has taken its place.
        """
        lane = self._idle.get()
        try:
            return lane.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            lane.shutdown(wait=False)
            lane = start_workers(1)
            raise Unavailable(
                "a worker process was ended from outside",
                got="out of memory, most likely",
                remedy="lower GLIAFLOW_WORKERS, or give the machine more memory",
            ) from error
        finally:
            self._idle.put(lane)

    def close(self) -> None:
        """End the processes, once each has finished what it is at."""
        for _ in range(self._count):
            self._idle.get().shutdown()


def _end_with_parent() -> None:
    """End this worker as soon as its parent is gone, so that an interrupted run leaves nobody writing."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
