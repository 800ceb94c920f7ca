"""Who made a file: versions, hashes of inputs and outputs, parameters, seconds, device.

A manifest is also the cache: a step whose inputs and parameters hash to what the manifest states, and whose outputs
are still whole, has nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel, ConfigDict, ValidationError

from services.shared.errors import GliaflowError
from services.shared.storage import Storage


class Manifest(BaseModel):
    """What one step read, wrote and took. Hashes are SHA-256, keys are storage keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    case: str | None = None
    version: str
    parameters: dict[str, object]
    packages: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    device: str = "cpu"
    seconds: float = 0.0
    notes: list[str] = []

    @property
    def fingerprint(self) -> str:
        """Return the hash of everything that decides the outputs."""
        return fingerprint(self.step, self.version, self.parameters, self.packages, self.inputs)


def fingerprint(*parts: object) -> str:
    """Return the SHA-256 of values as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed versions of packages, for a manifest."""
    found: dict[str, str] = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def read_manifest(storage: Storage, key: str) -> Manifest | None:
    """Return the manifest at a key, or None where there is none or an older layout."""
    if not storage.exists(key):
        return None
    try:
        return Manifest.model_validate_json(storage.read_bytes(key))
    except ValidationError:
        return None


def run_step(
    storage: Storage,
    key: str,
    *,
    step: str,
    step_version: str,
    case: str | None,
    inputs: Sequence[str],
    parameters: Mapping[str, object],
    packages: Sequence[str],
    compute: Callable[[], Sequence[str]],
    device: str = "cpu",
) -> tuple[Manifest, bool]:
    """Run one step unless its manifest says that it is done.

    Parameters
    ----------
    key
        Where the manifest stands; it is written last, so that a manifest means a finished step.
    step, step_version
        Name of the step and a version that changes when its algorithm does.
    inputs
        Storage keys that the step reads.
    packages
        Names of installed packages whose version decides the result.
    compute
        Writes the outputs and returns their storage keys.

    Returns
    -------
    tuple of Manifest and bool
        The manifest, and whether the outputs were already there.
    """
    known = read_manifest(storage, key)
    hashes = {name: storage.sha256(name) for name in sorted(inputs)}
    versions = package_versions(*packages)
    settled = json.loads(json.dumps(dict(parameters), sort_keys=True, default=str))
    wanted = fingerprint(step, step_version, settled, versions, hashes)
    if known is not None and known.fingerprint == wanted and _outputs_whole(storage, known):
        return known, True
    storage.remove(key)
    started = time.perf_counter()
    try:
        written = compute()
    except GliaflowError as error:
        raise error.with_context(case=case, step=step) from error
    manifest = Manifest(
        step=step,
        case=case,
        version=step_version,
        parameters=settled,
        packages=versions,
        inputs=hashes,
        outputs={name: storage.sha256(name) for name in sorted(written)},
        device=device,
        seconds=round(time.perf_counter() - started, 3),
    )
    storage.write_text(key, manifest.model_dump_json(indent=2) + "\n")
    return manifest, False


def _outputs_whole(storage: Storage, manifest: Manifest) -> bool:
    return all(storage.exists(key) and storage.sha256(key) == digest for key, digest in manifest.outputs.items())
