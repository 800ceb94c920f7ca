from __future__ import annotations

import fcntl
import resource
import threading
from functools import partial

import pytest

from pipelines.fetch import plan, run
from pipelines.fetch.download import Remote, download
from pipelines.fetch.releases import RELEASES, OpenRelease, plan_files
from pipelines.fetch.run import fetch_release
from services.shared.errors import InvalidValue, NotFound, TooLarge, Unavailable
from services.shared.settings import Settings, settings
from tests.pipelines.fetch.conftest import star_counts

CLINICAL, EXPRESSION = "tcga-glioma-clinical", "tcga-glioma-expression"


def test_every_release_says_whose_it_is_and_under_which_terms():
    for name, release in RELEASES.items():
        assert name == name.lower()
        assert release.licence
        assert release.citation
        assert len(release.what) < 100
    assert "Aspera" in RELEASES["ucsf-pdgm"].by_hand


def test_publishers_are_asked_over_https_by_default(monkeypatch):
    monkeypatch.delenv("GLIAFLOW_TCIA_URL", raising=False)
    monkeypatch.delenv("GLIAFLOW_GDC_URL", raising=False)
    assert Settings().tcia_url.startswith("https://services.cancerimagingarchive.net/nbia-api/services/")
    assert Settings().gdc_url == "https://api.gdc.cancer.gov"


@pytest.mark.parametrize("url", ["ftp://host", "https://me:pw@host", "host", "", "https://host?token=1", "https://[x"])
def test_an_address_that_cannot_be_written_down_is_refused(stand_in, quick, tmp_path, monkeypatch, url):
    monkeypatch.setenv("GLIAFLOW_GDC_URL", url)
    settings.cache_clear()
    with pytest.raises(InvalidValue, match="address cannot be used") as caught:
        fetch_release(CLINICAL, tmp_path, patience=quick)
    assert "pw" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_unknown_names_and_senseless_limits(stand_in, quick, tmp_path):
    with pytest.raises(NotFound, match="tcga-gbm-mri"):
        fetch_release("tcga", tmp_path)
    with pytest.raises(InvalidValue, match="at least one"):
        fetch_release(CLINICAL, tmp_path, limit=0)


def test_a_folder_holds_one_release(stand_in, quick, tmp_path):
    stand_in.gdc_cases.append({"id": "1", "submitter_id": "TCGA-CS-4941"})
    stand_in.add_sample("TCGA-CS-4941")
    fetch_release(CLINICAL, tmp_path, patience=quick)
    with pytest.raises(InvalidValue, match="another release"):
        fetch_release(EXPRESSION, tmp_path, patience=quick)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValue, match="no folder"):
        fetch_release(CLINICAL, tmp_path / "file", patience=quick)


def test_two_fetches_never_share_a_folder(stand_in, quick, tmp_path):
    stand_in.add_sample("TCGA-CS-4941")
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another fetch"):
            fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert fetch_release(EXPRESSION, tmp_path, patience=quick).bytes


def test_the_bound_is_checked_before_anything_is_written(stand_in, quick, tmp_path):
    stand_in.add_sample("TCGA-CS-4941")
    with pytest.raises(TooLarge, match="in 1 parts"):
        fetch_release(EXPRESSION, tmp_path / "out", largest_bytes=100, patience=quick)
    assert not (tmp_path / "out").exists()


def test_progress_ends_at_the_total_and_names_what_moved(stand_in, quick, tmp_path):
    for number in range(6):
        stand_in.add_sample(f"TCGA-CS-{number}")
    told = []
    result = fetch_release(EXPRESSION, tmp_path, progress=lambda *moved: told.append(moved), patience=quick)
    assert told[-1][:2] == (result.bytes, result.bytes)
    assert {path for *_, path in told} == set(result.planned)


def test_no_more_than_four_files_at_a_time(stand_in, quick, tmp_path, monkeypatch):
    for number in range(12):
        stand_in.add_sample(f"TCGA-CS-{number}")
    met, lock, now, most = threading.Barrier(4, timeout=10), threading.Lock(), [], []

    def watched(*arguments, **options):
        with lock:
            now.append(1)
            most.append(len(now))
        met.wait()  # breaks unless four come together
        try:
            return download(*arguments, **options)
        finally:
            with lock:
                now.pop()

    monkeypatch.setattr(plan, "download", watched)
    assert len(fetch_release(EXPRESSION, tmp_path, patience=quick).planned) == 12
    assert max(most) == run.TRANSFERS == 4


def test_an_interrupt_keeps_what_came(stand_in, quick, tmp_path):
    for number in range(12):
        stand_in.add_sample(f"TCGA-CS-{number}")
    finished = []

    def interrupt(done, total, path):
        finished.append(path)
        if len(finished) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_release(EXPRESSION, tmp_path, progress=interrupt, patience=quick)
    came = len(list(tmp_path.glob("star_counts/*.tsv")))
    result = fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert result.skipped == came >= 1
    assert len(result.files) == 12 + 4


def test_a_disk_that_takes_no_more_ends_it_and_the_next_run_goes_on(stand_in, quick, tmp_path):
    stand_in.restate(stand_in.add_sample("TCGA-CS-4941"), star_counts(1, [f"ENSG{n:011d}.1" for n in range(2000)]))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            fetch_release(EXPRESSION, tmp_path, patience=quick)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list(tmp_path.glob("star_counts/*.tsv"))
    assert fetch_release(EXPRESSION, tmp_path, patience=quick).failed == {}
    assert stand_in.asked("/data/")[-1]["range"] == "bytes=50000-"


def test_a_table_at_a_fixed_address(stand_in, quick, tmp_path, monkeypatch):
    stand_in.files["/uploads/table.csv"] = b"ID,Sex\n1,F\n"
    planner = partial(plan_files, files={"table.csv": Remote(f"{stand_in.url}/uploads/table.csv")})
    monkeypatch.setitem(RELEASES, "table", OpenRelease("A table", "TCIA", "CC BY 4.0", "Nobody", planner))
    first = fetch_release("table", tmp_path, patience=quick)
    assert (tmp_path / "table.csv").read_bytes() == b"ID,Sex\n1,F\n"
    assert fetch_release("table", tmp_path, patience=quick).skipped == 1
    (tmp_path / "table.csv").write_bytes(b"spoilt")
    assert fetch_release("table", tmp_path, patience=quick).files == first.files
    with pytest.raises(InvalidValue, match="one table of all patients"):
        fetch_release("table", tmp_path, limit=3, patience=quick)


def test_no_patient_is_named_in_a_log(stand_in, quick, tmp_path, caplog):
    uid = stand_in.add_series("TCGA-CS-4941", 1)
    stand_in.faults["/nbia/"] += ["status:503", "status:503"]
    stand_in.faults["/nbia/getImage"] += ["cut"]
    fetch_release("tcga-lgg-mri", tmp_path, patience=quick)
    ours = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("gliaflow"))
    assert "503" in ours
    assert "TCGA" not in ours
    assert uid not in ours
