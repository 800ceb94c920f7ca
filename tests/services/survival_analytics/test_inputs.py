from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import GliaflowError, InvalidTable, InvalidValue, OneClass, TooFewCases
from services.survival_analytics.inputs import (
    read_binary,
    read_classes,
    read_columns,
    read_follow_up,
    read_groups,
    read_probability,
    refuse_constant,
)


@pytest.mark.parametrize(
    ("time", "event", "error", "words"),
    [
        ([1.0, -2.0], [1, 0], InvalidValue, "-2 in row 1"),
        ([1.0, float("nan")], [1, 0], InvalidValue, "nan in row 1"),
        ([1.0, float("inf")], [1, 0], InvalidValue, "inf in row 1"),
        ([1.0, 2.0], [1, 2], InvalidValue, "2 in row 1"),
        ([1.0, 2.0], [0, 0], TooFewCases, "No event"),
        ([1.0, 2.0], [1], InvalidValue, "1 rows"),
        ([], [], TooFewCases, "empty"),
        (["a", "b"], [1, 0], InvalidValue, "not numbers"),
    ],
)
def test_bad_follow_up_says_where_and_what(time: list, event: list, error: type[GliaflowError], words: str) -> None:
    with pytest.raises(error) as caught:
        read_follow_up(time, event, step="here")
    assert words in str(caught.value)
    assert caught.value.step == "here"
    assert caught.value.status == 400


def test_time_zero_is_allowed() -> None:
    assert read_follow_up([0.0, 1.0], [1, 0], step="here").time.tolist() == [0.0, 1.0]


def test_single_class_is_refused() -> None:
    with pytest.raises(OneClass, match="only 1"):
        read_classes([1, 1], field="y", step="here")


def test_booleans_are_binary() -> None:
    assert read_binary(np.array([True, False]), field="y", step="here").tolist() == [1, 0]


def test_probabilities_outside_range_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"1\.2 in row 0"):
        read_probability([1.2, 0.1], np.array([0, 1]), field="p", step="here")


def test_groups_sort_numbers_as_numbers() -> None:
    codes, labels = read_groups([10, 9, 10.0, 2], field="g", step="here")
    assert labels == ("2", "9", "10")
    assert codes.tolist() == [2, 1, 2, 0]


def test_missing_group_is_refused() -> None:
    with pytest.raises(InvalidValue, match="row 1"):
        read_groups(["a", None], field="g", step="here")


@pytest.mark.parametrize(
    ("columns", "words"), [(["x", "q"], "'q' is not"), (["x", "x"], "named twice"), ([], "No covariate")]
)
def test_bad_columns(columns: list[str], words: str) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    with pytest.raises(InvalidTable, match=words):
        read_columns(frame, columns, step="here")


def test_constant_covariate_is_named() -> None:
    with pytest.raises(InvalidTable) as caught:
        refuse_constant(np.array([[1.0, 5.0], [2.0, 5.0]]), ["a", "b"], step="here")
    assert caught.value.field == "b"
