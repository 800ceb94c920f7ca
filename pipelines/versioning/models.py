"""A registered model's version is a tag of git: it says which code, parameters and data made the model."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.versioning import git, objects
from pipelines.versioning.errors import UnsavedData
from pipelines.versioning.repository import WORKSPACE, Repository
from pipelines.versioning.tracked import Stage, makers_of, with_upstream
from services.model_serving.package import ARRAYS, DESCRIPTION
from services.model_serving.registry import ROOT, Registered, champion, list_models, resolve
from services.shared.errors import NotFound


def model_tag(model: str, version: str) -> str:
    """Return the tag of a registered model's version."""
    return f"model/{model}/{version}"


@dataclass(frozen=True)
class TaggedModel:
    """A registered version with the revision that made it.

    Parameters
    ----------
    stage
        The stage of dvc.yaml that makes the model, as it was at the revision.
    upstream
        That stage and all that it rests on.
    """

    entry: Registered
    tag: str
    revision: str
    stage: Stage
    upstream: tuple[Stage, ...]


def champions(repository: Repository) -> list[str]:
    """Return the registered models that have a champion, sorted."""
    storage = repository.storage
    return [model for model in list_models(storage) if champion(storage, model) is not None]


def find_tagged(repository: Repository, reference: str) -> TaggedModel:
    """Return the tagged version that a reference names: ``model`` (its champion) or ``model/<version>``.

    A version with a tag is found though the registry of this checkout no longer has it.

    Raises
    ------
    NotFound
        Where there is no such model, version or tag, or no stage of dvc.yaml made it.
    """
    entry = _entry(repository, reference)
    tag = model_tag(entry.model, entry.version)
    if tag not in git.tags(repository.root, tag):
        known = git.tags(repository.root, model_tag(entry.model, "*"))
        raise NotFound(
            "no tag says which revision made this model",
            field=tag,
            expected=f"one of {', '.join(known)}" if known else "a tag; this model has none",
            remedy=f"run 'gliaflow data tag {entry.model}' in the checkout that made it, or 'git fetch --tags'",
        )
    stages = repository.stages(tag)
    makers = makers_of(stages, f"{WORKSPACE}/{ROOT}/{entry.model}")
    if not makers:
        raise NotFound(
            "no stage of dvc.yaml makes this model",
            field="model",
            got=entry.model,
            remedy=f"add a stage with the output {WORKSPACE}/{ROOT}/{entry.model}",
        )
    stage = makers[0]
    return TaggedModel(entry, tag, git.revision(repository.root, tag), stage, with_upstream(stages, stage.name))


def _entry(repository: Repository, reference: str) -> Registered:
    model, _, version = reference.partition("/")
    if version and model_tag(model, version) in git.tags(repository.root, model_tag(model, version)):
        return Registered(model, version)
    return resolve(repository.storage, reference)


def read_package(repository: Repository, tagged: TaggedModel) -> dict[str, bytes]:
    """Return the files of a tagged version's package by name, as they were when it was tagged.

    Raises
    ------
    IncompleteRemote, UnsavedData
        Where they are not kept.
    """
    cache, remote = repository.cache_and_remote()
    folder = f"{WORKSPACE}/{tagged.entry.folder}"
    files = objects.files_of(tagged.stage.outputs, cache, remote)
    found = {}
    for name in (DESCRIPTION, ARRAYS):
        path = f"{folder}/{name}"
        if path not in files:
            raise NotFound("the tagged revision does not hold this version", field=path, got=tagged.tag)
        found[name] = objects.require_object(files[path], path, cache, remote)
    return found


def tag_model(repository: Repository, reference: str) -> str:
    """Tag the last commit as the one that made a registered version, and return the tag.

    Raises
    ------
    DirtyTree
        Where something is not committed.
    UnsavedData
        Where the committed dvc.lock does not hold the version.
    NotFound
        Where there is no such version.
    """
    repository.require_clean()
    entry = resolve(repository.storage, reference)
    folder = f"{WORKSPACE}/{entry.folder}"
    cache, remote = repository.cache_and_remote()
    outputs = [out for stage in makers_of(repository.stages("HEAD"), folder) for out in stage.outputs]
    if f"{folder}/{DESCRIPTION}" not in objects.files_of(outputs, cache, remote):
        raise UnsavedData(
            "the committed dvc.lock does not hold this version of the model",
            field=folder,
            remedy="run 'dvc repro' or 'gliaflow data save', and commit dvc.lock",
        )
    tag = model_tag(entry.model, entry.version)
    repository.tag(tag, f"{entry.model} {entry.version}")
    return tag
