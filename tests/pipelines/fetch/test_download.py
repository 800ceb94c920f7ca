from __future__ import annotations

import hashlib
import json
from collections import namedtuple

import numpy as np
import pytest

from pipelines.fetch import download as module
from pipelines.fetch.connection import Connection, Stopped
from pipelines.fetch.download import Remote, digests_of, download
from services.shared.errors import ChangedFile, NotFound, TooLarge, Unavailable, UnreadableFile

CONTENT = np.random.default_rng(7).bytes(40_000)


@pytest.fixture
def remote(stand_in):
    stand_in.files["/data/a"] = CONTENT
    return Remote(f"{stand_in.url}/data/a", len(CONTENT), hashlib.md5(CONTENT).hexdigest())


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "a.tsv"


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_comes_whole_and_alone(connection, remote, target):
    told = []
    arrival = download(connection, remote, target, progress=told.append)
    assert target.read_bytes() == CONTENT
    assert arrival.digests == digests_of(target)
    assert arrival.digests.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (arrival.transferred, arrival.restarts) == (len(CONTENT), ())
    assert sum(told) == len(CONTENT)
    assert names(target) == ["a.tsv"]


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_cut_connection_goes_on_where_it_was_cut(stand_in, connection, remote, target, etag):
    if etag:
        stand_in.etags["/data/a"] = etag
    stand_in.faults["/data/a"] += ["cut:15000", "cut:9000"]
    arrival = download(connection, remote, target)
    assert target.read_bytes() == CONTENT
    headers = stand_in.asked("/data/a")
    assert [header.get("range") for header in headers] == [None, "bytes=15000-", "bytes=24000-"]
    assert [header.get("if-range") for header in headers] == [None, etag, etag]
    assert arrival.transferred == len(CONTENT)
    assert connection.retries == 2


def test_the_next_run_goes_on(stand_in, connection, quick, remote, target):
    stand_in.faults["/data/a"] += ["cut:15000"] + ["status:503"] * 3
    with pytest.raises(Unavailable, match="goes on where it stopped"):
        download(connection, remote, target)
    assert names(target) == ["a.tsv.part", "a.tsv.part.json"]
    assert "secret" not in (target.parent / "a.tsv.part.json").read_text()
    with Connection(quick) as later:
        arrival = download(later, remote, target)
    assert arrival.transferred == len(CONTENT) - 15000
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(stand_in, connection, remote, target):
    stand_in.faults["/data/a"] += ["cut:15000", "no-range"]
    told = []
    arrival = download(connection, remote, target, progress=told.append)
    assert target.read_bytes() == CONTENT
    assert arrival.restarts == ("the server sends whole files only",)
    assert sum(told) == len(CONTENT)
    assert min(told) == -15000


def test_a_file_that_changed_meanwhile_begins_again(stand_in, connection, quick, target):
    path, other = "/data/b", CONTENT[::-1]
    stand_in.files[path], stand_in.etags[path] = CONTENT, '"v1"'
    stand_in.faults[path] += ["cut:15000"] + ["status:503"] * 3
    with pytest.raises(Unavailable):
        download(connection, Remote(stand_in.url + path), target)
    stand_in.files[path], stand_in.etags[path] = other, '"v2"'
    with Connection(quick) as later:
        arrival = download(later, Remote(stand_in.url + path), target)
    assert target.read_bytes() == other
    assert arrival.restarts == ("the remote file changed",)
    assert stand_in.asked(path)[-1]["if-range"] == '"v1"'


def test_a_file_that_changed_without_a_word_is_caught_by_its_checksum(stand_in, connection, quick, remote, target):
    stand_in.faults["/data/a"] += ["cut:15000"] + ["status:503"] * 3
    stand_in.files["/data/a"] = CONTENT[::-1]
    with pytest.raises(Unavailable):
        download(connection, remote, target)
    stand_in.files["/data/a"] = CONTENT
    with Connection(quick, wait=lambda _: None) as later:
        arrival = download(later, remote, target)
    assert target.read_bytes() == CONTENT
    assert arrival.restarts == ("the checksum did not match",)


def test_without_validator_and_checksum_nothing_is_gone_on_with(stand_in, connection, target):
    stand_in.files["/data/c"] = CONTENT
    stand_in.faults["/data/c"] += ["cut:15000"]
    download(connection, Remote(f"{stand_in.url}/data/c"), target)
    assert [header.get("range") for header in stand_in.asked("/data/c")] == [None, None]
    assert target.read_bytes() == CONTENT


def test_another_stated_checksum_begins_again(stand_in, connection, quick, remote, target):
    stand_in.faults["/data/a"] += ["cut:15000"] + ["status:503"] * 3
    with pytest.raises(Unavailable):
        download(connection, remote, target)
    stand_in.files["/data/a"] = CONTENT[::-1]
    newer = Remote(remote.url, len(CONTENT), hashlib.md5(CONTENT[::-1]).hexdigest())
    with Connection(quick) as later:
        arrival = download(later, newer, target)
    assert arrival.restarts == ("the publisher states another file",)
    assert "range" not in stand_in.asked("/data/a")[-1]


@pytest.mark.parametrize("note", ["", "{}", "[1]", '{"url": 1}', "\x00"])
def test_an_unreadable_note_beside_the_part_means_beginning_again(connection, remote, target, note):
    target.parent.mkdir()
    (target.parent / "a.tsv.part").write_bytes(b"x" * 100)
    (target.parent / "a.tsv.part.json").write_text(note)
    download(connection, remote, target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_needs_no_request(stand_in, connection, remote, target):
    target.parent.mkdir()
    (target.parent / "a.tsv.part").write_bytes(CONTENT)
    state = {"url": remote.url, "validator": None, "size": remote.size, "md5": remote.md5, "sha256": None}
    (target.parent / "a.tsv.part.json").write_text(json.dumps(state))
    assert download(connection, remote, target).transferred == 0
    assert stand_in.requests == []


def test_a_part_longer_than_the_file_or_refused_begins_again(stand_in, connection, remote, target):
    target.parent.mkdir()
    (target.parent / "a.tsv.part").write_bytes(CONTENT + b"more")
    state = {"url": remote.url, "validator": None, "size": None, "md5": remote.md5, "sha256": None}
    (target.parent / "a.tsv.part.json").write_text(json.dumps(state))
    arrival = download(connection, remote, target)
    assert arrival.restarts == ("the server refused the rest",)
    assert target.read_bytes() == CONTENT


def test_a_wrong_checksum_is_tried_twice_and_nothing_is_kept(stand_in, connection, remote, target):
    stand_in.files["/data/a"] = CONTENT[::-1]
    with pytest.raises(ChangedFile, match="checksum is not what its publisher states"):
        download(connection, remote, target)
    assert len(stand_in.requests) == 2
    assert names(target) == []


def test_a_wrong_size_is_told_before_a_byte_is_kept(stand_in, connection, remote, target):
    stand_in.files["/data/a"] = CONTENT + b"more"
    with pytest.raises(ChangedFile, match=r"size.*40000 bytes.*40004 bytes"):
        download(connection, remote, target)
    assert names(target) == []


def test_a_truncated_body_is_no_file(stand_in, connection, target):
    stand_in.files["/data/d"], stand_in.etags["/data/d"] = CONTENT, '"v1"'
    stand_in.faults["/data/d"] += ["truncated:7"] * 4
    with pytest.raises(Unavailable):
        download(connection, Remote(f"{stand_in.url}/data/d"), target)
    assert not target.exists()


def test_a_web_page_in_place_of_a_file(stand_in, connection, remote, target):
    stand_in.faults["/data/a"] += ["html"]
    with pytest.raises(UnreadableFile, match="web page"):
        download(connection, remote, target)
    assert names(target) == []


def test_a_file_that_is_gone(stand_in, connection, target):
    with pytest.raises(NotFound, match="/data/gone"):
        download(connection, Remote(f"{stand_in.url}/data/gone"), target)


def test_the_bound_holds_with_and_without_a_stated_length(stand_in, connection, remote, target):
    with pytest.raises(TooLarge, match="at most 1000 bytes"):
        download(connection, remote, target, largest_bytes=1000)
    uid = stand_in.add_series("TCGA-CS-4941", 1)
    endless = Remote(f"{stand_in.url}/nbia/getImageWithMD5Hash?SeriesInstanceUID={uid}")
    with pytest.raises(TooLarge, match="at most 600 bytes"):
        download(connection, endless, target, largest_bytes=600)
    assert names(target) == []


def test_a_full_disk_is_told_before_the_transfer(connection, remote, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(TooLarge, match=r"too little room.*40000 bytes free"):
        download(connection, remote, target)


def test_a_stopped_connection_ends_the_transfer(connection, remote, target):
    with pytest.raises(Stopped):
        download(connection, remote, target, progress=lambda _: connection.stop())
        download(connection, remote, target.with_name("b"))
