"""Questions to a publisher's REST interface: patient with what passes, plain about what does not.

An answer 408, 425, 429 or 5xx, or a lost connection, is asked again after a growing, jittered wait (``Retry-After`` is
honoured); everything else ends at once with an error that says what to do. Open access only: no token is ever sent.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TypeVar

import httpx

from services.shared.errors import (
    GliaflowError,
    InvalidValue,
    NotFound,
    TooLarge,
    Unauthorised,
    Unavailable,
    UnreadableFile,
)

_T = TypeVar("_T")
_log = logging.getLogger("gliaflow.fetch")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LARGEST_ANSWER = 256 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Patience:
    """How often and how long to wait for a publisher.

    Parameters
    ----------
    attempts
        Requests for one file or question before giving up.
    first_wait_s, longest_wait_s
        Seconds before the second request, doubled each time, and their bound; a ``Retry-After`` beyond the bound ends
        the fetch instead.
    timeout_s
        Seconds without a byte that count as a lost connection.
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0
    timeout_s: float = 60.0


class Passing(Exception):
    """Trouble that may pass; the request is made again."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class Stopped(Exception):
    """Another transfer failed or the user interrupted: this one ends and keeps what it has."""


@dataclass(frozen=True)
class Answer:
    """A parsed JSON answer and the moment it was given, by the publisher's clock (ISO 8601, UTC; empty if unsaid)."""

    value: object
    date: str


class Connection:
    """One publisher's interface, shared by the threads that fetch from it.

    Parameters
    ----------
    patience
        Retries and their waits.
    wait
        Waits the given seconds; by default it returns early when :meth:`stop` is called.
    """

    def __init__(self, patience: Patience | None = None, *, wait: Callable[[float], object] | None = None) -> None:
        self.patience = patience or Patience()
        self.retries = 0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._wait = wait or self._stopped.wait
        self._http = httpx.Client(
            follow_redirects=True,
            max_redirects=5,
            timeout=httpx.Timeout(self.patience.timeout_s),
            headers={"User-Agent": "gliaflow"},
            mounts={f"all://{host}": None for host in _LOOPBACK},
            event_hooks={"request": [_refuse_plain]},
        )

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def stop(self) -> None:
        """End every transfer at its next chunk."""
        self._stopped.set()

    def check_running(self) -> None:
        """Raise :class:`Stopped` after :meth:`stop`."""
        if self._stopped.is_set():
            raise Stopped

    def persevere(self, attempt: Callable[[], _T], *, url: str) -> _T:
        """Return what ``attempt`` returns, trying again while it raises :class:`Passing`.

        Raises
        ------
        Unavailable
            Where it still does after the last attempt, or the publisher asks for a longer wait than we have patience.
        """
        most = self.patience.attempts
        for number in range(1, most + 1):
            self.check_running()
            try:
                return attempt()
            except Passing as trouble:
                bound = self.patience.longest_wait_s
                if number == most or (trouble.wait_s or 0.0) > bound:
                    raise _gave_up(url, trouble, number) from trouble
                wait_s = min(bound, self.patience.first_wait_s * 2 ** (number - 1)) * random.uniform(0.5, 1.0)
                wait_s = max(wait_s, trouble.wait_s or 0.0)
                with self._lock:
                    self.retries += 1
                _log.warning(
                    "%s: %s; attempt %d of %d in %.1f s",
                    httpx.URL(url).host,
                    trouble.reason,
                    number + 1,
                    most,
                    wait_s,
                )
                self._wait(wait_s)
        raise AssertionError("unreachable")

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        accept: frozenset[int] = frozenset({200}),
    ) -> Iterator[httpx.Response]:
        """Give one answer whose body has not been read; meant for use inside :meth:`persevere`.

        Raises
        ------
        Passing
            On a lost connection, also while the body is read, and on a status that may pass.
        Unauthorised, NotFound, InvalidValue
            On a status that will not.
        """
        try:
            with self._http.stream(method, url, headers=headers, json=body) as reply:
                if reply.status_code not in accept:
                    _raise_for(reply, url)
                yield reply
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise Passing(f"the connection failed ({type(error).__name__})") from error

    def ask(self, url: str, *, body: object = None) -> Answer:
        """Return a JSON answer to GET, or to POST where there is a body; an empty answer is an empty list.

        Raises
        ------
        UnreadableFile
            Where the answer is no JSON, e.g. a web page that announces maintenance.
        TooLarge
            Where it never ends.
        """
        content, kind, date = self.persevere(lambda: self._read(url, body), url=url)
        if not content.strip():
            return Answer([], date)
        try:
            return Answer(json.loads(content), date)
        except (ValueError, RecursionError):
            raise UnreadableFile(
                "the publisher's answer is no JSON",
                step="fetch",
                field=shown(url),
                expected="application/json",
                got=f"{kind or 'no content type'}, {len(content)} bytes",
                remedy="the publisher may be under maintenance; try again later",
            ) from None

    def _read(self, url: str, body: object) -> tuple[bytes, str, str]:
        content = bytearray()
        with self.stream("GET" if body is None else "POST", url, body=body) as reply:
            for chunk in reply.iter_bytes(1 << 20):
                self.check_running()
                content += chunk
                if len(content) > _LARGEST_ANSWER:
                    raise TooLarge(
                        "the publisher's answer does not end",
                        step="fetch",
                        field=shown(url),
                        expected=f"at most {_LARGEST_ANSWER} bytes",
                    )
            return bytes(content), reply.headers.get("content-type", ""), iso_date(reply.headers.get("date"))


def shown(url: str) -> str:
    """Return a URL for people to read: no user, password, query or fragment.

    >>> shown("https://me:secret@host.org/data?token=1")
    'https://host.org/data'
    """
    parts = httpx.URL(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.host}{port}{parts.path}"


def iso_date(header: str | None) -> str:
    """Return an HTTP date as ISO 8601 in UTC, or an empty text.

    >>> iso_date("Sat, 21 Nov 2026 06:21:04 GMT")
    '2026-11-21T06:21:04+00:00'
    """
    moment = _moment(header)
    return "" if moment is None else moment.isoformat(timespec="seconds")


def _moment(header: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _retry_after_s(reply: httpx.Response) -> float | None:
    """Return the seconds of a ``Retry-After``, which is a number or a date (RFC 9110, 10.2.3)."""
    said = reply.headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said)
    until, now = _moment(said), _moment(reply.headers.get("date"))
    return None if until is None or now is None else max(0.0, (until - now).total_seconds())


def _raise_for(reply: httpx.Response, url: str) -> None:
    status, where = reply.status_code, shown(url)
    said = f"{status} {reply.reason_phrase}".strip()
    if status in _PASSING:
        raise Passing(f"the publisher answered {said}", wait_s=_retry_after_s(reply))
    if status in (401, 403):
        raise Unauthorised(
            "the publisher gives this only to approved users",
            step="fetch",
            field=where,
            expected="open access",
            got=said,
            remedy="ask the publisher for access and download it with the publisher's own tool; "
            "controlled data is not fetched here",
        )
    if status in (404, 410):
        raise NotFound(
            "the publisher has no such file",
            step="fetch",
            field=where,
            got=said,
            remedy="it may have been withdrawn or replaced; compare the publisher's page",
        )
    raise InvalidValue("the publisher refused the request", step="fetch", field=where, expected="200", got=said)


def _gave_up(url: str, trouble: Passing, attempts: int) -> GliaflowError:
    wait = f"; asked to wait {trouble.wait_s:g} s" if trouble.wait_s else ""
    return Unavailable(
        "the publisher did not deliver",
        step="fetch",
        field=shown(url),
        got=f"{trouble.reason} (attempt {attempts}{wait})",
        remedy="check the network and run the same command again later: it goes on where it stopped",
    )


def _refuse_plain(request: httpx.Request) -> None:
    """Refuse to be redirected from https to http: loopback and an http base URL are the user's own choice."""
    began = request.extensions.setdefault("gliaflow_scheme", request.url.scheme)
    if began == "https" and request.url.scheme != "https":
        raise Unavailable(
            "the publisher redirects to an unencrypted address", step="fetch", field=shown(str(request.url))
        )
