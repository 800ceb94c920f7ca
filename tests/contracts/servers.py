"""A service behind HTTP: a process of this installation, or a container of its image."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from pipelines.clients import RemoteService, service_class
from pipelines.serve import serve_command
from services.shared.settings import ServiceName

IN_IMAGES = bool(os.environ.get("GLIAFLOW_TEST_IMAGES"))
"""Whether the servers are containers of `make images` instead of processes of this installation."""
FOR_GPUS = IN_IMAGES and os.environ.get("TORCH") == "cuda"
"""Whether they are the images for GPUs, which are given none here."""
ENGINE = str(Path(__file__).resolve().parents[2] / "infra" / "engine.sh")
START_S = 300.0
"""Seconds that a server may take to become ready, as the charts allow."""
if IN_IMAGES:
    os.umask(0)  # the images' user is none of this machine's


class Server:
    """A service behind HTTP, in processes of its own."""

    def __init__(self, name: ServiceName, root: Path, **environment: str) -> None:
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = root.parent / f"{name}-{port}.log"
        command = serve_command(name, port=port)
        settings_of_server = {"GLIAFLOW_STORAGE_ROOT": str(root), "OMP_NUM_THREADS": "1", **environment}
        if not IN_IMAGES:  # servers that share it empty each other's counts
            settings_of_server = {"BENTOML_HOME": str(root.parent / f"bentoml-{name}-{port}"), **settings_of_server}
        self._container = f"gliaflow-{name}-{port}" if IN_IMAGES else None
        if self._container is not None:
            settings_of_server = {**settings_of_server, "GLIAFLOW_STORAGE_ROOT": "/data", **environment}
            command = container_command(name, self._container, root, settings_of_server, port)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **settings_of_server},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def client(self) -> RemoteService:
        """Return a client once the server takes requests; its log where it ended or did not become ready."""
        client = RemoteService(service_class(self.name), self.url)
        deadline = time.monotonic() + START_S
        while not client.is_ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                client.close()
                how = "ended" if ended else f"is not ready after {START_S:g} s"
                raise RuntimeError(f"{self.name} {how}; it said:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)
        return client

    def stop(self) -> None:
        """End the server and its workers."""
        if self._container is not None:
            subprocess.run(["bash", ENGINE, "stop", "--time=20", self._container], capture_output=True)
        else:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)


def container_command(name: str, container: str, root: Path, environment: dict[str, str], port: int) -> list[str]:
    """Return what runs a service's image as Kubernetes would: read-only, without capabilities, as any user."""
    writable = [f"--tmpfs={folder}:rw,size=2g,mode=1777" for folder in ("/tmp", "/var/cache/numba")]
    rights = ["--read-only", "--user=23456:23456", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    given = [f"--env={key}={value}" for key, value in environment.items()]
    tag = version("gliaflow") + ("-cuda" if FOR_GPUS else "")
    run = ["bash", ENGINE, "run", "--rm", "--network=host", f"--name={container}", f"--volume={root}:/data"]
    serve = ["gliaflow", "serve", name, "--host", "127.0.0.1", "--port", str(port)]
    return [*run, *rights, *writable, *given, f"gliaflow/{name}:{tag}", *serve]
