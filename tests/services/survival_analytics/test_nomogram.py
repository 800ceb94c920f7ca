from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from services.shared.errors import InvalidTable
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.logistic import fit_logistic
from services.survival_analytics.nomogram import build_nomogram

COVARIATES = ["age", "grade", "signature"]


def test_points_reproduce_the_model(patients: pd.DataFrame) -> None:
    model = fit_cox(patients, "months", event="died", covariates=COVARIATES)
    nomogram = build_nomogram(model, [12, 36], frame=patients)
    predicted = nomogram.predict(patients)
    survival = model.predict_survival(patients, [12, 36]).survival
    assert predicted.probability == pytest.approx(survival, rel=1e-9)
    assert nomogram.probability_at(predicted.total_points) == pytest.approx(survival, rel=1e-9)


def test_points_of_the_parts_add_up_to_the_total(patients: pd.DataFrame) -> None:
    model = fit_logistic(patients, "died", covariates=COVARIATES)
    nomogram = build_nomogram(model, frame=patients)
    page = json.loads(nomogram.to_json())
    total = sum(
        part["points_at_zero"] + part["points_per_value"] * patients[part["name"]].to_numpy()
        for part in page["covariates"]
    )
    assert total == pytest.approx(nomogram.predict(patients).total_points, abs=1e-9)
    lp = page["intercept"] + total / page["points_per_unit"]
    assert 1 / (1 + np.exp(-lp)) == pytest.approx(model.predict_risk(patients), rel=1e-9)


def test_widest_axis_has_a_hundred_points(patients: pd.DataFrame) -> None:
    model = fit_cox(patients, "months", event="died", covariates=COVARIATES)
    nomogram = build_nomogram(model, [24], frame=patients)
    assert max(axis.points.max() for axis in nomogram.axes) == pytest.approx(100)
    assert all(axis.points.min() == 0 for axis in nomogram.axes)
    assert nomogram.axes[1].levels.tolist() == [2, 3, 4]


def test_bad_input(patients: pd.DataFrame) -> None:
    cox = fit_cox(patients, "months", event="died", covariates=["age"])
    logistic = fit_logistic(patients, "died", covariates=["age"])
    stratified = fit_cox(patients, "months", event="died", covariates=["age"], strata="grade")
    for model, times in ((cox, []), (logistic, [12]), (stratified, [12])):
        with pytest.raises(InvalidTable):
            build_nomogram(model, times, frame=patients)
