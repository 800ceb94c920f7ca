"""What the API server answers where it says no: Status objects."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.apiserver.kinds import Kind

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
}


class Fault(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, message: str, *, reason: str | None = None, details: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or _REASONS[code]
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        """Return the Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(kind: Kind, name: str) -> Fault:
    """404 of an object."""
    return Fault(404, f'{kind.qualified} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str) -> Fault:
    """409 of a name that is taken."""
    return Fault(409, f'{kind.qualified} "{name}" already exists', reason="AlreadyExists", details=_details(kind, name))


def conflict(kind: Kind, name: str) -> Fault:
    """409 of an object that somebody else changed."""
    return Fault(
        409,
        f'Operation cannot be fulfilled on {kind.qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again",
        details=_details(kind, name),
    )


def invalid(kind: Kind, name: str, field: str, message: str) -> Fault:
    """422 of a field."""
    details = _details(kind, name) | {"causes": [{"reason": "FieldValueInvalid", "message": message, "field": field}]}
    return Fault(422, f'{kind.kind}.{kind.group or "core"} "{name}" is invalid: {field}: {message}', details=details)


def forbidden(kind: Kind, name: str, message: str) -> Fault:
    """403 of an admission plugin."""
    return Fault(403, f'{kind.qualified} "{name}" is forbidden: {message}', details=_details(kind, name))


def expired(oldest: int) -> Fault:
    """410 of a resource version whose history is gone."""
    return Fault(410, f"The resourceVersion for the provided watch is too old; the oldest is {oldest}")


def _details(kind: Kind, name: str) -> dict[str, Any]:
    return {"name": name, "group": kind.group, "kind": kind.plural}
