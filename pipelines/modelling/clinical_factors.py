"""Is a score independent of clinical factors? Which factors are known, and Cox models of them and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.clinical_coding import fit_coding
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_study import SurvivalStudyResult
from services.shared.errors import GliaflowError, InvalidTable
from services.survival_analytics.cox import fit_cox

Array = npt.NDArray[np.float64]
SCORE = "signature"
LEAST_PATIENTS = 5
_FIGURES = ("hazard_ratio", "low", "high", "p_value")


@dataclass(frozen=True)
class Factors:
    """Clinical columns that training patients are known by, those known of some only, and why a column is in neither.

    Parameters
    ----------
    known
        Missing in few patients: they enter the nomograms.
    sparse
        Missing in more: a score is adjusted for them among the patients in whom they are known.
    left_out
        Reason by column.
    """

    known: tuple[str, ...]
    sparse: tuple[str, ...]
    left_out: dict[str, str]


def choose_factors(clinical: pd.DataFrame, columns: Sequence[str], *, max_missing: float) -> Factors:
    """Decide on training patients which clinical columns enter a model, without looking at follow-up.

    Left out is a column that the table does not have, that has one value, or in which fewer than five patients differ
    from the most frequent value.

    Parameters
    ----------
    max_missing
        Largest share of patients in whom a known factor is missing.

    Raises
    ------
    InvalidTable
        Where no column is known.
    """
    known: list[str] = []
    sparse: list[str] = []
    left_out: dict[str, str] = {}
    for name in columns:
        if name not in clinical:
            left_out[name] = "not in the clinical table"
            continue
        text = clinical[name].astype("string").str.strip()
        counts = text[text != ""].value_counts()
        others = int(counts.sum() - counts.max()) if len(counts) else 0
        if counts.empty:
            left_out[name] = "no patient has it"
        elif len(counts) == 1:
            left_out[name] = f"the same in every patient: {counts.index[0]}"
        elif others < LEAST_PATIENTS:
            left_out[name] = f"{others} patients differ from {counts.idxmax()}, fewer than {LEAST_PATIENTS}"
        else:
            (known if 1 - counts.sum() / len(clinical) <= max_missing else sparse).append(name)
    if not known:
        raise InvalidTable(
            "no clinical factor of the study is known",
            step="clinical factors",
            field=", ".join(columns),
            expected=f"a column with two values, missing in at most {max_missing:.0%} of the training patients",
            got="; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            or f"{', '.join(sparse)} missing in more",
            remedy="add a column to the participants table",
        )
    return Factors(tuple(known), tuple(sparse), left_out)


def factor_table(
    data: SurvivalData,
    score: Array,
    *,
    columns: Sequence[str],
    categorical: Sequence[str] = (),
    keep_p: float | None = None,
) -> pd.DataFrame:
    """Return uni- and multivariable Cox models of clinical columns and a score, in the patients that have all columns.

    Parameters
    ----------
    score
        Shape (patients,); its hazard ratio is per standard deviation in these patients.
    keep_p
        Level of the univariable test that a covariate must reach to enter the multivariable model, from which those
        above it leave again, the largest P first; None: all enter and stay.

    Returns
    -------
    DataFrame
        One row a covariate: ``covariate``, ``patients``, ``deaths``, and ``univariable_`` and ``multivariable_``
        ``hazard_ratio``, ``low``, ``high`` (95 %), ``p_value``; empty where it has left or has no finite estimate.
    """
    frame, names, _ = _frame(data, score, columns, categorical)
    single = {name: _fit(frame, [name]).get(name) for name in names}
    joint = _backward(frame, names, single, keep_p)
    rows = [
        {
            "covariate": name,
            "patients": len(frame),
            "deaths": int(frame["event"].sum()),
            **{
                f"{model}_{figure}": value
                for model, found in (("univariable", single[name]), ("multivariable", joint.get(name)))
                for figure, value in zip(_FIGURES, found or (np.nan,) * 4, strict=True)
            },
        }
        for name in names
    ]
    return pd.DataFrame(rows)


def adjusted_ratios(
    data: SurvivalData, score: Array, *, factors: Factors, categorical: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a score's hazard ratio alone, beside the known factors, and beside these and each sparse one in turn.

    Returns
    -------
    DataFrame
        ``adjusted_for``, ``patients``, ``deaths``, ``hazard_ratio`` (per standard deviation of the score in these
        patients), ``low``, ``high``, ``p_value``. A factor that does not vary in these patients is not adjusted for; a
        sparse one has no row where fewer than five patients have it, or where it or another one does not vary among
        those who do.
    """
    rows = []
    usual = set(_frame(data, score, factors.known, categorical)[2])
    for columns in ((), factors.known, *((*factors.known, name) for name in factors.sparse)):
        sparse = len(columns) > len(factors.known)
        if sparse and len(data.clinical.reindex(columns=list(columns)).dropna()) < LEAST_PATIENTS:
            continue
        frame, names, used = _frame(data, score, columns, categorical)
        if sparse and set(used) != {*usual, columns[-1]}:
            continue
        figures = _fit(frame, names).get(SCORE) or (np.nan,) * 4
        rows.append(
            {
                "adjusted_for": ", ".join(used) or "nothing",
                "patients": len(frame),
                "deaths": int(frame["event"].sum()),
                **dict(zip(_FIGURES, figures, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def with_factor_tables(
    result: SurvivalStudyResult,
    parts: Mapping[str, SurvivalData],
    *,
    factors: Factors,
    categorical: Sequence[str] = (),
    keep_p: float | None = None,
) -> SurvivalStudyResult:
    """Return a study's result with tables ``multivariable`` and ``adjusted`` of its scores, by part.

    Parameters
    ----------
    parts
        Patients by part of the study's predictions. Part ``train`` is flattered, as the score has seen its follow-up;
        ``cv`` takes out-of-fold scores of the same patients.
    keep_p
        See :func:`factor_table`.

    Returns
    -------
    SurvivalStudyResult
        A part in which nobody has all known factors is in the flow, with the reason, and not in the tables.
    """
    predictions = result.tables["predictions"]
    tables: dict[str, list[pd.DataFrame]] = {"multivariable": [], "adjusted": []}
    undefined: dict[str, str] = {}
    for part, data in parts.items():
        rows = predictions[predictions["part"] == part].set_index("case_id")
        score = rows["risk_score"].loc[list(data.ids)].to_numpy(dtype=np.float64)
        try:
            found = {
                "multivariable": factor_table(
                    data, score, columns=factors.known, categorical=categorical, keep_p=keep_p
                ),
                "adjusted": adjusted_ratios(data, score, factors=factors, categorical=categorical),
            }
        except GliaflowError as error:
            undefined[part] = error.detail
            continue
        for name, table in found.items():
            table.insert(0, "part", part)
            tables[name].append(table)
    flow = {"known": list(factors.known), "sparse": list(factors.sparse), "left_out": factors.left_out}
    joined = {name: pd.concat(some, ignore_index=True) for name, some in tables.items() if some}
    return replace(
        result,
        tables=result.tables | joined,
        flow=result.flow | {"clinical_factors": {**flow, "undefined": undefined}},
    )


def _frame(
    data: SurvivalData, score: Array, columns: Sequence[str], categorical: Sequence[str]
) -> tuple[pd.DataFrame, list[str], tuple[str, ...]]:
    """Return covariates and follow-up of the patients that have all columns, the covariates, and the columns used.

    A column is not used that none of these patients has, or that does not vary among them.
    """
    design = pd.DataFrame(index=data.clinical.index)
    used: tuple[str, ...] = ()
    if columns:
        coding = fit_coding(data.clinical, columns, categorical=categorical)
        design, used = coding.encode(data.clinical)[0], coding.columns
    names = [*map(str, design.columns), SCORE]
    frame = design.assign(**{SCORE: score, "months": data.months, "event": data.event}).dropna()
    frame[SCORE] /= frame[SCORE].std()
    return frame, names, used


Fitted = dict[str, tuple[float, ...]]


def _backward(
    frame: pd.DataFrame, names: Sequence[str], single: dict[str, tuple[float, ...] | None], keep_p: float | None
) -> Fitted:
    if keep_p is None:
        return _fit(frame, list(names))
    entering = [name for name in names if (found := single[name]) is not None and found[-1] < keep_p]
    while entering:
        joint = _fit(frame, entering)
        p_values = {name: joint[name][-1] if name in joint else 1.0 for name in entering}
        worst = max(entering, key=lambda name: p_values[name])
        if p_values[worst] <= keep_p:
            return joint
        entering.remove(worst)
    return {}


def _fit(frame: pd.DataFrame, names: list[str]) -> Fitted:
    """Return hazard ratio, limits and P by covariate.

    Nothing where the model cannot be fitted or its likelihood has no maximum: a level in which nobody died, say.
    """
    try:
        model = fit_cox(frame, "months", event="event", covariates=names)
    except GliaflowError:
        return {}
    if any(notice.name == "monotone_likelihood" for notice in model.notices):
        return {}
    found = zip(names, model.hazard_ratios, model.lower, model.upper, model.p_values, strict=True)
    return {name: tuple(map(float, figures)) for name, *figures in found}
