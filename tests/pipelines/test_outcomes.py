from __future__ import annotations

import tracemalloc

import pytest

from pipelines.outcomes import CaseOutcome, Outcomes, case_outcome
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidMask


def outcome_of(number: int) -> CaseOutcome:
    return case_outcome(CaseRef(cohort="c", id=f"{number:04d}"), "segment", CaseRef(cohort="c", id="x"))


def test_outcomes_are_read_in_the_order_of_the_cases() -> None:
    outcomes = Outcomes(4)
    for number in (2, 0, 3, 1):
        outcomes.enter(number, outcome_of(number))
    assert [outcome.case.id for outcome in outcomes] == ["0000", "0001", "0002", "0003"]
    assert outcomes[-1] == outcome_of(3)
    assert outcomes[1:3] == [outcome_of(1), outcome_of(2)]
    assert len(outcomes) == 4


def test_case_without_an_outcome_is_told() -> None:
    outcomes = Outcomes(2)
    outcomes.enter(0, outcome_of(0))
    with pytest.raises(LookupError, match="position 1"):
        list(outcomes)


def test_problem_comes_back_whole() -> None:
    outcomes = Outcomes(1)
    error = InvalidMask("the mask is empty ∅", field="mask", expected="a tumour", got="0 voxels", remedy="draw it")
    outcomes.enter(0, case_outcome(CaseRef(cohort="c", id="a"), "segment", error))
    assert outcomes[0].problem == {**error.to_problem(), "case": "c/sub-a", "step": "segment"}


def test_fault_of_the_software_says_so() -> None:
    outcome = case_outcome(CaseRef(cohort="c", id="a"), "segment", KeyError("b"))
    assert outcome.problem is not None
    assert outcome.problem["type"] == "urn:gliaflow:ServiceFault"
    assert outcome.problem["detail"] == "KeyError: 'b'"


def test_memory_of_thousands_of_outcomes_is_flat() -> None:
    outcomes = Outcomes(5000)
    outcomes.enter(0, outcome_of(0))
    tracemalloc.start()
    for number in range(5000):
        outcomes.enter(number, outcome_of(number))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20_000
