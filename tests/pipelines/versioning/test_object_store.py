"""Versions in an object store: moto's stand-in for S3 on loopback, which takes any credentials."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from pipelines.versioning.errors import IncompleteRemote, RemoteUnreachable
from pipelines.versioning.repository import Repository
from services.shared.errors import InvalidValue
from services.shared.settings import settings

pytestmark = pytest.mark.xdist_group("s3")

SECRET = "not-to-be-written-anywhere"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A bucket that the settings name as the remote."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "GLIAFLOW_DVC_REMOTE": "s3://versions/gliaflow",
        "GLIAFLOW_DVC_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    found = boto3.resource("s3", endpoint_url=endpoint).Bucket("versions")
    found.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield found
    found.objects.delete()
    found.delete()


def hashes(repository: Repository) -> dict[str, str]:
    return {output.path: output.md5 for output in repository.outputs()}


def test_one_clone_pushes_and_another_pulls_the_same(
    bucket, repository: Repository, clone: Callable[[Repository], Repository]
) -> None:
    first = Repository.open(repository.root)
    first.push()
    keys = sorted(entry.key for entry in bucket.objects.all())
    assert keys
    assert all(key.startswith("gliaflow/files/md5/") for key in keys)
    second = clone(first)
    second.pull()
    assert hashes(second) == hashes(first)
    assert second.plan() == ()
    written = [path.read_bytes() for path in second.root.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert not any(SECRET.encode() in content for content in written)
    second.require_clean()

    lost = next(entry for entry in bucket.objects.all() if not entry.key.endswith(".dir"))
    lost.delete()
    third = clone(first)
    with pytest.raises(IncompleteRemote, match="1 objects are missing"):
        third.pull()
    first.push()
    third.pull()
    assert hashes(third) == hashes(first)


def test_bucket_that_is_not_there_stops(bucket, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_DVC_REMOTE", "s3://elsewhere")
    settings.cache_clear()
    with pytest.raises(RemoteUnreachable, match="s3://elsewhere"):
        Repository.open(repository.root).push()


def test_address_that_does_not_answer_stops(bucket, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setenv("GLIAFLOW_DVC_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        settings.cache_clear()
        with pytest.raises(RemoteUnreachable, match="nothing answers"):
            Repository.open(repository.root).pull()


@pytest.mark.parametrize("url", ["s3://key:secret@versions/x", "ftp://host/versions"])
def test_remote_that_cannot_be_is_refused(url: str, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_DVC_REMOTE", url)
    settings.cache_clear()
    with pytest.raises(InvalidValue) as raised:
        Repository.open(repository.root)
    assert "secret" not in str(raised.value)
    assert not (repository.root / ".dvc" / "config.local").exists()


def test_folder_by_settings_is_entered_once(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GLIAFLOW_DVC_REMOTE", str(tmp_path / "shelf"))
    settings.cache_clear()
    Repository.open(repository.root).push()
    assert (tmp_path / "shelf" / "files" / "md5").is_dir()
    stamp = (repository.root / ".dvc" / "config.local").stat().st_mtime_ns
    Repository.open(repository.root)
    assert (repository.root / ".dvc" / "config.local").stat().st_mtime_ns == stamp
