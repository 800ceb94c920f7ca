"""What can be wrong with versions; each stops before anything changes and says the way back."""

from __future__ import annotations

from services.shared.errors import ChangedFile, GliaflowError, InvalidTable, Unavailable


class DirtyTree(GliaflowError):
    """The git tree holds changes that no commit has, so that a version of it would have no name."""

    status = 409
    title = "Uncommitted changes"


class RemoteUnreachable(Unavailable):
    """The place that keeps versions did not answer, or refused."""

    title = "Remote of the versions cannot be reached"


class IncompleteRemote(ChangedFile):
    """Objects of a version are missing or damaged where they are kept."""

    title = "Versions are incomplete"


class UnsavedData(GliaflowError):
    """The workspace holds data that would be lost, or that no version has."""

    status = 409
    title = "Data that no version has"


class SchemaChanged(InvalidTable):
    """A table has other columns, or columns of another kind, than the version before."""

    status = 409
    title = "Tables have changed their columns"


class StageFailed(GliaflowError):
    """A stage of dvc.yaml ended with an error."""

    status = 500
    title = "Stage failed"


class VersioningFailed(GliaflowError):
    """Git or DVC refused; its own message is in ``got``."""

    status = 409
    title = "Versioning failed"
