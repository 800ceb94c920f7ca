"""How good a risk score is: concordance, AUC at horizons, risk groups, calibration and Brier scores, with limits.

Limits come from resampled patients; the scores stay as they are, so they say nothing of how a refit would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.survival_data import SurvivalData
from services.shared.errors import GliaflowError, TooFewCases
from services.survival_analytics.concordance import Concordance, concordance
from services.survival_analytics.time_dependent_roc import TimeDependentAuc, time_dependent_auc

Array = npt.NDArray[np.float64]
Strata = npt.NDArray[np.int64]
T = TypeVar("T")

BRIER_POINTS = 24


@dataclass(frozen=True)
class SurvivalFigures:
    """The figures of a risk score in some patients.

    Parameters
    ----------
    metrics
        Flat figures; ``<name>_low`` and ``<name>_high`` are 95 % limits.
    tables
        ``survival_curves``, ``time_dependent_auc``, ``calibration``.
    left_out
        Figures that these patients do not define, with the reason.
    """

    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    left_out: tuple[str, ...]


def evaluate_survival(
    scores: Array,
    groups: npt.NDArray[np.bool_],
    survival_at_horizons: Array | None,
    data: SurvivalData,
    *,
    horizons: Sequence[float],
    bootstraps: int,
    seed: int,
    strata: Strata | None = None,
    curve: tuple[Array, Array] | None = None,
) -> SurvivalFigures:
    """Return the figures of risk scores and groups.

    Parameters
    ----------
    scores
        Shape (patients,), higher = higher risk; or (patients, repeats) of a repeated cross-validation.
    groups
        Shape (patients,): True at high risk.
    survival_at_horizons
        Predicted survival, shape (patients, horizons). The AUC at a horizon is that of predicted risk where it is
        given, otherwise of the score.
    horizons
        Months.
    bootstraps
        Resamples of patients behind the limits of C and AUC; 0 gives normal limits (survival, timeROC).
    strata
        Shape of ``scores``: C counts pairs of the same stratum only (folds).
    curve
        Times, shape (t,), and predicted survival, shape (patients, t), for the integrated Brier score.

    Raises
    ------
    TooFewCases
        Where no pair of patients can be compared.
    """
    left_out: list[str] = []
    metrics: dict[str, float] = {"patients": len(data.ids), "deaths": int(data.event.sum())}
    scores = scores.reshape(len(data.ids), -1)
    markers = np.repeat(scores.mean(axis=1)[:, None], len(horizons), axis=1)
    if survival_at_horizons is not None:
        markers = 1 - survival_at_horizons
    found = stratified_concordance(data, scores, strata)
    areas = {h: _area(data, markers[:, j], h, left_out) for j, h in enumerate(horizons)}
    resampled = _resample(data, scores, strata, markers, areas, bootstraps=bootstraps, seed=seed)
    metrics |= {"c_index": found.estimate} | _limits("c_index", found.lower, found.upper, resampled[:, 0])
    auc_rows = []
    for j, (h, area) in enumerate(areas.items()):
        if area is None:
            continue
        low, high = float(area.lower[0]), float(area.upper[0])
        limits = _limits(f"auc_{h:g}", low, high, resampled[:, 1 + j])
        metrics |= {f"auc_{h:g}": float(area.estimate[0])} | limits
        auc_rows.append(
            {
                "months": h,
                "auc": float(area.estimate[0]),
                "low": limits[f"auc_{h:g}_low"],
                "high": limits[f"auc_{h:g}_high"],
                "standard_error": float(area.standard_error[0]),
                "normal_low": low,
                "normal_high": high,
                "cases": int(area.cases[0]),
                "controls": int(area.controls[0]),
                "censored": int(area.censored[0]),
            }
        )
    metrics |= _group_figures(data, groups, left_out)
    tables = {
        "survival_curves": survival_curves(data, groups),
        "time_dependent_auc": pd.DataFrame(auc_rows, columns=_AUC_COLUMNS),
        "calibration": pd.DataFrame(columns=_CALIBRATION_COLUMNS),
    }
    if survival_at_horizons is not None:
        predicted, table = _calibrate(data, survival_at_horizons, horizons, left_out)
        metrics |= predicted
        tables["calibration"] = table
    if curve is not None:
        ibs = _defined("ibs", lambda: integrated_brier(data, *curve), left_out)
        metrics |= {} if ibs is None else {"ibs": ibs}
    return SurvivalFigures(metrics, tables, tuple(left_out))


_AUC_COLUMNS = [
    "months", "auc", "low", "high", "standard_error", "normal_low", "normal_high", "cases", "controls", "censored",
]  # fmt: skip
_CALIBRATION_COLUMNS = ["months", "group", "patients", "predicted", "observed", "low", "high"]


def stratified_concordance(data: SurvivalData, scores: Array, strata: Strata | None) -> Concordance:
    """Return Harrell's C over pairs of the same stratum and repeat; its error counts each patient once.

    Parameters
    ----------
    scores, strata
        Shape (patients, repeats).

    Raises
    ------
    TooFewCases
        Where no pair of patients can be compared.
    """
    repeats = scores.shape[1]
    codes = np.zeros(scores.shape, dtype=np.int64) if strata is None else strata.reshape(scores.shape)
    codes = codes + np.arange(repeats) * (int(codes.max()) + 1)
    months, event = np.repeat(data.months, repeats), np.repeat(data.event, repeats)
    found = concordance(months, event, score=scores.ravel(), strata=codes.ravel())
    # The repeats of a patient are one patient: their influences add up before they are squared.
    error = float(np.sqrt(np.sum(found.influence.reshape(-1, repeats).sum(axis=1) ** 2)))
    half = (found.upper - found.estimate) * error / found.standard_error if found.standard_error else 0.0
    return replace(
        found, standard_error=error, lower=max(0.0, found.estimate - half), upper=min(1.0, found.estimate + half)
    )


def brier_times(horizons: Sequence[float]) -> Array:
    """Return the times at which Brier scores are integrated, evenly up to the last horizon."""
    return np.linspace(0, max(horizons), BRIER_POINTS + 1)[1:]


def integrated_brier(data: SurvivalData, times: Array, survival: Array) -> float:
    """Return the Brier score integrated up to the last time and divided by it (Graf et al. 1999).

    Parameters
    ----------
    times
        Shape (t,), ascending.
    survival
        Predicted, shape (patients, t).

    Raises
    ------
    TooFewCases
        Where nobody is followed past the last time.
    """
    from services.survival_analytics.survival_calibration import brier_scores

    if data.months.max() <= times[-1]:
        raise TooFewCases("nobody is followed past the last time", step="Brier score", got=f"{times[-1]:g} months")
    values = [
        brier_scores(data.months, data.event, risks={"model": 1 - survival[:, j]}, at=float(t)).brier[1]
        for j, t in enumerate(times)
    ]
    knots = np.concatenate(([0.0], times))
    return float(np.trapezoid(np.concatenate(([0.0], values)), knots) / times[-1])


def survival_curves(data: SurvivalData, high: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Return the Kaplan–Meier curve of each risk group: group, months, survival, low, high, at_risk."""
    from services.survival_analytics.kaplan_meier import estimate_survival

    parts = []
    for name, members in (("low", ~high), ("high", high)):
        if not members.any():
            continue
        curve = estimate_survival(data.months[members], data.event[members])
        start = pd.DataFrame({"months": [0.0], "survival": 1.0, "low": 1.0, "high": 1.0, "at_risk": members.sum()})
        rest = pd.DataFrame(
            {
                "months": curve.time,
                "survival": curve.survival,
                "low": curve.lower,
                "high": curve.upper,
                "at_risk": curve.at_risk.astype(np.int64),
            }
        )
        table = pd.concat([start, rest], ignore_index=True)
        table.insert(0, "group", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _defined(figure: str, compute: Callable[[], T], left_out: list[str]) -> T | None:
    """Return a figure, or None and a note where these patients do not define it."""
    try:
        return compute()
    except GliaflowError as error:
        left_out.append(f"{figure}: {error.detail}")
        return None


def _area(data: SurvivalData, marker: Array, horizon: float, left_out: list[str]) -> TimeDependentAuc | None:
    return _defined(
        f"auc_{horizon:g}",
        lambda: time_dependent_auc(data.months, data.event, score=marker, times=[horizon]),
        left_out,
    )


def _limits(name: str, low: float, high: float, resampled: Array) -> dict[str, float]:
    """Return percentile limits of the resamples that define the figure, or the normal ones where few do."""
    usable = resampled[~np.isnan(resampled)]
    if len(usable) >= max(20, len(resampled) // 2):
        low, high = np.quantile(usable, [0.025, 0.975]).tolist()
    return {f"{name}_low": max(0.0, low), f"{name}_high": min(1.0, high)}


def _resample(
    data: SurvivalData,
    scores: Array,
    strata: Strata | None,
    markers: Array,
    areas: dict[float, TimeDependentAuc | None],
    *,
    bootstraps: int,
    seed: int,
) -> Array:
    """Return C and the AUC at each horizon of resampled patients, shape (bootstraps, 1 + horizons); NaN undefined."""
    from services.survival_analytics.pair_counts import count_pairs
    from services.survival_analytics.risk_sets import merge_near_ties

    n, repeats = scores.shape
    months = merge_near_ties(data.months)
    codes = np.zeros((n, repeats), dtype=np.int64) if strata is None else strata.reshape(n, repeats)
    rng = np.random.default_rng(seed)
    found = np.full((bootstraps, 1 + len(areas)), np.nan)
    for b in range(bootstraps):
        drawn = np.asarray(rng.integers(0, n, size=n))
        agreeing = total = 0.0
        for repeat in range(repeats):
            for code in range(int(codes[:, repeat].max()) + 1):
                rows = drawn[np.flatnonzero(codes[drawn, repeat] == code)]
                if not data.event[rows].any():
                    continue
                pairs = count_pairs(months[rows], data.event[rows], scores[rows, repeat], np.ones(len(rows)))[0]
                concordant, discordant, tied = pairs.sum(axis=0)
                agreeing, total = agreeing + concordant + tied / 2, total + concordant + discordant + tied
        found[b, 0] = agreeing / total if total else np.nan
        for j, (horizon, area) in enumerate(areas.items()):
            before = (data.months[drawn] < horizon) & (data.event[drawn] == 1)
            if area is not None and before.any() and (data.months[drawn] > horizon).any():
                found[b, 1 + j] = time_dependent_auc(
                    data.months[drawn], data.event[drawn], score=markers[drawn, j], times=[horizon]
                ).estimate[0]
    return found


def _group_figures(data: SurvivalData, high: npt.NDArray[np.bool_], left_out: list[str]) -> dict[str, float]:
    """Return the hazard ratio of high against low risk, the log-rank P, and sizes and median survival of both."""
    from services.survival_analytics.cox import fit_cox
    from services.survival_analytics.kaplan_meier import compare_survival, estimate_survival

    figures: dict[str, float] = {"patients_high_risk": int(high.sum())}
    for name, members in (("low", ~high), ("high", high)):
        median = estimate_survival(data.months[members], data.event[members]).median if members.any() else np.nan
        if np.isnan(median):
            left_out.append(f"median_months_{name}_risk: survival of the group does not fall to one half")
        else:
            figures[f"median_months_{name}_risk"] = median
    if high.all() or not high.any():
        left_out.append("hazard_ratio, logrank_p: all patients are in one risk group")
        return figures
    figures["logrank_p"] = compare_survival(data.months, data.event, group=high.astype(np.int64)).p_value
    table = pd.DataFrame({"months": data.months, "event": data.event, "high": high.astype(np.float64)})
    model = fit_cox(table, "months", event="event", covariates=["high"])
    if any(notice.name == "monotone_likelihood" for notice in model.notices):
        left_out.append("hazard_ratio: all deaths happen in one risk group")
        return figures
    figures["hazard_ratio"] = float(model.hazard_ratios[0])
    return figures | {"hazard_ratio_low": float(model.lower[0]), "hazard_ratio_high": float(model.upper[0])}


def _calibrate(
    data: SurvivalData, survival: Array, horizons: Sequence[float], left_out: list[str]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return Brier scores, slopes and calibration errors at the horizons, and predicted and observed risk by group."""
    from services.survival_analytics.survival_calibration import (
        brier_scores,
        calibrate_survival,
        survival_calibration_curve,
    )

    months, event, groups = data.months, data.event, 5 if len(data.ids) >= 100 else 3
    figures: dict[str, float] = {}
    parts = []
    for j, h in enumerate(horizons):
        if months.max() <= h:
            left_out.append(f"brier_{h:g}, calibration at {h:g}: nobody is followed past {h:g} months")
            continue
        risk = 1 - survival[:, j]
        at = float(h)

        def score(risk: Array = risk, at: float = at) -> dict[str, float]:
            found = brier_scores(months, event, risks={"model": risk}, at=at)
            limits = {"low": float(found.lower[1]), "high": float(found.upper[1])}
            figures = {f"brier_{at:g}": float(found.brier[1])} | {f"brier_{at:g}_{k}": v for k, v in limits.items()}
            return figures | {f"brier_{at:g}_null": float(found.brier[0])}

        figures |= _defined(f"brier_{h:g}", score, left_out) or {}
        smooth = _defined(
            f"calibration_slope_{h:g}",
            lambda risk=risk, at=at: survival_calibration_curve(months, event, risk=risk, at=at),  # type: ignore[misc]
            left_out,
        )
        if smooth is not None:
            figures[f"calibration_slope_{h:g}"] = smooth.slope
            figures[f"calibration_error_{h:g}"] = smooth.mean_error
        grouped = _defined(
            f"calibration at {h:g}",
            lambda risk=risk, at=at: calibrate_survival(months, event, risk=risk, at=at, groups=groups),  # type: ignore[misc]
            left_out,
        )
        if grouped is not None:
            parts.append(
                pd.DataFrame(
                    {
                        "months": h,
                        "group": np.arange(1, len(grouped.n) + 1),
                        "patients": grouped.n,
                        "predicted": grouped.predicted,
                        "observed": grouped.observed,
                        "low": grouped.lower,
                        "high": grouped.upper,
                    }
                )
            )
    return figures, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_CALIBRATION_COLUMNS)
