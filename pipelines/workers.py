"""Worker processes on this machine: started afresh, gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def start_workers(count: int) -> ProcessPoolExecutor:
    """Return a pool of worker processes that share nothing with this one and end with it, however it ends."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this worker as soon as its parent is gone, so that an interrupted run leaves nobody writing."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
