"""One file over HTTP: resumable, checksummed, bounded, and whole or not at all under its name.

What has arrived lies in ``<name>.part``; ``<name>.part.json`` says which state of the remote file it belongs to. The
next run asks for the rest (``Range`` with ``If-Range``, RFC 9110, sections 13.1.5 and 14.2) and starts again where the
remote file has changed or the server sends it whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from pipelines.fetch.connection import Connection, Passing, shown
from services.shared.errors import ChangedFile, GliaflowError, TooLarge, UnreadableFile

CHUNK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)$")
_RESUMABLE = frozenset({200, 206, 416})


@dataclass(frozen=True)
class Remote:
    """A file as its publisher describes it.

    Parameters
    ----------
    url
        Where it is; never holds a secret.
    size
        Bytes, where the publisher states them.
    md5, sha256
        Hexadecimal checksums, where the publisher states them.
    """

    url: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Digests:
    """Size in bytes and hexadecimal checksums of a file on this machine."""

    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Arrival:
    """What :func:`download` did: the file's digests, bytes that crossed the network, and why it began again, if so."""

    digests: Digests
    transferred: int
    restarts: tuple[str, ...]


@dataclass(frozen=True)
class _State:
    """Which remote file the bytes in ``.part`` belong to."""

    url: str
    validator: str | None
    size: int | None
    md5: str | None
    sha256: str | None


def digests_of(path: Path) -> Digests:
    """Return a file's size, MD5 and SHA-256, read once in chunks."""
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            size += len(chunk)
    return Digests(size, md5.hexdigest(), sha256.hexdigest())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def matches(remote: Remote, digests: Digests) -> bool:
    """Return whether a file is what the publisher states; what the publisher does not state is not compared."""
    return all(
        stated is None or stated == found
        for stated, found in (
            (remote.size, digests.size),
            (remote.md5 and remote.md5.lower(), digests.md5),
            (remote.sha256 and remote.sha256.lower(), digests.sha256),
        )
    )


def require_space(folder: Path, size: int) -> None:
    """Raise unless the disk has room.

    Raises
    ------
    TooLarge
        Naming the bytes that are needed and free.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise TooLarge(
            "the disk has too little room",
            step="fetch",
            field="OUT",
            expected=f"{size} bytes free",
            got=f"{free} bytes",
            remedy="free some, choose another folder, or fetch fewer patients with --limit or --only",
        )


def download(
    connection: Connection,
    remote: Remote,
    target: Path,
    *,
    largest_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Arrival:
    """Fetch one file to ``target``, going on where an earlier attempt or run stopped.

    Parameters
    ----------
    largest_bytes
        Bound on the file's size.
    progress
        Is told how many bytes came; negative where the file begins again.

    Raises
    ------
    ChangedFile
        Where size or checksum differ from what the publisher states, twice in a row.
    TooLarge
        Where the file exceeds the bound or the disk.
    UnreadableFile
        Where a web page comes in place of the file.
    Unavailable, Unauthorised, NotFound, InvalidValue
        As :class:`~pipelines.fetch.connection.Connection` says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(connection, remote, target, largest_bytes, progress or (lambda _: None))
    digests = connection.persevere(transfer.attempt, url=remote.url)
    return Arrival(digests, transfer.transferred, tuple(transfer.restarts))


class _Transfer:
    """The attempts at one file."""

    def __init__(
        self,
        connection: Connection,
        remote: Remote,
        target: Path,
        largest_bytes: int | None,
        progress: Callable[[int], None],
    ) -> None:
        self.connection, self.remote, self.target = connection, remote, target
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")
        self.largest_bytes, self.progress = largest_bytes, progress
        self.transferred, self.mismatches = 0, 0
        self.restarts: list[str] = []
        self._told = 0

    def attempt(self) -> Digests:
        """Bring the rest, check the whole, and give the file its name."""
        state = self._known_state()
        if state is None or self.part.stat().st_size != state.size:
            self._receive(state)
        return self._accept()

    def _known_state(self) -> _State | None:
        """Return the state of the bytes that are here, or None (and no bytes) where they cannot be gone on with."""
        try:
            state = _State(**json.loads(self.note.read_text("utf-8")))
            size = self.part.stat().st_size
        except (OSError, ValueError, TypeError):
            self._discard(None)
            return None
        stated = (self.remote.url, self.remote.md5, self.remote.sha256)
        if (state.url, state.md5, state.sha256) != stated:
            self._discard("the publisher states another file")
            return None
        if state.validator is None and self.remote.md5 is None and self.remote.sha256 is None:
            self._discard(None)  # nothing would tell a changed file from the old one
            return None
        if state.size is not None and size > state.size:
            self._discard("more bytes than the file has")
            return None
        self._tell(size)
        return state

    def _discard(self, reason: str | None) -> None:
        if reason is not None:
            self.restarts.append(reason)
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self._tell(0)

    def _tell(self, size: int) -> None:
        if size != self._told:
            self.progress(size - self._told)
            self._told = size

    def _receive(self, state: _State | None) -> None:
        start = self.part.stat().st_size if state is not None else 0
        headers = {"Accept-Encoding": "identity"}
        if state is not None and start:
            headers["Range"] = f"bytes={start}-"
            if state.validator is not None:
                headers["If-Range"] = state.validator
        with self.connection.stream("GET", self.remote.url, headers=headers, accept=_RESUMABLE) as reply:
            if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._discard("the server refused the rest")
                raise Passing("the server refused the rest of the file")
            size = self._total(reply, state, start)
            if reply.status_code == httpx.codes.OK:
                if start:
                    self._discard(_why_whole(state, reply))
                start = 0
                self._begin(reply, size)
            with self.part.open("ab" if start else "wb") as file:
                for chunk in reply.iter_raw():  # as it comes: a chunk size would lose what is buffered at a break
                    self.connection.check_running()
                    file.write(chunk)
                    self.transferred += len(chunk)
                    self._tell(file.tell())
                    self._check_bound(file.tell())
        if size is not None and self.part.stat().st_size != size:
            raise Passing("the file came incomplete")

    def _total(self, reply: httpx.Response, state: _State | None, start: int) -> int | None:
        """Return the whole file's size, or None where the server does not say, after checking what it does say."""
        size: int | None = None
        if reply.status_code == httpx.codes.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.match(reply.headers.get("content-range", ""))
            size = int(found[2]) if found else None
            known = state.size if state is not None else None
            if found is None or int(found[1]) != start or (known is not None and size != known):
                self._discard("the remote file changed")
                raise Passing("the server sent another part of the file")
        elif "content-length" in reply.headers and "content-encoding" not in reply.headers:
            size = int(reply.headers["content-length"])
        if reply.headers.get("content-type", "").startswith("text/html"):
            raise UnreadableFile(
                "the publisher sent a web page in place of the file",
                step="fetch",
                field=shown(self.remote.url),
                got=reply.headers["content-type"],
                remedy="the publisher may be under maintenance; try again later",
            )
        if size is not None and self.remote.size is not None and size != self.remote.size:
            self._discard(None)
            raise self._changed("size", f"{self.remote.size} bytes", f"{size} bytes")
        if size is not None:
            self._check_bound(size)
            require_space(self.target.parent, size - start)
        return size

    def _begin(self, reply: httpx.Response, size: int | None) -> None:
        etag = reply.headers.get("etag", "")
        strong = etag if etag.startswith('"') else None  # If-Range takes no weak tag
        validator = strong or reply.headers.get("last-modified")
        state = _State(self.remote.url, validator, size, self.remote.md5, self.remote.sha256)
        self.note.write_text(json.dumps(asdict(state)) + "\n", "utf-8")

    def _check_bound(self, size: int) -> None:
        if self.largest_bytes is not None and size > self.largest_bytes:
            self._discard(None)
            raise TooLarge(
                "the file is larger than allowed",
                step="fetch",
                field=shown(self.remote.url),
                expected=f"at most {self.largest_bytes} bytes",
                got=f"{size} bytes",
            )

    def _accept(self) -> Digests:
        digests = digests_of(self.part)
        if not matches(self.remote, digests):
            self._discard("the checksum did not match")
            self.mismatches += 1
            if self.mismatches > 1:
                raise self._changed(
                    "checksum",
                    self.remote.sha256 or self.remote.md5 or f"{self.remote.size} bytes",
                    digests.sha256 if self.remote.sha256 else digests.md5,
                )
            raise Passing("the file does not have the stated checksum")
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)
        return digests

    def _changed(self, what: str, expected: str, got: str) -> GliaflowError:
        return ChangedFile(
            f"the file's {what} is not what its publisher states",
            step="fetch",
            field=shown(self.remote.url),
            expected=expected,
            got=got,
            remedy="nothing was kept; try again later, and tell the publisher if it stays so",
        )


def _why_whole(state: _State | None, reply: httpx.Response) -> str:
    validators = {reply.headers.get("etag"), reply.headers.get("last-modified")}
    if state is None or state.validator is None or state.validator in validators:
        return "the server sends whole files only"
    return "the remote file changed"
