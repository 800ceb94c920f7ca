"""Deployments on a real server: the cron comes due when the clock is moved, and new cases start a run once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest

from pipelines.flows.schedules import Schedule, create_deployments
from pipelines.flows.watch import watch_for_reasons
from pipelines.promotion.record import list_runs
from services.shared.errors import InvalidValue, NotFound
from tests.pipelines.flows.hospital import Hospital, patients, wait_until

pytestmark = [pytest.mark.xdist_group("retraining")]
WEEKLY = Schedule(cron="0 3 * * 1", timezone="UTC", new_cases=True, drift=True, every=timedelta(hours=1))


def ask(url: str, path: str, **body: object) -> object:
    """Ask the server, again where it is busy, as Prefect's own client does."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(httpx.post(f"{url}{path}", json=body, timeout=60, trust_env=False))
        return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

    wait_until(answered, seconds=120)
    return answers[-1].raise_for_status().json()


def test_the_cron_comes_due_and_a_worker_retrains(prefect_api: str, hospital: Hospital, worker: str) -> None:
    assert create_deployments(hospital.root, WEEKLY, work_pool=worker) == ["retrain/gliaflow", "watch/gliaflow"]
    found = httpx.get(f"{prefect_api}/deployments/name/retrain/gliaflow", trust_env=False).json()
    runs: dict[str, object] = {"deployments": {"id": {"any_": [found["id"]]}}}

    # The clock is moved: the server is asked what is due in a window years ahead …
    ask(
        prefect_api, f"/deployments/{found['id']}/schedule",
        start_time="2031-03-01T00:00:00Z", end_time="2031-03-20T00:00:00Z", min_runs=3, max_runs=10,
    )  # fmt: skip
    due = [datetime.fromisoformat(run["expected_start_time"]) for run in _runs(prefect_api, runs)]
    ahead = sorted(moment for moment in due if moment.year == 2031)
    assert ahead[:3] == [datetime(2031, 3, day, 3, tzinfo=UTC) for day in (3, 10, 17)]

    # … and in one that has just passed: the worker starts what came due.
    now = datetime.now(UTC)
    ask(
        prefect_api, f"/deployments/{found['id']}/schedule",
        start_time=(now - timedelta(days=7)).isoformat(), end_time=now.isoformat(), min_runs=1, max_runs=1,
    )  # fmt: skip
    wait_until(lambda: [run for run in list_runs(hospital.storage) if run.outcome], seconds=300)
    (run,) = list_runs(hospital.storage)
    assert (run.outcome, run.trigger) == ("unchanged", "by the clock")


def _runs(url: str, chosen: dict[str, object]) -> list[dict[str, str]]:
    answer = ask(url, "/flow_runs/filter", **chosen)
    assert isinstance(answer, list)
    return answer


def test_new_cases_start_one_retraining(prefect_api: str, promoted: Hospital) -> None:
    pool = "idle"
    httpx.post(f"{prefect_api}/work_pools/", json={"name": pool, "type": "process"}, trust_env=False)
    create_deployments(promoted.root, WEEKLY, work_pool=pool)
    assert watch_for_reasons().text == ""
    table = patients(200).set_index("case_id")
    participants = table.reset_index()[["case_id", "source_id", "age_years", "sex", "grade"]]
    participants.insert(0, "participant_id", "sub-" + participants.pop("case_id"))
    key = Path(promoted.storage.root) / "raw" / "home" / "participants.tsv"
    known = pd.read_csv(key, sep="\t")
    assert len(known) == 160
    participants.to_csv(key, sep="\t", index=False)
    found = watch_for_reasons(folder=str(promoted.root))
    assert found.started
    assert "new labelled cases" in found.text
    watch_for_reasons(folder=str(promoted.root))
    started = [
        run
        for run in _runs(prefect_api, {"deployments": {"name": {"any_": ["gliaflow"]}}})
        if run["parameters"].get("folder") == str(promoted.root)  # type: ignore[attr-defined]
        and "new labelled cases" in str(run["parameters"].get("trigger"))  # type: ignore[attr-defined]
    ]
    assert len(started) == 1


def test_what_a_schedule_needs(prefect_api: str, hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="work-pool create nowhere"):
        create_deployments(hospital.root, WEEKLY, work_pool="nowhere")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(InvalidValue, match="PREFECT_API_URL"):
        create_deployments(hospital.root, WEEKLY, work_pool="idle")
