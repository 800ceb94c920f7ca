"""Put one service behind HTTP: the current process becomes BentoML's server."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pipelines.clients import service_target
from services.model_serving.registry import check_pins
from services.shared.device import TORCH_SERVICES, choose_device
from services.shared.errors import InvalidValue, NotFound
from services.shared.settings import SERVICE_NAMES, default_threads, settings
from services.shared.storage import open_storage

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def serve_command(name: str, *, host: str = "127.0.0.1", port: int = 3000) -> list[str]:
    """Return the command that serves a service.

    Raises
    ------
    NotFound
        Where there is no such service.
    InvalidValue
        Where the address is not loopback and no token is set.
    """
    if name not in SERVICE_NAMES:
        raise NotFound("there is no such service", got=name, expected=", ".join(SERVICE_NAMES))
    if host not in _LOOPBACK and settings().token is None:
        raise InvalidValue(
            "a service that others can reach needs a token",
            field="--host",
            expected="127.0.0.1, or GLIAFLOW_TOKEN set",
            got=host,
            remedy="set GLIAFLOW_TOKEN for the service and for its callers",
        )
    return [sys.executable, "-m", "bentoml", "serve", service_target(name), "--host", host, "--port", str(port)]


def serve_service(name: str, *, host: str, port: int) -> None:
    """Serve until the process is ended.

    Raises
    ------
    NotFound, ChangedFile, UnreadableFile
        Where model_serving is pinned to a version that it cannot serve: an orchestrator then sees why at once.
    InvalidValue
        Where it must compute on a GPU and there is none.
    """
    command = serve_command(name, host=host, port=port)
    if name == "model_serving":
        check_pins(open_storage())
    if settings().device.startswith("cuda") and name in TORCH_SERVICES:
        choose_device()
    default_threads()
    # Servers of one machine would share BentoML's folder of counts, and each that starts empties it.
    os.environ.setdefault("BENTOML_HOME", str(Path(tempfile.gettempdir()) / f"gliaflow-{name}-{port}"))
    os.execv(command[0], command)  # noqa: S606 - the command is made of checked parts
