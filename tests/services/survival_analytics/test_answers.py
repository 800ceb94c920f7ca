from __future__ import annotations

import pandas as pd
import pytest
from pydantic import ValidationError

from services.shared.errors import InvalidTable, NotFound, TooFewCases, TooLarge
from services.shared.storage import Storage
from services.survival_analytics import answers
from services.survival_analytics.answers import build_result, load_frame, to_cell
from services.survival_analytics.contracts import Data
from services.survival_analytics.inputs import Notice


def test_inline_columns(storage: Storage) -> None:
    frame = load_frame(storage, Data(columns={"a": (1.0, None), "g": ("x", "y")}))
    assert frame["a"].isna().tolist() == [False, True]
    assert frame["g"].tolist() == ["x", "y"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_stored_tables(storage: Storage, suffix: str) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    with storage.publish(f"tables/cohort{suffix}") as path:
        if suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    pd.testing.assert_frame_equal(load_frame(storage, Data(table=f"tables/cohort{suffix}")), frame, check_dtype=False)


def test_cohort_is_its_participants(storage: Storage) -> None:
    rows = "participant_id\tos_months\tevent\nsub-a1\t12.5\t1\nsub-a2\t30\t0\n"
    storage.write_text("raw/demo/participants.tsv", rows)
    for case in ("a1", "a2"):
        storage.write_text(f"raw/demo/sub-{case}/note.txt", "")
    frame = load_frame(storage, Data(cohort="demo"))
    assert frame["os_months"].tolist() == [12.5, 30.0]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"columns": {"a": (1.0,), "b": (1.0, 2.0)}}, InvalidTable),
        ({"columns": {}}, InvalidTable),
        ({"columns": {"a": ()}}, TooFewCases),
        ({"table": "tables/none.csv"}, NotFound),
        ({"table": "tables/none.xlsx"}, InvalidTable),
        ({"cohort": "nowhere"}, NotFound),
    ],
)
def test_bad_data(storage: Storage, data: dict, error: type) -> None:
    with pytest.raises(error):
        load_frame(storage, Data(**data))


def test_broken_table_is_named(storage: Storage) -> None:
    storage.write_text("tables/broken.parquet", "not parquet")
    with pytest.raises(InvalidTable, match="cannot be read"):
        load_frame(storage, Data(table="tables/broken.parquet"))


def test_too_many_rows(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ROWS", 3)
    with pytest.raises(TooLarge) as caught:
        load_frame(storage, Data(columns={"a": (1.0, 2.0, 3.0, 4.0)}))
    assert caught.value.status == 413


@pytest.mark.parametrize("sources", [{}, {"cohort": "a", "table": "b.csv"}])
def test_exactly_one_source(sources: dict) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        Data(**sources)


def test_cells_are_json() -> None:
    assert [to_cell(v) for v in (1, float("nan"), float("inf"), -float("inf"), "a", True, None)] == [
        1.0,
        None,
        "Inf",
        "-Inf",
        "a",
        1.0,
        None,
    ]


def test_result_finds_its_parts() -> None:
    notice = Notice("n", "d")
    result = build_result(figures={"c": 0.7}, tables={"t": pd.DataFrame({"x": [1, 2]})}, notices=[notice, notice])
    assert result.figure("c") == 0.7
    assert result.table("t")["x"].tolist() == [1, 2]
    assert len(result.notices) == 1
    for wrong in (lambda: result.figure("d"), lambda: result.table("d")):
        with pytest.raises(NotFound):
            wrong()
