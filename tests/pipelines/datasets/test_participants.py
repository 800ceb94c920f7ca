from __future__ import annotations

import pandas as pd
import pytest

from pipelines.datasets.participants import read_participants
from services.shared.errors import DuplicateId, InvalidTable, NotFound, UnreadableFile


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.tsv", "participant_id\tage_years\tx\nsub-A1\t40\tn/a\nsub-A2\t\tNA\n"),
        ("p.csv", "Participant_ID;AGE_YEARS;x\n A1 ;40;\nA2;NaN;null\n;;\n"),
        ("p.tsv", "participant_id,Age Years,x\r\nA1,40,n/a\r\nA2,n/a,n/a\r\n,,\r\n"),
    ],
)
def test_marks_spellings_and_markers_of_missing_values_do_not_matter(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    frame = read_participants(tmp_path / name)
    assert frame.columns.tolist() == ["participant_id", "source_id", "age_years", "x"]
    assert frame["participant_id"].tolist() == ["sub-A1", "sub-A2"]
    assert frame["age_years"].iloc[0] == "40"
    assert pd.isna(frame["age_years"].iloc[1])
    assert frame["x"].isna().all()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("ID,age\nA1,40\nA-1,50\n", DuplicateId, "sub-A1"),
        ("ID,age\nA1,40\n,50\n", InvalidTable, r"no identifier.*p\.csv"),
        ("ID,age,age\nA1,40,50\n", InvalidTable, "twice.*age"),
        ("name,age\nA1,40\n", InvalidTable, "participant_id or source_id"),
        ("ID,age\nA1,40\nA2\n", UnreadableFile, "fewer fields"),
        ("ID,age\n", UnreadableFile, "no row"),
    ],
)
def test_tables_that_name_nobody_or_are_damaged_are_refused(tmp_path, text, error, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(error, match=words):
        read_participants(tmp_path / "p.csv")
    with pytest.raises(NotFound):
        read_participants(tmp_path / "absent.csv")
