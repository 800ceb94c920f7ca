"""One exception per thing a user can get wrong: where it happened, what was expected, what came, what to do.

Every exception can be written as a problem document (RFC 9457) and read back, so that a caller sees the same
exception whether a service runs in its own process or behind HTTP.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import TypedDict


class Problem(TypedDict, total=False):
    """A problem document as it crosses HTTP."""

    type: str
    title: str
    status: int
    detail: str
    case: str
    step: str
    field: str
    expected: str
    got: str
    remedy: str


class GliaflowError(Exception):
    """Something a user can put right.

    Parameters
    ----------
    detail
        One sentence: what is wrong.
    case, step, field
        Where: the case's id (never a patient's name), the processing step, the input's field or column.
    expected, got, remedy
        What would have been right, what was there instead, and what the user can do.
    """

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Invalid input"

    def __init__(
        self,
        detail: str,
        *,
        case: str | None = None,
        step: str | None = None,
        field: str | None = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.case = case
        self.step = step
        self.field = field
        self.expected = None if expected is None else str(expected)
        self.got = None if got is None else str(got)
        self.remedy = remedy

    def __str__(self) -> str:
        where = ", ".join(f"{name} {value}" for name, value in (("case", self.case), ("step", self.step)) if value)
        facts = "; ".join(
            f"{name}: {value}"
            for name, value in (
                ("field", self.field),
                ("expected", self.expected),
                ("got", self.got),
                ("what to do", self.remedy),
            )
            if value
        )
        return "".join([f"[{where}] " if where else "", self.detail, f" ({facts})" if facts else ""])

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send their exceptions back by value; keyword-only arguments need this.
        return _rebuild, (type(self), self.to_problem())

    def with_context(self, *, case: str | None = None, step: str | None = None) -> GliaflowError:
        """Fill in the case and the step where the raiser did not know them."""
        self.case = self.case or case
        self.step = self.step or step
        return self

    def to_problem(self) -> Problem:
        """Return the problem document of this exception."""
        problem: Problem = {
            "type": f"urn:gliaflow:{type(self).__name__}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        for name in ("case", "step", "field", "expected", "got", "remedy"):
            value = getattr(self, name)
            if value is not None:
                problem[name] = value
        return problem

    @staticmethod
    def from_problem(problem: Problem) -> GliaflowError:
        """Return the exception that a problem document describes."""
        name = problem.get("type", "").removeprefix("urn:gliaflow:")
        kind = _known_errors().get(name, GliaflowError)
        return _rebuild(kind, problem)


def _rebuild(kind: type[GliaflowError], problem: Problem) -> GliaflowError:
    return kind(
        problem.get("detail", problem.get("title", "unknown problem")),
        case=problem.get("case"),
        step=problem.get("step"),
        field=problem.get("field"),
        expected=problem.get("expected"),
        got=problem.get("got"),
        remedy=problem.get("remedy"),
    )


def _known_errors() -> dict[str, type[GliaflowError]]:
    found: dict[str, type[GliaflowError]] = {}
    pending = [GliaflowError]
    while pending:
        kind = pending.pop()
        found[kind.__name__] = kind
        pending.extend(kind.__subclasses__())
    return found


class InvalidValue(GliaflowError):
    """A single value is outside what is allowed."""

    title = "Invalid value"


class InvalidTable(GliaflowError):
    """A table lacks a column, repeats one, or holds values of the wrong kind."""

    title = "Invalid table"


class DuplicateId(InvalidTable):
    """An identifier occurs more than once."""

    title = "Duplicate identifier"


class IdMismatch(InvalidTable):
    """The identifiers of two inputs do not match."""

    title = "Identifiers do not match"


class TooFewCases(GliaflowError):
    """There are fewer cases than the computation needs."""

    title = "Too few cases"


class OneClass(TooFewCases):
    """The outcome has a single value, so nothing can be learnt or tested."""

    title = "Outcome has one class"


class MissingSequence(GliaflowError):
    """A case lacks an MRI sequence that the step needs."""

    title = "Missing sequence"


class UnreadableFile(GliaflowError):
    """A file is truncated or not of the format its name says."""

    title = "Unreadable file"


class InvalidVolume(GliaflowError):
    """A volume has the wrong number of dimensions, a degenerate geometry, or values that are not finite."""

    title = "Invalid volume"


class SpaceMismatch(GliaflowError):
    """Two volumes that must share a grid do not."""

    title = "Volumes lie in different spaces"


class InvalidMask(GliaflowError):
    """A mask is empty where it must not be, or holds a label nobody defined."""

    title = "Invalid mask"


class InvalidKey(GliaflowError):
    """A storage key is malformed or leaves the storage root."""

    title = "Invalid storage key"


class NotFound(GliaflowError):
    """A named case, file, model or service does not exist."""

    status = 404
    title = "Not found"


class ChangedFile(GliaflowError):
    """A file does not have the hash that its manifest states."""

    status = 409
    title = "File does not match its manifest"


class Unauthorised(GliaflowError):
    """The caller's token is missing or wrong."""

    status = 401
    title = "Not authorised"


class TooLarge(GliaflowError):
    """A request is larger than the service accepts."""

    status = 413
    title = "Request too large"


class MissingDependency(GliaflowError):
    """Something this machine must have is not installed."""

    status = 501
    title = "Missing dependency"


class Unavailable(GliaflowError):
    """A service did not answer."""

    status = 503
    title = "Service unavailable"


class ServiceFault(GliaflowError):
    """A service failed in a way that is its own fault; its log tells more."""

    status = 500
    title = "The service failed"
