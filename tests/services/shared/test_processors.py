import os
from pathlib import Path

import joblib
import pytest

from services.shared import processors
from services.shared.processors import available_processors


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes control groups as files, on a machine of eight processors."""
    monkeypatch.setattr(processors, "_PROC", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "_MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))

    def write(mine: str, **files: str) -> None:
        (tmp_path / "cgroup").write_text(mine)
        for name, text in files.items():
            path = tmp_path / "mounts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_this_machine_is_read_as_joblib_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    assert available_processors() == joblib.cpu_count()


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1)]
)
def test_quota_of_version_2(groups, limit: str, expected: int) -> None:
    groups("0::/\n", **{"cpu.max": limit + "\n"})
    assert available_processors() == expected


@pytest.mark.parametrize(("limit", "expected"), [("-1", 8), ("300000", 3), ("50000", 1)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_quota_of_version_1(groups, mount: str, limit: str, expected: int) -> None:
    own = f"{mount}/docker/0123/"
    groups(
        "9:name=systemd:/\n4:cpu,cpuacct:/docker/0123\n0::/\n",
        **{own + "cpu.cfs_quota_us": limit, own + "cpu.cfs_period_us": "100000"},
    )
    assert available_processors() == expected


def test_the_group_of_a_container_is_found_at_the_mount(groups) -> None:
    groups("0::/kubepods/pod1/0123\n", **{"cpu.max": "400000 100000"})
    assert available_processors() == 4


def test_the_closest_of_nested_quotas_counts(groups) -> None:
    groups("0::/pod/mine\n", **{"pod/cpu.max": "200000 100000", "pod/mine/cpu.max": "600000 100000"})
    assert available_processors() == 2


def test_affinity_counts(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    groups("0::/\n", **{"cpu.max": "600000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert available_processors() == 2


def test_a_machine_without_control_groups_or_affinity(groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_processors() == 1
