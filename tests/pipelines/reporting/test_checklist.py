from __future__ import annotations

import re

from pipelines.reporting.checklist import ITEMS, checklist, checklist_table
from pipelines.reporting.sources import read_state, read_studies
from services.shared.storage import Storage

COHORT = "small"


def test_every_part_of_the_27_items_is_there_once() -> None:
    names = [item for item, _ in ITEMS]
    assert len(names) == len(set(names)) == 52
    assert sorted({int(re.match(r"\d+", name).group()) for name in names}) == list(range(1, 28))  # type: ignore[union-attr]


def test_checklist_owns_up_to_what_is_missing() -> None:
    table = checklist_table("atrx", {"23a": "Results"})
    answers = {row[0]: row[2] for row in table.rows}
    assert answers["23a"] == "Results"
    assert answers["17"] == "not reported"
    assert len(table.flagged) == len(table.rows) - 1
    assert "1 of 52 parts answered" in table.caption


def test_answers_follow_the_kind_of_study_and_its_cohorts(survival_storage: Storage) -> None:
    (study,) = read_studies(survival_storage, COHORT)
    table = checklist(read_state(survival_storage, COHORT), study)
    answers = {row[0]: row[2] for row in table.rows}
    assert "overall survival" in answers["8a"]
    assert "freije" in answers["12d"]
    assert "where the data come from" in answers["5a"]
    assert {"3c", "14", "18a", "19"} <= {table.rows[i][0] for i in table.flagged}
