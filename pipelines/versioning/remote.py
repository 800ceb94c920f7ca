"""The remote: a folder or an object store that keeps every object of every version.

Which one says ``GLIAFLOW_DVC_REMOTE``, else ``.dvc/config``. The setting is entered in ``.dvc/config.local``, which git
ignores, so that ``dvc`` itself uses the same remote. Credentials are never written: an object store takes them from the
standard AWS variables or files.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.versioning.errors import RemoteUnreachable
from services.shared.errors import InvalidValue, NotFound

if TYPE_CHECKING:
    from dvc.repo import Repo

NAME = "gliaflow"
_CONNECT_S = 5
_READ_S = 60
_SET_IT = (
    "set GLIAFLOW_DVC_REMOTE to a folder or s3://bucket/prefix (and GLIAFLOW_DVC_ENDPOINT_URL where it is not AWS)"
)


def use_remote(repo: Repo, url: str, endpoint_url: str | None) -> None:
    """Enter a remote in ``.dvc/config.local``, where it is not there yet.

    Raises
    ------
    InvalidValue
        Where the URL is neither a folder nor ``s3://``, or holds credentials.
    """
    wanted: dict[str, object] = {"url": _checked(url, repo.root_dir)}
    if urlsplit(url).scheme == "s3":
        wanted |= {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}
        if endpoint_url is not None:
            wanted["endpointurl"] = _without_credentials(endpoint_url)
    known = repo.config.load_one("local")
    if known["core"].get("remote") == NAME and known["remote"].get(NAME) == wanted:
        return
    with repo.config.edit("local") as local:
        local["core"]["remote"] = NAME
        local["remote"][NAME] = wanted


def _checked(url: str, root: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme not in ("", "s3"):
        raise InvalidValue(
            "versions cannot be kept there",
            field="GLIAFLOW_DVC_REMOTE",
            expected="a folder or s3://",
            got=f"{scheme}://",
        )
    return _without_credentials(url) if scheme else str(Path(root, url).resolve())


def _without_credentials(url: str) -> str:
    if "@" in urlsplit(url).netloc:
        raise InvalidValue(
            "the URL of the remote holds credentials",
            field="GLIAFLOW_DVC_REMOTE",
            expected="a URL without user and password",
            remedy="give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials",
        )
    return url


@dataclass(frozen=True)
class Remote:
    """An open remote."""

    url: str
    endpoint_url: str | None
    odb: Any  # dvc_data's object database, which has no types

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return bool(self.odb.fs.protocol == "local")

    def probe(self) -> None:
        """Check that the remote answers; an empty one is well.

        Raises
        ------
        RemoteUnreachable
            Where its folder has no place, its address does not answer, its bucket does not exist or refuses.
        """
        if self.is_local:
            self._probe_folder()
            return
        self._probe_address()
        with self.reached():
            self.odb.fs.fs.call_s3("list_objects_v2", Bucket=urlsplit(self.url).netloc, MaxKeys=1)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every object by its hash."""
        found: dict[str, int] = {}
        with self.reached():
            self.odb.fs.fs.invalidate_cache()
            for folder, _, files in self.odb.fs.fs.walk(self.odb.path, detail=True):
                prefix = folder.rstrip("/").rpartition("/")[2]
                found |= {prefix + name: int(info["size"]) for name, info in files.items() if len(prefix) == 2}
        return found

    def read(self, oid: str) -> bytes | None:
        """Return an object's content, or None where it is not there."""
        with self.reached():
            try:
                content: bytes = self.odb.fs.cat_file(self.odb.oid_to_path(oid))
            except FileNotFoundError:
                return None
            return content

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what a transfer can raise into one error that names the remote."""
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

        try:
            yield
        except (OSError, BotoCoreError) as error:
            raise RemoteUnreachable(
                "the remote that keeps the versions did not answer as it should",
                field=self.url,
                got=f"{type(error).__name__}: {error}",
                remedy=f"check that it exists and the AWS credentials, or {_SET_IT}",
            ) from error

    def _probe_folder(self) -> None:
        folder = Path(self.url)
        known = folder if folder.exists() else folder.parent
        if not known.is_dir() or not os.access(known, os.R_OK | os.W_OK):
            raise RemoteUnreachable(
                "the folder that keeps the versions has no place",
                field=str(folder),
                expected="a folder that can be read and written, or one in which it can be made",
                remedy=f"mount it or make {folder.parent}, or {_SET_IT}",
            )

    def _probe_address(self) -> None:
        if self.endpoint_url is None:
            return
        address = urlsplit(self.endpoint_url)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), timeout=_CONNECT_S).close()
        except OSError as error:
            raise RemoteUnreachable(
                "nothing answers at the address of the remote that keeps the versions",
                field=self.endpoint_url,
                got=str(error),
                remedy=f"start it, or {_SET_IT}",
            ) from None


def open_remote(repo: Repo) -> Remote:
    """Return the remote of a DVC repository.

    Raises
    ------
    NotFound
        Where none is set.
    """
    from dvc.config import ConfigError

    try:
        found = repo.cloud.get_remote()
    except ConfigError as error:
        raise NotFound(
            "no remote keeps the versions of this repository",
            field="remote",
            got=str(error).split("\n")[0],
            remedy=_SET_IT,
        ) from None
    if found.fs.protocol == "local":
        return Remote(str(found.path), None, found.odb)
    config = repo.config["remote"][found.name]
    return Remote(str(config["url"]), config.get("endpointurl"), found.odb)
