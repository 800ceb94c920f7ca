"""What DVC tracks, in this folder or at a revision: stages, what they read, and what they made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage as DvcStage

FOLDER = ".dir"


@dataclass(frozen=True)
class Output:
    """A file or folder that a stage made and DVC keeps.

    Parameters
    ----------
    path
        From the top of the repository.
    md5
        Hash of the file; of a folder that of its listing, ending in ``.dir``.
    size
        Bytes, of a folder of all its files; None where DVC did not note it.
    """

    path: str
    md5: str
    size: int | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.md5.endswith(FOLDER)


@dataclass(frozen=True)
class Stage:
    """A stage of ``dvc.yaml``, or a ``.dvc`` file, as it was last run.

    Parameters
    ----------
    paths
        Its outputs' paths, those included that it has not made yet.
    dependencies
        Hash by path of what it read; None where it never ran.
    parameters
        Value by name, such as ``grading.folds``.
    """

    name: str
    command: str | None
    paths: tuple[str, ...]
    outputs: tuple[Output, ...]
    dependencies: Mapping[str, str | None]
    parameters: Mapping[str, object]


def read_stages(repo: Repo) -> tuple[Stage, ...]:
    """Return the stages of a DVC repository that is open on its folder or at a revision, sorted by name."""
    from dvc.dependency.param import ParamsDependency

    def relative(path: str) -> str:
        return str(PurePosixPath(path).relative_to(repo.root_dir))

    found = []
    for stage in repo.index.stages:
        kept = [out for out in stage.outs if out.use_cache]
        given = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
        read = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency) and dep.is_in_repo]
        found.append(
            Stage(
                name=name_of(repo, stage),
                command=stage.cmd if isinstance(stage.cmd, str | None) else "\n".join(stage.cmd),
                paths=tuple(relative(out.fs_path) for out in kept),
                outputs=tuple(
                    Output(relative(out.fs_path), out.hash_info.value, out.meta.size if out.meta else None)
                    for out in kept
                    if out.hash_info
                ),
                dependencies={relative(dep.fs_path): dep.hash_info.value if dep.hash_info else None for dep in read},
                parameters={name: value for dep in given for name, value in (dep.hash_info.value or {}).items()},
            )
        )
    return tuple(sorted(found, key=lambda stage: stage.name))


def name_of(repo: Repo, stage: DvcStage) -> str:
    """Return a stage's name in dvc.yaml, or the path of the ``.dvc`` file that it is."""
    name = getattr(stage, "name", None)
    return str(PurePosixPath(stage.path).relative_to(repo.root_dir) if name is None else name)


def outputs_of(stages: Iterable[Stage]) -> tuple[Output, ...]:
    """Return every output of some stages, sorted by path."""
    return tuple(sorted((out for stage in stages for out in stage.outputs), key=lambda out: out.path))


def makers_of(stages: Iterable[Stage], path: str) -> list[Stage]:
    """Return the stages that make a path, or something in it or around it."""
    return [stage for stage in stages if any(overlap(made, path) for made in stage.paths)]


def with_upstream(stages: Iterable[Stage], name: str) -> tuple[Stage, ...]:
    """Return a stage and every stage that what it reads comes from, sorted by name."""
    every = {stage.name: stage for stage in stages}
    found: dict[str, Stage] = {}
    pending = [name]
    while pending:
        stage = every[pending.pop()]
        if stage.name not in found:
            found[stage.name] = stage
            pending += [maker.name for path in stage.dependencies for maker in makers_of(every.values(), path)]
    return tuple(found[name] for name in sorted(found))


def overlap(one: str, other: str) -> bool:
    """Return whether two paths are the same, or one lies in the other."""
    return is_within(one, other) or is_within(other, one)


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is a folder, or lies in it."""
    return path == folder or path.startswith(folder + "/")


def selected(files: Mapping[str, str], folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give the entries of hashes by path that lie in one of some folders."""
    wanted = tuple(folders)
    for path, digest in files.items():
        if any(is_within(path, folder) for folder in wanted):
            yield path, digest
