"""Answers to requests about survival: one function per endpoint."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from services.survival_analytics import plots
from services.survival_analytics.answers import build_result
from services.survival_analytics.contracts import (
    AnalysisResult,
    ConcordanceRequest,
    EstimateSurvivalRequest,
    FindCutpointRequest,
    FitCoxRequest,
    NomogramRequest,
    ScreenCovariatesRequest,
    SelectPenaltyRequest,
    SurvivalCalibrationRequest,
    SurvivalDecisionRequest,
    SurvivalReclassificationRequest,
    TimeDependentAucRequest,
)
from services.survival_analytics.cox import bootstrap_cox, check_proportional_hazards, fit_cox
from services.survival_analytics.cox_screen import screen_covariates
from services.survival_analytics.cutpoint import maximally_selected_rank, median_cutpoint, minimum_p, two_cuts
from services.survival_analytics.discrimination import (
    compare_concordance,
    compare_time_dependent_auc,
    concordance,
    time_dependent_auc,
    weighted_roc,
)
from services.survival_analytics.inputs import (
    Notice,
    read_columns,
    read_follow_up,
    read_groups,
    require_column,
)
from services.survival_analytics.kaplan_meier import (
    compare_pairs,
    compare_survival,
    estimate_survival,
    restricted_mean,
)
from services.survival_analytics.logistic import fit_logistic
from services.survival_analytics.model_strength import measure_cox_strength
from services.survival_analytics.net_benefit import survival_clinical_impact, survival_decision_curves
from services.survival_analytics.nomogram import build_nomogram
from services.survival_analytics.penalised_cox import cross_validate
from services.survival_analytics.reclassification import reclassify_survival
from services.survival_analytics.survival_calibration import (
    brier_scores,
    calibrate_survival,
    survival_calibration_curve,
)


def _column(frame: pd.DataFrame, name: str, step: str) -> NDArray[np.object_]:
    return np.asarray(require_column(frame, name, step=step))


def answer_survival(frame: pd.DataFrame, request: EstimateSurvivalRequest) -> AnalysisResult:
    """Estimate and compare survival curves."""
    step = "estimate_survival"
    follow = read_follow_up(
        _column(frame, request.time, step), _column(frame, request.event, step), step=step, need_events=False
    )
    time, event = follow.time, follow.event
    codes = np.zeros(time.size, dtype=np.int64)
    labels: tuple[str, ...] = ("all",)
    if request.group is not None:
        codes, labels = read_groups(pd.Series(_column(frame, request.group, step)), field=request.group, step=step)
    curves = {
        label: estimate_survival(
            time[codes == k], event[codes == k], confidence=request.confidence, level=request.level
        )
        for k, label in enumerate(labels)
    }
    tables = {"curve": pd.concat([c.to_frame().assign(group=label) for label, c in curves.items()])}
    tables["quantiles"] = pd.concat([c.quantiles().to_frame().assign(group=label) for label, c in curves.items()])
    if request.times:
        tables["times"] = pd.concat([c.at(request.times).to_frame().assign(group=k) for k, c in curves.items()])
    if request.horizon is not None:
        means = {
            label: restricted_mean(time[codes == k], event[codes == k], horizon=request.horizon).to_frame()
            for k, label in enumerate(labels)
        }
        tables["restricted_mean"] = pd.concat([mean.assign(group=label) for label, mean in means.items()])
    figures: dict[str, object] = {"n": time.size, "events": int(event.sum())}
    comparison = None
    if len(labels) > 1:
        strata = None
        if request.strata is not None:
            strata = pd.Series(_column(frame, request.strata, step))
        group = np.array(labels, dtype=object)[codes]
        comparison = compare_survival(time, event, group=group, rho=request.rho, strata=strata)
        tables["comparison"] = comparison.to_frame()
        figures |= {"chi_square": comparison.chi_square, "p_value": comparison.p_value}
        if len(labels) > 2:
            pairs = compare_pairs(time, event, group=group, rho=request.rho, adjustment=request.adjustment)
            tables["pairs"] = pairs.to_frame()
    notices = [Notice(n.name, f"{label}: {n.detail}") for label, c in curves.items() for n in c.notices]
    svg = None
    if request.picture:
        svg = plots.render_svg(plots.plot_survival(curves, comparison=comparison, time_unit=request.time_unit))
    return build_result(figures=figures, tables=tables, notices=notices, svg=svg)


def answer_cox(frame: pd.DataFrame, request: FitCoxRequest) -> AnalysisResult:
    """Fit a Cox model."""
    model = fit_cox(
        frame,
        request.time,
        event=request.event,
        covariates=request.covariates,
        ties=request.ties,
        strata=request.strata,
        level=request.level,
    )
    tables = {"coefficients": model.to_frame(), "baseline_hazard": model.baseline_hazard().to_frame()}
    if request.transform is not None:
        test = check_proportional_hazards(
            frame,
            request.time,
            event=request.event,
            covariates=request.covariates,
            ties=request.ties,
            strata=request.strata,
            transform=request.transform,
        )
        tables["proportional_hazards"] = test.to_frame()
    if request.times:
        tables["predicted_survival"] = model.predict_survival(frame, request.times).to_frame()
    if request.bootstrap:
        resampled = bootstrap_cox(
            frame,
            request.time,
            event=request.event,
            covariates=request.covariates,
            ties=request.ties,
            strata=request.strata,
            replicates=request.bootstrap,
            seed=request.seed,
            level=request.level,
        )
        tables["bootstrap"] = resampled.to_frame()
    strength = measure_cox_strength(model, frame)
    figures = {
        "n": model.n,
        "events": model.n_events,
        "log_likelihood": model.log_likelihood,
        "log_likelihood_null": model.log_likelihood_null,
        "aic": model.aic,
        "bic": model.bic,
        "likelihood_ratio": model.likelihood_ratio.statistic,
        "likelihood_ratio_p": model.likelihood_ratio.p_value,
        "wald_p": model.wald.p_value,
        "score_p": model.score.p_value,
        "concordance": model.concordance.estimate,
        "concordance_lower": model.concordance.lower,
        "concordance_upper": model.concordance.upper,
        "r_squared": strength.r_squared,
        "g": strength.g,
    }
    svg = plots.render_svg(plots.plot_forest(model)) if request.picture else None
    return build_result(figures=figures, tables=tables, notices=model.notices, svg=svg)


def answer_screen(frame: pd.DataFrame, request: ScreenCovariatesRequest) -> AnalysisResult:
    """Fit a univariable Cox model per covariate."""
    screen = screen_covariates(
        frame,
        request.time,
        event=request.event,
        covariates=request.covariates,
        ties=request.ties,
        level=request.level,
    )
    svg = plots.render_svg(plots.plot_forest(screen)) if request.picture else None
    return build_result(tables={"covariates": screen.to_frame()}, notices=screen.notices, svg=svg)


def answer_penalty(frame: pd.DataFrame, request: SelectPenaltyRequest) -> AnalysisResult:
    """Choose the penalty of a Cox model."""
    step = "select_penalty"
    matrix = read_columns(frame, request.covariates, step=step)
    folds: int | pd.Series = request.folds
    if request.fold_column is not None:
        folds = pd.Series(_column(frame, request.fold_column, step))
    result = cross_validate(
        pd.DataFrame(matrix, columns=list(request.covariates)),
        _column(frame, request.time, step),
        event=_column(frame, request.event, step),
        folds=folds,
        l1_ratio=request.l1_ratio,
        measure=request.measure,
        seed=request.seed,
    )
    chosen = {
        rule: result.selected(rule=rule).rename_axis("covariate").reset_index(name="coefficient")
        for rule in ("min", "1se")
    }
    return build_result(
        figures={"lambda_min": result.lambda_min, "lambda_1se": result.lambda_1se},
        tables={"curve": result.to_frame(), "coefficients_min": chosen["min"], "coefficients_1se": chosen["1se"]},
        notices=result.path.notices,
    )


def answer_cutpoint(frame: pd.DataFrame, request: FindCutpointRequest) -> AnalysisResult:
    """Find a cut-point."""
    step = "find_cutpoint"
    time, event = _column(frame, request.time, step), _column(frame, request.event, step)
    score = _column(frame, request.score, step)
    if request.method == "median":
        read_follow_up(time, event, step=step)
        return build_result(figures={"cut": median_cutpoint(score)})
    if request.method == "maximally-selected-rank":
        found = maximally_selected_rank(time, event, score=score, min_proportion=request.min_proportion)
        figures: dict[str, object] = {
            "cut": found.cut,
            "statistic": found.statistic,
            "p_value": found.p_value,
            "n_high": found.n_high,
            "n_low": found.n_low,
        }
        return build_result(figures=figures, tables={"cuts": found.to_frame()}, notices=found.notices)
    if request.method == "minimum-p":
        best = minimum_p(
            time,
            event,
            score=score,
            min_proportion=request.min_proportion,
            permutations=request.permutations,
            seed=request.seed,
        )
        figures = {
            "cut": best.cut,
            "chi_square": best.chi_square,
            "p_uncorrected": best.p_uncorrected,
            "p_corrected": best.p_corrected,
            "p_permutation": best.p_permutation,
        }
        return build_result(figures=figures, tables={"cuts": best.to_frame()})
    pair = two_cuts(
        time,
        event,
        score=score,
        min_proportion=request.min_proportion,
        permutations=request.permutations,
        seed=request.seed,
    )
    figures = {
        "lower": pair.lower,
        "upper": pair.upper,
        "chi_square": pair.chi_square,
        "p_uncorrected": pair.p_uncorrected,
        "p_permutation": pair.p_permutation,
    }
    return build_result(figures=figures, tables={"cuts": pair.to_frame()})


def answer_concordance(frame: pd.DataFrame, request: ConcordanceRequest) -> AnalysisResult:
    """Measure and compare concordance."""
    step = "concordance"
    time, event = _column(frame, request.time, step), _column(frame, request.event, step)
    scores = {name: _column(frame, name, step) for name in request.scores}
    found = {
        name: concordance(
            time, event, score=v, weighting=request.weighting, horizon=request.horizon, level=request.level
        )
        for name, v in scores.items()
    }
    tables = {"concordance": pd.concat([c.to_frame().assign(score=name) for name, c in found.items()])}
    first = request.scores[0]
    others = [
        compare_concordance(time, event, first=scores[first], second=scores[name])
        .to_frame()
        .assign(first_score=first, second_score=name)
        for name in request.scores[1:]
    ]
    if others:
        tables["comparisons"] = pd.concat(others)
    notices = [Notice(n.name, f"{name}: {n.detail}") for name, c in found.items() for n in c.notices]
    return build_result(tables=tables, notices=notices)


def answer_time_dependent_auc(frame: pd.DataFrame, request: TimeDependentAucRequest) -> AnalysisResult:
    """Measure and compare time-dependent AUC."""
    step = "time_dependent_auc"
    time, event = _column(frame, request.time, step), _column(frame, request.event, step)
    scores = {name: _column(frame, name, step) for name in request.scores}
    times = sorted(request.times)
    found = {
        name: time_dependent_auc(time, event, score=v, times=times, case_rule=request.case_rule, level=request.level)
        for name, v in scores.items()
    }
    tables = {"auc": pd.concat([a.to_frame().assign(score=name) for name, a in found.items()])}
    first = request.scores[0]
    others = [
        compare_time_dependent_auc(found[first], found[name]).to_frame().assign(first_score=first, second_score=name)
        for name in request.scores[1:]
    ]
    if others:
        tables["comparisons"] = pd.concat(others)
    svg = None
    if request.picture:
        curves = {
            f"t = {t:g}": weighted_roc(time, event, score=scores[first], at=t, case_rule=request.case_rule)
            for t in times
        }
        svg = plots.render_svg(plots.plot_time_dependent_roc(curves, title=first))
    return build_result(tables=tables, svg=svg)


def answer_survival_calibration(frame: pd.DataFrame, request: SurvivalCalibrationRequest) -> AnalysisResult:
    """Compare predicted with observed risk by a time."""
    step = "calibrate_survival"
    time, event = _column(frame, request.time, step), _column(frame, request.event, step)
    risks = {name: _column(frame, name, step) for name in request.risks}
    groups = {
        name: calibrate_survival(time, event, risk=v, at=request.at, groups=request.groups) for name, v in risks.items()
    }
    curves = {name: survival_calibration_curve(time, event, risk=v, at=request.at) for name, v in risks.items()}
    brier = brier_scores(time, event, risks=risks, at=request.at)
    summary = pd.DataFrame(
        [
            {
                "risk": name,
                "slope": c.slope,
                "observed_to_expected": c.observed_to_expected,
                "mean_error": c.mean_error,
                "median_error": c.median_error,
                "error_90": c.error_90,
            }
            for name, c in curves.items()
        ]
    )
    tables = {
        "groups": pd.concat([g.to_frame().assign(risk=name) for name, g in groups.items()]),
        "summary": summary,
        "brier": brier.to_frame(),
        "brier_contrasts": brier.contrasts,
    }
    notices = [Notice(n.name, f"{name}: {n.detail}") for name, g in groups.items() for n in g.notices]
    svg = plots.render_svg(plots.plot_survival_calibration(groups, curves=curves)) if request.picture else None
    return build_result(tables=tables, notices=notices, svg=svg)


def answer_survival_reclassification(frame: pd.DataFrame, request: SurvivalReclassificationRequest) -> AnalysisResult:
    """Compute the NRI for the event by a time."""
    step = "reclassify_survival"
    result = reclassify_survival(
        _column(frame, request.time, step),
        _column(frame, request.event, step),
        old=_column(frame, request.old, step),
        new=_column(frame, request.new, step),
        at=request.at,
        cuts=request.cuts,
        method=request.method,
        replicates=request.replicates,
        seed=request.seed,
    )
    tables = {"estimates": result.to_frame()}
    if result.table.size:
        tables["reclassification"] = pd.DataFrame(result.table)
    return build_result(figures={"nri": result.nri}, tables=tables)


def answer_survival_decision(frame: pd.DataFrame, request: SurvivalDecisionRequest) -> AnalysisResult:
    """Compute decision curves for the event by a time."""
    step = "survival_decision_curves"
    time, event = _column(frame, request.time, step), _column(frame, request.event, step)
    risks = {name: _column(frame, name, step) for name in request.risks}
    curves = survival_decision_curves(time, event, models=risks, at=request.at, thresholds=request.thresholds)
    impact = {
        name: survival_clinical_impact(
            time, event, risk=v, at=request.at, thresholds=request.thresholds, population=request.population
        )
        for name, v in risks.items()
    }
    tables = {
        "net_benefit": curves.to_frame(),
        "clinical_impact": pd.concat([i.to_frame().assign(risk=name) for name, i in impact.items()]),
    }
    svg = plots.render_svg(plots.plot_decision_curves(curves)) if request.picture else None
    return build_result(figures={"event_rate": curves.event_rate}, tables=tables, notices=curves.notices, svg=svg)


def answer_nomogram(frame: pd.DataFrame, request: NomogramRequest) -> AnalysisResult:
    """Fit a model and build its nomogram."""
    if request.time is not None and request.event is not None:
        cox = fit_cox(frame, request.time, event=request.event, covariates=request.covariates)
        nomogram = build_nomogram(cox, request.times, frame=frame, time_unit=request.time_unit)
        notices = cox.notices
    else:
        logistic = fit_logistic(frame, str(request.outcome), covariates=request.covariates)
        nomogram = build_nomogram(logistic, request.times, frame=frame)
        notices = logistic.notices
    outcomes = pd.concat(
        [
            pd.DataFrame({"outcome": o.label, "probability": o.probability, "points": o.points})
            for o in nomogram.outcomes
        ]
    )
    return build_result(
        figures={"points_per_unit": nomogram.points_per_unit, "intercept": nomogram.intercept},
        tables={"points": nomogram.to_frame(), "outcomes": outcomes},
        notices=notices,
        svg=plots.render_svg(plots.plot_nomogram(nomogram)) if request.picture else None,
        document=nomogram.to_json(),
    )
