"""Does a signature add to the clinic? A clinical nomogram against one with the signature, in the same patients.

Both Cox models are fitted to training patients and applied to others unchanged. In the training patients themselves
the signature's score is flattered; part ``cv`` therefore repeats the comparison with out-of-fold scores as covariate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.clinical_coding import ClinicalCoding, fit_coding
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_study import SurvivalStudyResult, ten_digits
from pipelines.modelling.validation import derive_seed
from services.shared.errors import GliaflowError
from services.survival_analytics.concordance_comparison import compare_concordance
from services.survival_analytics.cox import CoxModel, fit_cox
from services.survival_analytics.discrimination import concordance
from services.survival_analytics.net_benefit import survival_decision_curves
from services.survival_analytics.nomogram import build_nomogram
from services.survival_analytics.pair_counts import count_pairs
from services.survival_analytics.reclassification import reclassify_survival
from services.survival_analytics.risk_sets import merge_near_ties
from services.survival_analytics.survival_calibration import (
    brier_scores,
    calibrate_survival,
    survival_calibration_curve,
)

Array = npt.NDArray[np.float64]
SCORE = "signature"
MODELS = ("clinical", "integrated")


@dataclass(frozen=True)
class FittedNomograms:
    """A clinical Cox model and the one with the signature's score, fitted to the same patients.

    Parameters
    ----------
    coding
        How clinical columns become covariates.
    clinical, integrated
        Efron's ties.
    patients
        The covariates of the patients that they were fitted to.
    """

    coding: ClinicalCoding
    clinical: CoxModel
    integrated: CoxModel
    patients: pd.DataFrame

    @property
    def models(self) -> dict[str, CoxModel]:
        """Both models by name."""
        return dict(zip(MODELS, (self.clinical, self.integrated), strict=True))


@dataclass(frozen=True)
class NomogramComparison:
    """Clinical against integrated nomogram.

    Parameters
    ----------
    fitted
        The models of the training patients with their apparent score.
    metrics
        ``<part>_nomogram_<figure>`` with ``_low`` and ``_high`` as 95 % limits.
    tables
        ``nomogram`` (the multivariable models), ``nomogram_calibration``, ``decision_curves``.
    documents
        ``nomogram.json`` and ``nomogram_clinical.json``.
    flow
        Columns, reference levels, patients left out by reason, warnings of the fits, figures that are not defined.
    """

    fitted: FittedNomograms
    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    documents: dict[str, str]
    flow: dict[str, object]


def compare_nomograms(
    data: SurvivalData,
    *,
    clinical_columns: Sequence[str],
    score: Array,
    out_of_fold: Array | None = None,
    validation: Mapping[str, tuple[SurvivalData, Array]] | None = None,
    categorical: Sequence[str] = (),
    horizons: Sequence[float] = (12, 24, 36),
    seed: int,
    bootstraps: int = 1000,
) -> NomogramComparison:
    """Compare a clinical nomogram with one that has the signature's score as well.

    Parameters
    ----------
    data
        Training patients, with the clinical columns.
    clinical_columns
        Numeric columns as they are, others by indicators; ``categorical`` names numbers that are categories.
    score, out_of_fold
        Risk scores of the training patients: the signature's own (part ``train``), and out-of-fold (part ``cv``: both
        models are fitted again, with this score; their few coefficients still come from these patients).
    validation
        Other cohorts with the signature's scores; models fitted in ``train`` are applied to them unchanged.
    horizons
        Months of calibration, reclassification and decision curves.

    Raises
    ------
    InvalidTable
        Where a clinical column is unknown, or none varies.
    TooFewCases
        Where no patient has all of them.
    """
    coding = fit_coding(data.clinical, clinical_columns, categorical=categorical)
    fitted = fit_nomograms(data, score, coding=coding)
    parts = {"train": (fitted, data, score)}
    if out_of_fold is not None:
        parts["cv"] = (fit_nomograms(data, out_of_fold, coding=coding), data, out_of_fold)
    parts |= {f"validation_{name}": (fitted, *cohort) for name, cohort in (validation or {}).items()}
    metrics: dict[str, float] = {}
    tables: dict[str, list[pd.DataFrame]] = {}
    flow: dict[str, object] = {
        "columns": list(coding.columns),
        "columns_left_out": dict(coding.left_out),
        "reference_levels": {name: levels[0] for name, levels in coding.levels.items()},
    }
    for part, (models, cohort, scores) in parts.items():
        fitted_here = not part.startswith("validation_")
        found = evaluate_nomograms(
            models, cohort, scores, horizons=horizons, seed=derive_seed(seed, 8), bootstraps=bootstraps
        )
        values = found.metrics | (_fit_figures(models) if fitted_here else {})
        metrics |= {f"{part}_nomogram_{name}": value for name, value in values.items()}
        for name, table in (found.tables | ({"nomogram": _coefficients(models)} if fitted_here else {})).items():
            table.insert(0, "part", part)
            tables.setdefault(name, []).append(table)
        flow[part] = found.flow | ({"warnings": _warnings(models)} if fitted_here else {})
    documents = {
        name: build_nomogram(model, horizons, frame=fitted.patients, time_unit="months").to_json() + "\n"
        for name, model in (("nomogram.json", fitted.integrated), ("nomogram_clinical.json", fitted.clinical))
    }
    joined = {name: pd.concat(found, ignore_index=True) for name, found in tables.items()}
    return NomogramComparison(fitted, metrics, joined, documents, flow)


def with_nomograms(
    result: SurvivalStudyResult,
    training: SurvivalData,
    validation: Mapping[str, SurvivalData],
    *,
    clinical_columns: Sequence[str],
    categorical: Sequence[str] = (),
    seed: int,
) -> SurvivalStudyResult:
    """Return a study's result with the nomograms of its scores: metrics, tables, documents and flow joined.

    Validation cohorts without one of the clinical columns are left out and named in the flow.
    """
    predictions = result.tables["predictions"]

    def scores(part: str, data: SurvivalData) -> Array:
        rows = predictions[predictions["part"] == part].set_index("case_id")
        return rows["risk_score"].loc[list(data.ids)].to_numpy(dtype=np.float64)

    usable, without = {}, {}
    for name, data in validation.items():
        lacking = [column for column in clinical_columns if column not in data.clinical]
        if lacking:
            without[name] = f"no column {', '.join(lacking)}"
        else:
            usable[name] = (data, scores(f"validation_{name}", data))
    found = compare_nomograms(
        training,
        clinical_columns=clinical_columns,
        score=scores("train", training),
        out_of_fold=scores("cv", training),
        validation=usable,
        categorical=categorical,
        horizons=result.parameters["horizons_months"],  # type: ignore[arg-type]
        seed=seed,
        bootstraps=result.parameters["bootstraps"],  # type: ignore[arg-type]
    )
    rounded = {name: ten_digits(value) for name, value in found.metrics.items()}
    return replace(
        result,
        metrics=dict(sorted((result.metrics | rounded).items())),
        tables=result.tables | found.tables,
        documents=result.documents | found.documents,
        flow=result.flow | {"nomogram": found.flow | {"cohorts_left_out": without}},
    )


def fit_nomograms(data: SurvivalData, score: Array, *, coding: ClinicalCoding) -> FittedNomograms:
    """Fit both models to the patients with all clinical columns.

    Raises
    ------
    TooFewCases
        Where none of them died.
    InvalidTable
        Where covariates are collinear.
    """
    table, _ = _covariates(data, score, coding)
    names = list(coding.covariates)
    clinical = fit_cox(table, "months", event="event", covariates=names)
    integrated = fit_cox(table, "months", event="event", covariates=[*names, SCORE])
    return FittedNomograms(coding, clinical, integrated, table)


@dataclass(frozen=True)
class NomogramFigures:
    """Figures of both models in some patients; see :class:`NomogramComparison`."""

    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    flow: dict[str, object]


def evaluate_nomograms(
    fitted: FittedNomograms,
    data: SurvivalData,
    score: Array,
    *,
    horizons: Sequence[float] = (12, 24, 36),
    seed: int,
    bootstraps: int = 1000,
) -> NomogramFigures:
    """Return the figures of both models, unchanged, in some patients.

    Harrell's C of both with limits from resampled patients, their difference with the jackknife's P; at each horizon
    the continuous NRI (Kaplan–Meier), Brier scores, calibration and decision curves.
    """
    table, dropped = _covariates(data, score, fitted.coding)
    months, event = table["months"].to_numpy(), table["event"].to_numpy()
    left_out: list[str] = []
    metrics: dict[str, float] = {"patients": len(table), "deaths": int(event.sum())}
    metrics |= _discrimination(fitted, table, seed=seed, bootstraps=bootstraps, left_out=left_out)
    calibration, decisions = [], []
    for horizon in horizons:
        risks = {
            name: 1 - model.predict_survival(table, [horizon]).survival[0] for name, model in fitted.models.items()
        }
        at = float(horizon)
        try:
            nri = reclassify_survival(
                months,
                event,
                old=risks["clinical"],
                new=risks["integrated"],
                at=at,
                replicates=bootstraps,
                seed=derive_seed(seed, 1),
            )
            brier = brier_scores(months, event, risks=risks, at=at)
            curves = survival_decision_curves(months, event, models=risks, at=at).to_frame()
            groups = {
                name: calibrate_survival(months, event, risk=risk, at=at, groups=_groups(len(table)))
                for name, risk in risks.items()
            }
            slopes = {
                name: survival_calibration_curve(months, event, risk=risk, at=at).slope for name, risk in risks.items()
            }
        except GliaflowError as error:
            left_out.append(f"{horizon:g} months: {error.detail}")
            continue
        metrics[f"nri_{horizon:g}"] = nri.nri
        if bootstraps:
            metrics |= {f"nri_{horizon:g}_low": float(nri.lower[0]), f"nri_{horizon:g}_high": float(nri.upper[0])}
        for position, name in enumerate(MODELS, start=1):
            metrics[f"brier_{horizon:g}_{name}"] = float(brier.brier[position])
            metrics[f"calibration_slope_{horizon:g}_{name}"] = slopes[name]
            frame = groups[name].to_frame().rename(columns={"n": "patients", "lower": "low", "upper": "high"})
            frame["group"] = np.arange(1, len(frame) + 1)
            frame = frame[["group", "patients", "predicted", "observed", "low", "high"]]
            calibration.append(frame.assign(model=name, months=horizon))
        decisions.append(curves.assign(months=horizon))
    tables = {
        name: pd.concat(found, ignore_index=True)
        for name, found in (("nomogram_calibration", calibration), ("decision_curves", decisions))
        if found
    }
    return NomogramFigures(metrics, tables, {"patients_left_out": dropped, "figures_left_out": left_out})


def _groups(patients: int) -> int:
    return 5 if patients >= 100 else 3


def _covariates(data: SurvivalData, score: Array, coding: ClinicalCoding) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return covariates and follow-up of the patients with all clinical columns, and how many lack which."""
    table, dropped = coding.encode(data.clinical)
    table = table.assign(**{SCORE: score, "months": data.months, "event": data.event})
    return table.dropna(), dropped


def _discrimination(
    fitted: FittedNomograms, table: pd.DataFrame, *, seed: int, bootstraps: int, left_out: list[str]
) -> dict[str, float]:
    months, event = table["months"].to_numpy(), table["event"].to_numpy()
    risks = np.column_stack([model.predict_risk(table) for model in fitted.models.values()])
    found = [concordance(months, event, score=risk) for risk in risks.T]
    drawn = _resampled_concordance(months, event, risks, bootstraps=bootstraps, seed=seed)
    metrics: dict[str, float] = {}
    for position, name in enumerate(MODELS):
        low, high = found[position].lower, found[position].upper
        if len(drawn):
            low, high = np.quantile(drawn[:, position], [0.025, 0.975]).tolist()
        metrics[f"c_index_{name}"] = found[position].estimate
        metrics |= {f"c_index_{name}_low": max(0.0, low), f"c_index_{name}_high": min(1.0, high)}
    metrics["c_index_difference"] = found[1].estimate - found[0].estimate
    if len(drawn):
        low, high = np.quantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975]).tolist()
        metrics |= {"c_index_difference_low": low, "c_index_difference_high": high}
    try:
        comparison = compare_concordance(months, event, first=risks[:, 1], second=risks[:, 0])
        metrics["c_index_difference_p"] = comparison.p_value
    except GliaflowError as error:
        left_out.append(f"c_index_difference_p: {error.detail}")
    return metrics


def _resampled_concordance(
    months: Array, event: npt.NDArray[np.int64], risks: Array, *, bootstraps: int, seed: int
) -> Array:
    """Return C of each column in resampled patients, shape (usable resamples, columns)."""
    rng = np.random.default_rng(seed)
    times, n = merge_near_ties(months), len(months)
    ones = np.ones(n)
    found = []
    for _ in range(bootstraps):
        rows = np.asarray(rng.integers(0, n, size=n))
        pairs = np.array([count_pairs(times[rows], event[rows], risk[rows], ones)[0].sum(axis=0) for risk in risks.T])
        total = pairs.sum(axis=1)
        if (total > 0).all():
            found.append((pairs[:, 0] + pairs[:, 2] / 2) / total)
    return np.array(found).reshape(-1, risks.shape[1])


def _fit_figures(fitted: FittedNomograms) -> dict[str, float]:
    """Return AIC of both models and the likelihood-ratio test of the score."""
    from scipy.special import chdtrc

    ratio = max(0.0, 2 * (fitted.integrated.log_likelihood - fitted.clinical.log_likelihood))
    return {
        "aic_clinical": fitted.clinical.aic,
        "aic_integrated": fitted.integrated.aic,
        "likelihood_ratio": ratio,
        "likelihood_ratio_p": float(chdtrc(1, ratio)),
    }


def _coefficients(fitted: FittedNomograms) -> pd.DataFrame:
    tables = []
    for name, model in fitted.models.items():
        table = model.to_frame().rename(columns={"lower": "low", "upper": "high"})
        table = table[["covariate", "coefficient", "hazard_ratio", "low", "high", "p_value"]]
        tables.append(table.assign(model=name))
    return pd.concat(tables, ignore_index=True)


def _warnings(fitted: FittedNomograms) -> list[str]:
    return [f"{name}: {notice.detail}" for name, model in fitted.models.items() for notice in model.notices]
