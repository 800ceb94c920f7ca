"""Storage in an object store: what one process writes, another sees at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from services.shared.errors import InvalidKey, NotFound
from services.shared.storage import Storage


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3fs.S3FileSystem]:
    """An S3 stand-in on loopback with the bucket ``site``, as another process would see it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    other = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    other.mkdir("site")
    yield other
    patch.undo()
    server.stop()


def test_keys_of_another_process_are_seen_at_once(bucket: s3fs.S3FileSystem) -> None:
    storage = Storage("s3://site/root")
    assert not storage.is_local
    assert storage.files("cohort") == storage.folders("cohort") == []
    assert not storage.exists("cohort/one.txt")
    storage.write_text("cohort/one.txt", "1")
    assert storage.folders("cohort") == []
    assert storage.files("cohort") == ["cohort/one.txt"]
    bucket.pipe_file("site/root/cohort/two.txt", b"2")
    bucket.pipe_file("site/root/cohort/sub/three.txt", b"3")
    assert storage.exists("cohort/two.txt")
    assert storage.read_text("cohort/two.txt") == "2"
    assert storage.folders("cohort") == ["sub"]
    assert storage.files("cohort", ".txt") == ["cohort/one.txt", "cohort/sub/three.txt", "cohort/two.txt"]
    bucket.rm("site/root/cohort/two.txt")
    assert not storage.exists("cohort/two.txt")
    with pytest.raises(NotFound):
        storage.read_text("cohort/two.txt")


def test_a_file_that_failed_is_not_there(bucket: s3fs.S3FileSystem) -> None:
    storage = Storage("s3://site/root")
    with pytest.raises(RuntimeError, match="half"), storage.publish("half.txt") as path:
        path.write_text("half")
        raise RuntimeError("half")
    assert not storage.exists("half.txt")
    storage.write_text("old.txt", "old")
    with pytest.raises(RuntimeError, match="half"), storage.publish("old.txt") as path:
        path.write_text("new")
        raise RuntimeError("half")
    assert storage.read_text("old.txt") == "old"
    assert storage.url("old.txt") == "s3://site/root/old.txt"


def test_removing_a_folder_leaves_its_neighbour(bucket: s3fs.S3FileSystem) -> None:
    storage = Storage("s3://site/root")
    storage.write_text("a/x.txt", "x")
    storage.write_text("ab/y.txt", "y")
    storage.remove("a")
    assert (storage.files("a"), storage.files("ab")) == ([], ["ab/y.txt"])
    with pytest.raises(InvalidKey):
        storage.exists("../other/x.txt")
