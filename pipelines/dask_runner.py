"""Cases on Dask workers: a cluster that a scheduler's address names, or worker processes behind one on this machine.

Dask itself moves a case whose worker is gone to another one. Encryption (``tls://`` addresses) is taken from Dask's
own configuration.
"""

from __future__ import annotations

import asyncio
import os
from typing import cast

from distributed import Client, KilledWorker, LocalCluster
from distributed.comm import CommClosedError
from pydantic import BaseModel

from pipelines.runners import call_service
from services.shared.errors import InvalidValue, MissingDependency, ServiceFault, Unavailable
from services.shared.processors import available_processors
from services.shared.settings import ServiceName, bound_threads, settings

CONNECT_S = 10
JOIN_S = 60
_FIELD = "GLIAFLOW_DASK_SCHEDULER"


class DaskRunner:
    """Computes on the workers of a Dask cluster.

    Parameters
    ----------
    address
        Where the scheduler listens; None starts one on loopback, with workers of its own.
    slots
        Cases at a time; None: as many as the cluster has threads.

    Raises
    ------
    InvalidValue
        Where the address is malformed, or a worker has another storage root than this process.
    MissingDependency
        Where a worker cannot import this platform.
    Unavailable
        Where no scheduler answers, or no worker joins it.
    """

    def __init__(self, address: str | None, slots: int | None) -> None:
        self._cluster: LocalCluster | None = None
        if address is None:
            self._cluster = _start_cluster(slots or settings().workers)
            address = str(self._cluster.scheduler_address)
        self._client = _connect(address)
        _check_workers(self._client)
        self.slots = slots or sum(self._client.nthreads().values())

    def call(self, service: ServiceName, endpoint: str, request: BaseModel) -> BaseModel:
        """Return the endpoint's result.

        Raises
        ------
        ServiceFault
            Where the case ended one worker after the other.
        Unavailable
            Where the scheduler was lost.
        """
        future = None
        try:
            future = self._client.submit(call_service, service, endpoint, request, pure=False)
            return cast(BaseModel, future.result())
        except KilledWorker as error:
            raise ServiceFault(
                f"{error.allowed_failures + 1} Dask workers were ended while they computed this case",
                got="out of memory, most likely",
                remedy="give the workers more memory, or read their logs",
            ) from error
        except (CommClosedError, asyncio.CancelledError, TimeoutError) as error:
            raise Unavailable(
                "the connection to the Dask scheduler was lost",
                field=_FIELD,
                got=type(error).__name__,
                remedy="look at the scheduler; a second run goes on where this one ended",
            ) from error
        finally:
            if future is not None:
                future.release()

    def close(self) -> None:
        """Leave the cluster, and end the one that was started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _start_cluster(workers: int) -> LocalCluster:
    bound_threads(max(1, available_processors() // workers))
    # No limit on memory: Dask would end a worker at a share of the machine's memory that one large case may need.
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=0
    )


def _connect(address: str) -> Client:
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise Unavailable(
            "the Dask scheduler did not answer",
            field=_FIELD,
            expected=f"within {CONNECT_S} s",
            got=address,
            remedy="start one with 'dask scheduler', or unset the address for workers on this machine",
        ) from error
    except ValueError as error:
        raise InvalidValue(
            "this is not the address of a Dask scheduler", field=_FIELD, expected="tcp://HOST:PORT", got=address
        ) from error
    try:
        client.wait_for_workers(1, timeout=JOIN_S)
    except TimeoutError as error:
        client.close()
        raise Unavailable(
            "no Dask worker has joined the scheduler",
            field=_FIELD,
            expected=f"one within {JOIN_S} s",
            got=address,
            remedy="start some with 'dask worker ADDRESS', with the GLIAFLOW_ settings of this process",
        ) from error
    return client


def _check_workers(client: Client) -> None:
    """Refuse workers that would read and write elsewhere, before they do."""
    try:
        roots = client.run(storage_root)
    except ImportError as error:
        client.close()
        raise MissingDependency(
            "a Dask worker cannot import gliaflow",
            got=str(error),
            remedy="start the workers in an environment in which gliaflow is installed",
        ) from error
    for worker, root in sorted(roots.items()):
        if root != storage_root():
            client.close()
            raise InvalidValue(
                "a Dask worker has another storage root than this process",
                field="GLIAFLOW_STORAGE_ROOT",
                expected=storage_root(),
                got=f"{root} on {worker}",
                remedy="start every worker with the same root; several machines need s3:// or a shared folder",
            )


def storage_root() -> str:
    """Return the storage root of the process that runs this, as an absolute path or a URL."""
    root = settings().storage_root
    return root if "://" in root else os.path.realpath(root)
