from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.tables import participant_classes, participant_labels, read_feature_table
from services.shared.errors import (
    DuplicateId,
    IdMismatch,
    InvalidTable,
    NotFound,
    UnreadableFile,
)


def write(path, text: str):
    path.write_text(text)
    return path


def test_a_csv_is_read_with_its_blanks_and_marks_of_missing(tmp_path):
    path = write(
        tmp_path / "t.csv",
        "ID , Date, f1 , f2,f3,note,f4\n"
        "sub-B,1996.08.23, 1.5 ,NaN,#DIV/0!,left,Inf\n"
        " A ,1997.01.01,2, n/a ,3e2,right,-1\n",
    )
    table = read_feature_table(path)
    assert table.features.index.tolist() == ["A", "B"]
    assert table.features.columns.tolist() == ["f1", "f2", "f3", "f4"]
    assert table.features.loc["A"].tolist()[2:] == [300, -1]
    assert np.isnan(table.features.loc["B", "f3"])
    assert np.isinf(table.features.loc["B", "f4"])
    assert table.left_out == {"Date": "bookkeeping", "note": "text"}


def test_what_could_give_the_outcome_away_is_no_feature(tmp_path):
    frame = pd.DataFrame(
        {
            "case_id": ["1", "2"],
            "cohort": ["a", "a"],
            "event_timestamp": pd.to_datetime(["2020-01-01", "2021-01-01"]),
            "scan_date": [1.0, 2.0],
            "grade": [2, 4],
            "os_months": [3.0, 4.0],
            "age_years": [50, 60],
            "diagnostics_Versions_PyRadiomics": ["3", "3"],
            "T1c_TC_original_glcm_Contrast": [1.0, None],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_feature_table(tmp_path / "t.parquet")
    assert table.features.columns.tolist() == ["T1c_TC_original_glcm_Contrast"]
    assert len(table.left_out) == 7


def test_a_parquet_index_can_name_the_patients(tmp_path):
    pd.DataFrame({"f": [1.0, 2.0]}, index=pd.Index(["b", "a"], name="case_id")).to_parquet(tmp_path / "t.parquet")
    assert read_feature_table(tmp_path / "t.parquet").features["f"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("f1,f2\n1,2\n", InvalidTable, "no column names the patients"),
        ("ID,f\na,1\na ,2\n", DuplicateId, "more than once"),
        ("ID,f,f \na,1,2\n", InvalidTable, "a column occurs twice"),
        ("ID,f\na,1\nb,2\nc,broken\n", InvalidTable, "mixes numbers with text"),
        ("", UnreadableFile, "cannot be read"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path, text, error, match):
    with pytest.raises(error, match=match):
        read_feature_table(write(tmp_path / "t.csv", text))


def test_files_that_are_not_there_or_not_parquet(tmp_path):
    with pytest.raises(NotFound):
        read_feature_table(tmp_path / "t.csv")
    with pytest.raises(UnreadableFile):
        read_feature_table(write(tmp_path / "t.parquet", "PAR1 no"))


PARTICIPANTS = pd.DataFrame(
    {
        "participant_id": ["sub-TCGA01", "sub-TCGA02", "sub-TCGA03"],
        "source_id": ["TCGA-01", "TCGA-02", "TCGA-03"],
        "grade": [2, 4, None],
    }
)


@pytest.mark.parametrize("ids", [["TCGA02", "TCGA01"], ["TCGA-02", "TCGA-01"]])
def test_outcomes_match_by_label_or_by_source(ids):
    assert participant_labels(PARTICIPANTS, "grade", pd.Index(ids)).tolist() == [4, 2]


def test_barcodes_match_labels_where_the_source_is_not_stated():
    table = PARTICIPANTS.drop(columns="source_id")
    assert participant_labels(table, "grade", pd.Index(["TCGA-02"])).tolist() == [4]


def test_a_patient_without_clinical_row_and_a_table_without_outcome_are_errors():
    with pytest.raises(IdMismatch, match="TCGA09"):
        participant_labels(PARTICIPANTS, "grade", pd.Index(["TCGA01", "TCGA09"]))
    with pytest.raises(InvalidTable, match="lacks the outcome"):
        participant_labels(PARTICIPANTS, "atrx", pd.Index(["TCGA01"]))


def test_spellings_become_classes():
    spellings = {"LGG": frozenset({"2", "2.0"}), "HGG": frozenset({"4", "4.0"})}
    ids = pd.Index(["TCGA01", "TCGA02", "TCGA03"])
    assert participant_classes(PARTICIPANTS, "grade", ids, spellings=spellings).tolist() == ["LGG", "HGG", None]
    with pytest.raises(InvalidTable, match=r"4\.0"):
        participant_classes(PARTICIPANTS, "grade", ids, spellings={"LGG": spellings["LGG"]})
