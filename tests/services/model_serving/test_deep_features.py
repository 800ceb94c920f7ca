"""A case's row of deep features: of regions, and of trained networks that never saw the patient."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.training.imaging import ImagingOutcome, ImagingTrainParameters, train_imaging
from services.model_serving.case_input import read_input
from services.model_serving.contracts import DeepParameters, DeepRequest
from services.model_serving.deep_features import extract_deep, statistics_key, unseen_network
from services.model_serving.networks.specification import PAPER_SPECS, ImagingSpec, build_network
from services.model_serving.service import ModelServing
from services.shared.cohort import CaseKeys, Region, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue, MissingSequence, NotFound
from services.shared.manifest import read_manifest
from services.shared.storage import Storage
from services.shared.trained_network import load_network
from services.shared.volume import read_volume, write_volume

MODEL = "models/imaging/grade"
SPEC = PAPER_SPECS["grade"].model_copy(update={"size": (32, 32, 32), "voxel_mm": 6.0, "width": 4})
ALONE = DeepParameters(sequences=(), networks=(MODEL,))


@pytest.fixture
def cases(write_imaging_case) -> list[CaseRef]:
    return [write_imaging_case(number, bright=100.0 * (number % 2)) for number in range(8)]


def train(storage: Storage, cases: list[CaseRef], *, folds: np.ndarray | None) -> None:
    train_imaging(
        storage,
        cases,
        ImagingOutcome(classes=np.arange(len(cases)) % 2),
        spec=SPEC,
        parameters=ImagingTrainParameters(epochs=1, batch=4, tuning_fraction=0.0),
        seed=1,
        model=MODEL,
        folds=folds,
    )


def row_of(storage: Storage, key: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(storage.read_bytes(key)))


def test_each_patients_features_come_from_a_network_that_never_saw_him(storage, cases):
    folds = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    train(storage, cases, folds=folds)
    for case, fold in zip(cases, folds, strict=True):
        found = extract_deep(storage, DeepRequest(case=case, parameters=ALONE))
        folder = found.networks[MODEL]
        assert folder == f"{MODEL}/folds/{fold}"
        assert str(case) not in read_manifest(storage, f"{folder}/manifest.json").parameters["cases"]
        row = row_of(storage, found.key)
        assert list(row.columns[:2]) == ["grade_WT_deep_1", "grade_WT_deep_2"]
        assert row.columns[-1] == "grade_WT_deep_logit"
        assert row.shape == (1, found.features) == (1, 8 * SPEC.width + 1)
    _, network = load_network(storage, folder, ImagingSpec, build_network)
    statistics = np.load(io.BytesIO(storage.read_bytes(statistics_key(folder))))
    with torch.inference_mode():
        inputs = torch.from_numpy(read_input(storage, case, SPEC).values)[None]
        wanted = (network.embed(inputs)[0].numpy() - statistics["mean"]) / statistics["scale"]
    assert row.to_numpy()[0, :-1] == pytest.approx(wanted, abs=1e-3)
    assert extract_deep(storage, DeepRequest(case=case, parameters=ALONE)).cached


SURVIVAL = PAPER_SPECS["diffusion_survival"].model_copy(update={"size": (32, 32), "width": 4})
BOTH = PAPER_SPECS["grade_survival"].model_copy(update={"size": (32, 32), "voxel_mm": 6.0, "width": 4})


@pytest.mark.parametrize(("spec", "answers"), [(SURVIVAL, ["risk"]), (BOTH, ["logit", "risk"])])
def test_what_a_network_says_of_an_unseen_patient_is_a_column(storage, cases, write_imaging_case, spec, answers):
    """The column says what the cross-validation wrote, and nothing of a patient without a tumour."""
    stranger = write_imaging_case(91, tumour=False)
    for case in (*cases, stranger):
        for name in spec.maps:
            image = read_volume(storage, CaseKeys(case).preprocessed_image("T2w"))
            write_volume(storage, CaseKeys(case).diffusion_map(name), image / 100.0)
    classes = np.arange(8) % 2 if spec.task == "both" else None
    train_imaging(
        storage,
        cases,
        ImagingOutcome(classes=classes, months=np.arange(1.0, 9.0), event=np.array([1, 1, 0, 1, 1, 1, 0, 1])),
        spec=spec,
        parameters=ImagingTrainParameters(epochs=2, batch=8, tuning_fraction=0.0),
        seed=1,
        model="models/imaging/told",
        folds=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    judged = pd.read_csv(io.StringIO(storage.read_text("models/imaging/told/cross_validation.csv")))
    parameters = DeepParameters(sequences=(), networks=("models/imaging/told",))
    rows = [
        row_of(storage, extract_deep(storage, DeepRequest(case=case, parameters=parameters)).key).iloc[0]
        for case in (*cases, stranger)
    ]
    named = [f"{spec.column_start}_deep_{answer}" for answer in answers]
    assert list(rows[0].index[-len(named) :]) == named
    assert rows[-1].isna().all()
    said = pd.DataFrame(rows[:-1])
    assert said[named[-1]].to_numpy() == pytest.approx(judged["risk_score"], abs=1e-5)
    assert said[named[-1]].nunique() == len(cases)
    if classes is not None:
        log_odds = np.log(judged["probability"] / (1 - judged["probability"]))
        assert said[named[0]].to_numpy() == pytest.approx(log_odds, abs=1e-5)


def test_the_final_network_speaks_for_strangers_alone(storage, cases, write_imaging_case):
    train(storage, cases, folds=None)
    stranger = write_imaging_case(90)
    assert unseen_network(storage, MODEL, stranger) == MODEL
    with pytest.raises(InvalidValue, match="has learnt from this patient"):
        extract_deep(storage, DeepRequest(case=cases[0], parameters=ALONE))
    storage.remove(f"{MODEL}/manifest.json")
    with pytest.raises(InvalidValue, match="nothing states"):
        unseen_network(storage, MODEL, stranger)
    with pytest.raises(InvalidValue, match="nothing states"):
        extract_deep(storage, DeepRequest(case=stranger, parameters=DeepParameters(networks=("models/none",))))


def test_folds_start_alike_and_end_apart(storage, cases):
    """Features of different folds compare only as far as the networks have axes in common."""
    train(storage, cases, folds=np.arange(8) // 2 % 2)
    first, second = (
        load_network(storage, f"{MODEL}/folds/{k}", ImagingSpec, build_network)[1].state_dict() for k in (0, 1)
    )
    weights = "trunk.body.layer4.1.conv2.weight"
    assert not torch.equal(first[weights], second[weights])
    assert np.corrcoef(first[weights].ravel(), second[weights].ravel())[0, 1] > 0.9


def test_features_of_regions_are_named_and_empty_where_a_region_is_not(storage, cases, write_imaging_case):
    sequences, regions = (Sequence.T1C, Sequence.FLAIR), (Region.ET, Region.TC)
    parameters = DeepParameters(sequences=sequences, regions=regions)
    found = ModelServing().deep_features(DeepRequest(case=cases[1], parameters=parameters))
    row = row_of(storage, found.key)
    assert row.shape == (1, 4000)
    assert row.columns[0] == "T1c_ET_deep_1"
    assert row.index.tolist() == ["p001"]
    assert row.notna().all().all()
    assert found.start == "random, seed 0"
    assert read_manifest(storage, CaseKeys(cases[1]).manifest("deep")).parameters["start"] == "random, seed 0"
    before = storage.sha256(found.key)
    again = ModelServing().deep_features(DeepRequest(case=cases[1], parameters=parameters))
    assert again.cached
    assert storage.sha256(found.key) == before
    empty = write_imaging_case(91, tumour=False)
    assert row_of(storage, extract_deep(storage, DeepRequest(case=empty, parameters=parameters)).key).isna().all().all()


def test_what_cannot_be_made_is_an_error(storage, cases):
    with pytest.raises(MissingSequence):
        extract_deep(storage, DeepRequest(case=CaseRef(cohort="demo", id="none")))
    with pytest.raises(NotFound):
        extract_deep(storage, DeepRequest(case=cases[0], parameters=DeepParameters(weights="weights/none.npz")))
