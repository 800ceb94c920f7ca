"""The kubelets of all nodes: containers are processes of this machine, each pod with a loopback address of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kubernetes.apiserver.containers import ConfigError, command_of, environment_of, mounts_of
from tests.kubernetes.apiserver.controllers import is_ready, record, set_condition
from tests.kubernetes.apiserver.kinds import PODS, Object
from tests.kubernetes.apiserver.store import Store, now

BACKOFF_S = 0.5
_BACKOFF_LIMIT_S = 8.0
_MESSAGE_BYTES = 2048
Changes = dict[str, Any]


@dataclass
class Probe:
    """One probe of a running container."""

    spec: Object
    due: float
    failures: int = 0
    passed: bool = False
    task: asyncio.Task[str | None] | None = None


@dataclass
class Container:
    """The one container of a pod, over its restarts."""

    folder: Path
    address: str
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    due: float = 0.0
    started: str = ""
    killed_for: str = ""
    ends_by: float = 0.0
    drained: float = 0.0
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"log-{self.restarts}.txt"

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process; the one that cannot be refused ends them all."""
        if self.process is not None and self.process.poll() is None:
            (os.killpg if number == signal.SIGKILL else os.kill)(self.process.pid, number)


def _heed_no_signal() -> None:
    """Be deaf like the first process of a container, which hears no signal that it does not ask for."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Kubelet:
    """Runs what is bound to a node.

    Parameters
    ----------
    images
        What can be pulled, with the environment that each image brings.
    """

    def __init__(self, store: Store, folder: Path, images: Mapping[str, Mapping[str, str]]) -> None:
        self.store = store
        self.folder = folder
        self.images = images
        self._containers: dict[str, Container] = {}
        # Several test processes of one machine each have addresses of their own.
        block, own = divmod(os.getpid(), 256)
        self._addresses = itertools.cycle(f"127.{20 + block % 100}.{own}.{pod}" for pod in range(1, 255))

    def tick(self) -> None:
        """Do what is to be done now."""
        seen = set()
        for pod in self.store.list(PODS):
            if pod["spec"].get("nodeName"):
                seen.add(pod["metadata"]["uid"])
                if "deletionTimestamp" in pod["metadata"]:
                    self._end(pod)
                elif pod["status"].get("phase") not in ("Succeeded", "Failed"):
                    self._run(pod)
        for uid in [uid for uid in self._containers if uid not in seen]:
            self._containers.pop(uid).signal(signal.SIGKILL)

    def stop(self) -> None:
        """End every process that was started."""
        for container in self._containers.values():
            container.signal(signal.SIGKILL)
            if container.process is not None:
                container.process.wait(10)

    def read_log(self, pod: Object, previous: bool) -> str:
        """Return what a pod's container wrote."""
        container = self._containers.get(pod["metadata"]["uid"])
        if container is None:
            return ""
        number = max(0, container.restarts - previous)
        log = container.folder / f"log-{number}.txt"
        return log.read_text(errors="replace") if log.exists() else ""

    # One pod

    def _run(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        container = self._containers.get(uid)
        if container is None:
            folder = self.folder / uid
            folder.mkdir(parents=True)
            container = self._containers[uid] = Container(folder, next(self._addresses))
        if container.process is None:
            if time.monotonic() >= container.due:
                self._start(pod, container)
            return
        code = container.process.poll()
        if code is not None:
            self._ended(pod, container, code)
        else:
            self._probe(pod, container)

    def _start(self, pod: Object, container: Container) -> None:
        (spec,) = pod["spec"]["containers"]
        image = spec["image"]
        if image not in self.images:
            first = not any(status.get("state") for status in pod["status"].get("containerStatuses", []))
            message = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": not found'
            record(
                self.store,
                pod,
                kind="Pod",
                reason="Failed",
                message=f'Failed to pull image "{image}": {message}',
                component="kubelet",
            )
            container.due = time.monotonic() + BACKOFF_S
            reason = "ErrImagePull" if first else "ImagePullBackOff"
            self._waiting(pod, container, reason, message if first else f'Back-off pulling image "{image}"')
            return
        try:
            mounts = mounts_of(self.store, pod, container.folder)
            environment = environment_of(self.store, pod, container.address, mounts, self.images[image])
        except ConfigError as error:
            container.due = time.monotonic() + BACKOFF_S
            self._waiting(pod, container, "CreateContainerConfigError", str(error))
            return
        with container.log.open("wb") as log:
            try:
                container.process = subprocess.Popen(
                    command_of(spec, container.address, mounts),
                    env=environment,
                    cwd=container.folder,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_heed_no_signal,  # noqa: PLW1509 - it makes one system call
                )
            except OSError as error:
                container.due = time.monotonic() + BACKOFF_S
                self._waiting(pod, container, "CreateContainerError", f"failed to create containerd task: {error}")
                return
        container.started = now()
        start = time.monotonic()
        container.probes = {
            name: Probe(spec[name], start + spec[name].get("initialDelaySeconds", 0))
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
            if name in spec
        }
        self._running(pod, container)

    def _running(self, pod: Object, container: Container) -> None:
        startup, readiness = container.probes.get("startupProbe"), container.probes.get("readinessProbe")
        started = startup is None or startup.passed
        ready = started and (readiness is None or readiness.passed)
        self._report(
            pod,
            container,
            phase="Running",
            state={"running": {"startedAt": container.started}},
            ready=ready,
            started=started,
        )

    def _probe(self, pod: Object, container: Container) -> None:
        clock = time.monotonic()
        started = "startupProbe" not in container.probes or container.probes["startupProbe"].passed
        for name, probe in container.probes.items():
            if (name == "startupProbe") == started:
                continue
            if probe.task is None and clock >= probe.due:
                probe.task = asyncio.create_task(_ask(pod, container.address, probe.spec))
            elif probe.task is not None and probe.task.done():
                failure, probe.task = probe.task.result(), None
                probe.due = clock + probe.spec["periodSeconds"]
                self._judge(pod, container, name, probe, failure)
        self._running(pod, container)

    def _judge(self, pod: Object, container: Container, name: str, probe: Probe, failure: str | None) -> None:
        if failure is None:
            probe.failures, probe.passed = 0, True
            return
        probe.failures += 1
        title = name.removesuffix("Probe").capitalize()
        record(
            self.store,
            pod,
            kind="Pod",
            reason="Unhealthy",
            message=f"{title} probe failed: {failure}",
            component="kubelet",
        )
        if probe.failures >= probe.spec["failureThreshold"]:
            probe.passed = False
            if name != "readinessProbe":
                container.killed_for = f"Container failed {title.lower()} probe, will be restarted"
                container.signal(signal.SIGTERM)

    def _ended(self, pod: Object, container: Container, code: int) -> None:
        (spec,) = pod["spec"]["containers"]
        for probe in container.probes.values():
            if probe.task is not None:
                probe.task.cancel()
        code = 128 - code if code < 0 else code
        last: Object = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": container.started,
            "finishedAt": now(),
        }
        if code != 0 and spec["terminationMessagePolicy"] == "FallbackToLogsOnError":
            last["message"] = container.log.read_bytes()[-_MESSAGE_BYTES:].decode(errors="replace")
        container.process = None
        policy = pod["spec"]["restartPolicy"]
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            phase = "Succeeded" if code == 0 else "Failed"
            self._report(pod, container, phase=phase, state={"terminated": last}, ready=False)
            container.due = float("inf")
            return
        wait = 0.0 if container.restarts == 0 else min(_BACKOFF_LIMIT_S, BACKOFF_S * 2**container.restarts)
        container.restarts += 1
        container.due = time.monotonic() + wait
        container.killed_for = ""
        if wait:
            name = f"{spec['name']} pod={pod['metadata']['name']}"
            message = f"back-off {wait:g}s restarting failed container={name}"
            self._waiting(pod, container, "CrashLoopBackOff", message, last=last)
        else:
            self._report(pod, container, phase="Running", state={"terminated": last}, last=last, ready=False)

    def _end(self, pod: Object) -> None:
        """End a pod that is to be deleted: first its drain, then the signal, and the hard one after the grace."""
        metadata = pod["metadata"]
        container = self._containers.get(metadata["uid"])
        if container is not None and container.process is not None and container.process.poll() is None:
            clock = time.monotonic()
            if not container.ends_by:
                pause = pod["spec"]["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {})
                container.drained = clock + pause.get("seconds", 0)
                container.ends_by = clock + pod["spec"]["terminationGracePeriodSeconds"]
            if clock >= container.drained:
                container.drained = float("inf")
                container.signal(signal.SIGTERM)
            if clock >= container.ends_by:
                container.signal(signal.SIGKILL)
            return
        self.store.remove(PODS, metadata["namespace"], metadata["name"])

    def _waiting(
        self, pod: Object, container: Container, reason: str, message: str, *, last: Object | None = None
    ) -> None:
        state = {"waiting": {"reason": reason, "message": message}}
        phase = "Running" if container.restarts else "Pending"
        self._report(pod, container, phase=phase, state=state, last=last, ready=False)

    def _report(
        self,
        pod: Object,
        container: Container,
        *,
        phase: str,
        state: Object,
        ready: bool,
        last: Object | None = None,
        started: bool = False,
    ) -> None:
        (spec,) = pod["spec"]["containers"]

        def edit(made: Object) -> None:
            status = made["status"]
            old = (status.get("containerStatuses") or [{}])[0]
            status["phase"] = phase
            status["podIP"] = container.address
            status.setdefault("startTime", now())
            set_condition(status, "Initialized", True)
            for name in ("ContainersReady", "Ready"):
                why = ("", "") if ready else ("ContainersNotReady", f"containers with unready status: [{spec['name']}]")
                set_condition(status, name, ready, *why)
            status["containerStatuses"] = [
                {
                    "name": spec["name"],
                    "image": spec["image"],
                    "imageID": "",
                    "ready": ready,
                    "started": started,
                    "restartCount": container.restarts,
                    "state": state,
                    "lastState": {"terminated": last} if last else old.get("lastState", {}),
                }
            ]

        self.store.change(PODS, pod, edit)


async def _ask(pod: Object, address: str, probe: Object) -> str | None:
    """Return why a probe fails, or None."""
    (spec,) = pod["spec"]["containers"]
    kind = "httpGet" if "httpGet" in probe else "tcpSocket"
    named = {entry.get("name"): entry["containerPort"] for entry in spec.get("ports", [])}
    port = probe[kind]["port"]
    port = named[port] if isinstance(port, str) else port
    path = probe[kind].get("path", "/")
    try:
        async with asyncio.timeout(probe["timeoutSeconds"]):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                if kind == "tcpSocket":
                    return None
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                status = int((await reader.readline()).split()[1])
                await reader.read()
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        return f'Get "http://{address}:{port}{path}": context deadline exceeded'
    except (OSError, IndexError) as error:
        return f'Get "http://{address}:{port}{path}": {error}'
    return None if 200 <= status < 400 else f"HTTP probe failed with statuscode: {status}"


__all__ = ["Kubelet", "is_ready"]
