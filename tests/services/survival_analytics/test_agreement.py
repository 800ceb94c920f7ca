from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidTable, InvalidValue, TooFewCases
from services.survival_analytics.agreement import intraclass_correlation, summarise_overlap

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_published_example() -> None:
    # Shrout and Fleiss (1979), table 4.
    table = intraclass_correlation(SHROUT_FLEISS)
    found = [round(row.estimate, 2) for row in table.rows]
    assert found == [0.17, 0.29, 0.71, 0.44, 0.62, 0.91]


def test_raters_that_shift_agree_in_order_only() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    ratings = np.column_stack((truth, truth + 3)) + rng.normal(0, 0.1, (40, 2))
    table = intraclass_correlation(ratings)
    assert table["ICC(3,1)"].estimate > 0.95
    assert table["ICC(2,1)"].estimate < 0.4
    for row in table.rows:
        assert row.lower <= row.estimate <= row.upper


def test_limits_of_the_average_differ_between_packages() -> None:
    a = intraclass_correlation(SHROUT_FLEISS)["ICC(2,k)"]
    b = intraclass_correlation(SHROUT_FLEISS, average_limits="spearman-brown")["ICC(2,k)"]
    assert a.estimate == b.estimate
    assert a.lower != b.lower


@pytest.mark.parametrize(
    ("ratings", "error"),
    [
        ([[1, 2]], TooFewCases),
        ([[1], [2]], TooFewCases),
        ([[1, 1], [1, 1]], TooFewCases),
        ([[1, 2], [3, 4]], TooFewCases),
        ([[1, float("nan")], [3, 4]], InvalidValue),
        ([1, 2, 3], InvalidValue),
    ],
)
def test_bad_ratings(ratings: list, error: type) -> None:
    with pytest.raises(error):
        intraclass_correlation(ratings)


def test_overlap_counts_what_is_missing() -> None:
    frame = pd.DataFrame({"region": ["WT", "WT", "TC"], "dice": [0.9, 0.7, 0.8], "hd95_mm": [2.0, np.inf, 4.0]})
    table = summarise_overlap(frame, "region").to_frame().set_index(["measure", "region"])
    assert table.loc[("dice", "WT"), "mean"] == pytest.approx(0.8)
    assert table.loc[("hd95_mm", "WT"), "missing"] == 1
    assert table.loc[("hd95_mm", "WT"), "mean"] == 2.0
    with pytest.raises(InvalidTable):
        summarise_overlap(frame, "area")
