"""The stand-in: an API server behind HTTPS on loopback, with controllers, a scheduler and kubelets."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import uvicorn
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kubernetes.apiserver.access import ADMIN, Access
from tests.kubernetes.apiserver.controllers import Controllers
from tests.kubernetes.apiserver.http import Api
from tests.kubernetes.apiserver.kinds import NAMESPACES, NODES, Object
from tests.kubernetes.apiserver.kubelet import Kubelet
from tests.kubernetes.apiserver.scheduler import schedule
from tests.kubernetes.apiserver.store import Store

TICK_S = 0.05
ROOT = Path(__file__).parents[3]
IMAGE_ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
    "DO_NOT_TRACK": "1",
}
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


class StandIn:
    """A cluster of two nodes, one of them with a GPU."""

    def __init__(self, *images: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gliaflow-kubernetes-"))
        self.store = Store()
        self.access = Access(self.store)
        self.images = dict.fromkeys(images, IMAGE_ENVIRONMENT)
        self.kubelet = Kubelet(self.store, self.folder / "pods", self.images)
        self.api = Api(self.store, self.access, self.kubelet.read_log)
        self.controllers = Controllers(self.store, self.api.create)
        self.stopped_controllers = threading.Event()
        self._fault: BaseException | None = None
        self.store.create(NAMESPACES, "", {"metadata": {"name": "default"}})
        self.store.create(NODES, "", _node("cpu-node", cpu="64"))
        self.store.create(NODES, "", _node("gpu-node", cpu="64", gpus="1"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        self._certificate, key = _make_certificate(self.folder)
        config = uvicorn.Config(
            self.api.app,
            ssl_certfile=self._certificate,
            ssl_keyfile=key,
            ssl_version=ssl.PROTOCOL_TLS_SERVER,
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="kubernetes-stand-in", daemon=True)

    def start(self) -> None:
        """Start to listen."""
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "the stand-in did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server and every process that its kubelets started."""
        self._server.should_exit = True
        self._thread.join(20)
        self.kubelet.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert self._fault is None, f"the stand-in's controllers failed: {self._fault!r}"

    def kubeconfig(self, token: str | None = None, *, namespace: str = "default") -> Path:
        """Write a kubeconfig; without a token it is the administrator's."""
        authority = base64.b64encode(Path(self._certificate).read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stand-in",
            "clusters": [
                {"name": "stand-in", "cluster": {"server": self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": "user", "user": {"token": token or self.access.issue(ADMIN)}}],
            "contexts": [
                {"name": "stand-in", "context": {"cluster": "stand-in", "user": "user", "namespace": namespace}}
            ],
        }
        handle, path = tempfile.mkstemp(suffix=".yaml", dir=self.folder)
        with os.fdopen(handle, "w") as file:
            yaml.safe_dump(content, file)
        return Path(path)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        work = asyncio.create_task(self._control())
        await self._server.serve(sockets=[self._socket])
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _control(self) -> None:
        while True:
            if not self.stopped_controllers.is_set():
                try:
                    self.controllers.tick()
                    schedule(self.store)
                    self.kubelet.tick()
                except Exception as error:
                    self._fault = error
                    raise
            await asyncio.sleep(TICK_S)


def _node(name: str, *, cpu: str, gpus: str = "") -> Object:
    labels = {"kubernetes.io/hostname": name} | ({"nvidia.com/gpu.present": "true"} if gpus else {})
    room = {"cpu": cpu, "memory": "256Gi", "pods": "110"} | ({"nvidia.com/gpu": gpus} if gpus else {})
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [GPU_TAINT]} if gpus else {},
        "status": {"allocatable": room, "capacity": room},
    }


def _make_certificate(folder: Path) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-stand-in")])
    start = datetime.now(UTC) - timedelta(minutes=5)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "server.crt", folder / "server.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()))
    return str(paths[0]), str(paths[1])
