"""A model is kept fresh: only what changed runs, the gate decides, and whatever ends a run, the next one goes on."""

from __future__ import annotations

import json

import pytest

from pipelines.flows.retrain import retrain
from pipelines.promotion.record import STEPS, list_runs
from services.model_serving import registry

from .conftest import MODEL, Hospital, git

pytestmark = [pytest.mark.xdist_group("retraining"), pytest.mark.usefixtures("prefect_api")]


def test_new_patients_make_a_challenger_that_becomes_champion(hospital: Hospital) -> None:
    storage = hospital.storage
    first = registry.champion(storage, MODEL)
    hospital.admit(160)
    run = retrain(trigger="test")
    assert run.outcome == "promoted", run.reason
    assert [record.step for record in run.steps] == list(STEPS)
    second = registry.champion(storage, MODEL)
    assert second != first
    (change,) = registry.history(storage, MODEL)
    assert (change.previous, change.champion, change.run) == (first, second, run.id)
    assert run.result("reproduce")["stages"] == ["raw", "grading"]
    assert git(hospital.root, "tag", "--list") == f"model/{MODEL}/{second}"
    assert git(hospital.root, "status", "--porcelain") == ""
    assert storage.exists(f"{run.folder}/report.html")
    again = retrain(trigger="test", now="2031-01-01T00:00:00")
    assert again.outcome == "unchanged"
    assert again.result("reproduce")["stages"] == []
    assert [each.id for each in list_runs(storage)] == [run.id, again.id]
    print(json.dumps(run.model_dump(mode="json"), indent=1)[:6000])
