from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets import codings
from services.shared.errors import InvalidTable

MISSING = ("NA", "Not Available", "--", "[Not Available]", "", None, np.nan, " nan ", "unknown")


def column(*values):
    return pd.Series(values, index=[f"P{i}" for i in range(len(values))], dtype=object)


def values(series):
    return [None if pd.isna(value) else value for value in series]


@pytest.mark.parametrize("missing", MISSING)
def test_markers_of_missing_values_are_missing_in_every_column(missing):
    one = column(missing)
    assert values(codings.sexes(one, step="s")) == [None]
    assert values(codings.grades(one, step="s")) == [None]
    assert values(codings.events(one, step="s")) == [None]
    assert values(codings.mutations(one, step="s", field="idh")) == [None]
    assert values(codings.numbers(one, step="s", field="age_years")) == [None]
    assert values(codings.follow_up_of_days(one, step="s", field="days").loc["P0"]) == [None, None]


@pytest.mark.parametrize(
    ("convert", "written", "ours"),
    [
        (codings.sexes, ("Male  ", "female", "F", "MALE"), ["M", "F", "F", "M"]),
        (codings.grades, ("WHO III", "G3", "III", 3, "3.0", "Grade 4", "WHO II", 2.0), [3, 3, 3, 3, 3, 4, 2, 2]),
        (codings.events, ("Dead", "alive", 1.0, "0", "1:DECEASED", "0:LIVING"), [1, 0, 1, 0, 1, 0]),
        (codings.codeletions, ("Codel", "Non-codel", "non-codel"), ["codel", "non-codel", "non-codel"]),
        (codings.methylations, ("un-methylated", "methylated", "U"), ["Unmethylated", "Methylated", "Unmethylated"]),
    ],
)
def test_codes_become_ours(convert, written, ours):
    assert values(convert(column(*written), step="s")) == ours


def test_mutations():
    found = codings.mutations(column("Wildtype", "WT (maf)", "NOT_MUTATED", "Mutant", "1", "neg"),
                              step="s", field="idh", also={"neg": None})  # fmt: skip
    assert values(found) == ["WT", "WT", "WT", "Mutant", "Mutant", None]


@pytest.mark.parametrize(
    ("convert", "unknown"),
    [
        (codings.sexes, "x"),
        (codings.grades, "V"),
        (codings.grades, "WHO I"),
        (codings.grades, "2.5"),
        (codings.events, "2"),
        (codings.codeletions, "1p only"),
        (codings.methylations, "half"),
    ],
)
def test_an_unknown_code_is_an_error_that_names_the_row(convert, unknown):
    with pytest.raises(InvalidTable, match="case P1") as caught:
        convert(column(None, unknown), step="import x")
    assert caught.value.got == unknown
    assert caught.value.step == "import x"


def test_numbers_are_numbers():
    assert codings.numbers(column(" 3.5", 4, "NA"), step="s", field="f").tolist()[:2] == [3.5, 4.0]
    for strange in ("long", "inf", "3,5"):
        with pytest.raises(InvalidTable, match="case P1"):
            codings.numbers(column(1, strange), step="s", field="f")


def test_days_to_death_and_alive_days_later():
    found = codings.follow_up_of_days(
        column("ALIVE (361 days later)", "730.5", 365.25, "NA"), step="s", field="Survival"
    )
    assert found["os_months"].tolist()[:3] == pytest.approx([361 / 30.4375, 24, 12])
    assert values(found["event"]) == [0, 1, 1, None]
    with pytest.raises(InvalidTable, match=r"case P0.*Survival"):
        codings.follow_up_of_days(column("ALIVE"), step="s", field="Survival")
