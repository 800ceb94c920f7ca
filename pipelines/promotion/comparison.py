"""Champion and challenger on the same patients, from whom neither has learnt.

Discrimination: AUC by DeLong's paired test, or Harrell's C by the jackknife covariance of both concordances. Overall
accuracy: Brier score, of a signature weighted for censoring at one horizon. Calibration in the large: mean predicted
risk less what was observed. The same discrimination in subgroups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from services.model_serving.package import Estimate
from services.shared.contracts import Contract
from services.shared.errors import InvalidTable, TooFewCases
from services.survival_analytics.discrimination import compare_auc, compare_concordance, concordance
from services.survival_analytics.kaplan_meier import estimate_survival
from services.survival_analytics.survival_calibration import brier_scores

Array = npt.NDArray[np.float64]
AGE_BANDS = ((0.0, 40.0, "below 40"), (40.0, 60.0, "40 to 59"), (60.0, math.inf, "60 and above"))
GROUPING = ("sex", "grade", "idh", "site", "cohort")
_Z95 = float(ndtri(0.975))
_Z90 = float(ndtri(0.95))


@dataclass(frozen=True)
class HeldOutPatients:
    """What two versions say of patients from whom neither has learnt.

    Parameters
    ----------
    case_ids
        Sorted, length n.
    event
        Shape (n,): 1 for the positive class, or death.
    months
        Shape (n,): follow-up; None where a class is predicted.
    champion, challenger
        Shape (n,): probability of the positive class, or risk score.
    champion_risk, challenger_risk
        Shape (n,): probability of the positive class, or of death by ``horizon_months``.
    horizon_months
        Time of the predicted risk of a survival signature.
    clinical
        Clinical columns, one row a patient in the order of ``case_ids``.
    """

    case_ids: tuple[str, ...]
    event: Array
    months: Array | None
    champion: Array
    challenger: Array
    champion_risk: Array
    challenger_risk: Array
    clinical: pd.DataFrame
    horizon_months: float | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.case_ids), len(self.event), len(self.champion), len(self.challenger), len(self.clinical)}
        if len(lengths) != 1 or (self.months is None) != (self.horizon_months is None):
            raise InvalidTable(
                "the two versions were not applied to the same patients",
                step="compare",
                expected="one prediction of each version for each patient",
                got=", ".join(map(str, sorted(lengths))),
            )

    def take(self, rows: npt.NDArray[np.bool_]) -> HeldOutPatients:
        """Return some patients."""
        return replace(
            self,
            case_ids=tuple(name for name, chosen in zip(self.case_ids, rows, strict=True) if chosen),
            event=self.event[rows],
            months=None if self.months is None else self.months[rows],
            champion=self.champion[rows],
            challenger=self.challenger[rows],
            champion_risk=self.champion_risk[rows],
            challenger_risk=self.challenger_risk[rows],
            clinical=self.clinical[rows],
        )


class Discrimination(Contract):
    """AUC or C of both versions in the same patients; None is what cannot be computed from so few."""

    patients: int
    events: int
    champion: float | None = None
    challenger: float | None = None
    difference: Estimate | None = None
    """Challenger less champion, with 95 % limits."""
    lower_90: float | None = None
    """Lower limit of the 90 % interval of the difference: one-sided at 5 %."""
    p_value: float | None = None


class Accuracy(Contract):
    """Brier score and calibration in the large of both versions."""

    champion_brier: float | None = None
    challenger_brier: float | None = None
    brier_difference: Estimate | None = None
    """Challenger less champion, with 95 % limits: below 0 the challenger is nearer to what happened."""
    observed: float | None = None
    """Share with the outcome; of a signature 1 - Kaplan–Meier at the horizon."""
    champion_predicted: float | None = None
    challenger_predicted: float | None = None


class Subgroup(Contract):
    """Discrimination of both versions in the patients with one value of a clinical column."""

    column: str
    value: str
    found: Discrimination


class Comparison(Contract):
    """What the gate looks at."""

    champion: str
    challenger: str
    measure: str
    """``AUC`` or ``C-index``."""
    horizon_months: float | None
    overall: Discrimination
    accuracy: Accuracy
    subgroups: tuple[Subgroup, ...]


def compare_versions(patients: HeldOutPatients, *, champion: str, challenger: str) -> Comparison:
    """Compare two versions on patients from whom neither has learnt.

    Parameters
    ----------
    patients
        Predictions of both.
    champion, challenger
        Names of the versions.

    Raises
    ------
    TooFewCases
        Where there is no patient to compare on.
    """
    if not patients.case_ids:
        raise TooFewCases(
            "there is no patient from whom neither version has learnt",
            step="compare",
            field="held_out_share",
            expected="patients that both versions held out",
            got="none",
            remedy="set 'held_out_share' in the study's section of params.yaml, above 0, before both versions are made",
        )
    return Comparison(
        champion=champion,
        challenger=challenger,
        measure="AUC" if patients.months is None else "C-index",
        horizon_months=patients.horizon_months,
        overall=_discrimination(patients),
        accuracy=_accuracy(patients),
        subgroups=tuple(
            Subgroup(column=column, value=value, found=_discrimination(patients.take(rows)))
            for column, value, rows in split_patients(patients.clinical)
        ),
    )


def split_patients(clinical: pd.DataFrame) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Return the subgroups that a clinical table knows: column, value, and which rows have it; never a single group."""
    found: list[tuple[str, str, npt.NDArray[np.bool_]]] = []
    if "age_years" in clinical:
        age = pd.to_numeric(clinical["age_years"], errors="coerce").to_numpy(dtype=np.float64)
        found += [("age_years", label, (age >= low) & (age < high)) for low, high, label in AGE_BANDS]
    for column in GROUPING:
        if column in clinical:
            values = clinical[column].map(lambda value: "" if pd.isna(value) else _plain(value))
            found += [(column, value, (values == value).to_numpy()) for value in sorted(set(values) - {""})]
    found = [(column, value, rows) for column, value, rows in found if rows.any()]
    several = {column for column, *_ in found if sum(name == column for name, *_ in found) > 1}
    return [group for group in found if group[0] in several]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _discrimination(patients: HeldOutPatients) -> Discrimination:
    counts = {"patients": len(patients.case_ids), "events": int(patients.event.sum())}
    values = np.concatenate((patients.champion, patients.challenger))
    if not np.isfinite(values).all():
        return Discrimination(**counts)
    try:
        found = _compare_areas(patients) if patients.months is None else _compare_concordance(patients, patients.months)
    except TooFewCases:  # OneClass too: what cannot be computed stays None, and the gate says so
        return Discrimination(**counts)
    return Discrimination(
        **counts,
        champion=found.champion,
        challenger=found.challenger,
        difference=_estimate(found.difference, found.standard_error),
        lower_90=found.difference - _Z90 * found.standard_error,
        p_value=found.p_value,
    )


@dataclass(frozen=True)
class _Difference:
    champion: float
    challenger: float
    difference: float
    standard_error: float
    p_value: float


def _compare_areas(patients: HeldOutPatients) -> _Difference:
    found = compare_auc(patients.event.astype(np.int64), patients.challenger, second=patients.champion)
    return _Difference(found.second, found.first, found.difference, found.standard_error, found.p_value)


def _compare_concordance(patients: HeldOutPatients, months: Array) -> _Difference:
    if np.array_equal(patients.champion, patients.challenger):
        # The same scores have no difference, whose variance a test could not take.
        same = concordance(months, patients.event, score=patients.champion).estimate
        return _Difference(same, same, 0.0, 0.0, 1.0)
    found = compare_concordance(months, patients.event, first=patients.challenger, second=patients.champion)
    return _Difference(found.second, found.first, found.difference, found.standard_error, found.p_value)


def _accuracy(patients: HeldOutPatients) -> Accuracy:
    risks = (patients.champion_risk, patients.challenger_risk)
    if not np.isfinite(np.concatenate(risks)).all():
        return Accuracy()
    predicted = {"champion_predicted": float(risks[0].mean()), "challenger_predicted": float(risks[1].mean())}
    if patients.months is None or patients.horizon_months is None:
        errors = [(risk - patients.event) ** 2 for risk in risks]
        gap = errors[1] - errors[0]
        spread = float(gap.std(ddof=1) / np.sqrt(gap.size)) if gap.size > 1 else None
        return Accuracy(
            champion_brier=float(errors[0].mean()),
            challenger_brier=float(errors[1].mean()),
            brier_difference=_estimate(float(gap.mean()), spread),
            observed=float(patients.event.mean()),
            **predicted,
        )
    at = patients.horizon_months
    try:
        scores = brier_scores(
            patients.months, patients.event, risks={"champion": risks[0], "challenger": risks[1]}, at=at
        )
        alive = float(estimate_survival(patients.months, patients.event).at([at]).survival[0])
    except TooFewCases:
        return Accuracy(**predicted)
    brier = dict(zip(scores.models, scores.brier.tolist(), strict=True))
    row = scores.contrasts.query("model == 'challenger' and reference == 'champion'").iloc[0]
    return Accuracy(
        champion_brier=brier["champion"],
        challenger_brier=brier["challenger"],
        brier_difference=_estimate(float(row["difference"]), float(row["standard_error"])),
        observed=1 - alive,
        **predicted,
    )


def _estimate(value: float, standard_error: float | None) -> Estimate:
    if standard_error is None:
        return Estimate(value=value)
    return Estimate(value=value, low=value - _Z95 * standard_error, high=value + _Z95 * standard_error)


def subgroup_name(group: Subgroup) -> str:
    """Return a subgroup as it is printed: ``sex F``, ``age 40 to 59``."""
    return f"{group.column.removesuffix('_years')} {group.value}"


def judged_subgroups(comparison: Comparison, *, minimum: int) -> Sequence[Subgroup]:
    """Return the subgroups with enough patients with and without the event for a figure that means something."""
    return [
        group
        for group in comparison.subgroups
        if min(group.found.events, group.found.patients - group.found.events) >= minimum
        or (comparison.measure == "C-index" and group.found.events >= minimum)
    ]
