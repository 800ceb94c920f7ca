import pickle

from services.shared.errors import GliaflowError, MissingSequence, NotFound


def test_message_says_where_what_and_what_to_do() -> None:
    error = MissingSequence(
        "the case lacks a sequence", case="a/sub-1", step="prepare", expected="T1w", got="none", remedy="add it"
    )
    assert str(error) == (
        "[case a/sub-1, step prepare] the case lacks a sequence (expected: T1w; got: none; what to do: add it)"
    )


def test_error_survives_a_process_border() -> None:
    error = NotFound("gone", field="key", got="x")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is NotFound
    assert str(copy) == str(error)


def test_problem_document_round_trip() -> None:
    error = MissingSequence("lacks", case="a", expected=4, got=3)
    problem = error.to_problem()
    assert problem["status"] == 400
    assert problem["type"] == "urn:gliaflow:MissingSequence"
    copy = GliaflowError.from_problem(problem)
    assert type(copy) is MissingSequence
    assert copy.to_problem() == problem


def test_unknown_problem_becomes_the_base_error() -> None:
    error = GliaflowError.from_problem({"type": "about:blank", "title": "Teapot", "status": 418})
    assert type(error) is GliaflowError
    assert error.detail == "Teapot"


def test_context_fills_in_only_what_is_missing() -> None:
    error = NotFound("gone", case="mine").with_context(case="other", step="extract")
    assert (error.case, error.step) == ("mine", "extract")
