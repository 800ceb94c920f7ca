"""What every request and result shares. A service's own contracts stand in its ``contracts.py``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_LABEL = r"^[A-Za-z0-9]+$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class Contract(BaseModel):
    """A frozen request or result; a field that nobody defined is an error, not a surprise.

    A number is finite: what is missing or undefined is None, so that it crosses JSON unchanged. Values never
    appear in validation errors, and so never in a log.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class CaseRef(Contract):
    """Names one case: the cohort's folder and the BIDS subject label (letters and digits)."""

    cohort: Annotated[str, StringConstraints(pattern=_NAME, max_length=64)]
    id: Annotated[str, StringConstraints(pattern=_LABEL, max_length=64)] = Field(
        description="BIDS subject label, without the prefix 'sub-'"
    )

    def __str__(self) -> str:
        return f"{self.cohort}/sub-{self.id}"


def _check_key(key: str) -> str:
    if (
        not key
        or key.startswith("/")
        or "\\" in key
        or "\0" in key
        or any(p in ("", ".", "..") for p in key.split("/"))
    ):
        raise ValueError("a storage key is a relative path without empty parts, '.', '..' or backslashes")
    return key


Key = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_check_key)]


def case_label(source_id: str) -> str:
    """Return the BIDS subject label of a publisher's identifier: its letters and digits.

    >>> case_label("TCGA-02-0054")
    'TCGA020054'
    """
    return re.sub(r"[^A-Za-z0-9]", "", source_id)
