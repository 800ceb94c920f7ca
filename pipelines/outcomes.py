"""What became of the cases of a step, in the order of the cases, kept on disk so that memory stays flat."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import overload

from pydantic import BaseModel, ConfigDict

from services.shared.contracts import CaseRef
from services.shared.errors import GliaflowError, Problem, ServiceFault

_ABSENT = -1


class CaseOutcome(BaseModel):
    """What became of one case in one step: a result, or the problem it is quarantined with."""

    model_config = ConfigDict(frozen=True)

    case: CaseRef
    step: str
    result: dict[str, object] | None = None
    problem: Problem | None = None

    @property
    def cached(self) -> bool:
        """Whether the outputs were already there."""
        return bool(self.result and self.result.get("cached"))


def case_outcome(case: CaseRef, step: str, answer: BaseModel | Exception) -> CaseOutcome:
    """Return the outcome that an endpoint's result or exception is; what is not a user's mistake is a fault of ours."""
    if isinstance(answer, BaseModel):
        return CaseOutcome(case=case, step=step, result=answer.model_dump(mode="json"))
    if isinstance(answer, GliaflowError):
        return CaseOutcome(case=case, step=step, problem=answer.with_context(case=str(case), step=step).to_problem())
    fault = ServiceFault(
        f"{type(answer).__name__}: {answer}",
        case=str(case),
        step=step,
        remedy="this is a fault of the software: report it with this line",
    )
    return CaseOutcome(case=case, step=step, problem=fault.to_problem())


class Outcomes(Sequence[CaseOutcome]):
    """Outcomes of so many cases, entered in any order and read in that of the cases.

    They stand in a temporary file, 8 bytes each in memory: a million of them do not fit a small machine otherwise.

    Parameters
    ----------
    total
        Number of cases.
    """

    def __init__(self, total: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="gliaflow-")  # noqa: SIM115 - closed with this object
        self._starts = array("q", [_ABSENT]) * total

    def enter(self, position: int, outcome: CaseOutcome) -> None:
        """Enter the outcome of the case at a position."""
        self._starts[position] = self._file.seek(0, 2)
        self._file.write(outcome.model_dump_json().encode() + b"\n")

    def __len__(self) -> int:
        return len(self._starts)

    def __add__(self, other: Outcomes) -> Outcomes:
        """Return these outcomes and then the other ones."""
        both = Outcomes(len(self) + len(other))
        for position, outcome in enumerate(chain(self, other)):
            both.enter(position, outcome)
        return both

    @overload
    def __getitem__(self, position: int) -> CaseOutcome: ...
    @overload
    def __getitem__(self, position: slice) -> list[CaseOutcome]: ...
    def __getitem__(self, position: int | slice) -> CaseOutcome | list[CaseOutcome]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        start = self._starts[position]
        if start == _ABSENT:
            raise LookupError(f"the case at position {position} has no outcome yet")
        self._file.seek(start)
        return CaseOutcome.model_validate_json(self._file.readline())

    def __del__(self) -> None:
        self._file.close()
