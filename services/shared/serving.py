"""The shared face of every service over BentoML: endpoints, problem documents, token, size limit, health.

A service is a class whose endpoints each take one contract and return one contract::

    @service("segmentation")
    class Segmentation:
        @endpoint
        def segment(self, request: SegmentRequest, /) -> SegmentResult:
            return segment_case(open_storage(), request)

``Segmentation()`` is a plain object whose methods can be called in this process and raise
:class:`~services.shared.errors.GliaflowError`. ``gliaflow serve segmentation`` puts the same methods behind
``POST /segment`` with ``/livez``, ``/readyz``, ``/metrics``, ``/docs.json`` and ``/version``, which tells the device
too; the same errors then arrive as problem documents (RFC 9457). A method that is not an endpoint stays in the
process; endpoints must not call each other on ``self``.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import logging
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import asdict
from http import HTTPStatus
from importlib.metadata import version
from typing import TypeVar, cast

import bentoml
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.shared.device import where_computed
from services.shared.errors import GliaflowError, InvalidValue, Problem, TooLarge, Unauthorised
from services.shared.metrics import count_answer, show_answers
from services.shared.settings import ServiceName, settings

Request = TypeVar("Request", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)
Owner = TypeVar("Owner")

_OPEN_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
_problem_of_request: ContextVar[MutableMapping[str, Problem] | None] = ContextVar("problem", default=None)
_log = logging.getLogger("gliaflow.serving")


def endpoint(method: Callable[[Owner, Request], Result]) -> Callable[[Owner, Request], Result]:
    """Make a method of a service callable over HTTP as ``POST /<name>``."""

    @functools.wraps(method)
    def call(self: Owner, request: Request, /) -> Result:
        outcome = "fault"
        try:
            result = method(self, request)
            outcome = "cached" if getattr(result, "cached", False) else "computed"
            return result
        except GliaflowError as error:
            outcome = type(error).__name__
            carrier = _problem_of_request.get()
            if carrier is None:
                raise
            carrier["problem"] = error.to_problem()
            _log.warning("%s: %s", method.__name__, error.title)
            raise BentoMLException(error.title, error_code=HTTPStatus.BAD_REQUEST) from None
        finally:
            count_answer(service_of(type(self)), method.__name__, outcome)

    made: Callable[[Owner, Request], Result] = bentoml.api(call)
    return made


_names: dict[type, ServiceName] = {}


def service_of(kind: type) -> str:
    """Return the name by which a class was made a service."""
    return _names.get(kind, kind.__name__)


def service(name: ServiceName, *, threads: int = 4) -> Callable[[type[Owner]], type[Owner]]:
    """Make a class a service.

    Parameters
    ----------
    name
        One of the five services.
    threads
        Requests that one worker process handles at a time.
    """
    limits = {"timeout": settings().request_timeout_s}

    def decorate(inner: type[Owner]) -> type[Owner]:
        _names[inner] = name
        made = bentoml.service(name=name, traffic=limits, threads=threads, workers=1)(inner)
        made.add_asgi_middleware(ServiceFace, name=name, endpoints=tuple(made.apis))
        return cast(type[Owner], made)

    return decorate


class ServiceFace:
    """ASGI middleware: checks token and size before a request, and turns every error into a problem document."""

    def __init__(self, app: ASGIApp, *, name: ServiceName, endpoints: tuple[str, ...]) -> None:
        self.app = app
        self._name = name
        for each in endpoints:
            show_answers(name, each)
        token = settings().token
        self._token = token.get_secret_value().encode() if token else None
        self._limit = settings().max_request_mb << 20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await _send_problem(send, refusal.to_problem())
            return
        if (scope["method"], scope["path"]) == ("GET", "/version"):
            try:  # in a thread of its own: torch may have to be imported
                await _send_json(send, HTTPStatus.OK, await asyncio.to_thread(self._version))
            except GliaflowError as error:
                await _send_problem(send, error.to_problem())
            return
        carrier: dict[str, Problem] = {}
        reply = _ReplyRewriter(send, carrier)
        mark = _problem_of_request.set(carrier)
        try:
            await self.app(scope, _BoundedReceive(receive, self._limit, carrier), reply)
        finally:
            _problem_of_request.reset(mark)

    def _version(self) -> dict[str, str | None]:
        return {"service": self._name, "version": version("gliaflow"), **asdict(where_computed(self._name))}

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> GliaflowError | None:
        if self._token is not None and path not in _OPEN_PATHS:
            sent = headers.get(b"authorization", b"")
            if not hmac.compare_digest(sent, b"Bearer " + self._token):
                return Unauthorised(
                    "the request carries no valid token",
                    field="Authorization",
                    expected="Bearer <token>",
                    remedy="set GLIAFLOW_TOKEN to the service's token",
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limit:
            return _too_large(self._limit, int(length))
        return None


def _too_large(limit: int, got: int) -> TooLarge:
    return TooLarge(
        "the request body is too large",
        expected=f"at most {limit >> 20} MiB",
        got=f"{got / (1 << 20):.1f} MiB or more",
        remedy="send storage keys instead of data, or raise GLIAFLOW_MAX_REQUEST_MB",
    )


class _BoundedReceive:
    """Counts the bytes of a body that states no length."""

    def __init__(self, receive: Receive, limit: int, carrier: MutableMapping[str, Problem]) -> None:
        self._receive = receive
        self._left = limit
        self._limit = limit
        self._carrier = carrier

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self._carrier["problem"] = _too_large(self._limit, self._limit - self._left).to_problem()
            return {"type": "http.disconnect"}
        return message


class _ReplyRewriter:
    """Passes good replies through and replaces the body of error replies by a problem document."""

    def __init__(self, send: Send, carrier: MutableMapping[str, Problem]) -> None:
        self._send = send
        self._carrier = carrier
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                problem = self._carrier.get("problem") or _problem_of_reply(self._start["status"], self._body)
                await _send_problem(self._send, problem)


def _problem_of_reply(status: int, body: bytes) -> Problem:
    """Return the problem document of an error reply that BentoML made itself."""
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    if isinstance(content, list) and content:
        content = content[0]
    errors = content.get("detail") if isinstance(content, dict) else None
    if status == HTTPStatus.BAD_REQUEST and isinstance(errors, list) and errors:
        first = errors[0]
        return InvalidValue(
            f"the request does not fit its contract: {first['msg']}",
            field=".".join(map(str, first["loc"])) or "body",
            expected=first["type"],
            remedy="see /docs.json for the fields and their ranges",
        ).to_problem()
    title = HTTPStatus(status).phrase
    detail = content.get("error", title) if isinstance(content, dict) else title
    return {"type": "about:blank", "title": title, "status": status, "detail": str(detail)}


async def _send_problem(send: Send, problem: Problem) -> None:
    await _send_json(send, problem["status"], problem, kind=b"application/problem+json")


async def _send_json(send: Send, status: int, content: object, *, kind: bytes = b"application/json") -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
