"""What a fetch is made of: units that bring files, the plan that lists them, and the statement that is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipelines.fetch.connection import Connection, shown
from pipelines.fetch.download import Remote, digests_of, download
from services.shared.errors import InvalidKey, NotFound, UnreadableFile

MANIFEST = "fetched.json"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")
_Row = TypeVar("_Row", bound=BaseModel)


class FetchedFile(BaseModel):
    """A file below OUT, or a folder of images that came as one archive.

    Parameters
    ----------
    path
        Below OUT, with forward slashes.
    size
        Bytes; of a folder, of all its images.
    sha256
        Of the file; of a folder, of the publisher's list of checksums that ``listed_in`` names.
    md5
        Of the file, where its publisher states one.
    url
        Where it came from; empty where it was made from the others.
    images, listed_in
        Of a folder: how many images, and the file below OUT with their MD5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int
    sha256: str
    md5: str | None = None
    url: str = ""
    images: int | None = None
    listed_in: str | None = None


class Statement(BaseModel):
    """``fetched.json``: what was asked of whom and when, and every file that came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    publisher: str
    asked: str
    licence: str
    citation: str
    only: list[str]
    limit: int | None
    left_out: dict[str, str]
    counted: dict[str, int]
    failed: dict[str, str]
    files: list[FetchedFile]

    def file(self, path: str) -> FetchedFile | None:
        """Return the file at a path, or None."""
        return next((file for file in self.files if file.path == path), None)


def read_statement(out: Path) -> Statement | None:
    """Return what an earlier fetch stated in a folder, or None where there is none or it is unreadable."""
    try:
        return Statement.model_validate_json((out / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


class Unit(Protocol):
    """Something that is fetched as a whole."""

    @property
    def path(self) -> str:
        """Where it will stand below OUT."""

    @property
    def size(self) -> int:
        """Bytes, as far as the publisher says; 0 where it does not."""

    def find(self, out: Path, earlier: Statement | None) -> FetchedFile | None:
        """Return it where it already stands whole below ``out``."""

    def fetch(
        self, connection: Connection, out: Path, *, largest_bytes: int | None, progress: Callable[[int], None]
    ) -> tuple[FetchedFile, tuple[str, ...]]:
        """Bring it, and say why it had to begin again, if so."""


@dataclass(frozen=True)
class Selection:
    """Which patients to fetch: all, those of ``only``, or the first ``limit`` in order of their identifier."""

    only: tuple[str, ...] = ()
    limit: int | None = None

    def of(self, patients: Sequence[str]) -> frozenset[str]:
        """Return the selected ones of the patients that a release has.

        Raises
        ------
        NotFound
            Where ``only`` names one that it has not.
        """
        known = sorted(set(patients))
        absent = sorted(set(self.only) - set(known))
        if absent:
            raise NotFound(
                "the release has no such patient",
                step="fetch",
                field="--only",
                got=", ".join(absent),
                expected=f"identifiers like {known[0]}" if known else "a release with open data",
            )
        return frozenset((sorted(self.only) or known)[: self.limit])


@dataclass(frozen=True)
class Plan:
    """What will be fetched.

    Parameters
    ----------
    units
        In order of their path.
    asked
        ISO 8601 moment of the first answer, by the publisher's clock.
    left_out
        Reason by identifier of what the publisher lists and the plan does not hold.
    counted
        Further counts.
    derive
        Makes further files from the fetched ones, once all are there.
    """

    units: tuple[Unit, ...]
    asked: str
    left_out: dict[str, str] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    derive: Callable[[Path], list[str]] | None = None


@dataclass(frozen=True)
class RemoteFile:
    """One file at one address."""

    path: str
    remote: Remote

    @property
    def size(self) -> int:
        """Bytes that the publisher states, or 0."""
        return self.remote.size or 0

    def find(self, out: Path, earlier: Statement | None) -> FetchedFile | None:
        """Return it where its checksum is what the publisher, or else the earlier statement, says."""
        place = out / self.path
        if not place.is_file():
            return None
        found = described(out, self.path, url=self.remote.url, md5_stated=self.remote.md5 is not None)
        if self.remote.md5 is not None or self.remote.sha256 is not None:
            stated = (self.remote.size or found.size, self.remote.md5, self.remote.sha256 or found.sha256)
            return found if stated == (found.size, found.md5, found.sha256) else None
        return found if earlier is not None and earlier.file(self.path) == found else None

    def fetch(
        self, connection: Connection, out: Path, *, largest_bytes: int | None, progress: Callable[[int], None]
    ) -> tuple[FetchedFile, tuple[str, ...]]:
        """Download it."""
        arrival = download(connection, self.remote, out / self.path, largest_bytes=largest_bytes, progress=progress)
        found = FetchedFile(
            path=self.path,
            size=arrival.digests.size,
            sha256=arrival.digests.sha256,
            md5=arrival.digests.md5 if self.remote.md5 is not None else None,
            url=self.remote.url,
        )
        return found, arrival.restarts


def described(out: Path, path: str, *, url: str = "", md5_stated: bool = False) -> FetchedFile:
    """Return the description of a file that stands below ``out``."""
    digests = digests_of(out / path)
    return FetchedFile(
        path=path, size=digests.size, sha256=digests.sha256, md5=digests.md5 if md5_stated else None, url=url
    )


def safe_path(*parts: str) -> str:
    """Return a path below OUT made of names that a publisher gave.

    Raises
    ------
    InvalidKey
        Where a name is not plain: a folder of its own, a step up, a hidden file.
    """
    for part in parts:
        if _PART.fullmatch(part) is None or part.endswith((".", " ")):
            raise InvalidKey(
                "the publisher gave a name that is no plain file name",
                step="fetch",
                expected="letters, digits, '.', '_', '-'",
                got=repr(part),
                remedy="tell the publisher; nothing was written under this name",
            )
    return str(PurePosixPath(*parts))


def read_rows(rows: object, kind: type[_Row], url: str) -> list[_Row]:
    """Return an answer's rows as ``kind``.

    Raises
    ------
    UnreadableFile
        Where a row lacks what we need: the interface is not the one that we know.
    """
    try:
        return TypeAdapter(list[kind]).validate_python(rows)  # type: ignore[valid-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableFile(
            "the publisher's answer is not laid out as expected",
            step="fetch",
            field=f"{shown(url)}: {'.'.join(map(str, first['loc']))}",
            expected=first["msg"],
            remedy="check the base URL; the publisher's interface may have changed",
        ) from None
