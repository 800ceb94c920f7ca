"""Checks of this machine: is everything here that the main job needs, and if not, what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from services.shared.processors import available_processors
from services.shared.settings import SERVICE_NAMES, settings
from services.shared.storage import open_storage

_PACKAGES = (
    "bentoml",
    "dvc",
    "feast",
    "kubernetes",
    "lifelines",
    "monai",
    "nilearn",
    "prefect",
    "pyradiomics",
    "scikit-learn",
    "SimpleITK",
    "torch",
)
_MINIMUM_DISK_GB = 5
_MINIMUM_MEMORY_GB = 4


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``remedy`` says what to do where it is not well."""

    name: str
    found: str
    well: bool
    remedy: str = ""


def examine() -> Iterator[Check]:
    """Yield every check of this machine, cheap ones first."""
    checks: tuple[Callable[[], Check], ...] = (_python, _packages, _git, _cores, _memory, _storage, _atlas, _device)
    for check in checks:
        yield check()
    yield from _services()


def _python() -> Check:
    found = sys.version.split()[0]
    return Check("Python", found, (3, 11) <= sys.version_info < (3, 13), "install Python 3.11 or 3.12")


def _packages() -> Check:
    missing = []
    for name in _PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    found = f"without {', '.join(missing)}" if missing else f"{len(_PACKAGES)} of {len(_PACKAGES)}"
    return Check("Packages", found, not missing, "run 'make setup'")


def _git() -> Check:
    path = shutil.which("git")
    return Check("git", "present" if path else "absent", path is not None, "install git: DVC versions data with it")


def _cores() -> Check:
    cores = available_processors()
    workers, runner = settings().workers, settings().runner
    return Check(
        "Processor",
        f"{cores} cores, {workers} workers ({runner})",
        workers <= cores or runner in ("dask", "kubernetes"),  # theirs are elsewhere
        "lower GLIAFLOW_WORKERS to the number of cores",
    )


def _memory() -> Check:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check(
        "Memory", f"{total_gb:.1f} GiB", total_gb >= _MINIMUM_MEMORY_GB, f"the demo needs {_MINIMUM_MEMORY_GB} GiB"
    )


def _storage() -> Check:
    storage = open_storage()
    storage.write_text("doctor.txt", "ok")
    storage.remove("doctor.txt")
    if not storage.is_local:
        return Check("Storage", f"{settings().storage_root}, writable", well=True)
    free_gb = shutil.disk_usage(storage.root).free / 2**30
    return Check(
        "Storage",
        f"{settings().storage_root}, writable, {free_gb:.0f} GiB free",
        free_gb >= _MINIMUM_DISK_GB,
        f"free {_MINIMUM_DISK_GB} GiB, or point GLIAFLOW_STORAGE_ROOT elsewhere",
    )


def _atlas() -> Check:
    name = settings().atlas
    if name == "icbm152":
        there = importlib.util.find_spec("nilearn") is not None
        return Check("Atlas", "ICBM 2009a, 1 mm, from nilearn", there, "run 'make setup'")
    there = Path(name).is_dir()
    return Check("Atlas", name, there, "point GLIAFLOW_ATLAS at the folder that holds the SRI24 volumes")


def _device() -> Check:
    import torch

    found = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    wanted = settings().device
    well = not (wanted.startswith("cuda") and not torch.cuda.is_available())
    return Check("Device", f"{found} (GLIAFLOW_DEVICE={wanted})", well, "set GLIAFLOW_DEVICE=auto, or install a driver")


def _services() -> Iterator[Check]:
    import httpx

    for name in SERVICE_NAMES:
        url = settings().service_url(name)
        if url is None:
            yield Check(f"Service {name}", "in this process", well=True)
            continue
        try:
            ready = httpx.get(f"{url.rstrip('/')}/readyz", timeout=5.0, trust_env=False).is_success
        except httpx.TransportError:
            ready = False
        yield Check(
            f"Service {name}",
            f"{url}: {'ready' if ready else 'not ready'}",
            ready,
            f"start it: 'gliaflow serve {name}'",
        )
