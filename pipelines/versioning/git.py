"""Git, as a command: what a version of code, parameters and hashes is called."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipelines.versioning.errors import DirtyTree, VersioningFailed
from services.shared.errors import MissingDependency, NotFound

_SHOWN = 10


def changed_files(root: Path) -> tuple[str, ...]:
    """Return the files that differ from the last commit, those that git does not know included."""
    text = _git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
    return tuple(sorted(entry[3:] for entry in text.split("\0") if entry))


def require_clean(root: Path) -> None:
    """Check that everything is committed.

    Raises
    ------
    DirtyTree
        Naming the files.
    """
    changed = changed_files(root)
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise DirtyTree(
            f"{len(changed)} {'file is' if len(changed) == 1 else 'files are'} not committed",
            field=", ".join(changed[:_SHOWN]) + more,
            expected="a git tree without changes",
            remedy="commit them (git add, git commit), put them aside (git stash -u), or name them in .gitignore",
        )


def revision(root: Path, name: str = "HEAD") -> str:
    """Return the full hash of the commit that a revision names.

    Raises
    ------
    NotFound
        Where there is no such revision.
    """
    found = _run(root, "rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode != 0:
        raise NotFound(
            "there is no such revision",
            field="revision",
            got=name,
            remedy="'git tag --list' shows the versions there are; 'git fetch --tags' gets those of others",
        )
    return found.stdout.strip()


def commit(root: Path, message: str, paths: Sequence[str | Path]) -> str:
    """Commit some paths and return the hash; where they hold nothing new, that of the last commit."""
    names = [str(path) for path in paths]
    _git(root, "add", "--", *names)
    if _run(root, "diff", "--cached", "--quiet", "--", *names).returncode != 0:
        _git(root, "commit", "--quiet", "--message", message, "--", *names)
    return revision(root)


def tag(root: Path, name: str, message: str) -> None:
    """Tag the last commit; a tag that names it already stays.

    Raises
    ------
    VersioningFailed
        Where the tag names another commit.
    """
    target = revision(root)
    if name in tags(root, name):
        known = revision(root, f"refs/tags/{name}")
        if known != target:
            raise VersioningFailed(
                "the tag names another revision",
                field=name,
                expected=target[:12],
                got=known[:12],
                remedy="a version is never moved: register the model anew, or check out the revision of the tag",
            )
        return
    _git(root, "tag", "--annotate", "--message", message, "--", name)


def tags(root: Path, pattern: str) -> tuple[str, ...]:
    """Return the tags whose names match a pattern of git's, sorted."""
    return tuple(_git(root, "tag", "--list", "--", pattern).split())


def changed_since(root: Path, name: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the files below some paths that are not as they were at a revision, unknown ones included."""
    known = _git(root, "diff", "--name-only", "--no-renames", "-z", name, "--", *paths).split("\0")
    fresh = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths).split("\0")
    return tuple(sorted({path for path in (*known, *fresh) if path}))


def read_file(root: Path, name: str, path: str) -> str | None:
    """Return a file's text as it was at a revision, or None where there was none."""
    found = _run(root, "show", f"{revision(root, name)}:./{path}")
    return found.stdout if found.returncode == 0 else None


def clone_at(root: Path, name: str, folder: Path) -> None:
    """Check a revision out into a new folder; nothing that the clone does is seen by the original."""
    commit_hash = revision(root, name)
    _git(root, "clone", "--quiet", "--no-checkout", "--shared", str(root), str(folder))
    _git(folder, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit_hash)


def find_root(folder: Path) -> Path | None:
    """Return the top folder of the git tree that a folder is in, or None."""
    found = _run(folder, "rev-parse", "--show-toplevel")
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def _git(root: Path, *arguments: str) -> str:
    done = _run(root, *arguments)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise VersioningFailed(
            f"git {next(word for word in arguments if not word.startswith('-'))} failed",
            field=str(root),
            got=" ".join(said.split()),
            remedy="git config user.name and user.email say who commits" if "identity" in said else None,
        )
    return done.stdout


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("git")
    if program is None:
        raise MissingDependency("git is not installed", remedy="install git: it names the versions")
    command = [program, "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
