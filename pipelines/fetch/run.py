"""Fetch a release: ``fetch_release("tcga-glioma-clinical", Path("tcga"))``.

Each fetch leaves ``fetched.json``: release, publisher, licence, citation, when it was asked (the publisher's clock),
which patients, and every file with its size, checksum and address. A second fetch of the same brings nothing anew,
checks what is there, and mends what is broken.
"""

from __future__ import annotations

import fcntl
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from pipelines.fetch.connection import Connection, Patience, Stopped, shown
from pipelines.fetch.download import require_space, write_whole
from pipelines.fetch.plan import MANIFEST, FetchedFile, Plan, Selection, Statement, Unit, described, read_statement
from pipelines.fetch.releases import RELEASES, OpenRelease
from services.shared.errors import (
    ChangedFile,
    GliaflowError,
    InvalidKey,
    InvalidValue,
    NotFound,
    Problem,
    TooLarge,
    Unavailable,
    UnreadableFile,
)
from services.shared.settings import settings

TRANSFERS = 4
"""Files that are fetched at a time."""
_HOST = re.compile(r"[A-Za-z0-9.:-]+")
_OF_ONE_FILE = (ChangedFile, InvalidKey, NotFound, UnreadableFile)


@dataclass(frozen=True)
class FetchResult:
    """What a fetch did, or with ``dry_run`` would do.

    Parameters
    ----------
    release, out, licence, citation, by_hand
        What was asked for, its terms, and what else to fetch by hand.
    files
        Every file and folder of images that stands whole below ``out``; empty after a dry run.
    planned
        Paths below ``out`` that were to be fetched now (archives of images by their folder).
    planned_bytes
        Their size as far as the publisher states it.
    bytes
        Bytes of the files fetched now.
    skipped
        Files that were there already.
    failed
        Problem document by path of what could not be fetched; the rest was.
    restarted
        Reason by path where a file had to begin again, e.g. because it changed at the publisher.
    retries
        Requests made again after trouble that passed.
    left_out, counted
        What the publisher lists and the plan does not hold, with reasons, and counts.
    """

    release: str
    out: Path
    licence: str
    citation: str
    by_hand: str
    files: tuple[FetchedFile, ...] = ()
    planned: tuple[str, ...] = ()
    planned_bytes: int = 0
    bytes: int = 0
    skipped: int = 0
    failed: dict[str, Problem] = field(default_factory=dict)
    restarted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    retries: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)


def fetch_release(
    name: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    dry_run: bool = False,
    largest_bytes: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    patience: Patience | None = None,
) -> FetchResult:
    """Fetch an open release into a folder, or go on with it, or check it.

    Parameters
    ----------
    name
        One of :data:`RELEASES`.
    out
        Folder, made where it is absent; it holds one release.
    only
        Patients by the publisher's identifier; all where empty.
    limit
        The first so many patients in order of their identifier.
    dry_run
        List what would be fetched and write nothing.
    largest_bytes
        Refuse a plan, or a file, beyond this size.
    progress
        Is told bytes done, bytes in all as far as stated, and the path that moved; calls come from several threads,
        one at a time.
    patience
        How often and how long to wait for the publisher.

    Returns
    -------
    FetchResult
        With ``failed`` where single files could not be had; a matrix is assembled only where all could.

    Raises
    ------
    NotFound, InvalidValue
        Where there is no such release, patient or folder.
    TooLarge
        Where bound or disk are too small; nothing is fetched then.
    Unavailable, Unauthorised
        Where the publisher does not answer, or not to everybody. What came stays; the next run goes on.
    """
    if name not in RELEASES:
        raise NotFound("there is no release of this name", field="name", got=name, expected=", ".join(RELEASES))
    if limit is not None and limit < 1:
        raise InvalidValue("fetch at least one patient", field="--limit", expected="1 or more", got=limit)
    release = RELEASES[name]
    base_url = _checked(settings().tcia_url if release.publisher == "TCIA" else settings().gdc_url)
    selection = Selection(tuple(sorted(set(only))), limit)
    with Connection(patience) as connection:
        plan = release.planner(connection, base_url, selection)
        stated = sum(unit.size for unit in plan.units)
        if largest_bytes is not None and stated > largest_bytes:
            raise TooLarge(
                "the release is larger than allowed",
                step="fetch",
                field=name,
                expected=f"at most {largest_bytes} bytes",
                got=f"{stated} bytes in {len(plan.units)} parts",
                remedy="fetch fewer patients with --limit or --only",
            )
        if dry_run:
            return FetchResult(
                name,
                out,
                release.licence,
                release.citation,
                release.by_hand,
                planned=tuple(unit.path for unit in plan.units),
                planned_bytes=stated,
                retries=connection.retries,
                left_out=plan.left_out,
                counted=plan.counted,
            )
        _own(out, name)
        with _alone(out):
            return _Fetch(name, release, out, selection, plan, connection, largest_bytes, progress).run()


class _Fetch:
    """One fetch of a plan."""

    def __init__(
        self,
        name: str,
        release: OpenRelease,
        out: Path,
        selection: Selection,
        plan: Plan,
        connection: Connection,
        largest_bytes: int | None,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.name, self.release, self.out = name, release, out
        self.selection, self.plan, self.connection = selection, plan, connection
        self.largest_bytes, self.progress = largest_bytes, progress
        self.earlier = read_statement(out)
        self.files: dict[str, FetchedFile] = {}
        self.failed: dict[str, Problem] = {}
        self.restarted: dict[str, tuple[str, ...]] = {}
        self.total, self.done = 0, 0
        self._lock = threading.Lock()

    def run(self) -> FetchResult:
        """Fetch what is missing, derive what is to be derived, and state it."""
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="fetch") as pool:
            found = list(pool.map(lambda unit: unit.find(self.out, self.earlier), self.plan.units))
            present = {unit.path: file for unit, file in zip(self.plan.units, found, strict=True) if file is not None}
            missing = [unit for unit in self.plan.units if unit.path not in present]
            self.files |= present
            self.total = sum(unit.size for unit in missing)
            require_space(self.out, self.total)
            try:
                self._fetch(pool, missing)
            except BaseException:
                self.connection.stop()
                pool.shutdown(cancel_futures=True)
                self._state()
                raise
        if self.plan.derive is not None and not self.failed:
            self._derive(self.plan.derive, anew=bool(missing))
        self._state()
        return FetchResult(
            self.name,
            self.out,
            self.release.licence,
            self.release.citation,
            self.release.by_hand,
            files=tuple(self._sorted()),
            planned=tuple(unit.path for unit in missing),
            planned_bytes=self.total,
            bytes=sum(self.files[unit.path].size for unit in missing if unit.path in self.files),
            skipped=len(present),
            failed=dict(sorted(self.failed.items())),
            restarted=dict(sorted(self.restarted.items())),
            retries=self.connection.retries,
            left_out=self.plan.left_out,
            counted=self.plan.counted,
        )

    def _fetch(self, pool: ThreadPoolExecutor, units: Sequence[Unit]) -> None:
        jobs: dict[Future[tuple[FetchedFile, tuple[str, ...]]], Unit] = {
            pool.submit(
                unit.fetch,
                self.connection,
                self.out,
                largest_bytes=self.largest_bytes,
                progress=partial(self._advance, unit.path),
            ): unit
            for unit in units
        }
        ending: GliaflowError | None = None
        for job in as_completed(jobs):
            path = jobs[job].path
            try:
                self.files[path], restarts = job.result()
                if restarts:
                    self.restarted[path] = restarts
            except _OF_ONE_FILE as error:
                self.failed[path] = error.to_problem()
            except (Stopped, CancelledError):
                continue
            except (GliaflowError, OSError) as error:
                if ending is None:
                    ending = error if isinstance(error, GliaflowError) else _unwritable(error)
                    for other in jobs:
                        other.cancel()  # those under way may end well
        if ending is not None:
            raise ending

    def _advance(self, path: str, size: int) -> None:
        with self._lock:
            self.done += size
            if self.progress is not None:
                self.progress(self.done, max(self.total, self.done), path)

    def _derive(self, derive: Callable[[Path], list[str]], *, anew: bool) -> None:
        made = [file for file in self.earlier.files if not file.url] if self.earlier is not None else []
        fetched = [file for file in self.earlier.files if file.url] if self.earlier is not None else []
        whole = (
            not anew
            and bool(made)
            and fetched == self._sorted()
            and all((self.out / file.path).is_file() and described(self.out, file.path) == file for file in made)
        )
        paths = [file.path for file in made] if whole else derive(self.out)
        self.files |= {path: described(self.out, path) for path in paths}

    def _sorted(self) -> list[FetchedFile]:
        return [self.files[path] for path in sorted(self.files)]

    def _state(self) -> None:
        statement = Statement(
            release=self.name,
            publisher=self.release.publisher,
            asked=self.plan.asked,
            licence=self.release.licence,
            citation=self.release.citation,
            only=list(self.selection.only),
            limit=self.selection.limit,
            left_out=dict(sorted(self.plan.left_out.items())),
            counted=dict(sorted(self.plan.counted.items())),
            failed={path: problem.get("detail", "") for path, problem in sorted(self.failed.items())},
            files=self._sorted(),
        )
        if self.earlier is not None and statement.model_copy(update={"asked": self.earlier.asked}) == self.earlier:
            return
        write_whole(self.out / MANIFEST, (statement.model_dump_json(indent=2) + "\n").encode())


def _checked(base_url: str) -> str:
    """Return the base URL where it is one that may be written down."""
    try:
        parts = httpx.URL(base_url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("https", "http") or not _HOST.fullmatch(parts.host) or parts.userinfo or parts.query:
        raise InvalidValue(
            "the publisher's address cannot be used",
            step="fetch",
            field="GLIAFLOW_TCIA_URL, GLIAFLOW_GDC_URL",
            expected="https://host/path without user, password or query",
            got=shown(base_url) if _HOST.fullmatch(parts.host) else "no URL",
        )
    return base_url.rstrip("/")


def _own(out: Path, name: str) -> None:
    """Make the folder, or check that it is this release's."""
    if out.exists() and not out.is_dir():
        raise InvalidValue("the place to fetch to is no folder", step="fetch", field="OUT", got=out.name)
    earlier = read_statement(out)
    if earlier is not None and earlier.release != name:
        raise InvalidValue(
            "the folder holds another release",
            step="fetch",
            field="OUT",
            expected=name,
            got=earlier.release,
            remedy="give each release a folder of its own",
        )
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder, so that two fetches never write to the same files."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                "another fetch writes to this folder", step="fetch", field="OUT", remedy="wait until it has ended"
            ) from None
        yield


def _unwritable(error: OSError) -> GliaflowError:
    return Unavailable(
        "the folder cannot be written",
        step="fetch",
        field="OUT",
        got=error.strerror or type(error).__name__,
        remedy="free the disk or choose another folder; what came stays, and the same command goes on",
    )
