"""Objects: what files and folders hold, by hash, in the cache of this machine and in the remote.

DVC takes the listing of a folder as proof that its files are there, in a remote too. A push that was cut off, or a file
that was damaged since, would stay hidden; so what is kept is looked at object by object, with its size, and what comes
from the remote is hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.versioning.errors import IncompleteRemote, UnsavedData
from pipelines.versioning.remote import Remote
from pipelines.versioning.tracked import FOLDER, Output, is_within, overlap

Progress = Callable[[int, int, str], None]

_SHOWN = 3


@dataclass(frozen=True)
class Cache:
    """The objects of this machine."""

    odb: Any  # dvc_data's object database, which has no types

    def path(self, oid: str) -> Path:
        """Where an object stands."""
        return Path(self.odb.oid_to_path(oid))

    def size(self, oid: str) -> int | None:
        """Return an object's bytes, or None where it is not there."""
        path = self.path(oid)
        return path.stat().st_size if path.is_file() else None

    def is_sound(self, oid: str) -> bool:
        """Return whether an object is there and has the hash of its name; one that has not is removed."""
        from dvc_objects.errors import ObjectFormatError

        try:
            self.odb.check(oid)
        except (ObjectFormatError, FileNotFoundError):
            return False
        return True


@dataclass(frozen=True)
class Lack:
    """What the remote lacks: path of a file by the hash of its object."""

    missing: Mapping[str, str]
    damaged: Mapping[str, str]

    def require_none(self, remote: Remote, total: int) -> None:
        """Check that nothing is lacking.

        Raises
        ------
        IncompleteRemote
            With how many objects and the first files.
        """
        if not self.missing and not self.damaged:
            return
        paths = sorted({*self.missing.values(), *self.damaged.values()})
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        raise IncompleteRemote(
            f"{len(self.missing)} objects are missing in the remote and {len(self.damaged)} are damaged",
            field=remote.url,
            expected=f"{total} objects",
            got=f"without {', '.join(paths[:_SHOWN])}{more}",
            remedy="run 'gliaflow data push' where they are whole: it sends and replaces what is not here",
        )


def files_of(outputs: Iterable[Output], cache: Cache, remote: Remote | None) -> dict[str, str]:
    """Return hash by path of every file of some outputs; listings that are not in the cache come from the remote.

    Raises
    ------
    IncompleteRemote, UnsavedData
        Where a folder's listing is nowhere, or is damaged.
    """
    found, lack = _expand(outputs, cache, remote)
    lost = sorted({*lack.missing.values(), *lack.damaged.values()})
    if lost and remote is None:
        raise UnsavedData(
            "the listing of a folder is not in the cache",
            field=", ".join(lost[:_SHOWN]),
            remedy="run 'gliaflow data pull', or run the stage that makes it",
        )
    if remote is not None:
        lack.require_none(remote, len(lost))
    return found


def _expand(outputs: Iterable[Output], cache: Cache, remote: Remote | None) -> tuple[dict[str, str], Lack]:
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for output in outputs:
        if not output.is_folder:
            found[output.path] = output.md5
            continue
        content = read_object(output.md5, cache, remote)
        if content is None:
            missing[output.md5] = output.path
        elif md5(content) + FOLDER != output.md5:  # a folder's hash is that of its listing
            damaged[output.md5] = output.path
        else:
            found |= {f"{output.path}/{entry['relpath']}": entry["md5"] for entry in json.loads(content)}
    return found, Lack(missing, damaged)


def read_object(oid: str, cache: Cache, remote: Remote | None) -> bytes | None:
    """Return an object's content from the cache, else from the remote, or None where it is in neither."""
    if cache.is_sound(oid):
        return cache.path(oid).read_bytes()
    return None if remote is None else remote.read(oid)


def require_object(oid: str, path: str, cache: Cache, remote: Remote | None) -> bytes:
    """Return an object's content from the cache, else from the remote; ``path`` says in errors which file it is.

    Raises
    ------
    IncompleteRemote, UnsavedData
        Where it is in neither.
    """
    content = read_object(oid, cache, remote)
    if content is not None and md5(content) == oid.removesuffix(FOLDER):
        return content
    if remote is not None:
        lack = {oid: path}
        Lack(lack if content is None else {}, lack if content is not None else {}).require_none(remote, 1)
    raise UnsavedData(
        "a file of this version is not in the cache",
        field=path,
        remedy="set the remote that keeps it, or run the stage that makes it",
    )


def md5(content: bytes) -> str:
    """Return the hash by which DVC knows a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def fetch(
    outputs: Iterable[Output],
    cache: Cache,
    remote: Remote,
    *,
    paths: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Bring what outputs hold into the cache and return how many objects came.

    Nothing is fetched unless the remote has all of it; each object is hashed as it comes.

    Parameters
    ----------
    paths
        Files and folders that are wanted; None means all.

    Raises
    ------
    RemoteUnreachable
        Where the remote does not answer.
    IncompleteRemote
        Where objects are neither in the cache nor whole in the remote.
    """
    chosen = [out for out in outputs if paths is None or any(overlap(out.path, path) for path in paths)]
    wanted, unlisted = _wanted(chosen, cache, remote, None if paths is None else tuple(paths))
    absent = {oid: path for oid, path in wanted.items() if cache.size(oid) is None}
    if not absent and not unlisted.missing and not unlisted.damaged:
        return 0
    kept = remote.sizes()
    expected = {out.md5: out.size for out in chosen if not out.is_folder}
    lack = Lack(
        missing={oid: path for oid, path in absent.items() if oid not in kept} | dict(unlisted.missing),
        damaged={
            oid: path
            for oid, path in absent.items()
            if oid in kept and (size := expected.get(oid)) is not None and kept[oid] != size
        }
        | dict(unlisted.damaged),
    )
    lack.require_none(remote, len(wanted))
    _copy(absent, remote.odb, cache.odb, remote, progress, verify=True)
    refused = {oid: path for oid, path in absent.items() if cache.size(oid) is None}
    Lack(missing={}, damaged=refused).require_none(remote, len(wanted))
    return len(absent)


def send(outputs: Iterable[Output], cache: Cache, remote: Remote, *, progress: Progress | None = None) -> int:
    """Bring what outputs hold into the remote, check that all of it is there, and return how many objects went.

    An object that is damaged in the remote is replaced. Listings go last, so that a listing means a whole folder.

    Raises
    ------
    RemoteUnreachable
        Where the remote does not answer.
    UnsavedData
        Where the remote lacks objects that the cache has not, or not whole.
    IncompleteRemote
        Where the remote lacks objects after they were sent.
    """
    remote.probe()
    wanted, unlisted = _wanted(outputs, cache, remote, None)
    lack = compare_sizes(wanted, cache, remote)
    absent = {**lack.missing, **lack.damaged, **unlisted.missing, **unlisted.damaged}
    lost = sorted({path for oid, path in absent.items() if not cache.is_sound(oid)})
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise UnsavedData(
            f"{len(lost)} files are whole neither in the cache of this machine nor in the remote",
            field=", ".join(lost[:_SHOWN]) + more,
            remedy="push from a checkout that has them, or make them anew with 'dvc repro'",
        )
    files = {oid: path for oid, path in absent.items() if not oid.endswith(FOLDER)}
    listings = {oid: path for oid, path in absent.items() if oid.endswith(FOLDER)}
    for batch in (files, listings):
        _copy(batch, cache.odb, remote.odb, remote, progress, verify=False)
    if absent:
        compare_sizes(wanted, cache, remote).require_none(remote, len(wanted))
    return len(absent)


def compare_sizes(wanted: Mapping[str, str], cache: Cache, remote: Remote) -> Lack:
    """Return which objects the remote does not have, or not with the size that they have in the cache."""
    kept = remote.sizes()
    return Lack(
        missing={oid: path for oid, path in wanted.items() if oid not in kept},
        damaged={
            oid: path
            for oid, path in wanted.items()
            if oid in kept and (size := cache.size(oid)) is not None and kept[oid] != size
        },
    )


def _wanted(
    outputs: Iterable[Output], cache: Cache, remote: Remote, paths: tuple[str, ...] | None
) -> tuple[dict[str, str], Lack]:
    """Return a file's path by the hash of its object, listings of folders included, and the listings that are lost."""
    every = list(outputs)
    files, unlisted = _expand(every, cache, remote)
    found = {out.md5: out.path for out in every if out.is_folder}
    for path, oid in files.items():
        if paths is None or any(is_within(path, folder) for folder in paths):
            found.setdefault(oid, path)
    return found, unlisted


def _copy(
    objects: Mapping[str, str], source: Any, target: Any, remote: Remote, progress: Progress | None, *, verify: bool
) -> None:
    if not objects:
        return
    from fsspec.callbacks import Callback

    class Count(Callback):  # type: ignore[misc]  # fsspec has no types
        """Objects that were moved."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if progress is not None:
                progress(self.value, len(objects), "")

    oids = sorted(objects)
    with remote.reached():
        target.add(
            [source.oid_to_path(oid) for oid in oids],
            source.fs,
            oids,
            callback=Count(size=len(oids)),
            check_exists=False,
            verify=verify,
        )
