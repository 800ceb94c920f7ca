"""Clinical factors: which enter, Cox tables of them and a score, and a score adjusted for ill-known ones."""

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.clinical_factors import Factors, adjusted_ratios, choose_factors, factor_table
from pipelines.modelling.survival_data import SurvivalData, survival_data
from services.shared.errors import InvalidTable
from services.survival_analytics.cox import fit_cox

N = 200


@pytest.fixture(scope="module")
def data() -> SurvivalData:
    """Age and ``x`` shorten life, sex does not."""
    rng = np.random.default_rng(8)
    index = [f"P{n:03d}" for n in range(N)]
    x, age = rng.normal(size=N), rng.uniform(20, 80, N)
    death, censoring = rng.exponential(20 * np.exp(-x - (age - 50) / 20)), rng.exponential(40, N)
    clinical = pd.DataFrame(
        {
            "os_months": np.minimum(death, censoring) + 0.1,
            "event": (death <= censoring).astype(int),
            "age_years": age,
            "sex": np.where(rng.random(N) < 0.6, "M", "F"),
            "grade": 4,
            "kps": np.nan,
            "idh": ["WT"] * (N - 3) + ["Mutant"] * 3,
            "mgmt": np.where(np.arange(N) % 3 == 0, np.where(np.arange(N) % 2, "Methylated", "Unmethylated"), None),
        },
        index=index,
    )
    return survival_data(pd.DataFrame({"x": x}, index=index), clinical)


COLUMNS = ("age_years", "sex", "grade", "kps", "idh", "mgmt", "smoker")


def test_factors_enter_by_what_training_patients_know(data):
    found = choose_factors(data.clinical, COLUMNS, max_missing=0.1)
    assert found.known == ("age_years", "sex")
    assert found.sparse == ("mgmt",)
    assert found.left_out == {
        "grade": "the same in every patient: 4",
        "kps": "no patient has it",
        "idh": "3 patients differ from WT, fewer than 5",
        "smoker": "not in the clinical table",
    }


def test_no_known_factor_is_an_error_that_says_why(data):
    with pytest.raises(InvalidTable, match="grade: the same in every patient"):
        choose_factors(data.clinical, ["grade", "smoker"], max_missing=0.1)
    with pytest.raises(InvalidTable, match="mgmt missing in more"):
        choose_factors(data.clinical, ["mgmt"], max_missing=0.1)


def test_table_is_that_of_its_models(data):
    score = data.values[:, 0]
    table = factor_table(data, score, columns=["age_years", "sex"]).set_index("covariate")
    frame = pd.DataFrame(
        {
            "age": data.clinical["age_years"],
            "male": (data.clinical["sex"] == "M").astype(float),
            "score": score / score.std(ddof=1),
            "months": data.months,
            "event": data.event,
        }
    )
    joint = fit_cox(frame, "months", event="event", covariates=["age", "male", "score"])
    assert table["multivariable_hazard_ratio"].to_numpy() == pytest.approx(joint.hazard_ratios)
    alone = fit_cox(frame, "months", event="event", covariates=["male"])
    assert table.loc["sex=M", "univariable_p_value"] == pytest.approx(alone.p_values[0])
    assert (table["patients"] == N).all()
    assert (table["deaths"] == data.event.sum()).all()


def test_only_what_passes_stays(data):
    table = factor_table(data, data.values[:, 0], columns=["age_years", "sex"], keep_p=0.05).set_index("covariate")
    assert table.loc[["age_years", "signature"], "multivariable_p_value"].max() < 1e-4
    assert np.isnan(table.loc["sex=M", "multivariable_p_value"])
    assert table.loc["sex=M", "univariable_p_value"] > 0.05


def test_patients_without_a_column_are_not_in_the_table(data):
    table = factor_table(data, data.values[:, 0], columns=["age_years", "mgmt"])
    assert (table["patients"] == data.clinical["mgmt"].notna().sum()).all()


def test_score_is_adjusted_for_ill_known_factors_where_known(data):
    factors = Factors(("age_years", "sex"), ("mgmt",), {})
    table = adjusted_ratios(data, data.values[:, 0], factors=factors)
    assert table["adjusted_for"].tolist() == ["nothing", "age_years, sex", "age_years, sex, mgmt"]
    assert table["patients"].tolist() == [N, N, int(data.clinical["mgmt"].notna().sum())]
    assert (table["low"] > 1).all()
    noise = adjusted_ratios(data, np.random.default_rng(1).normal(size=N), factors=factors)
    assert (noise["low"].iloc[:2] < 1).all()
    assert (noise["high"].iloc[:2] > 1).all()


def test_a_factor_that_does_not_vary_here_is_not_said_to_be_adjusted_for(data):
    clinical = data.clinical.assign(mgmt=np.where(np.arange(N) < 20, "Methylated", None))
    clinical["kps"] = np.where(np.arange(N) == 7, 90.0, np.nan)
    clinical.loc[clinical.index[7], "sex"] = None
    here = survival_data(pd.DataFrame({"x": data.values[:, 0]}, index=list(data.ids)), clinical)
    table = adjusted_ratios(
        here, here.values[:, 0], factors=Factors(("age_years", "sex"), ("mgmt", "kps", "smoker"), {})
    )
    assert table["adjusted_for"].tolist() == ["nothing", "age_years, sex"]
    assert table["patients"].tolist() == [N, N - 1]


def test_a_level_without_deaths_has_no_estimate(data):
    rare = data.clinical.assign(rare=np.where(data.event == 0, "a", "b"))
    found = survival_data(pd.DataFrame({"x": data.values[:, 0]}, index=list(data.ids)), rare)
    table = factor_table(found, found.values[:, 0], columns=["rare"]).set_index("covariate")
    assert np.isnan(table.loc["rare=b", "univariable_hazard_ratio"])
