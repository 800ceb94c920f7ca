"""Keys under one root, on this machine or in an object store; a key can never leave its root.

A file appears whole or not at all: it is written under a temporary name and moved into place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from services.shared.contracts import _check_key
from services.shared.errors import InvalidKey, NotFound
from services.shared.settings import settings

_CHUNK = 1 << 20


class Storage:
    """Files below one root.

    Parameters
    ----------
    root
        A folder, or a URL that fsspec understands (``s3://bucket/prefix``).
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        url = os.fspath(root)
        # A remembered listing would not know what other processes write.
        self._fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.is_local = "file" in self._fs.protocol
        self.root = os.path.realpath(path) if self.is_local else path.rstrip("/")

    def _path(self, key: str) -> str:
        try:
            _check_key(key)
        except ValueError as error:
            raise InvalidKey(
                str(error), field="key", got=repr(key), remedy="use a key below the storage root"
            ) from None
        path = f"{self.root}/{key}"
        if self.is_local and not os.path.realpath(path).startswith(self.root + os.sep):
            raise InvalidKey("the key leads outside the storage root", field="key", got=repr(key))
        return path

    def exists(self, key: str) -> bool:
        """Return whether a file or folder stands at the key."""
        return bool(self._fs.exists(self._path(key)))

    def files(self, prefix: str, suffix: str = "") -> list[str]:
        """Return the sorted keys of all files below a prefix whose names end in ``suffix``."""
        path = self._path(prefix)
        if not self._fs.exists(path):
            return []
        cut = len(self.root) + 1
        found = (str(p)[cut:] for p in self._fs.find(path))
        return sorted(key for key in found if key.endswith(suffix) and "/.tmp-" not in f"/{key}")

    def folders(self, prefix: str) -> list[str]:
        """Return the sorted names of the folders directly below a prefix."""
        path = self._path(prefix)
        if not self._fs.exists(path):
            return []
        entries = self._fs.ls(path, detail=True)
        return sorted(Path(e["name"]).name for e in entries if e["type"] == "directory")

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """Give a path on this machine from which the file can be read while the block lasts.

        Raises
        ------
        NotFound
            Where no file stands at the key.
        """
        path = self._path(key)
        if not self._fs.isfile(path):
            raise NotFound("there is no such file", field="key", got=key)
        if self.is_local:
            yield Path(path)
            return
        with tempfile.TemporaryDirectory(prefix="gliaflow-") as folder:
            target = Path(folder) / Path(path).name
            self._fs.get_file(path, str(target))
            yield target

    @contextmanager
    def publish(self, key: str) -> Iterator[Path]:
        """Give a temporary path to write to; the file takes its name only if the block ends without error.

        The temporary path keeps the key's file name, so that writers choose the format by its ending.
        """
        path = self._path(key)
        if self.is_local:
            with self._temporary(path) as temporary:
                yield temporary
                os.replace(temporary, path)
            return
        with tempfile.TemporaryDirectory(prefix="gliaflow-") as folder:
            target = Path(folder) / Path(path).name
            yield target
            self._fs.put_file(str(target), path)

    @staticmethod
    @contextmanager
    def _temporary(path: str) -> Iterator[Path]:
        """Give a path beside a local one, on the same file system, and clean up after it."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=os.path.dirname(path)))
        try:
            yield folder / Path(path).name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def read_bytes(self, key: str) -> bytes:
        """Return a file's content."""
        with self.local(key) as path:
            return path.read_bytes()

    def read_text(self, key: str) -> str:
        """Return a file's content as UTF-8 text."""
        return self.read_bytes(key).decode("utf-8")

    def write_bytes(self, key: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.publish(key) as path:
            path.write_bytes(content)

    def write_text(self, key: str, content: str) -> None:
        """Write a UTF-8 text file, whole or not at all."""
        self.write_bytes(key, content.encode("utf-8"))

    def create_text(self, key: str, content: str) -> bool:
        """Write a UTF-8 text file where none stands yet; of several writers at once one succeeds, which is returned."""
        path = self._path(key)
        if self.is_local:
            with self._temporary(path) as temporary:
                temporary.write_text(content, "utf-8")
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
            return True
        try:
            self._fs.pipe_file(path, content.encode("utf-8"), mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, key: str) -> None:
        """Remove a file or a folder with all it holds; nothing there is not an error."""
        path = self._path(key)
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def sha256(self, key: str) -> str:
        """Return the hexadecimal SHA-256 of a file's content."""
        with self.local(key) as path:
            return sha256_of(path)

    def url(self, key: str) -> str:
        """Return the place a person would look at: a path, or a URL."""
        path = self._path(key)
        return path if self.is_local else str(self._fs.unstrip_protocol(path))


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a local file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def open_storage() -> Storage:
    """Return the storage that this process's settings name."""
    return Storage(settings().storage_root)
