"""A checkout whose code git keeps and whose data and models DVC keeps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.versioning import git, objects
from pipelines.versioning.errors import StageFailed, UnsavedData, VersioningFailed
from pipelines.versioning.plan import OUTPUT, StagePlan, matching_stages, plan_stages, reasons_to_run
from pipelines.versioning.remote import Remote, open_remote, use_remote
from pipelines.versioning.tracked import Output, Stage, name_of, outputs_of, read_stages
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound, Unavailable
from services.shared.settings import settings, stage_environment
from services.shared.storage import Storage

if TYPE_CHECKING:
    from dvc.repo import Repo

__all__ = ["WORKSPACE", "Progress", "Repository", "StagePlan"]

WORKSPACE = "workspace"
"""The storage root as dvc.yaml writes it."""

Progress = Callable[[int, int, str], None]

_LAST_LINES = 12


@dataclass(frozen=True)
class Repository:
    """A checkout with its data.

    Parameters
    ----------
    root
        Its top folder, which holds ``.git`` and ``.dvc``.
    """

    root: Path

    @classmethod
    def open(cls, folder: Path | None = None) -> Repository:
        """Return the repository that a folder is in; the working folder where None.

        A remote that the settings name is entered in ``.dvc/config.local``.

        Raises
        ------
        NotFound
            Where the folder is not in a git tree with DVC at its top.
        InvalidValue
            Where the settings name an impossible remote.
        """
        start = Path.cwd() if folder is None else folder
        root = git.find_root(start)
        if root is None or not (root / ".dvc").is_dir():
            raise NotFound(
                "this folder has no versions",
                field=str(start),
                expected="a folder in a git tree with .dvc at its top",
                remedy="go into a checkout of the project, or run 'git init' and 'dvc init' at its top",
            )
        config = settings()
        repository = cls(root)
        if config.dvc_remote is not None:
            with repository.dvc() as repo:
                use_remote(repo, config.dvc_remote, config.dvc_endpoint_url)
        return repository

    @property
    def storage(self) -> Storage:
        """The storage that the stages write to."""
        return Storage(self.root / WORKSPACE)

    def require_clean(self) -> None:
        """Check that every change is committed to git.

        Raises
        ------
        DirtyTree
            Naming the files.
        """
        git.require_clean(self.root)

    def revision(self) -> str:
        """Return the hash of the last commit."""
        return git.revision(self.root)

    def commit(self, message: str, paths: Sequence[str | Path]) -> str:
        """Commit some paths to git and return the hash; where they hold nothing new, that of the last commit."""
        return git.commit(self.root, message, paths)

    def tag(self, name: str, message: str) -> None:
        """Tag the last commit; a tag that names it already stays.

        Raises
        ------
        VersioningFailed
            Where the tag names another revision.
        """
        git.tag(self.root, name, message)

    def stages(self, revision: str | None = None) -> tuple[Stage, ...]:
        """Return the stages as last run in this folder, or as they were at a revision."""
        with self.dvc(None if revision is None else git.revision(self.root, revision)) as repo:
            return read_stages(repo)

    def pull(self, progress: Progress | None = None) -> None:
        """Bring the data of the checked-out version from the remote into the workspace.

        Raises
        ------
        NotFound, RemoteUnreachable, IncompleteRemote
            Where the remote is not set, does not answer or lacks something; nothing has changed then.
        UnsavedData
            Where the workspace holds files that no version has and that would be lost.
        """
        with self.dvc() as repo:
            open_remote(repo).probe()
        self.fetch(progress=progress)
        self.check_out()

    def fetch(self, paths: Iterable[str] | None = None, progress: Progress | None = None) -> int:
        """Bring objects of the version into the cache and return how many came; see :func:`objects.fetch`."""
        with self.dvc() as repo:
            outputs = outputs_of(read_stages(repo))
            chosen = None if paths is None else tuple(paths)
            return objects.fetch(outputs, _cache(repo), open_remote(repo), paths=chosen, progress=progress)

    def check_out(self, paths: Iterable[str] | None = None) -> None:
        """Lay the checked-out version's data out in the workspace, from the cache.

        Raises
        ------
        UnsavedData
            Where files would be lost that no version has.
        """
        from dvc.exceptions import CheckoutError, DvcException

        with self.dvc() as repo:
            made = {path for stage in read_stages(repo) for path in stage.paths if not stage.outputs}
            wanted = [str(self.root / path) for path in paths] if paths is not None else None
            try:
                repo.checkout(wanted, allow_missing=bool(made))
            except CheckoutError as error:
                raise VersioningFailed("data could not be laid out", got=_one_line(error)) from error
            except DvcException as error:
                if "unsaved" not in str(error):
                    raise
                raise UnsavedData(
                    "the workspace holds files that no version has and that would be lost",
                    field=", ".join(str(error).split("\n")[1:][:10]),
                    remedy="keep them with 'gliaflow data save', or remove them",
                ) from None

    def push(self, progress: Progress | None = None) -> None:
        """Send the data of the checked-out version to the remote and check that all of it is there.

        Raises
        ------
        NotFound, RemoteUnreachable
            Where the remote is not set or does not answer.
        UnsavedData, IncompleteRemote
            Where objects are nowhere whole, or did not arrive.
        """
        with self.dvc() as repo:
            objects.send(outputs_of(read_stages(repo)), _cache(repo), open_remote(repo), progress=progress)

    def save(self, targets: Iterable[str] = ()) -> tuple[str, ...]:
        """Take outputs as they are now into the version, without running their stages, and return those stages.

        For what changes outputs in place, such as the promotion of a registered model. A stage whose inputs changed too
        must run: it is left out, or refused where it is named.

        Raises
        ------
        NotFound
            Where there is no such stage or output.
        UnsavedData
            Where the inputs of a named stage changed.
        """
        from dvc.repo import lock_repo

        named = tuple(targets)
        with self.dvc() as repo, lock_repo(repo):
            state = {name_of(repo, stage): reasons_to_run(stage) for stage in matching_stages(repo, named)}
        stale = {name: [line for line in lines if not line.startswith(OUTPUT)] for name, lines in state.items()}
        for name in sorted(state):
            if named and stale[name]:
                raise UnsavedData(
                    "the inputs of a stage changed too, so that its outputs were not made from them",
                    step=name,
                    got="; ".join(stale[name]),
                    remedy=f"run it: 'dvc repro {name}'",
                )
        names = [name for name, lines in state.items() if lines and not stale[name]]
        if names:
            done = self._run("commit", "--force", *names)
            if done.returncode != 0:
                raise VersioningFailed(
                    "outputs could not be saved", field=", ".join(names), got=_last_lines(done.stdout)
                )
        return tuple(names)

    def keep(self, cohort: str) -> Path:
        """Take a cohort's imported data into the version, and return the file that git keeps of it.

        The file is ``cohorts/<cohort>.dvc``; a cohort that a stage of dvc.yaml makes is saved with that stage.

        Raises
        ------
        NotFound
            Where the cohort has no data.
        """
        path = f"{WORKSPACE}/raw/{CaseRef(cohort=cohort, id='any').cohort}"
        if not (self.root / path).is_dir():
            raise NotFound(
                "there is no such cohort",
                field=path,
                expected=", ".join(self.storage.folders("raw")) or "an imported cohort",
                remedy="run 'gliaflow import' first",
            )
        made = [stage.name for stage in self.stages() if path in stage.paths]
        file = self.root / "cohorts" / f"{cohort}.dvc"
        if made and made != [f"cohorts/{cohort}.dvc"]:
            self.save(made)
            return self.root / "dvc.lock"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"wdir: ../{WORKSPACE}/raw\nouts:\n  - path: {cohort}\n")
        self.save([f"cohorts/{cohort}.dvc"])
        return file

    def plan(self, targets: Iterable[str] = ()) -> tuple[StagePlan, ...]:
        """Return the stages that would run, in order, and why.

        Parameters
        ----------
        targets
            Stages, or paths of outputs; what they depend on is looked at too. Empty means all.

        Raises
        ------
        NotFound
            Where there is no such stage or output.
        """
        from dvc.repo import lock_repo

        with self.dvc() as repo, lock_repo(repo):
            return plan_stages(repo, tuple(targets))

    def reproduce(self, targets: Iterable[str] = (), progress: Progress | None = None) -> tuple[str, ...]:
        """Run the stages whose inputs changed, each in a process of its own, and return their names.

        Parameters
        ----------
        progress
            Called with stages done, stages that may run, and the stage that runs next.

        Raises
        ------
        StageFailed
            With the last lines that the stage printed.
        """
        planned = [step.stage for step in self.plan(targets)]
        ran = []
        for done, name in enumerate(planned):
            if progress is not None:
                progress(done, len(planned), name)
            if self._has_changed(name):
                self.run_stage(name)
                ran.append(name)
        if progress is not None:
            progress(len(planned), len(planned), "")
        return tuple(ran)

    def _has_changed(self, name: str) -> bool:
        from dvc.repo import lock_repo

        with self.dvc() as repo, lock_repo(repo):
            return any(reasons_to_run(stage) for stage in repo.index.stages if name_of(repo, stage) == name)

    def run_stage(self, name: str, *, anew: bool = False) -> None:
        """Run one stage with this checkout's code; ``anew`` runs it whatever is known, and saves nothing.

        Raises
        ------
        StageFailed
            With the last lines that the stage printed.
        """
        options = ["--force", "--no-commit"] if anew else []
        done = self._run("repro", "--single-item", *options, name)
        if done.returncode != 0:
            raise StageFailed(
                "a stage of dvc.yaml ended with an error",
                step=name,
                got=_last_lines(done.stdout),
                remedy=f"put it right and run it again: 'dvc repro {name}' shows everything that it prints",
            )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of DVC that writes: its stages, and its paths, are relative to the working folder."""
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env=stage_environment(self.root, storage_root=WORKSPACE),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    @contextmanager
    def dvc(self, revision: str | None = None) -> Iterator[Repo]:
        """Give DVC's own view of the folder or of a revision while the block lasts.

        Raises
        ------
        Unavailable
            Where another DVC process works here.
        VersioningFailed
            Where DVC refuses; its own message is told.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo

        try:
            with Repo(str(self.root), rev=revision) as repo:
                yield repo
        except LockError as error:
            raise Unavailable(
                "another DVC process works in this checkout",
                field=str(self.root),
                got=_one_line(error),
                remedy="wait until it has ended",
            ) from error
        except DvcException as error:
            raise VersioningFailed("DVC refused", field=str(self.root), got=_one_line(error)) from error

    def cache_and_remote(self) -> tuple[objects.Cache, Remote | None]:
        """Return the objects of this machine, and the remote where one is set."""
        with self.dvc() as repo:
            try:
                return _cache(repo), open_remote(repo)
            except NotFound:
                return _cache(repo), None

    def outputs(self, revision: str | None = None) -> tuple[Output, ...]:
        """Return every output of the version, or of a revision."""
        return outputs_of(self.stages(revision))


def _cache(repo: Repo) -> objects.Cache:
    return objects.Cache(repo.cache.local)


def _last_lines(printed: str) -> str:
    return " | ".join(line.strip() for line in printed.strip().split("\n")[-_LAST_LINES:])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
