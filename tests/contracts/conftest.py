"""Every call is made twice: in this process on one storage root, over HTTP to a real server on a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipelines.clients import RemoteService, connect
from pipelines.simulate import SimulateParameters, simulate_cohort
from services.shared.errors import GliaflowError
from services.shared.settings import ServiceName, settings
from services.shared.storage import Storage
from tests.contracts.servers import Server

COHORT = "phantom"


class Both:
    """Calls an endpoint both ways and checks that the answers are the same."""

    def __init__(self, here: Path, there: Path) -> None:
        self.here = here
        self.there = there
        self._servers: dict[ServiceName, Server] = {}
        self._remote: dict[ServiceName, RemoteService] = {}

    def server(self, name: ServiceName) -> RemoteService:
        """Return the HTTP client of a service, which is started at first."""
        if name not in self._remote:
            self._servers[name] = Server(name, self.there)
            self._remote[name] = self._servers[name].client()
        return self._remote[name]

    def call(self, name: ServiceName, method: str, request: BaseModel) -> BaseModel:
        """Return the answer, which is the same both ways but for the seconds it took."""
        ours = getattr(connect(name), method)(request)
        theirs = getattr(self.server(name), method)(request)
        assert type(theirs) is type(ours)
        assert without_seconds(theirs) == without_seconds(ours)
        return theirs

    def fail(self, name: ServiceName, method: str, request: BaseModel) -> GliaflowError:
        """Return the exception, which is the same both ways."""
        caught = []
        for service in (connect(name), self.server(name)):
            with pytest.raises(GliaflowError) as error:
                getattr(service, method)(request)
            caught.append(error.value)
        assert type(caught[1]) is type(caught[0])
        assert caught[1].to_problem() == caught[0].to_problem()
        return caught[1]

    def same_files(self, prefix: str, *, suffix: str = "") -> list[str]:
        """Return the keys below a prefix, which hold the same bytes in both roots."""
        here, there = Storage(self.here), Storage(self.there)
        keys = here.files(prefix, suffix)
        assert keys == there.files(prefix, suffix)
        assert [key for key in keys if here.sha256(key) != there.sha256(key)] == []
        return keys

    def stop(self) -> None:
        """End every server."""
        for client in self._remote.values():
            client.close()
        for server in self._servers.values():
            server.stop()


def without_seconds(result: BaseModel) -> dict[str, object]:
    return result.model_dump(exclude={"seconds"})


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Two roots with the same two phantom patients, and the five services over them, both ways."""
    folder = tmp_path_factory.mktemp("contracts")
    here, there = folder / "here", folder / "there"
    here.mkdir()
    parameters = SimulateParameters(cases=2, segmentation_cases=0, voxel_mm=6.0)
    simulate_cohort(Storage(here), COHORT, parameters=parameters, seed=7)
    shutil.copytree(here, there)
    pair = Both(here, there)
    patch = pytest.MonkeyPatch()
    patch.setenv("GLIAFLOW_STORAGE_ROOT", str(here))
    settings.cache_clear()
    try:
        yield pair
    finally:
        pair.stop()
        patch.undo()
        settings.cache_clear()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with settings of their own, and ends them."""
    started: list[Server] = []

    def start(name: ServiceName, **environment: str) -> Server:
        (tmp_path / "root").mkdir(exist_ok=True)
        started.append(Server(name, tmp_path / "root", **environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()
