"""What changed since a model was trained: cases, features, parameters, code and columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import yaml
from pydantic import Field

from pipelines.versioning import git, objects
from pipelines.versioning.models import TaggedModel, find_tagged
from pipelines.versioning.repository import WORKSPACE, Progress, Repository
from pipelines.versioning.tables import (
    CaseChange,
    SchemaChange,
    compare_rows,
    is_table,
    schema_changes,
    table_now,
)
from pipelines.versioning.tracked import Stage, is_within, overlap
from services.shared.contracts import Contract

if TYPE_CHECKING:
    from dvc.repo import Repo

_DATA = (f"{WORKSPACE}/raw", f"{WORKSPACE}/features")


class CohortChange(CaseChange):
    """Patients of a cohort who came, went, or whose images or tables differ."""

    cohort: str


class FeatureChange(CaseChange):
    """Rows of a table of features that came, went or differ."""

    table: str


class ParameterChange(Contract):
    """A parameter with its two values; None is one that is not set."""

    name: str
    before: object
    after: object


class CodeChange(Contract):
    """Files of a stage's code that differ, or its command."""

    stage: str
    files: tuple[str, ...]


class Changes(Contract):
    """What differs between the data, parameters and code of now and those that a model was trained with."""

    model: str
    version: str
    revision: str
    cohorts: tuple[CohortChange, ...]
    features: tuple[FeatureChange, ...]
    columns: tuple[SchemaChange, ...]
    parameters: tuple[ParameterChange, ...]
    code: tuple[CodeChange, ...]
    unlisted: tuple[str, ...] = Field((), description="Folders that differ, of which no version keeps what they held")

    @property
    def is_none(self) -> bool:
        """Whether nothing differs."""
        found = (self.cohorts, self.features, self.columns, self.parameters, self.code, self.unlisted)
        return not any(found)


def changes_since_training(repository: Repository, model: str, progress: Progress | None = None) -> Changes:
    """Return what changed since a model's champion, or a version, was trained.

    The files of the workspace are hashed; DVC remembers the hash of a file that has not been touched since.

    Parameters
    ----------
    model
        ``model`` or ``model/<version>``.
    progress
        Called with folders hashed, folders in all, and the folder.

    Raises
    ------
    NotFound
        Where the model or its tag does not exist.
    IncompleteRemote, UnsavedData
        Where what the model was trained on is neither in the cache nor in the remote.
    """
    tagged = find_tagged(repository, model)
    files = _FileStates.read(repository, tagged, progress)
    return Changes(
        model=tagged.entry.model,
        version=tagged.entry.version,
        revision=tagged.revision,
        cohorts=_cohort_changes(repository, files),
        features=_feature_changes(repository, files),
        columns=tuple(change for change in schema_changes(repository, tagged.tag) if change.table in files.folders_of),
        parameters=_parameter_changes(repository, tagged.upstream),
        code=_code_changes(repository, tagged),
        unlisted=files.unlisted,
    )


@dataclass(frozen=True)
class _FileStates:
    """Hash by path, when the model was trained and now, of what it rests on below raw/ and features/."""

    before: Mapping[str, str]
    now: Mapping[str, str]
    unlisted: tuple[str, ...]

    @classmethod
    def read(cls, repository: Repository, tagged: TaggedModel, progress: Progress | None) -> _FileStates:
        cache, remote = repository.cache_and_remote()
        outputs = [
            out for stage in tagged.upstream for out in stage.outputs if any(is_within(out.path, at) for at in _DATA)
        ]
        read = {
            path: digest
            for stage in tagged.upstream
            for path, digest in stage.dependencies.items()
            if any(is_within(path, at) for at in _DATA)
        }
        loose = {path: digest for path, digest in read.items() if not any(overlap(out.path, path) for out in outputs)}
        folders = sorted({*(out.path for out in outputs), *loose})
        before, now, unlisted = dict(objects.files_of(outputs, cache, remote)), {}, []
        with repository.dvc() as repo:
            for done, folder in enumerate(folders):
                if progress is not None:
                    progress(done, len(folders), folder)
                digest, files = _hash_now(repo, repository, folder)
                if folder not in loose:
                    now.update(files)
                elif digest != loose[folder]:
                    unlisted.append(folder)
        return cls(before, now, tuple(unlisted))

    @property
    def differing(self) -> dict[str, tuple[str | None, str | None]]:
        """Both hashes of each path whose hashes differ."""
        pairs = {path: (self.before.get(path), self.now.get(path)) for path in {*self.before, *self.now}}
        return {path: pair for path, pair in sorted(pairs.items()) if pair[0] != pair[1]}

    @property
    def folders_of(self) -> set[str]:
        """Every path that the model rests on."""
        return {*self.before, *self.now}


def _hash_now(repo: Repo, repository: Repository, path: str) -> tuple[str | None, dict[str, str]]:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.tree import Tree

    place = repository.root / path
    if not place.exists():
        return None, {}
    _, _, found = build(repo.cache.local, str(place), repo.fs, "md5", dry_run=True, ignore=repo.dvcignore)
    digest = str(found.hash_info.value)
    if not isinstance(found, Tree):
        return digest, {path: digest}
    return digest, {f"{path}/{'/'.join(key)}": str(inner.value) for key, _, inner in found}


def _rows(repository: Repository, path: str, pair: tuple[str | None, str | None]) -> CaseChange:
    cache, remote = repository.cache_and_remote()
    before = None if pair[0] is None else objects.require_object(pair[0], path, cache, remote)
    return compare_rows(before, None if pair[1] is None else table_now(repository.root, path), name=path)


def _cohort_changes(repository: Repository, files: _FileStates) -> tuple[CohortChange, ...]:
    every = {cohort: _members(files.before, files.now, cohort) for cohort in _cohorts(files)}
    found = []
    for cohort, (before, now) in sorted(every.items()):
        added, removed, changed = now - before, before - now, set[str]()
        for path, pair in files.differing.items():
            if not is_within(path, f"{WORKSPACE}/raw/{cohort}"):
                continue
            label = _case_of(path)
            if label is not None:
                changed.add(label)
            elif is_table(path):
                rows = _rows(repository, path, pair)
                if path.endswith("participants.tsv"):
                    added |= set(rows.added)
                    removed |= set(rows.removed)
                changed |= {*rows.added, *rows.removed, *rows.changed}
        changed -= added | removed
        if added or removed or changed:
            found.append(CohortChange(cohort=cohort, **_sorted(added=added, removed=removed, changed=changed)))
    return tuple(found)


def _sorted(**names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    return {what: tuple(sorted(values)) for what, values in names.items()}


def _cohorts(files: _FileStates) -> set[str]:
    raw = f"{WORKSPACE}/raw"
    return {PurePosixPath(path).parts[2] for path in files.folders_of if is_within(path, raw)}


def _members(before: Mapping[str, str], now: Mapping[str, str], cohort: str) -> tuple[set[str], set[str]]:
    folder = f"{WORKSPACE}/raw/{cohort}"
    found = [{_case_of(path) for path in files if is_within(path, folder)} - {None} for files in (before, now)]
    return {str(label) for label in found[0]}, {str(label) for label in found[1]}


def _case_of(path: str) -> str | None:
    """Return the case that a file of images belongs to, by its BIDS folder."""
    parts = PurePosixPath(path).parts
    return parts[3].removeprefix("sub-") if len(parts) > 4 and parts[3].startswith("sub-") else None


def _feature_changes(repository: Repository, files: _FileStates) -> tuple[FeatureChange, ...]:
    found = []
    for path, pair in files.differing.items():
        if is_table(path) and is_within(path, f"{WORKSPACE}/features"):
            rows = _rows(repository, path, pair)
            if rows.added or rows.removed or rows.changed:
                found.append(FeatureChange(table=path, added=rows.added, removed=rows.removed, changed=rows.changed))
    return tuple(found)


def _parameter_changes(repository: Repository, stages: Iterable[Stage]) -> tuple[ParameterChange, ...]:
    file = repository.root / "params.yaml"
    now = yaml.safe_load(file.read_text()) if file.is_file() else {}
    found = {}
    for stage in stages:
        for name, before in stage.parameters.items():
            old, new = _flattened(name, before), _flattened(name, _look_up(now, name))
            for leaf in sorted({*old, *new}):
                if old.get(leaf) != new.get(leaf):
                    found[leaf] = ParameterChange(name=leaf, before=old.get(leaf), after=new.get(leaf))
    return tuple(found[name] for name in sorted(found))


def _look_up(values: object, name: str) -> object:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _flattened(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {name: value}
    return {leaf: inner for key, part in value.items() for leaf, inner in _flattened(f"{name}.{key}", part).items()}


def _code_changes(repository: Repository, tagged: TaggedModel) -> tuple[CodeChange, ...]:
    commands = {stage.name: stage.command for stage in repository.stages()}
    found = []
    for stage in tagged.upstream:
        code = [path for path in stage.dependencies if not is_within(path, WORKSPACE)]
        files = git.changed_since(repository.root, tagged.tag, code) if code else ()
        if commands.get(stage.name) != stage.command:
            files = ("dvc.yaml", *files)
        if files:
            found.append(CodeChange(stage=stage.name, files=files))
    return tuple(found)
