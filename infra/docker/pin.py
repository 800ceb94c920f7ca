"""Write what each image holds: ``requirements/common.txt`` and ``<image>.txt``, every line pinned and hashed.

    .venv/bin/python infra/docker/pin.py            write; asks the package index only for hashes not known yet
    .venv/bin/python infra/docker/pin.py --check    say what is out of date, and change nothing

The versions are those of ``requirements/lock.txt``; which of them an image holds follows from its extra in
``pyproject.toml`` and from what the installed packages say they need, less what is never imported. torch stands
apart, since it comes from elsewhere for CPUs (``torch-cpu.txt``) and for GPUs (``torch-cuda.txt``, with the CUDA
libraries that it brings).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
IMAGES = ("preprocessing", "segmentation", "feature_store", "model_serving", "survival_analytics", "pipelines")
# Asked for and never imported: feast wants SQLAlchemy with its plugin for a type checker, and torch its compiler of
# networks, which no image could run for want of a C compiler.
UNREAD = {"mypy", "triton"}
# Held for the files that they ship: what their code would need is not followed.
DATA_ONLY = {"nilearn"}
TORCH = ("torch-cpu.txt", "torch-cuda.txt")
# Any 3.11 will do: what only its first releases need is held too. The platform is that of the installation read.
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
_HASHED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)

Pins = dict[str, str]


def read_pins(*names: str) -> Pins:
    """Return the version of each package that files in ``requirements/`` pin, by canonical name."""
    found: Pins = {}
    for name in names:
        found |= {canonicalize_name(n): v for n, v in _PIN.findall((FOLDER / name).read_text())}
    return found


def packages_of(extra: str) -> set[str]:
    """Return the canonical names of all packages that an extra of gliaflow needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = project["optional-dependencies"]
    waiting = [Requirement(f"gliaflow[{extra}]")]
    done: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for part in ("", *sorted(wanted.extras)):
            if (name, part) in done:
                continue
            done.add((name, part))
            if name == "gliaflow":
                waiting += [Requirement(text) for text in (ours[part] if part else project["dependencies"])]
                continue
            if name in DATA_ONLY:
                continue
            for text in distribution(name).requires or ():
                need = Requirement(text)
                if canonicalize_name(need.name) in UNREAD:
                    continue
                if need.marker is None or need.marker.evaluate({**PYTHON, "extra": part}):
                    waiting.append(need)
    return {name for name, _ in done} - {"gliaflow"}


def wanted_files() -> dict[str, Pins]:
    """Return what each file that follows from the lock must pin."""
    pins = {**read_pins("build.txt"), **read_pins("lock.txt"), **exact_pins()}
    needed = {image: packages_of(image) for image in IMAGES}
    for image, names in needed.items():
        missing = sorted(names - set(pins))
        if missing:
            sys.exit(f"requirements/lock.txt pins no version of {', '.join(missing)}, which {image} needs")
    common = set.intersection(*needed.values())
    files = {"compile.txt": read_pins("build.txt"), "common.txt": {name: pins[name] for name in common}}
    for image, names in needed.items():
        files[f"{image}.txt"] = {name: pins[name] for name in names - common - {"torch"}}
    return files


def exact_pins() -> Pins:
    """Return the packages whose version ``pyproject.toml`` itself states: pyradiomics is built apart from the lock."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {}
    for text in (line for lines in extras.values() for line in lines):
        need = Requirement(text)
        exact = [clause.version for clause in need.specifier if clause.operator == "=="]
        if exact and not need.extras:
            found[canonicalize_name(need.name)] = exact[0]
    return found


def read_hashes(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the hashes of each package in a requirements file."""
    if not path.exists():
        return {}
    text = path.read_text()
    return {
        (canonicalize_name(name), version): tuple(re.findall(r"sha256:([0-9a-f]{64})", hashes))
        for name, version, hashes in _HASHED.findall(text)
    }


def ask_hashes(requirements: Iterable[str], *options: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the hash of the file that pip would install for each requirement on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-build-isolation"]
        subprocess.run([*command, "-q", "--report", str(report), *options, *requirements], check=True)
        made = json.loads(report.read_text())["install"]
    found = {}
    for entry in made:
        about = entry["metadata"]
        version = about["version"].partition("+")[0]
        found[canonicalize_name(about["name"]), version] = (entry["download_info"]["archive_info"]["hashes"]["sha256"],)
    return found


def write_file(path: Path, title: str, pins: Pins, hashes: Mapping[tuple[str, str], tuple[str, ...]]) -> None:
    """Write one requirements file in pip's form."""
    lines = [f"# {title} Written by infra/docker/pin.py."]
    for name, version in sorted(pins.items()):
        lines.append(" \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{h}" for h in hashes[name, version])]))
    path.write_text("\n".join(lines) + "\n")


def out_of_date() -> list[str]:
    """Return, for each file that does not hold what it must, a line that says what is wrong."""
    problems = []
    for name, pins in wanted_files().items():
        found = dict(read_hashes(FOLDER / name))
        lacking, surplus = set(pins.items()) - set(found), set(found) - set(pins.items())
        problems += [f"requirements/{name} lacks {n}=={v} with its hash" for n, v in sorted(lacking)]
        problems += [f"requirements/{name} holds {n}=={v}, which it does not need" for n, v in sorted(surplus)]
    torch = exact_pins()["torch"]
    names = [name for name in TORCH if ("torch", torch) not in read_hashes(FOLDER / name)]
    return problems + [f"requirements/{name} lacks torch=={torch} with its hash" for name in names]


def write_all() -> None:
    """Write every file, and ask for the hashes that no file holds yet."""
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    files = wanted_files()
    for name in files:
        known |= read_hashes(FOLDER / name)
    missing = sorted({entry for pins in files.values() for entry in pins.items()} - set(known))
    if missing:
        known |= ask_hashes([f"{name}=={version}" for name, version in missing], "--no-deps")
    for name, pins in files.items():
        special = {"compile.txt": "What compiles wheels.", "common.txt": "What every image holds."}
        title = special.get(name, f"What {name.removesuffix('.txt')} holds beside what every image holds.")
        write_file(FOLDER / name, title, pins, known)
    torch = exact_pins()["torch"]
    if ("torch", torch) not in read_hashes(FOLDER / "torch-cpu.txt"):
        pins = {"torch": torch}
        write_file(FOLDER / "torch-cpu.txt", "torch for CPUs.", pins, ask_hashes([f"torch=={torch}"], "--no-deps"))
    if ("torch", torch) not in read_hashes(FOLDER / "torch-cuda.txt"):
        everything = ask_hashes([f"torch=={torch}"], "--isolated")
        shared = {name for pins in files.values() for name in pins}
        pins = {name: version for name, version in everything if name not in shared | UNREAD}
        write_file(FOLDER / "torch-cuda.txt", "torch for GPUs, with its CUDA libraries.", pins, everything)


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        write_all()
    problems = out_of_date()
    if problems:
        sys.exit("\n".join([*problems, "run: .venv/bin/python infra/docker/pin.py"]))
