"""Who is champion, who was, and what a crash between two writes leaves."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.model_serving import registry
from services.model_serving.package import TRAINING_CASES, case_hash, list_training_cases, read_training_cases
from services.model_serving.registry import Registered
from services.shared.errors import NotFound, UnreadableFile
from services.shared.storage import Storage

MONDAY = datetime(2031, 3, 3, 4, 0, tzinfo=UTC)


class Crash(BaseException):
    """The process ends here."""


class CrashingStorage(Storage):
    """Storage whose process ends before its nth change."""

    def __init__(self, root: Path, changes: int) -> None:
        super().__init__(root)
        self.left = changes

    def _change(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1

    @contextmanager
    def publish(self, key: str) -> Iterator[Path]:
        self._change()
        with super().publish(key) as path:
            yield path

    def remove(self, key: str) -> None:
        self._change()
        super().remove(key)


@pytest.fixture
def three(storage, logistic) -> list[Registered]:
    """Three versions of one model."""
    found = []
    for number, threshold in enumerate((0.5, 0.6, 0.7)):
        one = dataclasses.replace(logistic, model=dataclasses.replace(logistic.model, threshold=threshold))
        found.append(registry.register_package(storage, one.write(storage, f"studies/c{number}/grading/model"))[0])
    return found


def test_the_first_version_is_champion_and_nothing_else_is_written_for_it(storage, three):
    assert registry.champion(storage, "grading") == three[0].version
    assert registry.serving(storage, "grading") == three[0].version
    assert registry.challenger(storage, "grading") is None
    assert registry.history(storage, "grading") == ()
    assert storage.files(registry.ALIASES) == []


def test_a_champion_named_beside_the_versions_counts_until_another_is_promoted(storage, three):
    storage.write_text(f"{registry.ROOT}/grading/champion", three[1].version + "\n")
    assert registry.resolve(storage, "grading") == three[1]
    registry.promote(storage, three[2], reason="better", run="r1", at=MONDAY)
    assert registry.resolve(storage, "grading/champion") == three[2]
    (change,) = registry.history(storage, "grading")
    assert (change.previous, change.champion, change.run, change.at) == (
        three[1].version, three[2].version, "r1", MONDAY,
    )  # fmt: skip
    assert storage.read_text(f"{registry.ALIASES}/grading/champion") == three[2].version + "\n"


def test_a_trial_answers_for_the_bare_name_alone(storage, three):
    registry.challenge(storage, three[1])
    registry.put_on_trial(storage, three[1])
    assert registry.resolve(storage, "grading") == three[1]
    assert registry.resolve(storage, "grading/challenger") == three[1]
    assert registry.resolve(storage, "grading/champion") == three[0]
    registry.end_trial(storage, "grading")
    assert registry.resolve(storage, "grading") == three[0]
    registry.put_on_trial(storage, three[1])
    registry.promote(storage, three[1])
    assert registry.challenger(storage, "grading") is None
    assert storage.files(registry.ALIASES) == [f"{registry.ALIASES}/grading/{n}" for n in ("champion", "history.json")]
    with pytest.raises(NotFound, match="grading/challenger"):
        registry.resolve(storage, "grading/challenger")


def test_rolling_back_goes_further_back_each_time_and_never_forth(storage, three):
    first, second, third = three
    with pytest.raises(NotFound, match="no earlier champion"):
        registry.rollback(storage, "grading")
    registry.promote(storage, second)
    registry.promote(storage, third)
    assert registry.rollback(storage, "grading", reason="errors") == second
    assert registry.rollback(storage, "grading") == first
    with pytest.raises(NotFound, match="no earlier champion"):
        registry.rollback(storage, "grading")
    registry.promote(storage, third)
    assert registry.previous_champion(storage, "grading") == first
    told = [(change.action, change.champion) for change in registry.history(storage, "grading")]
    assert told == [
        ("promoted", second.version),
        ("promoted", third.version),
        ("rolled back", second.version),
        ("rolled back", first.version),
        ("promoted", third.version),
    ]


def test_rolling_back_passes_over_a_version_that_is_gone(storage, three):
    registry.promote(storage, three[1])
    registry.promote(storage, three[2])
    storage.remove(three[1].folder)
    assert registry.rollback(storage, "grading") == three[0]


def test_promoting_the_champion_changes_nothing(storage, three):
    registry.promote(storage, three[1], at=MONDAY)
    before = registry.history(storage, "grading")
    registry.promote(storage, three[1])
    assert registry.history(storage, "grading") == before


def test_a_spoilt_history_is_told_and_the_champion_stays(storage, three):
    registry.promote(storage, three[1])
    storage.write_text(f"{registry.ALIASES}/grading/history.json", "[{}]")
    with pytest.raises(UnreadableFile, match=r"history\.json"):
        registry.history(storage, "grading")
    assert registry.resolve(storage, "grading") == three[1]


CHANGES: dict[str, Callable[[Storage, list[Registered]], object]] = {
    "promote": lambda storage, three: registry.promote(storage, three[2], at=MONDAY, reason="better"),
    "rollback": lambda storage, three: registry.rollback(storage, "grading", at=MONDAY),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_registry_is_whole_after_a_crash_before_any_write(storage, three, tmp_path, name):
    registry.promote(storage, three[1], at=MONDAY)
    registry.challenge(storage, three[2])
    registry.put_on_trial(storage, three[2])
    before = _state(storage)
    finished = _copy(storage, tmp_path / "finished")
    CHANGES[name](finished, three)
    after = _state(finished)
    seen = set()
    for writes in range(20):
        crashed = CrashingStorage(Path(_copy(storage, tmp_path / f"{writes}").root), writes)
        try:
            CHANGES[name](crashed, three)
        except Crash:
            whole = Storage(crashed.root)
            champion, history = _state(whole)
            assert (champion, history) in (before, after)
            assert registry.resolve(whole, "grading").version in {each.version for each in three}
            if (champion, history) == before:  # the change did not happen: make it again
                CHANGES[name](whole, three)
            elif name == "promote":  # it did: a second time ends the trial and the challenge, and changes nothing else
                CHANGES[name](whole, three)
                assert whole.files(registry.ALIASES) == finished.files(registry.ALIASES)
            assert _state(whole) == after
            seen.add(champion)
        else:
            break
    assert writes >= 3
    assert seen == {before[0], after[0]}


def test_a_crash_while_registering_leaves_no_half_version(storage, logistic, tmp_path):
    folder = logistic.write(storage, "studies/a/grading/model")
    storage.write_bytes(f"{folder}/{TRAINING_CASES}", list_training_cases(["p2", "p1"]))
    for writes in range(3):
        crashed = CrashingStorage(Path(_copy(storage, tmp_path / f"{writes}").root), writes)
        with pytest.raises(Crash):
            registry.register_package(crashed, folder)
        whole = Storage(crashed.root)
        assert registry.list_models(whole) == []
        entry, known = registry.register_package(whole, folder)
        assert not known
        assert registry.champion(whole, "grading") == entry.version
        assert read_training_cases(whole, entry.folder) == {case_hash("p1"), case_hash("p2")}


def _state(storage: Storage) -> tuple[str | None, object]:
    return registry.champion(storage, "grading"), registry.history(storage, "grading")


def _copy(storage: Storage, target: Path) -> Storage:
    shutil.copytree(storage.root, target)
    return Storage(target)
