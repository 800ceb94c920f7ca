"""What each step of a retraining finds, as it stands in the run's record."""

from __future__ import annotations

from pipelines.promotion.comparison import Comparison
from pipelines.promotion.drift import Drift
from pipelines.rollout.contract import ServingFigures
from services.shared.contracts import Contract


class Done(Contract):
    """A step that finds nothing."""


class Checked(Contract):
    """What the run starts from."""

    revision: str
    labelled: int
    """Patients with an outcome that are not held out."""
    new: int
    """Those of them that came since the last retraining, or since the champion was trained where there was none."""
    drift: Drift


class Imported(Contract):
    """What an import brought; ``importer`` is None where nothing is imported."""

    importer: str | None = None
    cases_before: int = 0
    cases: int = 0
    left_out: int = 0


class Reproduced(Contract):
    """What ran, and which version came out."""

    stages: tuple[str, ...]
    challenger: str
    labelled: int
    """Patients with an outcome that are not held out, after the import: those that come later are new."""
    lock_sha256: str
    """Hash of dvc.lock after it: a later commit that holds the same file holds this run's data."""


class Compared(Contract):
    """The comparison; None where the same version came out."""

    comparison: Comparison | None


class Committed(Contract):
    """The revision that holds the run's data and models."""

    revision: str


class RolledOut(Contract):
    """Which version came to service, and which served before."""

    version: str
    before: str | None


class Watched(Contract):
    """How the version on trial served, and what speaks against it."""

    figures: ServingFigures
    faults: tuple[str, ...]


class Promoted(Contract):
    """The new champion."""

    champion: str
    reason: str
