from __future__ import annotations

import pandas as pd
import pytest

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import join_clinical, participants_of, whole_follow_up
from pipelines.datasets.release import Release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound


def release(**columns):
    clinical = pd.DataFrame(columns, index=["TCGA-01-0001", "TCGA-01-0002"])
    return Release(name="x", participants=participants_of(clinical))


def test_follow_up_is_whole_or_none():
    table = pd.DataFrame({"os_months": [3.0, None, 5, -1, 0], "event": [1, 1, None, 1, 0]})
    found, counted = whole_follow_up(table)
    assert found["os_months"].dropna().tolist() == [3.0, 0.0]
    assert found["event"].dropna().tolist() == [1, 0]
    assert counted == {
        "patients without follow-up": 3,
        "patients without follow-up, negative": 1,
        "patients without follow-up, months or vital status alone": 2,
        "patients with a follow-up of 0 months": 1,
    }


def test_columns_that_a_release_lacks_are_joined_and_nothing_is_overwritten(tmp_path):
    path = tmp_path / "more.csv"
    path.write_text(
        "ID,sex,Grade,age_years,os_months,event,Centre\nTCGA_01_0002,Female,WHO III,50,9,dead,A\nother,M,II,3,1,0,B\n"
    )
    own = release(age_years=[40.0, 60.0], os_months=[1.0, 2.0], event=[0, 1])
    found = check_release(join_clinical(own, path)).participants.set_index("source_id")
    row = found.loc["TCGA-01-0002"]
    assert (row["sex"], row["age_years"], row["os_months"], row["centre"]) == ("F", 60.0, 2.0, "A")
    assert pd.isna(found.loc["TCGA-01-0001", "sex"])
    joined = join_clinical(own, path)
    assert joined.counted == {
        "patients without a row in the joined clinical table": 1,
        "age_years differs in the joined clinical table, the release's own stays": 1,
        "os_months differs in the joined clinical table, the release's own stays": 1,
    }
    assert joined.meanings["centre"] == "Centre, as in more.csv"
    assert list(joined.sources) == ["more.csv"]


def test_months_and_event_never_come_from_two_sources(tmp_path):
    path = tmp_path / "more.csv"
    path.write_text("ID,os_months,event\nTCGA-01-0001,9,1\n")
    assert "event" not in join_clinical(release(os_months=[1.0, None]), path).participants
    assert join_clinical(release(age_years=[1.0, 2]), path).participants["event"].tolist()[0] == 1


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("ID,grade\nTCGA-01-0001,V\n", InvalidTable, "case TCGA010001.*grade.*V"),
        ("ID,grade\nTCGA-99-0001,2\n", IdMismatch, "no patient"),
        ("ID,grade\nTCGA-01-0001,2\nTCGA_01_0001,3\n", DuplicateId, "more than once"),
        ("name,grade\nTCGA-01-0001,2\n", InvalidTable, "identifiers"),
        ("ID,a b,a_b\nTCGA-01-0001,2,3\n", InvalidTable, "repeated"),
    ],
)
def test_clinical_tables_that_do_not_fit(tmp_path, text, error, words):
    path = tmp_path / "more.csv"
    path.write_text(text)
    with pytest.raises(error, match=words):
        join_clinical(release(age_years=[1.0, 2]), path)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        join_clinical(release(age_years=[1.0, 2]), tmp_path / "absent.csv")
