"""Reclassification, decision-curve, calibration, nomogram, classical-test and agreement cases."""

from __future__ import annotations

import numpy as np
import pandas as pd

from services.survival_analytics.agreement import intraclass_correlation
from services.survival_analytics.calibration import calibrate, calibration_groups, hosmer_lemeshow
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.discrimination_gain import survival_discrimination_gain
from services.survival_analytics.hypothesis import (
    analysis_of_variance,
    chi_square,
    correlate,
    cross_tabulate,
    fisher_exact,
    kruskal_wallis,
    levene,
    mann_whitney,
    mcnemar,
    shapiro_wilk,
    t_test,
)
from services.survival_analytics.logistic import fit_logistic, select_stepwise
from services.survival_analytics.model_strength import ModelStrength, measure_cox_strength, measure_logistic_strength
from services.survival_analytics.multiplicity import adjust_p_values
from services.survival_analytics.net_benefit import (
    DecisionCurves,
    clinical_impact,
    decision_curves,
    survival_clinical_impact,
    survival_decision_curves,
)
from services.survival_analytics.nomogram import Nomogram, build_nomogram
from services.survival_analytics.reclassification import Improvement, reclassify, reclassify_survival
from services.survival_analytics.survival_calibration import brier_scores, calibrate_survival
from survival_oracle.case import Case

LRM_BINS = 5000
MOVES = ["NRI", "NRI+", "NRI-", "Pr(Up|Case)", "Pr(Down|Case)", "Pr(Down|Ctrl)", "Pr(Up|Ctrl)"]


def nri_binary(case: Case) -> dict:
    frame, cuts = case.table(), case.result["categorical"]["cuts"]
    y, old, new = frame["y"], frame["p_base"], frame["p_full"]
    plain, grouped = reclassify(y, old, new=new), reclassify(y, old, new=new, cuts=cuts)
    small = reclassify(y, old, new=new, minimum_change=0.05)

    def moves(r: object) -> list[float]:
        parts = [r.nri.estimate, r.nri_cases.estimate, r.nri_controls.estimate]
        return [*parts, r.up_cases, r.down_cases, r.down_controls, r.up_controls]

    return {
        "continuous": _improve_prob(plain),
        "categorical": {"cuts": cuts, **_improve_prob(grouped)},
        "nribin_category": {
            "rows": MOVES,
            "est": moves(grouped),
            "table_case": grouped.table_cases,
            "table_ctrl": grouped.table_controls,
        },
        "nribin_diff05": {"rows": MOVES, "est": moves(small)},
    }


def _improve_prob(r: object) -> dict:
    def limits(i: Improvement) -> dict:
        return {"est": i.estimate, "se": i.standard_error, "lower": i.lower, "upper": i.upper, "p": i.p_value}

    made = {
        "n": r.n_cases + r.n_controls,
        "na": r.n_cases,
        "nb": r.n_controls,
        "pup.ev": r.up_cases,
        "pup.ne": r.up_controls,
        "pdown.ev": r.down_cases,
        "pdown.ne": r.down_controls,
        "improveSens": r.sensitivity_gain,
        "improveSpec": r.specificity_gain,
        "nri_ci": limits(r.nri),
        "nri_event_ci": limits(r.nri_cases),
        "nri_nonevent_ci": limits(r.nri_controls),
        "idi_ci": limits(r.idi),
    }
    for name, part in (("nri", r.nri), ("nri.ev", r.nri_cases), ("nri.ne", r.nri_controls), ("idi", r.idi)):
        made |= {name: part.estimate, f"se.{name}": part.standard_error, f"z.{name}": part.z}
    return made


def nri_survival(case: Case) -> dict:
    risks, frame, want = case.table(0), case.table(1), case.result
    t0, cuts = want["t0"], want["cuts"]
    made: dict = {"t0": t0, "cuts": cuts}
    for method in ("km", "ipw"):
        options = {"old": risks["risk_base"], "new": risks["risk_full"], "at": t0, "method": method}
        grouped = reclassify_survival(risks["time"], risks["status"], cuts=cuts, **options)
        made[f"category_{method}"] = {"rows": MOVES, "est": grouped.estimates, "table_all": grouped.table}
        plain = reclassify_survival(risks["time"], risks["status"], **options)
        made[f"continuous_{method}"] = {"rows": MOVES, "est": plain.estimates}
    base, full = want["survIDINRI"]["base"], want["survIDINRI"]["full"]
    gain = survival_discrimination_gain(frame, "time", event="status", old=base, new=full, at=t0)
    made["survIDINRI"] = {
        "est": [gain.idi, gain.half_nri, gain.median_improvement],
        "base": base,
        "full": full,
    }
    return made


def _decision(curves: DecisionCurves) -> dict:
    made = {}
    for c in curves.curves:
        known = ~np.isnan(c.net_benefit)
        made[c.strategy] = {
            "threshold": c.threshold[known],
            # dcurves calls the rate of the outcome pos_rate.
            "pos_rate": np.full(int(known.sum()), curves.event_rate),
            "tp_rate": c.true_positive_rate[known],
            "fp_rate": c.false_positive_rate[known],
            "net_benefit": c.net_benefit[known],
        }
    return made


def evaluation_binary(case: Case) -> dict:
    frame, want = case.table(), case.result
    y = frame["y"]
    models = [m for m in want["dca"] if m not in ("all", "none")]
    curves = decision_curves(y, {m: frame[m] for m in models})
    full, impact = curves["p_full"], clinical_impact(y, frame["p_full"])
    rate = curves.event_rate
    made: dict = {
        "dca": _decision(curves),
        "own_net_benefit_p_full_ge": full.net_benefit,
        "clinical_impact_p_full": {
            "threshold": impact.threshold,
            "high_risk_per_1000": impact.high_risk,
            "true_positive_per_1000": impact.high_risk_with_event,
        },
        "rmda_p_full": {
            "thresholds": full.threshold,
            "TPR": full.true_positive_rate / rate,
            "FPR": full.false_positive_rate / (1 - rate),
            "NB": full.net_benefit,
            "sNB": full.net_benefit / rate,
            "prob.high.risk": full.positive_rate,
        },
        "val_prob": {},
        "hosmer_lemeshow": {},
        "recalibration": {},
        "calibration_groups5": {},
    }
    for m in want["val_prob"]:
        c = calibrate(y, frame[m], probability_bins=LRM_BINS)
        made["val_prob"][m] = {
            "Dxy": c.d_xy,
            "C (ROC)": c.c,
            "R2": c.r_squared,
            "D": c.discrimination,
            "D:Chi-sq": c.discrimination_chi_square,
            "U": c.unreliability,
            "U:Chi-sq": c.unreliability_chi_square,
            "U:p": c.unreliability_p,
            "Q": c.quality,
            "Brier": c.brier,
            "Intercept": c.intercept,
            "Slope": c.slope,
            "Emax": c.largest_error,
            "E90": c.error_90,
            "Eavg": c.mean_error,
            "S:z": c.spiegelhalter_z,
            "S:p": c.spiegelhalter_p,
        }
        made["recalibration"][m] = {
            "intercept": c.intercept,
            "slope": c.slope,
            "calibration_in_the_large": c.calibration_in_the_large,
        }
        made["hosmer_lemeshow"][m] = {}
        for key in want["hosmer_lemeshow"][m]:
            h = hosmer_lemeshow(y, frame[m], groups=int(key.removeprefix("g")))
            made["hosmer_lemeshow"][m][key] = {
                "chisq": h.chi_square,
                "df": h.degrees_of_freedom,
                "p": h.p_value,
                "observed": h.observed,
                "expected": h.expected,
                "groups": list(h.labels),
            }
        g = calibration_groups(y, frame[m], groups=5)
        made["calibration_groups5"][m] = {
            "group": list(g.labels),
            "n": g.n,
            "mean_pred": g.predicted,
            "obs_rate": g.observed,
        }
    return made


def evaluation_survival(case: Case) -> dict:
    frame, want = case.table(), case.result
    t0, time, event = want["t0"], frame["time"], frame["status"]
    models = {m: frame[m] for m in want["dca"] if m not in ("all", "none")}
    extended = survival_decision_curves(time, event, models=models, at=t0, extend=True)
    impact = survival_clinical_impact(time, event, risk=frame["risk_full"], at=t0)
    made: dict = {
        "t0": t0,
        "dca": _decision(survival_decision_curves(time, event, models=models, at=t0)),
        "own_net_benefit_risk_full_ge": extended["risk_full"].net_benefit,
        "clinical_impact_risk_full": {
            "threshold": impact.threshold,
            "high_risk_per_1000": impact.high_risk,
            "expected_events_per_1000": impact.high_risk_with_event,
        },
        "groupkm5": {},
        "calibration_groups3": {},
    }
    for m in want["groupkm5"]:
        k = calibrate_survival(time, event, risk=frame[m], at=t0, groups=5, even_groups=True)
        columns = (1 - k.predicted, k.n, k.events, 1 - k.observed, k.standard_error_log)
        made["groupkm5"][m] = {"cols": ["x", "n", "events", "KM", "std.err"], "values": np.column_stack(columns)}
        k = calibrate_survival(time, event, risk=frame[m], at=t0, groups=3)
        made["calibration_groups3"][m] = [
            {
                "group": k.labels[i],
                "n": k.n[i],
                "mean_pred_risk": k.predicted[i],
                "km_risk": k.observed[i],
                "lower": k.lower[i],
                "upper": k.upper[i],
            }
            for i in range(len(k.labels))
        ]
    b = brier_scores(time, event, risks={"base": frame["risk_base"], "full": frame["risk_full"]}, at=t0)
    names = {"null": "Null model"}
    made["brier_ipcw"] = {
        "score": {
            "model": [names.get(m, m) for m in b.models],
            "times": [t0] * len(b.models),
            "Brier": b.brier,
            "se": b.standard_error,
            "lower": b.lower,
            "upper": b.upper,
            "IPA": b.index_of_prediction_accuracy,
        },
        "contrasts": {
            "times": [t0] * len(b.contrasts),
            "model": b.contrasts["model"].tolist(),
            "reference": [names.get(m, m) for m in b.contrasts["reference"]],
            "delta.Brier": b.contrasts["difference"].tolist(),
            "se": b.contrasts["standard_error"].tolist(),
            "lower": b.contrasts["lower"].tolist(),
            "upper": b.contrasts["upper"].tolist(),
            "p": b.contrasts["p_value"].tolist(),
        },
    }
    return made


def nomogram_cox(case: Case) -> dict:
    frame, want = case.table(), case.result
    model = fit_cox(frame, "time", event="status", covariates=want["vars"])
    made = _nomogram(build_nomogram(model, want["times"], frame=frame), frame)
    s = measure_cox_strength(model, frame)
    first = made.pop("first")
    return made | {
        "vars": want["vars"],
        "times": want["times"],
        "center": float(model.centre @ model.coefficients),
        "coef": dict(zip(want["vars"], model.coefficients, strict=True)),
        "stats": {
            "Obs": s.n,
            "Events": s.n_events,
            "Model L.R.": s.likelihood_ratio,
            "d.f.": s.degrees_of_freedom,
            "P": s.p_value,
            "Score": model.score.statistic,
            "Score P": model.score.p_value,
            "Dxy": s.d_xy,
            "g": s.g,
            "gr": s.g_ratio,
            **_r_squared(s),
        },
        "first10": {
            "lp_centered": first.linear_predictor,
            "total_points": first.total_points,
            "surv": first.probability,
        },
    }


def nomogram_logistic(case: Case) -> dict:
    frame, want = case.table(), case.result
    y = case.outcome_column()
    model = fit_logistic(frame, y, covariates=want["vars"])
    made = _nomogram(build_nomogram(model, frame=frame), frame)
    s = measure_logistic_strength(model, frame, y, probability_bins=LRM_BINS)
    first = made.pop("first")
    return made | {
        "vars": want["vars"],
        "coef": dict(zip(["Intercept", *want["vars"]], model.coefficients, strict=True)),
        "stats": {
            "Obs": s.n,
            "Model L.R.": s.likelihood_ratio,
            "d.f.": s.degrees_of_freedom,
            "P": s.p_value,
            "C": s.c,
            "Dxy": s.d_xy,
            "Gamma": s.gamma,
            "Tau-a": s.tau_a,
            "Brier": s.brier,
            "g": s.g,
            "gr": s.g_ratio,
            "gp": s.g_probability,
            **_r_squared(s),
        },
        "first10": {
            "lp": first.linear_predictor,
            "total_points": first.total_points,
            "prob": first.probability[0],
        },
    }


def _r_squared(s: ModelStrength) -> dict:
    p, effective = s.degrees_of_freedom, f"{round(s.effective_n, 1):g}"
    return {
        "R2": s.r_squared,
        f"R2({s.n})": s.r_squared_n,
        f"R2({p},{s.n})": s.r_squared_n_adjusted,
        f"R2({effective})": s.r_squared_effective,
        f"R2({p},{effective})": s.r_squared_effective_adjusted,
    }


def _nomogram(n: Nomogram, frame: pd.DataFrame) -> dict:
    axes: dict = {a.covariate: {a.covariate: a.levels, "Xbeta": a.contribution, "points": a.points} for a in n.axes}
    axes["total.points"] = {"x": n.total_points}
    axes["lp"] = {"x": n.linear_predictor_points, "x.real": n.linear_predictor}
    for k, outcome in enumerate(n.outcomes, start=1):
        axes["Risk" if n.family == "logistic" else f"S_t{k}"] = {
            "x": outcome.points,
            "x.real": outcome.probability,
            "fat": [f"{p:g}" for p in outcome.probability],
        }
    return {
        "axes": axes,
        "intercept": n.intercept,
        "points_per_lp": n.points_per_unit,
        "first": n.predict(frame.head(10)),
    }


def classical(case: Case) -> dict:
    frame, want, y = case.table(), case.result, case.outcome_column()
    terms = want["logistic_multivariate"]["terms"][1:]
    made: dict = {
        "logistic_multivariate": _logistic(frame, y, terms),
        "logistic_univariate": {v: _logistic(frame, y, [v]) for v in want["logistic_univariate"]},
    }
    backward = select_stepwise(frame, y, covariates=terms)
    names = ["(Intercept)", *backward.selected]
    coefficients = [] if backward.model is None else backward.model.coefficients
    made["stepAIC_backward"] = {
        "selected": list(backward.selected),
        "steps": list(backward.steps),
        "AIC": backward.criterion,
        "coef": dict(zip(names, coefficients, strict=True)),
    }
    forward = select_stepwise(frame, y, covariates=terms, direction="forward")
    made["stepAIC_forward"] = {
        "selected": list(forward.selected),
        "steps": list(forward.steps),
        "AIC": forward.criterion,
    }
    both = select_stepwise(frame, y, covariates=terms, direction="both")
    made["stepAIC_both"] = {"selected": list(both.selected), "AIC": both.criterion[-1]}
    strict = select_stepwise(frame, y, covariates=terms, penalty=float(np.log(len(frame))))
    made["stepBIC_backward"] = {"selected": list(strict.selected)}
    made["tests"] = {v: _tests(frame, y, v, block) for v, block in want["tests"].items()}
    made["chisq"] = _contingency(frame, y, want["chisq"]["var"])
    p = [made["tests"][v]["t_welch"]["p"] for v in want["tests"]]
    made["p_adjust"] = {"p": p} | {m: adjust_p_values(p, method=m) for m in want["p_adjust"] if m != "p"}
    return made


def _logistic(frame: pd.DataFrame, y: str, terms: list[str]) -> dict:
    m = fit_logistic(frame, y, covariates=terms, profile=True)
    return {
        "terms": list(m.terms),
        "coef": m.coefficients,
        "se": m.standard_errors,
        "z": m.z,
        "p": m.p_values,
        "OR": m.odds_ratios,
        "wald_lower": m.wald_lower,
        "wald_upper": m.wald_upper,
        "profile_lower": m.profile_lower,
        "profile_upper": m.profile_upper,
        "AIC": m.aic,
        "BIC": m.bic,
        "deviance": m.deviance,
        "null_deviance": m.null_deviance,
    }


def _tests(frame: pd.DataFrame, y: str, name: str, want: dict) -> dict:
    x, group = frame[name], frame[y]
    cases, controls = x[group == 1], x[group == 0]
    made: dict = {}
    for centre in ("median", "mean"):
        t = levene(x, group, centre=centre)
        made[f"levene_{centre}"] = {
            "F": t.statistic,
            "df": [t.degrees_of_freedom, t.degrees_of_freedom_2],
            "p": t.p_value,
        }
    for key, equal in (("t_welch", False), ("t_student", True)):
        d = t_test(cases, controls, equal_variances=equal)
        made[key] = {"t": d.statistic, "df": d.degrees_of_freedom, "p": d.p_value, "ci": [d.lower, d.upper]}
    for key, continuity in (("wilcox_normal_cc", True), ("wilcox_normal_nocc", False)):
        t = mann_whitney(cases, controls, continuity=continuity)
        made[key] = {"W": t.statistic, "p": t.p_value}
    w, f, h = shapiro_wilk(x), analysis_of_variance(x, group), kruskal_wallis(x, group)
    pearson, spearman, kendall = want["pearson"]["with"], want["spearman"]["with"], want["kendall"]["with"]
    r = correlate(x, frame[pearson])
    rho = correlate(x, frame[spearman], method="spearman")
    tau = correlate(x, frame[kendall], method="kendall")
    return made | {
        "shapiro": {"W": w.statistic, "p": w.p_value},
        "anova_F": {"F": f.statistic, "p": f.p_value},
        "kruskal": {"H": h.statistic, "p": h.p_value},
        "pearson": {"with": pearson, "r": r.estimate, "t": r.statistic, "p": r.p_value, "ci": [r.lower, r.upper]},
        "spearman": {"with": spearman, "rho": rho.estimate, "p_approx": rho.p_value},
        "kendall": {"with": kendall, "tau": tau.estimate, "p": tau.p_value},
    }


def _contingency(frame: pd.DataFrame, y: str, name: str) -> dict:
    table = cross_tabulate(frame[name], frame[y])
    yates, plain, exact = chi_square(table), chi_square(table, continuity=False), fisher_exact(table)
    return {
        "var": name,
        "table": table,
        "yates": {"X2": yates.statistic, "p": yates.p_value},
        "plain": {"X2": plain.statistic, "p": plain.p_value},
        "fisher": {"p": exact.p_value, "or_cmle": exact.odds_ratio, "ci": [exact.lower, exact.upper]},
        "mcnemar_cc": mcnemar(table).p_value,
    }


def icc(case: Case) -> dict:
    frame = case.table()
    if "feature" in frame.columns:
        return {str(name): _icc(part[["R1", "R2", "R3"]]) for name, part in frame.groupby("feature", sort=True)}
    return {"all": _icc(frame)}


def _icc(ratings: pd.DataFrame) -> dict:
    forms = {
        "oneway_consistency_single": ("ICC(1,1)", "ICC(1)"),
        "oneway_consistency_average": ("ICC(1,k)", "ICC({k})"),
        "twoway_consistency_single": ("ICC(3,1)", "ICC(C,1)"),
        "twoway_consistency_average": ("ICC(3,k)", "ICC(C,{k})"),
        "twoway_agreement_single": ("ICC(2,1)", "ICC(A,1)"),
        "twoway_agreement_average": ("ICC(2,k)", "ICC(A,{k})"),
    }
    table = intraclass_correlation(ratings)
    irr = {}
    for key, (form, name) in forms.items():
        r = table[form]
        irr[key] = {
            "name": name.format(k=table.n_raters),
            "icc": r.estimate,
            "F": r.f,
            "df1": r.degrees_of_freedom,
            "df2": r.degrees_of_freedom_2,
            "p": r.p_value,
            "lower": r.lower,
            "upper": r.upper,
        }
    stepped = intraclass_correlation(ratings, average_limits="spearman-brown")
    # psych tests the agreement forms with the degrees of freedom of the consistency forms.
    tests = [stepped[form.replace("2", "3", 1)] for form in (r.form for r in stepped.rows)]
    psych = {
        "type": [r.form.replace("(", "").replace(",1", "").replace(",k", "k").replace(")", "") for r in stepped.rows],
        "ICC": [r.estimate for r in stepped.rows],
        "F": [r.f for r in stepped.rows],
        "df1": [t.degrees_of_freedom for t in tests],
        "df2": [t.degrees_of_freedom_2 for t in tests],
        "p": [t.p_value for t in tests],
        "lower": [r.lower for r in stepped.rows],
        "upper": [r.upper for r in stepped.rows],
    }
    return {"n": table.n_subjects, "k": table.n_raters, "irr": irr, "psych": psych}
