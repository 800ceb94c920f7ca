"""Every reference case of the survival and evaluation methods, field by field.

Cases come from the folder named by ``GLIAFLOW_R_ORACLE``, by default ``../shared/r-oracle`` beside the repository, and
from the small copy in ``cases``. Fields that cannot agree stand in ``survival_oracle/deviations.py`` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from survival_oracle import discrimination, evaluation, penalised, survival
from survival_oracle.case import OWN_CASES, Case, find_cases
from survival_oracle.compare import differences
from survival_oracle.deviations import DEVIATIONS, deviations_of

CLOSED_FORM, ITERATED = 1e-9, 1e-6
METHODS: dict[str, tuple[Callable[[Case], dict], float]] = {
    "cox": (survival.cox, ITERATED),
    "km": (survival.kaplan_meier, CLOSED_FORM),
    "cutpoint": (survival.cutpoint, CLOSED_FORM),
    "glmnet_cox": (penalised.glmnet_cox, ITERATED),
    "glmnet_binomial": (penalised.glmnet_binomial, ITERATED),
    "tdroc": (discrimination.time_dependent, CLOSED_FORM),
    "cindex": (discrimination.cindex, CLOSED_FORM),
    "proc": (discrimination.proc, CLOSED_FORM),
    "nri_binary": (evaluation.nri_binary, CLOSED_FORM),
    "nri_survival": (evaluation.nri_survival, ITERATED),
    "dca_calibration_binary": (evaluation.evaluation_binary, CLOSED_FORM),
    "dca_calibration_survival": (evaluation.evaluation_survival, CLOSED_FORM),
    "nomogram_cox": (evaluation.nomogram_cox, ITERATED),
    "nomogram_logistic": (evaluation.nomogram_logistic, ITERATED),
    "classical": (evaluation.classical, ITERATED),
    "icc": (evaluation.icc, CLOSED_FORM),
}
CASES = find_cases(set(METHODS))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_r(case: Case) -> None:
    recompute, tolerance = METHODS[case.method]
    found = list(differences(case.result, recompute(case), tolerance=tolerance, deviations=deviations_of(case.method)))
    assert not found, f"{len(found)} fields differ:\n" + "\n".join(found[:40])


def test_own_copy_holds_cases() -> None:
    assert len(list((OWN_CASES / "outputs").glob("*.json"))) >= 6


def test_deviations_name_known_methods_and_reasons() -> None:
    assert {d.method for d in DEVIATIONS} <= set(METHODS)
    assert all(d.reason for d in DEVIATIONS)


def test_a_changed_field_is_found() -> None:
    expected = {"a": [1.0, "Inf"], "b": {"c": "NA"}}
    assert (
        list(differences(expected, {"a": [1.0, float("inf")], "b": {"c": float("nan")}}, tolerance=1e-9, deviations=[]))
        == []
    )
    wrong = {"a": [1.0 + 1e-8, float("inf")], "b": {}}
    assert len(list(differences(expected, wrong, tolerance=1e-9, deviations=[]))) == 2
