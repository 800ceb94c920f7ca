from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest

from pipelines.fetch.connection import Connection
from pipelines.fetch.plan import Selection
from pipelines.fetch.run import fetch_release
from pipelines.fetch.tcia import _unpack, plan_collection
from services.shared.errors import GliaflowError, InvalidKey, NotFound, Unauthorised, Unavailable, UnreadableFile
from tests.pipelines.fetch.conftest import archive, dicom

RELEASE = "tcga-lgg-mri"
HEAD, TWO = "Filename,MD5Hash\n", {"1-01.dcm": b"x", "1-02.dcm": b"y"}
FIRST, SECOND, THIRD = "TCGA-CS-4941", "TCGA-CS-4942", "TCGA-DU-5849"


@pytest.fixture
def collection(stand_in):
    for number, patient in enumerate((THIRD, FIRST, FIRST, SECOND), start=1):
        stand_in.add_series(patient, number, images=number + 1)
    stand_in.add_series(SECOND, 9, Modality="SEG")
    stand_in.add_series("UPENN-GBM-00001", 10, Collection="UPENN-GBM")
    return stand_in


def images(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.dcm"))


def fetched_archives(held):
    return len(held.asked("/nbia/getImageWithMD5Hash"))


def test_series_come_by_patient_study_and_series(collection, quick, tmp_path):
    result = fetch_release(RELEASE, tmp_path, patience=quick)
    assert len(images(tmp_path)) == 2 + 3 + 4 + 5
    one = tmp_path / FIRST / "1.3.6.1.4.1.14519.9.12" / "1.3.6.1.4.1.14519.5.2.1.2"
    assert sorted(path.name for path in one.iterdir()) == ["1-01.dcm", "1-02.dcm", "1-03.dcm"]
    assert (one / "1-02.dcm").read_bytes() == dicom(FIRST, 202)
    assert [file.images for file in result.files] == [3, 4, 5, 2]
    assert (
        result.bytes
        == sum(file.size for file in result.files)
        == sum(p.stat().st_size for p in tmp_path.rglob("*.dcm"))
    )
    assert result.counted["patients"] == 3
    assert result.counted["series"] == 4
    assert result.counted["licence: Creative Commons Attribution 3.0 Unported License"] == 4
    assert "faces" not in result.licence
    assert not list((tmp_path / ".incoming").iterdir())


def test_every_image_is_pinned_by_its_publishers_checksum(collection, quick, tmp_path):
    result = fetch_release(RELEASE, tmp_path, patience=quick)
    for file in result.files:
        listing = (tmp_path / file.listed_in).read_bytes()
        assert hashlib.sha256(listing).hexdigest() == file.sha256
        stated = dict(line.split(",") for line in listing.decode().splitlines()[1:])
        assert {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in (tmp_path / file.path).iterdir()} == stated


def test_a_second_fetch_brings_nothing_and_mends_what_broke(collection, quick, tmp_path):
    first = fetch_release(RELEASE, tmp_path, patience=quick)
    statement = (tmp_path / "fetched.json").read_bytes()
    again = fetch_release(RELEASE, tmp_path, patience=quick)
    assert fetched_archives(collection) == 4
    assert (again.skipped, again.bytes, again.planned) == (4, 0, ())
    assert again.files == first.files
    assert (tmp_path / "fetched.json").read_bytes() == statement
    broken = tmp_path / images(tmp_path)[0]
    broken.write_bytes(broken.read_bytes()[:-1] + b"!")
    (tmp_path / images(tmp_path)[-1]).unlink()
    mended = fetch_release(RELEASE, tmp_path, patience=quick)
    assert fetched_archives(collection) == 6
    assert (mended.skipped, len(mended.planned)) == (2, 2)
    assert mended.files == first.files


def test_patients_are_chosen_by_name_or_number(collection, quick, tmp_path):
    assert fetch_release(RELEASE, tmp_path / "a", limit=1, patience=quick).counted["patients"] == 1
    assert {path.split("/")[0] for path in images(tmp_path / "a")} == {FIRST}
    fetch_release(RELEASE, tmp_path / "b", only=[THIRD], patience=quick)
    assert {path.split("/")[0] for path in images(tmp_path / "b")} == {THIRD}
    with pytest.raises(NotFound, match=r"no such patient.*TCGA-XX-0000"):
        fetch_release(RELEASE, tmp_path / "c", only=["TCGA-XX-0000"], patience=quick)
    assert not (tmp_path / "c").exists()


def test_an_archive_that_breaks_off_is_asked_for_again(collection, quick, tmp_path):
    collection.faults["/nbia/getImageWithMD5Hash"] += ["cut", "status:503"]
    result = fetch_release(RELEASE, tmp_path, patience=quick)
    assert result.retries == 2
    assert len(images(tmp_path)) == 14


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:evil.dcm", ".dcm"])
def test_a_member_that_would_land_elsewhere_is_refused_with_its_series(collection, quick, tmp_path, name):
    uid = str(collection.series[0]["SeriesInstanceUID"])
    collection.archives[uid] = archive({"1-01.dcm": b"x", name: b"y"})
    result = fetch_release(RELEASE, tmp_path / "out", patience=quick)
    (problem,) = result.failed.values()
    assert "land outside its folder" in problem["detail"]
    assert len(images(tmp_path / "out")) == 12
    assert not list(tmp_path.rglob("*evil*"))
    assert not list((tmp_path / "out" / ".incoming").iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive(TWO, listing=HEAD + "".join(f"{name},{'0' * 32}\n" for name in TWO)), "does not have the checksum"),
        (archive({"1-01.dcm": b"x"}), "does not hold the images"),
        (archive(TWO, listing=HEAD), "does not hold the images"),
        (archive(TWO, listing="Filename\n1-01.dcm\n"), "list of checksums cannot be read"),
        (b"PK\x03\x04 but no archive", "cannot be read"),
        (b"", "cannot be read"),
        (archive(TWO)[:-60], "cannot be read"),
    ],
    # An archive's bytes hold the time: workers that collect it in their names would not agree.
    ids=["wrong-checksum", "no-image", "none-listed", "unreadable-list", "no-archive", "empty", "cut-off"],
)
def test_a_bad_archive_costs_its_series_and_no_other(collection, quick, tmp_path, content, words):
    collection.archives[str(collection.series[0]["SeriesInstanceUID"])] = content
    result = fetch_release(RELEASE, tmp_path, patience=quick)
    ((path, problem),) = result.failed.items()
    assert path.startswith(THIRD)
    assert words in problem["detail"]
    assert not (tmp_path / path).exists()
    assert len(images(tmp_path)) == 12
    assert '"failed": {\n    "TCGA-DU-5849' in (tmp_path / "fetched.json").read_text()


def test_damage_anywhere_in_an_archive_is_never_taken_for_images(tmp_path):
    whole = archive({f"1-{number:02d}.dcm": dicom(FIRST, number) for number in range(3)})
    rng = np.random.default_rng(3)
    told = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        (tmp_path / "a.zip").write_bytes(damaged)
        folder = tmp_path / "images"
        folder.mkdir()
        try:
            _unpack(tmp_path / "a.zip", folder, uid="1.2", images=3, largest_bytes=None)
            for number in range(3):
                assert (folder / f"1-{number:02d}.dcm").read_bytes() == dicom(FIRST, number)
        except GliaflowError:
            told += 1
        shutil.rmtree(folder)
    assert told > 100  # the rest hit dates, attributes or the licence


@pytest.mark.parametrize("patient", ["../../etc", "/etc", "..", ".hidden", "a/b", "a\x00b", "patient."])
def test_names_from_the_archive_never_choose_a_folder(stand_in, connection, patient):
    stand_in.add_series(patient, 1)
    with pytest.raises(InvalidKey, match="plain file name"):
        plan_collection(connection, f"{stand_in.url}/nbia", Selection(), collection="TCGA-LGG")


@pytest.mark.parametrize(
    "column", [{"SeriesInstanceUID": "../1"}, {"StudyInstanceUID": None}, {"ImageCount": "many"}, {"PatientID": ""}]
)
def test_a_row_that_is_laid_out_otherwise_is_told_by_its_column(stand_in, connection, column):
    stand_in.add_series(FIRST, 1)
    stand_in.series[0] |= column
    with pytest.raises(UnreadableFile, match=rf"0\.{next(iter(column))}"):
        plan_collection(connection, f"{stand_in.url}/nbia", Selection(), collection="TCGA-LGG")


def test_a_collection_that_is_not_open(stand_in, connection, quick, tmp_path):
    with pytest.raises(NotFound, match="controlled access"):
        plan_collection(connection, f"{stand_in.url}/nbia", Selection(), collection="TCGA-GBM")
    stand_in.faults["/nbia/getSeries"] += ["status:401"]
    with pytest.raises(Unauthorised, match="not fetched here"):
        fetch_release(RELEASE, tmp_path / "out", patience=quick)


def test_what_came_stays_when_the_archive_stops_answering(collection, quick, tmp_path):
    collection.faults["/nbia/getImageWithMD5Hash"] += ["", *["status:503"] * 20]
    with pytest.raises(Unavailable, match="did not deliver"):
        fetch_release(RELEASE, tmp_path, patience=quick)
    statement = (tmp_path / "fetched.json").read_text()
    before = len(images(tmp_path))
    assert statement.count('"images"') == len(list(tmp_path.glob("checksums/*.csv"))) >= 1
    collection.faults.clear()
    result = fetch_release(RELEASE, tmp_path, patience=quick)
    assert len(images(tmp_path)) == 14 > before
    assert result.skipped >= 1


def test_only_loopback_was_asked(collection, quick, tmp_path, monkeypatch):
    import socket

    asked = []
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda address, *a, **k: asked.append(address) or connect(address, *a, **k)
    )
    fetch_release(RELEASE, tmp_path, patience=quick)
    assert {host for host, _ in asked} == {"127.0.0.1"}


def test_a_proxy_is_not_asked_about_loopback(stand_in, quick, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    stand_in.files["/status"] = b"[]"
    with Connection(quick) as opened:
        assert opened.ask(f"{stand_in.url}/status").value == []
