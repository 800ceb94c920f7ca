"""A cohort's tables and what Feast makes of them: registering, point-in-time joins, newest values."""

from __future__ import annotations

import concurrent.futures
import shutil
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from services.feature_store.contracts import (
    EntityRow,
    ExtractParameters,
    HistoricalRequest,
    OnlineRequest,
    RegisterRequest,
)
from services.feature_store.radiomics import extract_case, read_row
from services.feature_store.store import (
    historical_features,
    historical_frame,
    online_features,
    online_key,
    register_cohort,
    registry_key,
)
from services.shared.cohort import CaseKeys, Label, Sequence, participants_key
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidMask, InvalidTable, NotFound, Unavailable
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import write_volume

PARAMETERS = ExtractParameters(
    sequences=("T1c", "FLAIR"), regions=("TC", "ET"), feature_classes=("shape", "firstorder")
)
MEAN = "T1c_TC_original_firstorder_Mean"
ET_MEAN = "T1c_ET_original_firstorder_Mean"
DATES = {"P1": "2019-03-01", "P2": "2020-06-15", "P3": None, "P4": "2021-01-01"}


def clinical_rows(ids):
    return [
        {
            "participant_id": f"sub-{i}",
            "subset": "study",
            "scan_date": DATES.get(i, "2022-02-02"),
            "age_years": 40.0 + n if i != "P2" else None,
            "sex": "F" if n % 2 else "M",
            "grade": 3,
        }
        for n, i in enumerate(ids)
    ]


@pytest.fixture
def make_cohort(write_case, write_clinical, synthetic):
    """Write, and extract, a cohort; the enhancing tumour is absent from cases in ``without_et``."""

    def make(storage, ids, *, extracted=None, without_et=(), cohort="demo", parameters=PARAMETERS):
        for n, case_id in enumerate(ids):
            labels = synthetic.labels()
            if case_id in without_et:
                labels[labels == Label.ENHANCING] = Label.NECROTIC_CORE
            case = write_case(storage, case_id, cohort=cohort, labels=labels, seed=10 * n)
            if extracted is None or case_id in extracted:
                extract_case(storage, case, parameters)
        write_clinical(storage, clinical_rows(ids), cohort=cohort)

    return make


@pytest.fixture(scope="module")
def registered(tmp_path_factory, write_case, write_clinical, synthetic):
    """Four cases, P4 without features; P3 has no scan date and no enhancing tumour."""
    storage = Storage(tmp_path_factory.mktemp("registered"))
    for n, case_id in enumerate(DATES):
        labels = synthetic.labels()
        if case_id == "P3":
            labels[labels == Label.ENHANCING] = Label.NECROTIC_CORE
        case = write_case(storage, case_id, labels=labels, seed=10 * n)
        if case_id != "P4":
            extract_case(storage, case, PARAMETERS)
    write_clinical(storage, clinical_rows(DATES))
    return storage, register_cohort(storage, RegisterRequest(cohort="demo"))


def row_of(storage, case_id):
    return read_row(storage, CaseKeys(CaseRef(cohort="demo", id=case_id)).features).values


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ask(storage, rows, *names, cohort="demo"):
    entities = [EntityRow(case_id=i, event_timestamp=moment(t)) for i, t in rows]
    answer = historical_features(storage, HistoricalRequest(cohort=cohort, rows=entities, names=names))
    return [row.features for row in answer.rows]


def newest(storage, ids, *names, cohort="demo"):
    answer = online_features(storage, OnlineRequest(cohort=cohort, case_ids=ids, names=names))
    return [row.features for row in answer.rows]


def test_result_names_tables_views_services_and_cases_without_features(registered):
    _, result = registered
    assert result.table == "features/demo/radiomics.parquet"
    assert result.clinical == "features/demo/clinical.parquet"
    assert result.rows == 3
    assert result.features == 2 * 2 * 18 + 2 * 14
    assert result.views == ("FLAIR_ET", "FLAIR_TC", "T1c_ET", "T1c_TC", "mask_ET", "mask_TC", "clinical")
    assert result.services == (
        "radiomics",
        "radiomics_grading",
        "radiomics_grading_survival",
        "radiomics_atrx",
        "radiomics_ferroptosis_imaging",
    )
    assert result.cases_without_features == ("P4",)
    assert not result.cached


def test_tables_are_sorted_and_stamped(registered):
    storage, result = registered
    with storage.local(result.table) as path:
        table = pq.read_table(path).to_pandas()
    assert list(table.columns[:2]) == ["case_id", "event_timestamp"]
    assert list(table.columns[2:]) == sorted(table.columns[2:])
    assert list(table["case_id"]) == ["P1", "P2", "P3"]
    assert [str(t) for t in table["event_timestamp"]] == [
        "2019-03-01 00:00:00+00:00",
        "2020-06-15 00:00:00+00:00",
        "2000-01-01 00:00:00+00:00",
    ]
    for case_id, row in table.set_index("case_id").drop(columns="event_timestamp").iterrows():
        assert row.to_dict() == pytest.approx(row_of(storage, case_id), nan_ok=True, rel=0, abs=0)
    with storage.local(result.clinical) as path:
        clinical = pq.read_table(path).to_pandas().set_index("case_id")
    assert list(clinical.index) == ["P1", "P2", "P3", "P4"]
    assert list(clinical["has_radiomics"]) == [1, 1, 1, 0]
    assert list(clinical.columns) == ["event_timestamp", "has_radiomics", "age_years", "grade", "sex"]


def test_point_in_time_join_hides_the_future_and_keeps_every_row_in_order(registered):
    storage, _ = registered
    rows = [
        ("P2", "2020-06-14"),
        ("P1", "2030-01-01"),
        ("P2", "2020-06-15"),
        ("P1", "2019-02-28"),
        ("P1", "2030-01-01"),
    ]
    answer = ask(storage, rows, MEAN, "sex")
    p1, p2 = row_of(storage, "P1")[MEAN], row_of(storage, "P2")[MEAN]
    assert answer == [
        {MEAN: None, "sex": None},
        {MEAN: p1, "sex": "M"},
        {MEAN: p2, "sex": "F"},
        {MEAN: None, "sex": None},
        {MEAN: p1, "sex": "M"},
    ]


def test_rows_that_all_lie_before_the_scan_are_kept(registered):
    storage, _ = registered
    assert ask(storage, [("P1", "2001-01-01"), ("P2", "2001-01-01")], MEAN) == [{MEAN: None}, {MEAN: None}]


def test_a_view_without_past_does_not_hide_what_another_knows(storage, make_cohort):
    make_cohort(storage, ["P1", "P2"])
    result = register_cohort(storage, RegisterRequest(cohort="demo"))
    with storage.local(result.clinical) as path:
        table = pq.read_table(path)
    late = table.to_pandas().assign(event_timestamp=pd.Timestamp("2025-01-01", tz="UTC"))
    with storage.publish(result.clinical) as path:
        late.to_parquet(path, index=False)
    (answer,) = ask(storage, [("P1", "2024-01-01")], "sex", MEAN)
    assert answer == {MEAN: row_of(storage, "P1")[MEAN], "sex": None}


def test_newest_values_equal_the_offline_table(registered):
    storage, _ = registered
    ids = ["P3", "P1", "P2"]
    online = newest(storage, ids, "radiomics", "clinical")
    offline = ask(storage, [(i, "2030-01-01") for i in ids], "radiomics", "clinical")
    assert online == offline
    assert len(online[0]) == 2 * 2 * 18 + 2 * 14 + 4
    assert online[1][MEAN] == row_of(storage, "P1")[MEAN]
    assert online[0][ET_MEAN] is None
    assert online[2]["age_years"] is None


def test_case_without_features_is_known_and_its_features_are_missing(registered):
    storage, _ = registered
    assert newest(storage, ["P4"], MEAN, "sex", "has_radiomics") == [{MEAN: None, "sex": "F", "has_radiomics": 0.0}]
    assert ask(storage, [("P4", "2030-01-01")], MEAN, "sex") == [{MEAN: None, "sex": "F"}]


def test_names_may_be_views_and_services(registered):
    storage, _ = registered
    (view,) = newest(storage, ["P1"], "T1c_TC")
    assert len(view) == 18
    assert set(view) == {n for n in row_of(storage, "P1") if n.startswith("T1c_TC_")}
    (grading,) = newest(storage, ["P1"], "radiomics_grading")
    assert {name[:7] for name in grading} == {"T1c_TC_", "mask_TC"}
    (atrx,) = newest(storage, ["P1"], "radiomics_atrx")
    assert {"_".join(name.split("_")[:2]) for name in atrx} == {"T1c_ET", "FLAIR_ET", "mask_ET"}


def test_unknown_name_lists_what_is_near(registered):
    storage, _ = registered
    with pytest.raises(NotFound) as caught:
        newest(storage, ["P1"], "T1c_TC_original_firstorder_Maen")
    assert MEAN in caught.value.expected
    with pytest.raises(NotFound, match="T1c_TC"):
        ask(storage, [("P1", "2030-01-01")], "zzz")


def test_unknown_case_is_named(registered):
    storage, _ = registered
    with pytest.raises(NotFound, match="nobody"):
        newest(storage, ["P1", "nobody"], MEAN)
    with pytest.raises(NotFound, match="nobody"):
        ask(storage, [("nobody", "2030-01-01")], MEAN)


def test_cohort_that_is_not_registered(registered):
    storage, _ = registered
    with pytest.raises(NotFound, match="not registered"):
        newest(storage, ["P1"], MEAN, cohort="other")


def test_registering_again_changes_nothing_and_a_new_case_adds(storage, make_cohort, write_case, write_clinical):
    make_cohort(storage, ["P1", "P2"])
    first = register_cohort(storage, RegisterRequest(cohort="demo"))
    before = {key: storage.sha256(key) for key in storage.files("features/demo")}
    second = register_cohort(storage, RegisterRequest(cohort="demo"))
    assert second.cached
    assert {key: storage.sha256(key) for key in storage.files("features/demo")} == before
    assert second.views == first.views

    extract_case(storage, write_case(storage, "P3", seed=99), PARAMETERS)
    write_clinical(storage, clinical_rows(["P1", "P2", "P3"]))
    third = register_cohort(storage, RegisterRequest(cohort="demo"))
    assert (third.cached, third.rows) == (False, 3)
    assert newest(storage, ["P3"], MEAN) == [{MEAN: row_of(storage, "P3")[MEAN]}]

    fewer = register_cohort(storage, RegisterRequest(cohort="demo", cases=[CaseRef(cohort="demo", id="P2")]))
    assert fewer.rows == 1
    with pytest.raises(NotFound, match="P1"):
        newest(storage, ["P1"], MEAN)


def test_views_that_new_parameters_no_longer_give_are_gone(storage, make_cohort):
    make_cohort(storage, ["P1"])
    register_cohort(storage, RegisterRequest(cohort="demo"))
    assert newest(storage, ["P1"], "FLAIR_TC")
    fewer = PARAMETERS.model_copy(update={"sequences": (Sequence.T1C,)})
    extract_case(storage, CaseRef(cohort="demo", id="P1"), fewer)
    result = register_cohort(storage, RegisterRequest(cohort="demo"))
    assert result.views == ("T1c_ET", "T1c_TC", "mask_ET", "mask_TC", "clinical")
    assert len(storage.files("features/demo/views")) == 4
    with pytest.raises(NotFound, match="FLAIR_TC"):
        newest(storage, ["P1"], "FLAIR_TC")


def test_region_absent_from_every_case_is_missing(storage, make_cohort):
    make_cohort(storage, ["P1", "P2"], without_et=["P1", "P2"], cohort="low-grade")
    register_cohort(storage, RegisterRequest(cohort="low-grade"))
    assert newest(storage, ["P1"], ET_MEAN, cohort="low-grade") == [{ET_MEAN: None}]
    assert ask(storage, [("P1", "2030-01-01")], ET_MEAN, cohort="low-grade") == [{ET_MEAN: None}]


def test_cases_of_different_parameters_are_not_mixed(storage, make_cohort):
    make_cohort(storage, ["P1", "P2"])
    extract_case(storage, CaseRef(cohort="demo", id="P2"), PARAMETERS.model_copy(update={"bin_count": 16}))
    with pytest.raises(InvalidTable, match="different parameters"):
        register_cohort(storage, RegisterRequest(cohort="demo"))
    assert not storage.exists(registry_key("demo"))


def test_row_of_a_case_that_failed_since_is_not_registered(storage, make_cohort, synthetic):
    make_cohort(storage, ["P1", "P2"])
    case = CaseRef(cohort="demo", id="P2")
    write_volume(storage, CaseKeys(case).segmentation, synthetic.image(np.zeros((24, 24, 24), np.uint8)))
    with pytest.raises(InvalidMask):
        extract_case(storage, case, PARAMETERS)
    assert register_cohort(storage, RegisterRequest(cohort="demo")).cases_without_features == ("P2",)


def test_cohort_without_any_features(storage, make_cohort):
    make_cohort(storage, ["P1"], extracted=[])
    with pytest.raises(NotFound, match="gliaflow extract"):
        register_cohort(storage, RegisterRequest(cohort="demo"))
    assert not storage.exists("features/demo")


def test_case_outside_the_cohort(storage, make_cohort):
    make_cohort(storage, ["P1"])
    with pytest.raises(NotFound, match="demo/sub-P9"):
        register_cohort(storage, RegisterRequest(cohort="demo", cases=[CaseRef(cohort="demo", id="P9")]))


def test_unreadable_scan_date_names_the_case_but_not_the_date(storage, make_cohort):
    make_cohort(storage, ["P1"])
    key = participants_key("demo")
    storage.write_text(key, storage.read_text(key).replace("2019-03-01", "1.3.2019"))
    with pytest.raises(InvalidTable, match="sub-P1") as caught:
        register_cohort(storage, RegisterRequest(cohort="demo"))
    assert "1.3.2019" not in str(caught.value)


def test_clinical_column_with_a_reserved_name(storage, make_cohort, write_clinical):
    make_cohort(storage, ["P1"])
    write_clinical(storage, [{**row, "case_id": "x"} for row in clinical_rows(["P1"])])
    with pytest.raises(InvalidTable, match="rename"):
        register_cohort(storage, RegisterRequest(cohort="demo"))


def test_readers_are_served_while_the_cohort_is_registered_again(storage, make_cohort, write_clinical):
    make_cohort(storage, ["P1", "P2"])
    register_cohort(storage, RegisterRequest(cohort="demo"))
    expected = row_of(storage, "P1")[MEAN]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(newest, storage, ["P1"], MEAN) for _ in range(30)]
        for age in (50.0, 51.0):
            write_clinical(storage, [{**row, "age_years": age} for row in clinical_rows(["P1", "P2"])])
            register_cohort(storage, RegisterRequest(cohort="demo"))
        assert [reader.result() for reader in readers] == [[{MEAN: expected}]] * 30
    assert newest(storage, ["P1"], "age_years") == [{"age_years": 51.0}]


def test_registry_in_a_database_by_settings(storage, make_cohort, monkeypatch, tmp_path):
    monkeypatch.setenv("GLIAFLOW_FEATURE_REGISTRY_URL", f"sqlite:///{tmp_path / 'registry.sqlite'}")
    settings.cache_clear()
    make_cohort(storage, ["P1"])
    register_cohort(storage, RegisterRequest(cohort="demo"))
    assert not storage.exists(registry_key("demo"))
    assert storage.exists(online_key("demo"))
    assert newest(storage, ["P1"], MEAN) == [{MEAN: row_of(storage, "P1")[MEAN]}]
    assert not register_cohort(storage, RegisterRequest(cohort="demo")).cached


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("GLIAFLOW_FEATURE_ONLINE_URL", "redis://127.0.0.1:1"),
        ("GLIAFLOW_FEATURE_REGISTRY_URL", "postgresql+psycopg://gliaflow:secret@127.0.0.1:1/features"),
    ],
)
def test_a_database_that_does_not_answer_is_named(storage, make_cohort, monkeypatch, setting, place):
    make_cohort(storage, ["P1"])
    monkeypatch.setenv(setting, place)
    settings.cache_clear()
    with pytest.raises(Unavailable) as failed:
        register_cohort(storage, RegisterRequest(cohort="demo"))
    assert failed.value.field == setting
    assert "127.0.0.1" in failed.value.got
    assert "secret" not in str(failed.value)


def test_registry_that_moves_with_its_tables_reads_them(registered, tmp_path):
    storage, _ = registered
    moved = Storage(tmp_path / "moved")
    shutil.copytree(storage.url("features/demo"), moved.url("features/demo"))
    for key in moved.files("features/demo/views"):
        table = pd.read_parquet(moved.url(key))
        if MEAN in table:
            table.assign(**{MEAN: 1.5}).to_parquet(moved.url(key), index=False)
    assert ask(moved, [("P1", "2030-01-01")], MEAN) == [{MEAN: 1.5}]
    assert ask(storage, [("P1", "2030-01-01")], MEAN) != [{MEAN: 1.5}]


def test_frame_for_training_keeps_the_rows_asked_for(registered):
    storage, _ = registered
    rows = pd.DataFrame({"case_id": ["P2", "P1"], "event_timestamp": pd.to_datetime(["2030-01-01"] * 2, utc=True)})
    rows.index = [7, 3]
    frame = historical_frame(storage, "demo", rows, ["T1c_TC", "grade"])
    assert list(frame["case_id"]) == ["P2", "P1"]
    assert list(frame[MEAN]) == [row_of(storage, i)[MEAN] for i in ("P2", "P1")]
    assert list(frame["grade"]) == [3.0, 3.0]


def test_endpoints_serve_the_whole_way(storage, make_cohort):
    from services.feature_store.contracts import ExtractRequest
    from services.feature_store.service import FeatureStore

    make_cohort(storage, ["P1"], extracted=[])
    service = FeatureStore()
    result = service.extract(ExtractRequest(case=CaseRef(cohort="demo", id="P1"), parameters=PARAMETERS))
    assert result.features == 100
    assert service.register(RegisterRequest(cohort="demo")).rows == 1
    value = {MEAN: row_of(storage, "P1")[MEAN]}
    (row,) = service.online_features(OnlineRequest(cohort="demo", case_ids=["P1"], names=[MEAN])).rows
    assert row.features == value
    asked = EntityRow(case_id="P1", event_timestamp=moment("2030-01-01"))
    (row,) = service.historical_features(HistoricalRequest(cohort="demo", rows=[asked], names=[MEAN])).rows
    assert row.features == value
    assert row.event_timestamp == asked.event_timestamp
