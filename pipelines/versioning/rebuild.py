"""Make a past model again from the code, parameters and data of its revision, and compare it with the one kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from pipelines.versioning import git, objects
from pipelines.versioning.comparison import compare_files
from pipelines.versioning.models import find_tagged, read_package
from pipelines.versioning.networks import NetworkDifference, compare_networks
from pipelines.versioning.remote import NAME, open_remote
from pipelines.versioning.repository import WORKSPACE, Repository
from pipelines.versioning.tracked import Stage, makers_of, overlap
from services.model_serving.package import ARRAYS, DESCRIPTION
from services.model_serving.registry import Registered, list_versions
from services.shared.contracts import Contract
from services.shared.errors import NotFound
from services.shared.storage import Storage
from services.shared.trained_network import card_key, weights_key

Report = Callable[[int, int, str], None]

NETWORKS = "models/"
"""How the key of a trained network begins; anything else names a registered model."""

_STEPS = ("check out the revision", "fetch its data", "make the model again", "compare")


class Rebuilt(Contract):
    """What came of making a model again.

    Parameters
    ----------
    differences
        What is not the same, a line each; empty where every byte is the same.
    network
        Of a network, how far both are apart.
    """

    model: str
    version: str | None
    revision: str
    stage: str
    differences: tuple[str, ...]
    network: NetworkDifference | None = Field(None)

    @property
    def is_same(self) -> bool:
        """Whether it is the same model: the same bytes, or a network within the tolerance."""
        return not self.differences if self.network is None else self.network.is_tolerable


def rebuild_model(
    repository: Repository, reference: str, *, revision: str | None = None, progress: Report | None = None
) -> Rebuilt:
    """Make a past model again in a temporary clone, and compare it with the one that was kept.

    Nothing of this checkout changes, but that data which its cache lacked are fetched into it.

    Parameters
    ----------
    reference
        A registered model, ``model`` (its champion) or ``model/<version>``; or the key of a trained network, such as
        ``models/segmentation``.
    revision
        The revision whose network is meant; the last commit where None. A registered version has its tag.
    progress
        Called with steps done, steps in all, and the step.

    Raises
    ------
    NotFound
        Where there is no such model, tag or stage.
    IncompleteRemote, RemoteUnreachable, UnsavedData
        Where its data are not kept.
    StageFailed
        Where the stage ends with an error.
    """
    if reference.startswith(NETWORKS):
        return _rebuild_network(repository, reference, revision or "HEAD", progress)
    return _rebuild_package(repository, reference, progress)


def _rebuild_package(repository: Repository, reference: str, progress: Report | None) -> Rebuilt:
    tagged = find_tagged(repository, reference)
    kept = read_package(repository, tagged)
    with tempfile.TemporaryDirectory(prefix="gliaflow-rebuild-") as folder:
        made = _run_again(repository, tagged.revision, tagged.stage, Path(folder) / "clone", progress)
        entry = _made_version(made, tagged.entry)
        again = {name: made.read_bytes(f"{entry.folder}/{name}") for name in (DESCRIPTION, ARRAYS)}
    return Rebuilt(
        model=tagged.entry.model,
        version=tagged.entry.version,
        revision=tagged.revision,
        stage=tagged.stage.name,
        differences=compare_files(kept, again),
    )


def _made_version(storage: Storage, wanted: Registered) -> Registered:
    """Return the version that the stage has registered: in an empty registry it is the only one."""
    found = list_versions(storage, wanted.model)
    if not found:
        raise NotFound("the stage has not registered the model again", field="model", got=wanted.model)
    return found[-1]


def _rebuild_network(repository: Repository, model: str, name: str, progress: Report | None) -> Rebuilt:
    stages = repository.stages(name)
    keys = (card_key(model), weights_key(model))
    makers = makers_of(stages, f"{WORKSPACE}/{keys[1]}")
    if not makers or not makers[0].outputs:
        raise NotFound(
            "no stage of dvc.yaml has made this network at the revision",
            field="model",
            got=model,
            remedy="name another revision with --revision, or run the stage and commit dvc.lock",
        )
    stage, revision = makers[0], git.revision(repository.root, name)
    cache, remote = repository.cache_and_remote()
    files = objects.files_of(stage.outputs, cache, remote)
    with tempfile.TemporaryDirectory(prefix="gliaflow-rebuild-") as folder:
        kept = Storage(Path(folder) / "kept")
        for key in keys:
            path = f"{WORKSPACE}/{key}"
            kept.write_bytes(key, objects.require_object(files[path], path, cache, remote))
        made = _run_again(repository, revision, stage, Path(folder) / "clone", progress)
        difference = compare_networks(kept, made, model)
        lines = compare_files(*({key: storage.read_bytes(key) for key in keys} for storage in (kept, made)))
    return Rebuilt(
        model=model, version=None, revision=revision, stage=stage.name, differences=lines, network=difference
    )


def _run_again(repository: Repository, revision: str, stage: Stage, folder: Path, progress: Report | None) -> Storage:
    """Run a stage at a revision in a clone that has what the stage reads and nothing that it makes."""

    def tell(step: int) -> None:
        if progress is not None:
            progress(step, len(_STEPS), _STEPS[min(step, len(_STEPS) - 1)])

    tell(0)
    git.clone_at(repository.root, revision, folder)
    clone = Repository(folder)
    _share_objects(repository, clone)
    tell(1)
    outputs = clone.outputs()
    data = [path for path in stage.dependencies if any(overlap(out.path, path) for out in outputs)]
    lost = [path for path in stage.dependencies if path not in data and not (folder / path).exists()]
    if lost:
        raise NotFound(
            "no version keeps the data that the model was trained on",
            field=", ".join(lost),
            remedy="keep a cohort's raw data with 'gliaflow data add COHORT' before it is learnt from",
        )
    clone.fetch(data)
    clone.check_out(data)
    tell(2)
    clone.run_stage(stage.name, anew=True)
    tell(3)
    return clone.storage


def _share_objects(repository: Repository, clone: Repository) -> None:
    """Let a clone use the cache and the remote of the original."""
    with repository.dvc() as original, clone.dvc() as copy:
        cache = str(Path(original.cache.local.path).parent.parent)
        try:
            remote = open_remote(original)
        except NotFound:
            remote = None
        with copy.config.edit("local") as local:
            local["cache"]["dir"] = cache
            if remote is not None:
                endpoint = {} if remote.endpoint_url is None else {"endpointurl": remote.endpoint_url}
                local["core"]["remote"] = NAME
                local["remote"][NAME] = {"url": remote.url, **endpoint}
