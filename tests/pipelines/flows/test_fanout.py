"""The fan-out over a real service: segmentation by expert masks on small prepared volumes."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from pipelines.flows import fanout
from pipelines.flows.segment import segment_cohort
from pipelines.ledger import read_quarantine, update_quarantine, usable_cases
from services.segmentation.contracts import SegmentParameters
from services.shared.cohort import SEQUENCES, CaseKeys, Region, read_cohort, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import MissingSequence
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import write_volume

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]
EXPERT = SegmentParameters(source="expert")


def write_case(storage: Storage, label: str, *, labels: tuple[int, ...] = (1, 2, 4)) -> CaseRef:
    keys = CaseKeys(CaseRef(cohort="c", id=label))
    values = np.zeros((12, 12, 12), np.float32)
    for sequence in SEQUENCES:
        write_volume(storage, keys.preprocessed_image(sequence), sitk.GetImageFromArray(values + 1))
        storage.write_text(keys.raw_image(sequence), "")
    mask = np.zeros(values.shape, np.uint8)
    for index, value in enumerate(labels):
        mask[2:8, 2:8, 2 * index + 2 : 2 * index + 4] = value
    write_volume(storage, keys.brain_mask, sitk.GetImageFromArray(np.ones(values.shape, np.uint8)))
    write_volume(storage, keys.preprocessed_segmentation, sitk.GetImageFromArray(mask))
    return keys.case


@pytest.fixture
def cohort(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> list[CaseRef]:
    monkeypatch.setenv("GLIAFLOW_RUNNER", "thread")
    cases = [write_case(storage, "a"), write_case(storage, "b", labels=(9,)), write_case(storage, "c")]
    frame = pd.DataFrame({"participant_id": [f"sub-{case.id}" for case in cases], "subset": "study"})
    write_participants(storage, "c", frame)
    return cases


def test_bad_case_is_quarantined_and_the_others_go_on(storage: Storage, cohort: list[CaseRef]) -> None:
    seen: list[tuple[int, int, str]] = []
    outcomes = segment_cohort("c", EXPERT, progress=lambda *now: seen.append(now))
    assert [outcome.case for outcome in outcomes] == cohort
    assert [outcome.problem is None for outcome in outcomes] == [True, False, True]
    problem = outcomes[1].problem
    assert problem is not None
    assert problem["type"] == "urn:gliaflow:InvalidMask"
    assert (problem["case"], problem["step"]) == ("c/sub-b", "segment")
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert set(read_quarantine(storage, "c", "segment")) == {"b"}
    later = usable_cases(storage, read_cohort(storage, "c"), steps=("prepare", "segment"))
    assert [case.id for case in later] == ["a", "c"]
    assert not storage.exists(CaseKeys(cohort[1]).segmentation)


def test_second_run_computes_nothing_and_a_new_case_itself_alone(storage: Storage, cohort: list[CaseRef]) -> None:
    first = segment_cohort("c", EXPERT, only=["a", "c"])
    assert [outcome.cached for outcome in first] == [False, False]
    write_case(storage, "d")
    frame = pd.DataFrame({"participant_id": ["sub-a", "sub-b", "sub-c", "sub-d"], "subset": "study"})
    write_participants(storage, "c", frame)
    again = segment_cohort("c", EXPERT, only=["a", "c", "d"])
    assert [outcome.cached for outcome in again] == [True, True, False]
    assert again[2].result is not None
    assert set(again[2].result["volumes_ml"]) == {region.value for region in Region}


def test_mended_case_leaves_the_quarantine(storage: Storage, cohort: list[CaseRef]) -> None:
    segment_cohort("c", EXPERT)
    write_case(storage, "b")
    segment_cohort("c", EXPERT, only=["b"])
    assert read_quarantine(storage, "c", "segment") == {}


def test_case_quarantined_earlier_is_left_out(storage: Storage, cohort: list[CaseRef]) -> None:
    update_quarantine(storage, "prepare", {cohort[0]: MissingSequence("lacks one").to_problem()})
    assert [outcome.case.id for outcome in segment_cohort("c", EXPERT)] == ["b", "c"]


def test_killed_worker_costs_no_case(storage: Storage, cohort: list[CaseRef], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_RUNNER", "process")
    monkeypatch.setenv("GLIAFLOW_WORKERS", "1")
    settings.cache_clear()
    pool = fanout._pool(settings().storage_root, 1)
    os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
    outcomes = segment_cohort("c", EXPERT, only=["a", "c"])
    assert [outcome.problem for outcome in outcomes] == [None, None]
    fanout._pool.cache_clear()
