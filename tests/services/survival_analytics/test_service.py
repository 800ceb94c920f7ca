from __future__ import annotations

import json
import typing
from functools import cache

import numpy as np
import pandas as pd
import pytest

from services.shared.contracts import Contract
from services.shared.errors import GliaflowError, InvalidTable, InvalidValue, OneClass, TooFewCases
from services.shared.storage import Storage
from services.survival_analytics import contracts
from services.survival_analytics.contracts import AnalysisResult
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.roc import auc
from services.survival_analytics.service import SurvivalAnalytics


@cache
def endpoints() -> dict[str, type[Contract]]:
    found = {}
    for name in dir(SurvivalAnalytics.inner):
        method = getattr(SurvivalAnalytics.inner, name)
        if hasattr(method, "func") and not name.startswith("_"):
            hints = typing.get_type_hints(method.func.__wrapped__, vars(contracts))
            found[name] = hints["request"]
    return found


def test_there_are_endpoints_for_every_module() -> None:
    assert len(endpoints()) == 21


@pytest.mark.parametrize("name", sorted(endpoints()))
@pytest.mark.parametrize("picture", [False, True])
def test_example_of_each_endpoint_works(storage: Storage, name: str, picture: bool) -> None:
    request = endpoints()[name]
    example = request.model_json_schema()["example"]
    result = getattr(SurvivalAnalytics(), name)(request.model_validate({**example, "picture": picture}))
    assert isinstance(result, AnalysisResult)
    assert result.figures or result.tables
    text = result.model_dump_json()
    assert "NaN" not in text
    assert AnalysisResult.model_validate_json(text) == result
    if result.svg is not None:
        assert result.svg.lstrip().startswith("<?xml")


def columns(frame: pd.DataFrame) -> dict:
    return {"columns": {name: frame[name].tolist() for name in frame}}


def test_numbers_are_those_of_the_functions(storage: Storage, patients: pd.DataFrame) -> None:
    service = SurvivalAnalytics()
    request = contracts.FitCoxRequest.model_validate(
        {
            "data": columns(patients),
            "time": "months",
            "event": "died",
            "covariates": ["age", "signature"],
            "transform": "km",
            "times": [12, 24],
            "bootstrap": 20,
        }
    )
    result = service.fit_cox(request)
    model = fit_cox(patients, "months", event="died", covariates=["age", "signature"])
    assert result.table("coefficients")["coefficient"].to_numpy() == pytest.approx(model.coefficients)
    assert result.figure("aic") == pytest.approx(model.aic)
    assert len(result.table("predicted_survival")) == 2 * len(patients)
    assert result.table("proportional_hazards")["row"].tolist() == ["age", "signature", "GLOBAL"]
    binary = contracts.RocRequest.model_validate(
        {"data": columns(patients), "outcome": "died", "scores": ["signature", "age"], "threshold": 0.0}
    )
    found = service.compare_roc(binary)
    assert found.table("auc")["estimate"][0] == pytest.approx(auc(patients["died"], patients["signature"]).estimate)
    assert set(found.table("p_values").columns) == {"first", "signature", "age"}


def test_groups_strata_and_restricted_means(storage: Storage, patients: pd.DataFrame) -> None:
    request = contracts.EstimateSurvivalRequest.model_validate(
        {
            "data": columns(patients),
            "time": "months",
            "event": "died",
            "group": "grade",
            "strata": "idh_mutant",
            "horizon": 36,
            "picture": True,
        }
    )
    result = SurvivalAnalytics().estimate_survival(request)
    assert result.table("restricted_mean")["group"].tolist() == ["2", "3", "4"]
    assert len(result.table("pairs")) == 3
    assert result.figure("p_value") < 0.05


@pytest.mark.parametrize("method", ["maximally-selected-rank", "minimum-p", "two-cuts", "median"])
def test_cut_points(storage: Storage, patients: pd.DataFrame, method: str) -> None:
    request = contracts.FindCutpointRequest.model_validate(
        {"data": columns(patients), "time": "months", "event": "died", "score": "signature", "method": method}
    )
    names = {figure.name for figure in SurvivalAnalytics().find_cutpoint(request).figures}
    assert names >= ({"lower", "upper"} if method == "two-cuts" else {"cut"})


@pytest.mark.parametrize("test", ["welch", "student", "mann-whitney", "levene-median", "kruskal-wallis"])
def test_group_tests(storage: Storage, patients: pd.DataFrame, test: str) -> None:
    frame = patients.assign(flat=1.0)
    request = contracts.CompareGroupsRequest.model_validate(
        {"data": columns(frame), "group": "died", "columns": ["age", "signature", "flat"], "test": test}
    )
    result = SurvivalAnalytics().compare_groups(request)
    table = result.table("tests")
    assert table["p_value"].isna().tolist() == [False, False, True]
    assert (table["adjusted"][:2] >= table["p_value"][:2]).all()
    assert [notice.name for notice in result.notices] == ["not_tested"]


def test_stepwise_and_logistic_nomogram(storage: Storage, patients: pd.DataFrame) -> None:
    service = SurvivalAnalytics()
    data = columns(patients)
    fitted = service.fit_logistic(
        contracts.FitLogisticRequest.model_validate(
            {
                "data": data,
                "outcome": "died",
                "covariates": ["age", "signature", "total_resection"],
                "selection": "backward",
                "criterion": "bic",
                "profile": True,
            }
        )
    )
    assert fitted.table("steps")["step"][0] == ""
    page = service.build_nomogram(
        contracts.NomogramRequest.model_validate({"data": data, "outcome": "died", "covariates": ["age", "signature"]})
    )
    assert json.loads(str(page.document))["family"] == "logistic"


def survival_request(frame: pd.DataFrame, **change: object) -> contracts.FitCoxRequest:
    fields = {"data": columns(frame), "time": "months", "event": "died", "covariates": ["age"], **change}
    return contracts.FitCoxRequest.model_validate(fields)


@pytest.mark.parametrize(
    ("change", "fields", "error", "field"),
    [
        ({"months": -1.0}, {}, InvalidValue, "time"),
        ({"months": None}, {}, InvalidValue, "time"),
        ({"died": 2}, {}, InvalidValue, "event"),
        ({"died": 0}, {}, TooFewCases, "event"),
        ({"age": 50.0}, {}, InvalidTable, "age"),
        ({"age": "old"}, {}, InvalidValue, "age"),
        ({}, {"covariates": ["nothing"]}, InvalidTable, "nothing"),
        ({}, {"time": "weeks"}, InvalidTable, "weeks"),
    ],
)
def test_bad_input_is_a_problem_document(
    storage: Storage, patients: pd.DataFrame, change: dict, fields: dict, error: type[GliaflowError], field: str
) -> None:
    request = survival_request(patients.head(30).assign(**change), **fields)
    with pytest.raises(error) as caught:
        SurvivalAnalytics().fit_cox(request)
    problem = caught.value.to_problem()
    assert 400 <= problem["status"] < 500
    assert problem["field"] == field


def test_one_class_is_a_problem_document(storage: Storage) -> None:
    request = contracts.RocRequest.model_validate(
        {"data": {"columns": {"y": [1, 1, 1], "s": [1, 2, 3]}}, "outcome": "y", "scores": ["s"]}
    )
    with pytest.raises(OneClass):
        SurvivalAnalytics().compare_roc(request)


def test_warnings_travel_with_the_result(storage: Storage, patients: pd.DataFrame) -> None:
    result = SurvivalAnalytics().fit_cox(survival_request(patients.assign(age=patients["died"])))
    assert [notice.name for notice in result.notices] == ["monotone_likelihood"]
    assert np.isfinite(result.figure("log_likelihood"))
