"""The paths of the Kubernetes API."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.kubernetes.apiserver import admission, faults
from tests.kubernetes.apiserver.access import Access, account_user
from tests.kubernetes.apiserver.faults import Fault
from tests.kubernetes.apiserver.kinds import (
    BY_PATH,
    DEPLOYMENTS,
    JOBS,
    KINDS,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    Kind,
    Object,
    with_defaults,
)
from tests.kubernetes.apiserver.patches import apply_patch
from tests.kubernetes.apiserver.selectors import matches
from tests.kubernetes.apiserver.store import Change, Store, now

VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.0-standin", "platform": "linux/amd64"}
BOOKMARK_S = 1.0
ReadLog = Callable[[Object, bool], str]


class Api:
    """Answers requests from the store."""

    def __init__(self, store: Store, access: Access, read_log: ReadLog) -> None:
        self.store = store
        self.access = access
        self._read_log = read_log
        routes = [Route("/version", self._open(lambda _: JSONResponse(VERSION)))]
        routes += [Route(path, self._open(answer)) for path, answer in self._discovery()]
        for base in ("/api/{version}", "/apis/{group}/{version}"):
            for place in ("", "/namespaces/{namespace}"):
                for rest in (
                    "/{plural}",
                    "/{plural}/{name}",
                    "/{plural}/{name}/{sub}",
                    "/{plural}/{name}/{sub}/{path:path}",
                ):
                    path = base + place + rest
                    routes.append(
                        Route(path, self._open(self._serve), methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
                    )
        # Paths with a namespace come first: /namespaces/NAME/PLURAL is no subresource of a namespace, save these.
        routes.sort(key=lambda route: "{namespace}" not in route.path)
        self.app = Starlette(routes=routes)

    def _open(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def call(request: Request) -> Response:
            try:
                request.state.user = self.access.user(request.headers.get("authorization", ""))
                found = answer(request)
                return await found if asyncio.iscoroutine(found) else found
            except Fault as fault:
                return JSONResponse(fault.status(), status_code=fault.code)

        return call

    def _discovery(self) -> list[tuple[str, Callable[[Request], Response]]]:
        groups = sorted({(kind.group, kind.version) for kind in KINDS if kind.group})

        def group(name: str, version: str) -> Object:
            here = {"groupVersion": f"{name}/{version}", "version": version}
            return {"name": name, "versions": [here], "preferredVersion": here}

        def resources(name: str, version: str) -> Object:
            listed = []
            for kind in KINDS:
                if (kind.group, kind.version) == (name, version):
                    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
                    entry = {"kind": kind.kind, "namespaced": kind.namespaced, "singularName": kind.kind.lower()}
                    listed.append({"name": kind.plural, "verbs": verbs, **entry})
                    listed += [{"name": f"{kind.plural}/{sub}", "verbs": ["get"], **entry} for sub in kind.subresources]
            version_text = f"{name}/{version}" if name else version
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version_text, "resources": listed}

        paths: list[tuple[str, Object]] = [
            ("/api", {"kind": "APIVersions", "versions": ["v1"]}),
            ("/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(*each) for each in groups]}),
            ("/api/v1", resources("", "v1")),
            *((f"/apis/{name}/{version}", resources(name, version)) for name, version in groups),
        ]
        return [(path, lambda _, body=body: JSONResponse(body)) for path, body in paths]

    async def _serve(self, request: Request) -> Response:
        part = request.path_params
        kind = BY_PATH.get((part.get("group", ""), part["version"], part["plural"]))
        name, sub, namespace = part.get("name", ""), part.get("sub", ""), part.get("namespace", "")
        if kind is None or (sub and sub not in kind.subresources):
            raise Fault(404, "the server could not find the requested resource")
        query = request.query_params
        watching = query.get("watch", "") in ("true", "1")
        verb = _verb(request.method, name=name, watching=watching)
        chosen = name or _named_by_field(query.get("fieldSelector", ""))
        place = name if kind is NAMESPACES else namespace
        self.access.require(request.state.user, verb, kind, namespace=place, name=chosen, sub=sub)
        if sub:
            return await self._subresource(request, kind, namespace, name, sub)
        match verb:
            case "get":
                return JSONResponse(self.store.get(kind, namespace, name))
            case "list":
                return self._list(kind, namespace or None, request)
            case "watch":
                return self._watch(kind, namespace or None, request)
            case "create":
                return JSONResponse(self.create(kind, namespace, await _body(request)), status_code=201)
            case "update":
                return JSONResponse(self._update(kind, namespace, name, await _body(request)))
            case "patch":
                old = self.store.get(kind, namespace, name)
                made = apply_patch(request.headers.get("content-type", ""), old, await _body(request))
                # A patch that names no version is made on whatever is there.
                return JSONResponse(self._update(kind, namespace, name, made))
            case "delete":
                return JSONResponse(self._delete(kind, namespace, name, request, await _body(request)))
        raise Fault(405, "the server does not allow this method on the requested resource")

    def create(self, kind: Kind, namespace: str, entry: Object) -> Object:
        """Add an object after admission."""
        made = with_defaults(kind, entry)
        if made.get("metadata", {}).get("namespace", namespace) != namespace:
            raise Fault(400, "the namespace of the provided object does not match the namespace sent on the request")
        admission.check(kind, made)
        home = self.store.find(NAMESPACES, "", namespace)
        if home is not None and "deletionTimestamp" in home["metadata"]:
            name = made["metadata"].get("name", "")
            reason = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise faults.forbidden(kind, name, reason)
        if kind in (PODS, JOBS, DEPLOYMENTS):
            admission.check_quota(self.store, kind, namespace, made)
        created = self.store.create(kind, namespace, made)
        if kind is NAMESPACES:
            self.store.create(SERVICE_ACCOUNTS, created["metadata"]["name"], {"metadata": {"name": "default"}})
        return created

    def _update(self, kind: Kind, namespace: str, name: str, entry: Object) -> Object:
        old = self.store.get(kind, namespace, name)
        made = with_defaults(kind, entry)
        admission.check(kind, made, old)
        return self.store.replace(kind, namespace, name, made)

    def _delete(self, kind: Kind, namespace: str, name: str, request: Request, options: Object | None) -> Object:
        entry = self.store.get(kind, namespace, name)
        uid = ((options or {}).get("preconditions") or {}).get("uid")
        if uid not in (None, entry["metadata"]["uid"]):
            raise faults.conflict(kind, name)
        query = request.query_params
        policy = (options or {}).get("propagationPolicy") or query.get("propagationPolicy", "Background")
        return remove(self.store, kind, entry, orphan=policy == "Orphan")

    def _list(self, kind: Kind, namespace: str | None, request: Request) -> Response:
        query = request.query_params
        found = self._chosen(kind, namespace, request)
        start = int(query.get("continue", "0") or 0)
        limit = int(query.get("limit", "0") or 0)
        metadata: Object = {"resourceVersion": str(self.store.version)}
        if limit and start + limit < len(found):
            metadata |= {"continue": str(start + limit), "remainingItemCount": len(found) - start - limit}
            found = found[start : start + limit]
        else:
            found = found[start:]
        return JSONResponse(
            {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": found}
        )

    def _chosen(self, kind: Kind, namespace: str | None, request: Request) -> list[Object]:
        query = request.query_params
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        return [entry for entry in self.store.list(kind, namespace) if matches(entry, labels, fields)]

    def _watch(self, kind: Kind, namespace: str | None, request: Request) -> Response:
        query = request.query_params
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        bookmarks = query.get("allowWatchBookmarks", "") in ("true", "1")
        wanted = query.get("resourceVersion", "")
        # A list and a watch in one, as newer clients ask for it
        whole = query.get("sendInitialEvents", "") in ("true", "1")
        seconds = float(query.get("timeoutSeconds", "0") or 0) or 1800.0

        def line(what: str, entry: Object) -> bytes:
            return json.dumps({"type": what, "object": entry}).encode() + b"\n"

        def bookmark(version: int, **more: object) -> bytes:
            metadata = {"resourceVersion": str(version), "creationTimestamp": None, **more}
            return line("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})

        async def stream() -> AsyncIterator[bytes]:
            loop = asyncio.get_running_loop()
            ends, marks = loop.time() + seconds, loop.time() + BOOKMARK_S
            fresh = whole or wanted in ("", "0")
            version = self.store.version if fresh else int(wanted)
            if fresh:
                for entry in self._chosen(kind, namespace, request):
                    yield line("ADDED", entry)
            if whole:
                yield bookmark(version, annotations={"k8s.io/initial-events-end": "true"})
            while loop.time() < ends:
                try:
                    changes = self.store.changes_since(version)
                except Fault as fault:
                    yield line("ERROR", fault.status())
                    return
                for change in changes:
                    version = change.version
                    if _is_watched(change, kind, namespace) and matches(change.entry, labels, fields):
                        yield line(change.type, change.entry)
                if bookmarks and loop.time() >= marks:
                    marks = loop.time() + BOOKMARK_S
                    yield bookmark(version)
                await asyncio.sleep(0.02)

        return StreamingResponse(stream(), media_type="application/json")

    async def _subresource(self, request: Request, kind: Kind, namespace: str, name: str, sub: str) -> Response:
        entry = self.store.get(kind, namespace, name.partition(":")[0] if sub == "proxy" else name)
        if sub == "token" and request.method == "POST":
            token = self.access.issue(account_user(namespace, name))
            body = await _body(request) or {}
            return JSONResponse({**body, "status": {"token": token, "expirationTimestamp": now()}}, status_code=201)
        if sub == "status" and request.method == "GET":
            return JSONResponse(entry)
        if sub == "log" and request.method == "GET":
            text = self._read_log(entry, request.query_params.get("previous", "") == "true")
            tail = request.query_params.get("tailLines")
            return PlainTextResponse("".join(text.splitlines(keepends=True)[-int(tail) :]) if tail else text)
        if sub == "proxy" and request.method == "GET":
            return await asyncio.to_thread(_proxy, entry, name.partition(":")[2], request.path_params.get("path", ""))
        raise Fault(405, "the server does not allow this method on the requested resource")


def remove(store: Store, kind: Kind, entry: Object, *, orphan: bool = False) -> Object:
    """Take an object away, and what it owns; pods and namespaces are marked, and go once what they hold has ended."""
    if kind is NAMESPACES:
        return store.change(
            kind,
            entry,
            lambda made: (
                made["metadata"].setdefault("deletionTimestamp", now()),
                made.update(status={"phase": "Terminating"}),
            ),
        )
    if kind is PODS and entry.get("spec", {}).get("nodeName"):
        grace = entry["spec"]["terminationGracePeriodSeconds"]
        marks = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
        return store.change(kind, entry, lambda made: made["metadata"].update(marks))
    if orphan:
        for owned_kind in KINDS:
            for owned in store.owned(owned_kind, entry):
                store.change(owned_kind, owned, lambda made: made["metadata"].pop("ownerReferences"))
    return store.remove(kind, entry["metadata"].get("namespace", ""), entry["metadata"]["name"])


def _proxy(pod: Object, port: str, path: str) -> Response:
    name, address = pod["metadata"]["name"], pod.get("status", {}).get("podIP")
    ports = [entry["containerPort"] for container in pod["spec"]["containers"] for entry in container.get("ports", [])]
    target = f"http://{address}:{port or ports[0]}/{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(target, timeout=10) as reply:
            return Response(reply.read(), reply.status, media_type=reply.headers.get("content-type"))
    except urllib.error.HTTPError as error:
        return Response(error.read(), error.code)
    except OSError as error:
        raise Fault(400, f"error trying to reach {name}: {error}") from error


def _verb(method: str, *, name: str, watching: bool) -> str:
    if method == "GET":
        return "get" if name else "watch" if watching else "list"
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}
    return verbs[method]


def _named_by_field(selector: str) -> str:
    """Return the one object that a list or watch is about, which is what roles with names look at."""
    for part in selector.split(","):
        if part.startswith("metadata.name="):
            return part.removeprefix("metadata.name=").removeprefix("=")
    return ""


def _is_watched(change: Change, kind: Kind, namespace: str | None) -> bool:
    return change.kind is kind and namespace in (None, change.entry["metadata"].get("namespace"))


async def _body(request: Request) -> Any:
    raw = await request.body()
    if "protobuf" in request.headers.get("content-type", ""):
        raise Fault(415, "this server takes JSON alone")
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        raise Fault(400, "the object provided is unrecognized (must be of type json)") from None
