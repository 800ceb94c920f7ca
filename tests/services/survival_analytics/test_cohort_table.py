from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from services.survival_analytics.cohort_table import describe_cohort
from services.survival_analytics.hypothesis import mann_whitney, t_test


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "risk": ["high"] * 20 + ["low"] * 25,
            "age": np.append(rng.normal(60, 8, 20), rng.normal(45, 8, 25)),
            "volume": np.append(rng.exponential(5, 44), np.nan),
            "sex": rng.choice(["F", "M"], 45),
            "site": ["one"] * 45,
        }
    )


def test_rows_and_tests(frame: pd.DataFrame) -> None:
    table = describe_cohort(frame, "risk", columns=["age", "volume", "sex"], non_normal=["volume"])
    rows = table.to_frame().set_index(["characteristic", "level"])
    age = t_test(frame["age"][:20], frame["age"][20:])
    assert rows.loc[("age", ""), "p_value"] == pytest.approx(age.p_value)
    known = frame.dropna()
    volume = mann_whitney(known["volume"][known["risk"] == "high"], known["volume"][known["risk"] == "low"])
    assert rows.loc[("volume", ""), "p_value"] == pytest.approx(volume.p_value)
    assert rows.loc[("volume", ""), "missing"] == 1
    assert rows.loc[("sex", "F"), "test"] in ("chi-square", "Fisher")
    assert [c for c in rows.columns if c.startswith(("high", "low"))] == ["high (n=20)", "low (n=25)"]


def test_column_that_cannot_be_tested_is_named(frame: pd.DataFrame) -> None:
    table = describe_cohort(frame, "risk", columns=["site", "age"])
    assert [notice.name for notice in table.notices] == ["not_tested"]
    assert "site" in table.notices[0].detail
    assert len(table.to_frame()) == 2


def test_three_groups_are_compared_by_ranks(frame: pd.DataFrame) -> None:
    frame["grade"] = np.arange(45) % 3 + 2
    assert describe_cohort(frame, "grade", columns=["age"]).to_frame()["test"][0] == "Kruskal-Wallis"
