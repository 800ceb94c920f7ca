"""New cases come in before anything is computed, and a table of other columns does not come in at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets import importer
from pipelines.datasets.release import write_release
from pipelines.flows.new_cases import import_new_cases, require_same_columns
from pipelines.promotion.parameters import NewCases
from pipelines.versioning.errors import SchemaChanged
from services.shared.errors import NotFound
from services.shared.storage import Storage


def write_gliovis(folder: Path, patients: int, *, columns: dict[str, object] | None = None) -> NewCases:
    folder.mkdir(exist_ok=True)
    ids = [f"S{i:02d}" for i in range(patients)]
    genes = pd.DataFrame(np.random.default_rng(0).normal(8, 1, (patients, 5)), columns=[f"GENE{i}" for i in range(5)])
    genes.insert(0, "Sample", ids)
    genes.to_csv(folder / "away_expr.csv", index=False)
    clinic = {"Sample": ids, "Histology": "GBM", "Grade": "IV", "Age": 50, "survival": 10.5, "status": 1}
    pd.DataFrame({**clinic, **(columns or {})}).to_csv(folder / "away_pdata.csv", index=False)
    return NewCases(importer="gliovis", source=str(folder))


@pytest.fixture
def cohort(storage: Storage, tmp_path: Path) -> NewCases:
    source = write_gliovis(tmp_path / "release", 6)
    write_release(storage, "away", importer("gliovis").read_release(Path(source.source)))
    return source


def test_nothing_to_import(storage: Storage) -> None:
    assert import_new_cases(storage, "away", None).importer is None


def test_new_cases_come_in_and_the_same_release_changes_nothing(
    storage: Storage, cohort: NewCases, tmp_path: Path
) -> None:
    before = {key: storage.sha256(key) for key in storage.files("raw/away")}
    found = import_new_cases(storage, "away", cohort)
    assert (found.cases_before, found.cases) == (6, 6)
    assert {key: storage.sha256(key) for key in storage.files("raw/away")} == before
    found = import_new_cases(storage, "away", write_gliovis(tmp_path / "release", 9))
    assert (found.cases_before, found.cases) == (6, 9)


def test_other_columns_stop_it_before_anything_is_written(storage: Storage, cohort: NewCases, tmp_path: Path) -> None:
    before = {key: storage.sha256(key) for key in storage.files("raw/away")}
    changed = write_gliovis(tmp_path / "release", 9, columns={"IDH1.status": "WT"})
    with pytest.raises(SchemaChanged, match="added "):
        import_new_cases(storage, "away", changed)
    assert {key: storage.sha256(key) for key in storage.files("raw/away")} == before
    assert import_new_cases(storage, "away", changed, allow_schema_change=True).cases == 9


def test_each_way_a_table_can_change_is_named() -> None:
    before = pd.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0], "d": [None]})
    require_same_columns(before, before.assign(d=3), table="t")  # an empty column may fill
    with pytest.raises(SchemaChanged) as caught:
        require_same_columns(before, pd.DataFrame({"a": ["high"], "b": ["x"], "d": [1], "e": [1]}), table="t")
    assert caught.value.got == "added e; removed c; of another kind a (number → text)"


def test_numbers_that_were_read_as_text_are_numbers() -> None:
    require_same_columns(
        pd.DataFrame({"age_years": [50.0, 61.5], "codel": [True, None]}),
        pd.DataFrame({"age_years": ["50", "61.5"], "codel": ["True", None]}, dtype=object),
        table="t",
    )


def test_a_release_that_is_not_there_is_told(storage: Storage, cohort: NewCases) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        import_new_cases(storage, "away", cohort.model_copy(update={"source": "/nowhere"}))
