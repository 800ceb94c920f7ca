"""Imaging networks learn what tumours show, say nothing where they show nothing, and end alike however they ran."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.modelling.validation import rank_auc
from pipelines.studies.ferroptosis_imaging import cross_validate_classifier
from pipelines.training import imaging_fit
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.imaging import (
    PAPER_PARAMETERS,
    ImagingOutcome,
    ImagingTrainParameters,
    cross_validate_imaging,
    train_imaging,
)
from pipelines.training.imaging_predictors import ImagingSource, NetworkClassifier
from pipelines.training.objective import Objective
from services.model_serving.contracts import ImagingRequest
from services.model_serving.imaging import predict_case
from services.model_serving.networks.specification import PAPER_SPECS, ImagingSpec
from services.shared.cohort import Region, Sequence
from services.shared.errors import IdMismatch, InvalidValue, OneClass
from services.shared.trained_network import card_key, read_card

SPEC = PAPER_SPECS["slice_classifier"].model_copy(
    update={
        "source": "prepared",
        "sequences": (Sequence.T1C, Sequence.FLAIR),
        "region": Region.TC,
        "size": (32, 32),
        "width": 4,
        "absent": "refuse",
    }
)
FAST = ImagingTrainParameters(epochs=6, batch=6, learning_rate=1e-2, patience=6)
MODEL = "models/imaging/test"
Y = np.arange(18) % 2


@pytest.fixture
def cases(write_imaging_case):
    return [write_imaging_case(number, bright=250.0 * (number % 2)) for number in range(18)]


def train(storage, cases, *, classes=Y, spec=SPEC, parameters=FAST, seed=1, model=MODEL, **more):
    outcome = ImagingOutcome(classes=np.asarray(classes)[: len(cases)])
    return train_imaging(storage, cases, outcome, spec=spec, parameters=parameters, seed=seed, model=model, **more)


def test_the_papers_numbers():
    risk = PAPER_PARAMETERS["risk_group"]
    assert (risk.learning_rate, risk.batch, risk.epochs, risk.flips, risk.imbalance) == (1e-4, 8, 70, True, "none")
    assert {PAPER_PARAMETERS[name].epochs for name in ("grade", "grade_survival")} == {200}
    assert {PAPER_PARAMETERS[name].batch for name in ("grade", "grade_survival")} == {8}


def test_a_shown_class_is_found_in_patients_that_were_not_seen(storage, cases):
    seen = []
    folds = np.arange(18) // 2 % 3
    parameters = FAST.model_copy(update={"epochs": 10, "patience": 10})
    result = train(storage, cases, folds=folds, parameters=parameters, progress=lambda *a: seen.append(a))
    assert result.metrics["auc"] > 0.9
    assert result.metrics["patients"] == 18
    assert seen[-1][:2] == (3, 4)
    table = pd.read_csv(io.StringIO(storage.read_text(f"{MODEL}/cross_validation.csv")))
    assert table["case_id"].tolist() == [case.id for case in cases]
    assert table["fold"].tolist() == folds.tolist()
    assert table["outcome"].tolist() == Y.tolist()
    card = read_card(storage, f"{MODEL}/folds/0", ImagingSpec)
    assert card.training["cases"] == 12
    assert card.training["start"].startswith("random, seed")
    said = predict_case(storage, ImagingRequest(case=cases[1], model=f"{MODEL}/folds/0"))
    assert table.loc[1, "fold"] == 0
    assert said.probability == pytest.approx(table.loc[1, "probability"], abs=1e-4)


def test_same_seed_same_weights_and_nothing_to_do_twice(storage, cases):
    torch.manual_seed(5)
    first = train(storage, cases)
    torch.manual_seed(6)
    expected = torch.rand(1)
    torch.manual_seed(6)
    second = train(storage, cases, model="models/imaging/b")
    assert torch.equal(torch.rand(1), expected)
    other = train(storage, cases, seed=2, model="models/imaging/c")
    assert first.weights_sha256 == second.weights_sha256 != other.weights_sha256
    assert not first.cached
    assert train(storage, cases).cached
    assert not train(storage, cases[:-1]).cached
    assert not torch.are_deterministic_algorithms_enabled()
    assert [key for key in storage.files(MODEL) if "checkpoint" in key] == []


@pytest.mark.parametrize("flips", [True, False])
def test_a_killed_training_ends_in_the_same_weights(storage, cases, flips):
    parameters = FAST.model_copy(update={"flips": flips})
    whole = train(storage, cases, model="models/imaging/whole", parameters=parameters)

    class Killed(BaseException):
        pass

    def kill(done, total, text):
        if "epoch 3:" in text:
            raise Killed

    with pytest.raises(Killed):
        train(storage, cases, progress=kill, parameters=parameters)
    assert not storage.exists(card_key(MODEL))
    epochs = []
    resumed = train(storage, cases, progress=lambda *a: epochs.append(a), parameters=parameters)
    assert len(epochs) == 3
    assert resumed.weights_sha256 == whole.weights_sha256
    assert storage.read_text(f"{MODEL}/training.csv") == storage.read_text("models/imaging/whole/training.csv")


def test_a_checkpoint_of_another_training_or_with_code_is_not_read(storage):
    mine = Checkpoint(storage, "models/x", "a")
    mine.write({"epoch": 3, "weight": torch.ones(2)})
    state = mine.read(torch.device("cpu"))
    assert state["epoch"] == 3
    assert Checkpoint(storage, "models/x", "b").read(torch.device("cpu")) is None
    storage.write_bytes("models/x/checkpoint.pt", b"changed")
    assert mine.read(torch.device("cpu")) is None

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code of a pickle ran')",))

    mine.write({"evil": Evil()})
    with pytest.raises(Exception, match=r"[Ww]eights.only|unsupported"):
        mine.read(torch.device("cpu"))
    mine.remove()
    assert storage.files("models") == []


def test_training_stops_without_a_better_epoch_and_keeps_the_best(storage, cases):
    parameters = FAST.model_copy(update={"epochs": 30, "patience": 2})
    result = train(storage, cases, parameters=parameters, classes=np.random.default_rng(0).permutation(Y))
    table = pd.read_csv(io.StringIO(storage.read_text(f"{MODEL}/training.csv")))
    assert len(table) < 30
    assert result.best_epoch == table["epoch"][table["tuning_loss"].idxmin()] == len(table) - 2
    last = train(storage, cases, parameters=FAST.model_copy(update={"tuning_fraction": 0.0}), model="models/imaging/l")
    assert last.best_epoch == 6


RARE = (np.arange(18) % 6 == 0).astype(int)


def test_the_sampler_shows_a_rare_class_as_often_as_the_other(storage, cases, monkeypatch):
    shown = []
    read = imaging_fit.InputStore.read
    monkeypatch.setattr(imaging_fit.InputStore, "read", lambda store, given: shown.extend(given) or read(store, given))
    shares = {}
    for kind in ("none", "sampler"):
        parameters = FAST.model_copy(update={"tuning_fraction": 0.0, "imbalance": kind, "epochs": 10})
        train(storage, cases, classes=RARE, parameters=parameters, model=f"models/{kind}")
        learnt = shown[: 10 * len(cases)]
        shares[kind] = np.mean([RARE[cases.index(case)] for case in learnt])
        shown.clear()
    assert shares["none"] == pytest.approx(1 / 6)
    assert 0.4 < shares["sampler"] < 0.6


def test_adjusted_logits_ask_more_of_a_rare_class():
    outcome, everybody = ImagingOutcome(classes=RARE), np.arange(18)
    undecided = torch.zeros(1, 2)
    for kind, rare, common in (("none", 0.5, 0.5), ("logit_adjustment", 1 / 6, 5 / 6)):
        objective = Objective(outcome, everybody, FAST.model_copy(update={"imbalance": kind}))
        for row, chance in ((0, rare), (1, common)):
            assert float(objective.loss(undecided, np.array([row]))) == pytest.approx(-np.log(chance), rel=1e-5)


def survival_of(cases) -> tuple[np.ndarray, np.ndarray]:
    bright = np.arange(len(cases)) % 2
    rng = np.random.default_rng(0)
    return np.where(bright, 5.0, 40.0) * rng.uniform(0.5, 1.5, len(cases)), (np.arange(len(cases)) % 5 > 0).astype(int)


@pytest.mark.parametrize(
    ("architecture", "loss", "rate"),
    [("diffusion_survival", "cox", 1e-2), ("grade_survival", "cox", 3e-3), ("grade_survival", "mse", 3e-3)],
)
def test_a_shown_risk_is_found_in_patients_that_were_not_seen(storage, cases, architecture, loss, rate):
    months, event = survival_of(cases)
    grade = np.where(np.arange(18) % 7 == 0, -1, Y)
    both = architecture == "grade_survival"
    spec = PAPER_SPECS[architecture].model_copy(
        update={"sequences": SPEC.sequences, "maps": (), "size": (32, 32), "width": 4, "view": "sections"}
        | ({"view": "rectangle", "region": Region.TC, "voxel_mm": None} if both else {})
    )
    parameters = ImagingTrainParameters(epochs=15, batch=6, learning_rate=rate, survival_loss=loss, tuning_fraction=0.0)
    outcome = ImagingOutcome(classes=grade if both else None, months=months, event=event)
    result = train_imaging(
        storage, cases, outcome, spec=spec, parameters=parameters, seed=1, model=MODEL, folds=np.arange(18) // 2 % 3
    )
    said = pd.read_csv(io.StringIO(storage.read_text(f"{MODEL}/cross_validation.csv")))
    found = [rank_auc(Y[fold.index], fold["risk_score"].to_numpy()) for _, fold in said.groupby("fold")]
    assert np.mean(found) > 0.85
    assert result.metrics["c_index"] > 0.6  # 0.8 where both groups come apart: within one nothing tells who dies first
    assert result.metrics["deaths"] == event.sum()
    assert ("auc" in result.metrics) == both
    risks = [predict_case(storage, ImagingRequest(case=case, model=MODEL)).risk_score for case in cases]
    assert np.mean(risks) == pytest.approx(0.0, abs=1e-4)  # less the mean of those that it learnt from


def test_memory_that_runs_out_makes_batches_smaller_and_says_so(storage, cases, monkeypatch):
    real = imaging_fit._run_epoch

    def full(*arguments):
        if arguments[7] > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    monkeypatch.setattr(imaging_fit, "_run_epoch", full)
    result = train(storage, cases)
    assert result.notes == ("out of memory with 6 patients a batch: trained with 3",)
    small = train(storage, cases, parameters=FAST.model_copy(update={"batch": 3}), model="models/imaging/small")
    assert small.weights_sha256 == result.weights_sha256

    def never(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(imaging_fit, "_run_epoch", never)
    with pytest.raises(InvalidValue, match="two patients"):
        train(storage, cases, model="models/imaging/never")
    assert storage.files("models/imaging/never") == []


def test_recomputed_blocks_learn_the_same(storage, cases):
    plain = train(storage, cases)
    again = train(storage, cases, parameters=FAST.model_copy(update={"recompute": True}), model="models/imaging/r")
    a, b = (np.load(io.BytesIO(storage.read_bytes(f"{r.model}/weights.npz"))) for r in (plain, again))
    assert max(float(np.abs(a[name] - b[name]).max()) for name in a.files) < 1e-3


def test_a_given_start_is_where_training_starts_from(storage, cases):
    torch.manual_seed(0)
    from services.model_serving.networks.residual import ResidualTrunk

    trunk = ResidualTrunk(18, dimensions=2, channels=3, width=4)
    content = io.BytesIO()
    np.savez(content, **{name: value.numpy() for name, value in trunk.body.state_dict().items()})
    storage.write_bytes("weights/start.npz", content.getvalue())
    started = FAST.model_copy(update={"start": "weights/start.npz", "epochs": 1, "learning_rate": 1e-9})
    train(storage, cases, parameters=started)
    found = np.load(io.BytesIO(storage.read_bytes(f"{MODEL}/weights.npz")))
    assert found["trunk.body.layer1.0.conv1.weight"] == pytest.approx(
        trunk.body.layer1[0].conv1.weight.detach().numpy(), abs=1e-6
    )
    stated = read_card(storage, MODEL, ImagingSpec).training["start"]
    assert stated == f"imagenet {storage.sha256('weights/start.npz')}"


def test_live_figures_are_written_while_it_runs(storage, cases, tmp_path: Path):
    train(storage, cases, live=tmp_path / "live", parameters=FAST.model_copy(update={"epochs": 2}))
    figures = json.loads((tmp_path / "live" / "final" / "metrics.json").read_text())
    assert {"training_loss", "tuning_loss"} <= set(figures)


def test_folds_that_do_not_fit_and_losses_that_explode_are_errors(storage, cases):
    outcome = ImagingOutcome(classes=Y)
    more = {"spec": SPEC, "parameters": FAST, "seed": 1, "model": MODEL}
    for folds in (np.zeros(18, int), np.arange(17) % 3):
        with pytest.raises(IdMismatch, match="one fold"):
            cross_validate_imaging(storage, cases, outcome, folds, **more)
    with pytest.raises(OneClass):
        cross_validate_imaging(storage, cases, outcome, Y, **more)
    with pytest.raises(InvalidValue, match="lower learning rate"):
        train(storage, cases, parameters=FAST.model_copy(update={"learning_rate": 1e30}))
    assert not storage.exists(card_key(MODEL))


def test_a_network_takes_the_place_of_a_studys_classifier(storage, cases):
    parameters = FAST.model_copy(update={"epochs": 12, "patience": 12})
    source = ImagingSource(storage, "demo", SPEC, parameters, "models/imaging/frg")
    labels = pd.Series(np.where(Y, "high", "low"), index=[case.id for case in cases])
    found = cross_validate_classifier(NetworkClassifier(source), labels, folds=3, seed=0)
    assert found.metrics["auc"] > 0.8
    assert len(storage.folders("models/imaging/frg")) == 3
    with pytest.raises(InvalidValue, match="nothing to say"):
        NetworkClassifier(source).predict([cases[0].id])


SCRIPT = """
from pathlib import Path

import numpy as np
import torch
from pipelines.training.imaging import ImagingOutcome, ImagingTrainParameters, train_imaging
from services.model_serving.networks.specification import ImagingSpec
from services.shared.contracts import CaseRef
from services.shared.storage import open_storage

cases = [CaseRef(cohort="demo", id=f"p{i:03d}") for i in range(10)]
found = train_imaging(
    open_storage(), cases, ImagingOutcome(classes=np.arange(10) % 2),
    spec=ImagingSpec.model_validate_json(open("spec.json").read()),
    parameters=ImagingTrainParameters(epochs=2, batch=4, learning_rate=1e-3), seed=1, model="models/imaging/ddp",
)
rank = torch.distributed.get_rank()
Path(f"sha-{rank}").write_text(found.weights_sha256)
"""


@pytest.mark.slow
def test_two_processes_train_one_network(storage, cases, tmp_path: Path):
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    shas = [(tmp_path / f"sha-{rank}").read_text() for rank in (0, 1)]
    assert shas[0] == shas[1] == read_card(storage, "models/imaging/ddp", ImagingSpec).weights_sha256
