"""Cox, Kaplan–Meier and cut-point cases."""

from __future__ import annotations

import numpy as np
import pandas as pd

from services.shared.errors import InvalidValue
from services.survival_analytics.cox import check_proportional_hazards, cox_residuals, fit_cox
from services.survival_analytics.cox_model import CoxModel
from services.survival_analytics.cutpoint import maximally_selected_rank, minimum_p, two_cuts
from services.survival_analytics.inputs import format_level
from services.survival_analytics.kaplan_meier import (
    compare_survival,
    estimate_survival,
    restricted_mean,
    reverse_survival_median,
)
from services.survival_analytics.log_rank import GroupComparison
from services.survival_analytics.multiplicity import adjust_p_values
from survival_oracle.case import Case

TRANSFORMS = ("km", "identity", "rank", "log")


def cox(case: Case) -> dict:
    frame = case.table()
    made: dict = {}
    for ties in ("efron", "breslow"):
        want = case.result[ties]
        made[ties] = {
            "univariate": {v: _cox_fit(frame, [v], ties) for v in want["univariate"]},
            "multivariate": _cox_fit(frame, want["multivariate"]["terms"], ties, full=True),
            "base": _cox_fit(frame, want["base"]["terms"], ties),
            "full": _cox_fit(frame, want["full"]["terms"], ties),
            "stratified": {
                "strata": want["stratified"]["strata"],
                **_cox_fit(frame, want["stratified"]["terms"], ties, strata=want["stratified"]["strata"]),
            },
        }
    model = fit_cox(frame, "time", event="status", covariates=case.result["efron"]["full"]["terms"])
    curves = model.predict_survival(frame.head(8), case.result["predicted_survival_full_efron"]["times"])
    made["predicted_survival_full_efron"] = {
        "times": curves.times,
        "surv": curves.survival,
        "lower_log": curves.lower,
        "upper_log": curves.upper,
        "std_err": curves.standard_error,
    }
    return made


def _cox_fit(
    frame: pd.DataFrame, terms: list[str], ties: str, *, strata: str | None = None, full: bool = False
) -> dict:
    model = fit_cox(frame, "time", event="status", covariates=terms, ties=ties, strata=strata)
    c = model.concordance
    names = ("concordant", "discordant", "tied.x", "tied.y", "tied.xy")
    if strata is not None and c.strata_counts.shape[0] <= 10:
        counts: object = c.strata_counts.ravel(order="F")
    else:
        counts = dict(zip(names, c.strata_counts.sum(axis=0), strict=True))
    made = {
        "n": model.n,
        "nevent": model.n_events,
        "terms": list(model.covariates),
        "coef": model.coefficients,
        "se": model.standard_errors,
        "hr": model.hazard_ratios,
        "lower95": model.lower,
        "upper95": model.upper,
        "z": model.z,
        "p": model.p_values,
        "loglik_null": model.log_likelihood_null,
        "loglik": model.log_likelihood,
        "AIC": model.aic,
        "BIC": model.bic,
        "lrt": _test(model.likelihood_ratio),
        # R's summary rounds this statistic to two decimals.
        "wald": {**_test(model.wald), "test": round(model.wald.statistic, 2)},
        "score": _test(model.score),
        "concordance": c.estimate,
        "concordance_se": c.standard_error,
        "concordance_counts": counts,
        "vcov": model.covariance,
    }
    return made | _cox_details(frame, model, terms, ties) if full else made


def _test(test: object) -> dict:
    return {"test": test.statistic, "df": test.degrees_of_freedom, "pvalue": test.p_value}


def _cox_details(frame: pd.DataFrame, model: CoxModel, terms: list[str], ties: str) -> dict:
    zph = {}
    for transform in TRANSFORMS:
        try:
            test = check_proportional_hazards(
                frame, "time", event="status", covariates=terms, ties=ties, transform=transform
            )
        except InvalidValue:
            zph[transform] = "not run: a time is 0"
            continue
        zph[transform] = {
            "rows": list(test.rows),
            "chisq": test.chi_square,
            "df": test.degrees_of_freedom,
            "p": test.p_values,
        }
    baseline = model.baseline_hazard()
    times = np.unique(frame["time"])
    hazard = np.concatenate(([0.0], baseline.cumulative_hazard))[np.searchsorted(baseline.time, times, side="right")]
    times, hazard = times[hazard > 0], hazard[hazard > 0]
    shown = np.unique(np.round(np.linspace(1, times.size, min(40, times.size))).astype(int)) - 1
    residuals = cox_residuals(frame, "time", event="status", covariates=terms, ties=ties)
    return {
        "zph": zph,
        "basehaz_x0": {"time": times[shown], "cumhaz": hazard[shown]},
        "means": model.means,
        "lp_centered_first10": model.predict_risk(frame)[:10],
        "martingale_first10": residuals.martingale[:10],
        "deviance_first10": residuals.deviance[:10],
        "schoenfeld_first20": {"time": residuals.schoenfeld_time[:20], "values": residuals.schoenfeld[:20]},
    }


def kaplan_meier(case: Case) -> dict:
    frame, want = case.table(), case.result
    times, tau = want["overall"]["at_times"]["log"]["time"], want["overall"]["rmst"]["tau"]
    made: dict = {"overall": _curve(frame, times, tau), "by": {}}
    for name, block in want.get("by", {}).items():
        labels = frame[name].map(format_level)
        groups = {key: _curve(frame[labels == key.split("=", 1)[1]], times, tau) for key in block["groups"]}
        made["by"][name] = {
            "groups": groups,
            **{
                key: _log_rank(compare_survival(frame["time"], frame["status"], group=frame[name], rho=rho))
                for key, rho in (("logrank_rho0", 0.0), ("peto_rho1", 1.0), ("rho05", 0.5))
            },
        }
        if "pairwise" in block:
            made["by"][name]["pairwise"] = _pairwise(frame, labels, block["pairwise"])
    if "stratified_logrank" in want:
        group, strata = want["stratified_logrank"]["group"], want["stratified_logrank"]["strata"]
        test = compare_survival(frame["time"], frame["status"], group=frame[group], strata=frame[strata])
        made["stratified_logrank"] = {"group": group, "strata": strata, **_log_rank(test)}
    return made


def _curve(frame: pd.DataFrame, times: list[float], tau: float) -> dict:
    made: dict = {"ci": {}, "quantiles": {}, "at_times": {}}
    for confidence in ("log-log", "log", "plain"):
        curve = estimate_survival(frame["time"], frame["status"], confidence=confidence)
        made["ci"][confidence] = {"lower": curve.lower, "upper": curve.upper}
        q = curve.quantiles()
        made["quantiles"][confidence] = {"prob": q.probability, "est": q.time, "lower": q.lower, "upper": q.upper}
        t = curve.at(times)
        made["at_times"][confidence] = {
            "time": t.time,
            "n_risk": t.at_risk,
            "surv": t.survival,
            "std_err": t.standard_error,
            "lower": t.lower,
            "upper": t.upper,
        }
    mean = restricted_mean(frame["time"], frame["status"], horizon=tau)
    follow_up = reverse_survival_median(frame["time"], frame["status"])
    return made | {
        "n": curve.n,
        "events": curve.n_events,
        "time": curve.time,
        "n_risk": curve.at_risk,
        "n_event": curve.events,
        "n_censor": curve.censored,
        "surv": curve.survival,
        "std_err_cumhaz": curve.standard_error_log,
        "rmst": {"tau": tau, "rmst": mean.mean, "se": mean.standard_error},
        "rev_km_median_followup": follow_up,
    }


def _log_rank(test: GroupComparison) -> dict:
    return {
        "groups": [f"G={group}" for group in test.groups],
        "n": test.n,
        "obs": test.observed,
        "exp": test.expected,
        "var": test.variance,
        "chisq": test.chi_square,
        "df": test.degrees_of_freedom,
        "p": test.p_value,
    }


def _pairwise(frame: pd.DataFrame, labels: pd.Series, want: dict) -> dict:
    p = []
    for a, b in zip(want["a"], want["b"], strict=True):
        rows = labels.isin([a, b])
        p.append(compare_survival(frame["time"][rows], frame["status"][rows], group=labels[rows]).p_value)
    adjusted = {f"p_{m}": adjust_p_values(p, method=m) for m in ("BH", "bonferroni", "holm")}
    return {"a": want["a"], "b": want["b"], "p": p, **adjusted}


def cutpoint(case: Case) -> dict:
    frame, made = case.table(), {}
    for name, block in case.result.items():
        if name == "two_cut":
            made[name] = _two_cuts(frame, block)
            continue
        made[name] = {}
        for key, want in block.items():
            if key == "minp":
                m = minimum_p(frame["time"], frame["status"], score=frame[name])
                made[name][key] = {
                    "cuts": m.cuts,
                    "chisq": m.chi_squares,
                    "p": m.p_values,
                    "best_cut": m.cut,
                    "best_chisq": m.chi_square,
                    "best_p": m.p_uncorrected,
                }
            else:
                share = float(key.removeprefix("maxstat_minprop"))
                m = maximally_selected_rank(frame["time"], frame["status"], score=frame[name], min_proportion=share)
                p = {"Lau92": m.p_lausen_1992, "Lau94": m.p_lausen_1994_bound, "HL": m.p_hothorn_lausen}
                made[name][key] = {
                    "cutpoint": m.cut,
                    "statistic": m.statistic,
                    "cuts": m.cuts,
                    "stats": m.statistics,
                    "p": {k: p[k] for k in want["p"]},
                    "n_high": m.n_high,
                    "n_low": m.n_low,
                }
    return made


def _two_cuts(frame: pd.DataFrame, want: dict) -> dict:
    t = two_cuts(frame["time"], frame["status"], score=frame[want["variable"]])
    return {
        "variable": want["variable"],
        "candidates": t.candidates,
        "a": t.lower,
        "b": t.upper,
        "chisq": t.chi_square,
        "p": t.p_uncorrected,
        "n_pairs": t.chi_squares.size,
        "mean_chisq": t.chi_squares.mean(),
    }
