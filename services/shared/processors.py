"""How many processors this process may use, which in a container is fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self/cgroup")
_MOUNTS = Path("/sys/fs/cgroup")


def available_processors() -> int:
    """Return the processors that this process may use, at least one.

    They are the machine's, less those that its affinity leaves out, and no more than its control groups' quota of
    time (``docker run --cpus``, Kubernetes' ``limits.cpu``), rounded up.
    """
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # no such call outside Linux
        usable = os.cpu_count() or 1
    return max(1, min([usable, *(math.ceil(quota) for quota in _quotas(_PROC, _MOUNTS))]))


def _quotas(proc: Path, mounts: Path) -> Iterator[float]:
    """Yield, in processors, the quota of each control group that holds this process, of version 1 or 2."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:  # no such file outside Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, read = mounts, _quota_v2
        elif "cpu" in controllers.split(","):
            root, read = (
                next((mounts / form for form in (controllers, "cpu") if (mounts / form).is_dir()), mounts),
                _quota_v1,
            )
        else:
            continue
        # Inside a container the group's name may be the host's, and its own files lie at the mount itself.
        group = root / name.lstrip("/")
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(root):
                break
            quota = read(folder)
            if quota is not None:
                yield quota


def _quota_v2(folder: Path) -> float | None:
    try:
        allowed, period = (folder / "cpu.max").read_text().split()
    except OSError:
        return None
    return None if allowed == "max" else int(allowed) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        allowed = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except OSError:
        return None
    return None if allowed < 0 else allowed / period
