from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.versioning.errors import (
    DirtyTree,
    IncompleteRemote,
    RemoteUnreachable,
    StageFailed,
    UnsavedData,
    VersioningFailed,
)
from pipelines.versioning.repository import Repository
from services.shared.errors import NotFound, Unavailable

Clone = Callable[[Repository], Repository]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(repository: Repository) -> dict[str, Path]:
    """Objects of the remote by hash."""
    folder = repository.root.parent / "kept" / "files" / "md5"
    return {path.parent.name + path.name: path for path in folder.glob("*/*")}


def damage(path: Path, content: bytes | None) -> None:
    path.chmod(0o644)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_folder_without_versions_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no versions"):
        Repository.open(tmp_path)


def test_repository_is_found_from_a_folder_inside(repository: Repository) -> None:
    assert Repository.open(repository.root / "source") == repository


def test_plan_names_what_changed_and_what_follows(repository: Repository) -> None:
    assert repository.plan() == ()
    (repository.root / "source" / "c.txt").write_text("three")
    (repository.root / "params.yaml").write_text("count: {unit: bit}\n")
    first, second = repository.plan()
    assert (first.stage, first.reasons, first.follows) == ("make", ("dependency source: modified",), ())
    assert second.stage == "count"
    assert second.reasons == ("parameter count.unit of params.yaml: modified",)
    assert second.follows == ("make",)
    assert [step.stage for step in repository.plan(["other"])] == []


def test_only_what_changed_runs(repository: Repository) -> None:
    before = contents(repository.root / "workspace")
    assert repository.reproduce() == ()
    (repository.root / "source" / "c.txt").write_text("three")
    seen: list[tuple[int, int, str]] = []
    assert repository.reproduce(progress=lambda *now: seen.append(now)) == ("make", "count")
    assert seen == [(0, 2, "make"), (1, 2, "count"), (2, 2, "")]
    after = contents(repository.root / "workspace")
    assert after["features/bytes.txt"].strip() == b"30"
    assert after["other.txt"] == before["other.txt"]
    assert repository.plan() == ()


def test_stage_that_fails_is_named_with_what_it_printed(repository: Repository) -> None:
    (repository.root / "other.txt").unlink()
    (repository.root / "other.txt").mkdir()
    (repository.root / "other.txt" / "x").write_text("")
    with pytest.raises(StageFailed, match="-r not specified") as raised:
        repository.reproduce()
    assert raised.value.step == "other"


def test_dirty_tree_is_refused_by_name(repository: Repository) -> None:
    repository.require_clean()
    (repository.root / "params.yaml").write_text("count: {unit: bit}\n")
    (repository.root / "new file.txt").write_text("")
    with pytest.raises(DirtyTree) as raised:
        repository.require_clean()
    assert raised.value.field == "new file.txt, params.yaml"


def test_commit_and_tag_can_be_repeated(repository: Repository) -> None:
    (repository.root / "params.yaml").write_text("count: {unit: bit}\n")
    (repository.root / "other.txt").write_text("not asked for")
    first = repository.commit("unit", ["params.yaml"])
    assert repository.commit("unit", ["params.yaml"]) == first == repository.revision()
    with pytest.raises(DirtyTree, match=r"other\.txt"):
        repository.require_clean()
    repository.tag("model/m/v0001-0123456789ab", "first")
    repository.tag("model/m/v0001-0123456789ab", "again")
    repository.commit("other", ["other.txt"])
    with pytest.raises(VersioningFailed, match="another revision"):
        repository.tag("model/m/v0001-0123456789ab", "moved")


def test_what_one_clone_pushes_another_pulls(repository: Repository, clone: Clone) -> None:
    repository.push()
    other = clone(repository)
    assert not (other.root / "workspace").exists()
    other.pull()
    assert contents(other.root / "workspace") == contents(repository.root / "workspace")
    assert other.plan() == ()
    repository.push()


def test_remote_without_a_place_stops_before_anything_changes(repository: Repository, clone: Clone) -> None:
    other = clone(repository)
    (other.root / ".dvc" / "config.local").write_text("['remote \"beside\"']\n    url = /nowhere/at/all\n")
    before = contents(other.root)
    for act in (other.pull, other.push):
        with pytest.raises(RemoteUnreachable, match="GLIAFLOW_DVC_REMOTE") as raised:
            act()
        assert raised.value.field == "/nowhere/at/all"
    assert {name for name in contents(other.root) if "/tmp/" not in name} == set(before)


def test_no_remote_is_told(repository: Repository) -> None:
    (repository.root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(NotFound, match="no remote keeps"):
        repository.push()


@pytest.mark.parametrize("content", [None, b"on"], ids=["missing", "truncated"])
def test_half_pushed_file_is_found_and_mended(repository: Repository, clone: Clone, content: bytes | None) -> None:
    repository.push()
    whole = {oid: path.read_bytes() for oid, path in stored(repository).items()}
    listing = json.loads(next(text for oid, text in whole.items() if oid.endswith(".dir")))
    oid = next(entry["md5"] for entry in listing if entry["relpath"] == "a.txt")
    damage(stored(repository)[oid], content)
    other = clone(repository)
    with pytest.raises(IncompleteRemote, match="objects are missing") as raised:
        other.pull()
    assert "workspace/raw/hospital/a.txt" in str(raised.value.got)
    assert not (other.root / "workspace").exists()
    repository.push()  # the listing of the folder is there: DVC itself would take the folder to be whole
    assert {oid: path.read_bytes() for oid, path in stored(repository).items()} == whole
    other.pull()
    assert contents(other.root / "workspace") == contents(repository.root / "workspace")


@pytest.mark.parametrize("content", [None, b"[", b"[]"], ids=["missing", "truncated", "another"])
def test_half_pushed_listing_is_found_and_mended(repository: Repository, clone: Clone, content: bytes | None) -> None:
    repository.push()
    path = next(path for oid, path in stored(repository).items() if oid.endswith(".dir"))
    damage(path, content)
    other = clone(repository)
    with pytest.raises(IncompleteRemote, match="workspace/raw/hospital"):
        other.pull()
    repository.push()
    other.pull()
    assert contents(other.root / "workspace") == contents(repository.root / "workspace")


def test_damage_that_keeps_the_size_is_found_when_it_arrives(repository: Repository, clone: Clone) -> None:
    repository.push()
    path = next(path for path in stored(repository).values() if path.read_bytes() == b"one\n")
    damage(path, b"onE\n")
    other = clone(repository)
    with pytest.raises(IncompleteRemote, match=r"a\.txt"):
        other.pull()
    assert not (other.root / "workspace").exists()


def test_object_that_is_nowhere_whole_is_not_pushed(repository: Repository) -> None:
    with repository.dvc() as repo:
        cache = Path(repo.cache.local.path)
    path = next(path for path in cache.glob("*/*") if path.read_bytes() == b"one\n")
    damage(path, b"on")
    with pytest.raises(UnsavedData, match=r"a\.txt"):
        repository.push()
    assert stored(repository) == {}


def test_pull_does_not_remove_what_no_version_has(repository: Repository) -> None:
    repository.push()
    newcomer = repository.root / "workspace" / "raw" / "hospital" / "new.txt"
    newcomer.write_text("a patient who came today")
    with pytest.raises(UnsavedData, match=r"new\.txt"):
        repository.pull()
    assert newcomer.exists()
    repository.save(["make"])
    repository.pull()
    assert newcomer.exists()
    assert [step.stage for step in repository.plan()] == ["count"]


def test_outputs_of_changed_inputs_are_not_saved(repository: Repository) -> None:
    (repository.root / "source" / "c.txt").write_text("three")
    with pytest.raises(UnsavedData, match="dependency source: modified"):
        repository.save(["make"])
    assert repository.save() == ()
    assert [step.stage for step in repository.plan()] == ["make", "count"]


def test_stage_that_never_ran_says_so(repository: Repository) -> None:
    with (repository.root / "dvc.yaml").open("a") as file:
        file.write("  late:\n    cmd: cp other.txt workspace/late.txt\n    outs: [workspace/late.txt]\n")
    (step,) = repository.plan(["late"])
    assert step.reasons == ("it has never run",)
    assert step.is_certain


def test_two_at_a_time_are_refused(repository: Repository) -> None:
    from dvc.repo import lock_repo

    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with repository.dvc() as repo, lock_repo(repo):
            entered.set()
            leave.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert entered.wait(60)
        with pytest.raises(Unavailable, match="another DVC process"):
            repository.check_out()
    finally:
        leave.set()
        holder.join()


def test_lost_cache_comes_back_from_the_remote(repository: Repository) -> None:
    repository.push()
    before = contents(repository.root / "workspace")
    shutil.rmtree(repository.root / ".dvc" / "cache")
    shutil.rmtree(repository.root / "workspace")
    repository.pull()
    assert contents(repository.root / "workspace") == before
