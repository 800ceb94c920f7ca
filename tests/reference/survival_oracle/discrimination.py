"""Concordance, ROC and time-dependent ROC cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from services.shared.errors import TooFewCases
from services.survival_analytics.classification import best_threshold
from services.survival_analytics.concordance import concordance, somers_d, strict_concordance, truncated_concordance
from services.survival_analytics.concordance_comparison import compare_concordance, compare_separation
from services.survival_analytics.conditional_roc import conditional_roc
from services.survival_analytics.roc import auc, compare_auc, compare_auc_unpaired, roc
from services.survival_analytics.time_dependent_roc import (
    TimeDependentAuc,
    compare_time_dependent_auc,
    time_dependent_auc,
    weighted_roc,
)
from survival_oracle.case import Case

Z = float(ndtri(0.975))


def cindex(case: Case) -> dict:
    frame, want = case.table(), case.result
    made: dict = {"single": {}, "compare": {}}
    for name, block in want["single"].items():
        made["single"][name] = _single(frame, name, block)
    for name, block in want["compare"].items():
        made["compare"][name] = _pair(frame, *name.split("_vs_"), block)
    return made


def _single(frame: pd.DataFrame, name: str, want: dict) -> dict:
    time, event, score = frame["time"], frame["status"], frame[name]
    c = concordance(time, event, score=score)
    uno = concordance(time, event, score=score, weighting="uno")
    horizon = want["survival_ymax_t0"]["ymax"]
    short = concordance(time, event, score=score, horizon=horizon)
    d = somers_d(time, event, score=score)
    made = {
        "survival": {
            "C": c.estimate,
            "se": c.standard_error,
            "lower95": c.lower,
            "upper95": c.upper,
            "counts": {
                "concordant": c.concordant,
                "discordant": c.discordant,
                "tied.x": c.tied_score,
                "tied.y": c.tied_time,
                "tied.xy": c.tied_both,
            },
        },
        "survival_uno_weight": {"C": uno.estimate, "se": uno.standard_error},
        "survival_ymax_t0": {"ymax": horizon, "C": short.estimate, "se": short.standard_error},
        "Hmisc_rcorr.cens": {
            "C Index": d.concordance,
            "Dxy": d.d_xy,
            "S.D.": d.standard_error,
            "n": d.n,
            "missing": 0,
            "uncensored": d.n_events,
            "Relevant Pairs": d.relevant_pairs,
            "Concordant": d.concordant_pairs,
            "Uncertain": d.uncertain_pairs,
        },
    }
    if "survcomp_noether" in want:
        s = strict_concordance(time, event, score=score)
        made["survcomp_noether"] = {
            "C": s.estimate,
            "se": s.standard_error,
            "lower": s.lower,
            "upper": s.upper,
            "p": s.p_value,
        }
    if "survC1_uno_tau" in want:
        tau = want["survC1_uno_tau"]["tau"]
        made["survC1_uno_tau"] = {"tau": tau, "C": truncated_concordance(time, event, score=score, horizon=tau)}
    return made


def _pair(frame: pd.DataFrame, first: str, second: str, want: dict) -> dict:
    time, event, a, b = frame["time"], frame["status"], frame[first], frame[second]
    j = compare_concordance(time, event, first=a, second=b)
    s = compare_separation(time, event, first=a, second=b)
    made = {
        "survival": {
            "C": [j.first, j.second],
            "var": j.covariance,
            "diff": j.difference,
            "se": j.standard_error,
            "z": j.statistic,
            "p": j.p_value,
        },
        "Hmisc_rcorrp.cens": {
            "Dxy": s.preference,
            "S.D.": s.standard_error,
            "x1 more concordant": s.first_more,
            "x2 more concordant": s.second_more,
            "n": s.n,
            "missing": 0,
            "uncensored": s.n_events,
            "Relevant Pairs": s.relevant_pairs,
            "Uncertain": s.uncertain_pairs,
            "C X1": s.first,
            "C X2": s.second,
            "Dxy X1": 2 * s.first - 1,
            "Dxy X2": 2 * s.second - 1,
        },
    }
    if "compareC" in want:
        u = compare_concordance(time, event, first=a, second=b, method="u-statistic")
        # compareC counts a high score as long survival: its C is the complement.
        made["compareC"] = {
            "est.c": [1 - u.first, 1 - u.second],
            "est.diff_c": -u.difference,
            "est.vardiff_c": u.standard_error**2,
            "est.varCxy": u.covariance[0, 0],
            "est.varCxz": u.covariance[1, 1],
            "est.cov": u.covariance[0, 1],
            "zscore": -u.statistic,
            "pval": u.p_value,
        }
    if "survcomp_cindex.comp_one_sided" in want:
        t = compare_concordance(time, event, first=a, second=b, method="noether")
        made["survcomp_cindex.comp_one_sided"] = {"p": t.p_value, "c1": t.first, "c2": t.second}
    return made


def proc(case: Case) -> dict:
    frame, y = case.table(), case.outcome_column()
    outcome = frame[y]
    made: dict = {"roc": {}, "paired": {}, "unpaired": {}}
    for name in case.result["roc"]:
        made["roc"][name] = _roc(outcome, frame[name])
    for name in case.result.get("paired", {}):
        a, b = name.split("_vs_")
        t = compare_auc(outcome, frame[a], second=frame[b], direction="auto")
        made["paired"][name] = {
            "auc": [t.first, t.second],
            "z": t.statistic,
            "p": t.p_value,
            "ci_diff": [t.lower, t.upper],
            "cov": t.covariance,
        }
    for name, want in case.result.get("unpaired", {}).items():
        low = frame[want["group"]] == 0
        t = compare_auc_unpaired(
            outcome[low],
            frame[name][low],
            other_outcome=outcome[~low],
            other_score=frame[name][~low],
            direction=roc(outcome, frame[name], direction="auto").direction,
        )
        made["unpaired"][name] = {
            "group": want["group"],
            "auc": [t.first, t.second],
            "D": t.statistic,
            "df": t.degrees_of_freedom,
            "p": t.p_value,
        }
    return made


def _roc(outcome: pd.Series, score: pd.Series) -> dict:
    curve = roc(outcome, score, direction="auto")
    area = auc(outcome, score, direction="auto")
    made: dict = {
        "direction": "<" if curve.direction == "higher" else ">",
        "auc": area.estimate,
        "var_delong": area.variance,
        "ci95_delong": [area.lower, area.estimate, area.upper],
        "se_delong": area.standard_error,
        "curve": {"threshold": curve.threshold, "sens": curve.sensitivity, "spec": curve.specificity},
        "at_sens90_maxspec": curve.specificity_at(0.9),
        "pauc_spec_100_80": curve.partial_area(),
        "pauc_corrected": curve.partial_area(corrected=True),
        "auc_group": None,
    }
    for key, criterion in (("youden", "youden"), ("topleft", "closest-topleft")):
        rows = best_threshold(outcome, score, criterion=criterion, direction=curve.direction).rows
        made[key] = {
            "threshold": [r.threshold for r in rows],
            "specificity": [r.specificity for r in rows],
            "sensitivity": [r.sensitivity for r in rows],
            "accuracy": [r.accuracy for r in rows],
            "tn": [r.true_negatives for r in rows],
            "tp": [r.true_positives for r in rows],
            "fn": [r.false_negatives for r in rows],
            "fp": [r.false_positives for r in rows],
            "npv": [r.negative_predictive_value for r in rows],
            "ppv": [r.positive_predictive_value for r in rows],
            "youden": [r.youden for r in rows],
            "closest.topleft": [r.distance_to_corner for r in rows],
        }
    return made


def time_dependent(case: Case) -> dict:
    frame, want = case.table(), case.result
    times = want["times"]
    made: dict = {"times": times, "iid": want["iid"], "timeROC": {}, "survivalROC": {}}
    before, upto = {}, {}
    for name, block in want["timeROC"].items():
        before[name] = _areas(frame, name, times, "before")
        upto[name] = _areas(frame, name, times, "at-or-before")
        made["timeROC"][name] = _time_roc(frame, name, times, before[name], upto[name], block)
    if "timeROC_compare_full_vs_base" in want:
        p = [
            compare_time_dependent_auc(a, b).p_values[0]
            for a, b in zip(before["lp_full"], before["lp_base"], strict=True)
        ]
        made["timeROC_compare_full_vs_base"] = {"p": p}
    made["riskRegression_score"] = _score(times, upto)
    for name, block in want.get("survivalROC", {}).items():
        made["survivalROC"][name] = {
            t: {key: _conditional(frame, name, float(t), key, one) for key, one in inner.items()}
            for t, inner in block.items()
        }
    return made


def _areas(frame: pd.DataFrame, name: str, times: list[float], rule: str) -> list[TimeDependentAuc | None]:
    found: list[TimeDependentAuc | None] = []
    for t in times:
        try:
            found.append(time_dependent_auc(frame["time"], frame["status"], score=frame[name], times=t, case_rule=rule))
        except TooFewCases:
            found.append(None)
    return found


def _time_roc(frame: pd.DataFrame, name: str, times: list[float], before: list, upto: list, want: dict) -> dict:
    def column(areas: list, attribute: str) -> list[float]:
        return [float("nan") if a is None else float(getattr(a, attribute)[0]) for a in areas]

    estimate, error = column(before, "estimate"), column(before, "standard_error")
    rows = np.array(want["roc"]["index"]) - 1
    curves = [weighted_roc(frame["time"], frame["status"], score=frame[name], at=t) for t in times]
    made = {
        "AUC": estimate,
        "own_AUC_cases_T_lt_t": estimate,
        "own_AUC_cases_T_le_t": column(upto, "estimate"),
        "stats": {
            "rows": [f"t={t:g}" for t in times],
            "cols": ["Cases", "survivor at t", "Censored at t"],
            "values": [[a.cases[0], a.controls[0], a.censored[0]] for a in before],
        },
        "cum_inc": column(before, "cumulative_incidence"),
        "surv_prob": column(before, "survival"),
        "roc": {
            "index": want["roc"]["index"],
            "TP": np.array([c.sensitivity[rows] for c in curves]).T,
            "FP": np.array([c.false_positive_rate[rows] for c in curves]).T,
        },
    }
    if "SE" in want:
        made["SE"] = error
        limits = [[100 * (a - Z * e), 100 * (a + Z * e)] for a, e in zip(estimate, error, strict=True)]
        made["CI95_percent"] = np.round(limits, 2)
    return made


def _score(times: list[float], upto: dict[str, list]) -> dict:
    rows: dict[str, list] = {k: [] for k in ("model", "times", "AUC", "se", "lower", "upper")}
    for model in ("lp_base", "lp_full"):
        for t, a in zip(times, upto[model], strict=True):
            for key, value in zip(
                rows,
                (model, t, a.estimate[0], a.standard_error[0], a.lower[0], a.upper[0]),
                strict=True,
            ):
                rows[key].append(value)
    gaps = [compare_time_dependent_auc(a, b) for a, b in zip(upto["lp_full"], upto["lp_base"], strict=True)]
    contrasts = {
        "times": times,
        "model": ["lp_full"] * len(times),
        "reference": ["lp_base"] * len(times),
        "delta.AUC": [g.difference[0] for g in gaps],
        "se": [g.standard_error[0] for g in gaps],
        "lower": [g.lower[0] for g in gaps],
        "upper": [g.upper[0] for g in gaps],
        "p": [g.p_values[0] for g in gaps],
    }
    return {"AUC": rows, "contrasts": contrasts}


def _conditional(frame: pd.DataFrame, name: str, t: float, key: str, want: dict) -> dict:
    method = "km" if key == "KM" else "nearest-neighbour"
    curve = conditional_roc(frame["time"], frame["status"], score=frame[name], at=t, method=method)
    rows = np.array(want["index"]) - 1
    return {
        "AUC": curve.area,
        "survival": curve.survival,
        "youden_cut": curve.youden_cut,
        "youden": float(np.max(curve.sensitivity - curve.false_positive_rate)),
        "index": want["index"],
        "cut": curve.cut[rows],
        "TP": curve.sensitivity[rows],
        "FP": curve.false_positive_rate[rows],
    }
