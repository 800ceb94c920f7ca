import os
from pathlib import Path

import pytest

from services.shared.errors import InvalidKey, NotFound
from services.shared.storage import Storage


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\b", "a\0b"])
def test_key_that_could_leave_the_root_is_refused(storage: Storage, key: str) -> None:
    with pytest.raises(InvalidKey):
        storage.read_bytes(key)
    with pytest.raises(InvalidKey):
        storage.write_bytes(key, b"")


def test_link_that_leads_outside_is_refused(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    os.symlink(tmp_path, Path(storage.root) / "link")
    with pytest.raises(InvalidKey, match="outside"):
        storage.read_bytes("link/secret")


def test_written_file_is_read_back_and_listed(storage: Storage) -> None:
    storage.write_text("b/two.txt", "two")
    storage.write_text("b/c/three.json", "3")
    storage.write_text("a.txt", "one")
    assert storage.read_text("b/two.txt") == "two"
    assert storage.files("b") == ["b/c/three.json", "b/two.txt"]
    assert storage.files("b", ".txt") == ["b/two.txt"]
    assert storage.folders("b") == ["c"]
    assert storage.files("nothing") == []


def test_failed_write_leaves_the_old_file_and_no_trace(storage: Storage) -> None:
    storage.write_text("x/file.txt", "old")
    with pytest.raises(RuntimeError), storage.publish("x/file.txt") as path:
        path.write_text("half")
        raise RuntimeError
    assert storage.read_text("x/file.txt") == "old"
    assert sorted(os.listdir(Path(storage.root) / "x")) == ["file.txt"]


def test_missing_file_is_named(storage: Storage) -> None:
    with pytest.raises(NotFound, match=r"no/such\.txt"):
        storage.read_bytes("no/such.txt")


def test_memory_store_behaves_like_a_folder() -> None:
    storage = Storage("memory://bucket/prefix")
    storage.write_bytes("a/b.bin", b"123")
    assert storage.exists("a/b.bin")
    assert storage.files("a") == ["a/b.bin"]
    assert storage.folders("a") == []
    assert storage.sha256("a/b.bin").startswith("a665a459")
    storage.remove("a")
    assert not storage.exists("a/b.bin")


@pytest.mark.parametrize("root", ["folder", "memory://create/prefix"])
def test_of_several_creators_one_succeeds(root: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path if root == "folder" else root)
    assert storage.create_text("a/lock", "first")
    assert not storage.create_text("a/lock", "second")
    assert storage.read_text("a/lock") == "first"
    assert storage.files("a") == ["a/lock"]
