from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.model_serving.contracts import (
    DescribeModelRequest,
    ListModelsRequest,
    PredictRequest,
    RegisterRequest,
)
from services.model_serving.service import ModelServing
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound


@pytest.fixture
def serving(storage, reference):
    reference.write(storage, "studies/c/grading/model")
    return ModelServing()


def test_register_list_describe_predict(serving, reference):
    registered = serving.register(RegisterRequest(folder="studies/c/grading/model"))
    assert registered.champion
    assert not registered.cached
    (listed,) = serving.list_models(ListModelsRequest()).models
    assert (listed.version, listed.champion, listed.auc.value) == (registered.version, True, 0.8)
    described = serving.describe_model(DescribeModelRequest(model="grading"))
    assert described.description.columns == reference.model.columns
    assert described.sha256 == registered.sha256
    found = serving.predict(
        PredictRequest(model="grading", features=reference.row(), case=CaseRef(cohort="c", id="001"))
    )
    assert (found.version, found.case) == (registered.version, "c/sub-001")


def test_a_later_version_becomes_champion_only_when_asked(serving, machine, storage):
    first = serving.register(RegisterRequest(folder="studies/c/grading/model", model="m"))
    machine.write(storage, "studies/d/grading/model")
    storage.write_bytes(
        "studies/d/grading/model/package.json",
        storage.read_bytes("studies/d/grading/model/package.json").replace(b'"Tests"', b'"More tests"'),
    )
    second = serving.register(RegisterRequest(folder="studies/d/grading/model", model="m"))
    assert not second.champion
    assert serving.describe_model(DescribeModelRequest(model="m")).version == first.version
    assert serving.register(RegisterRequest(folder="studies/d/grading/model", model="m", champion=True)).champion
    assert serving.describe_model(DescribeModelRequest(model="m")).version == second.version


def test_an_unknown_model_is_not_found(serving):
    with pytest.raises(NotFound):
        serving.predict(PredictRequest(model="nothing", features={}))


@pytest.mark.parametrize("value", ["1.5", float("inf"), float("nan"), True, [1.0]])
def test_a_feature_is_a_finite_number_or_none(value):
    with pytest.raises(ValidationError):
        PredictRequest(model="grading", features={"a": value})


@pytest.mark.parametrize("name", ["../x", "grading/../x", "grading/v1", "", "a/b/c"])
def test_a_model_reference_cannot_leave_the_registry(name):
    with pytest.raises(ValidationError):
        DescribeModelRequest(model=name)


def test_a_signature_is_listed_with_its_c_index_and_answers_with_a_risk_score(storage, cox, cox_card):
    cox.write(storage, "studies/c/ferroptosis/model", cox_card)
    serving = ModelServing()
    serving.register(RegisterRequest(folder="studies/c/ferroptosis/model"))
    (listed,) = serving.list_models(ListModelsRequest()).models
    assert (listed.kind, listed.auc, listed.c_index.value) == ("cox", None, 0.7)
    found = serving.predict(PredictRequest(model="ferroptosis", features=cox.row()))
    assert found.probability is None
    assert found.risk_score is not None
