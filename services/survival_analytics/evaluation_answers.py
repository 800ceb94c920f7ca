"""Answers to requests about binary outcomes, agreement and groups: one function per endpoint."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from services.shared.errors import GliaflowError, InvalidValue
from services.survival_analytics import plots
from services.survival_analytics.agreement import intraclass_correlation, summarise_overlap
from services.survival_analytics.answers import build_result
from services.survival_analytics.calibration import (
    calibrate,
    calibration_curve,
    calibration_groups,
    hosmer_lemeshow,
)
from services.survival_analytics.cohort_table import describe_cohort
from services.survival_analytics.contracts import (
    AgreementRequest,
    AnalysisResult,
    CalibrationRequest,
    CompareGroupsRequest,
    DecisionRequest,
    DescribeCohortRequest,
    FitLogisticRequest,
    OverlapRequest,
    PlotScoresRequest,
    ReclassificationRequest,
    RocRequest,
)
from services.survival_analytics.discrimination import auc, best_threshold, classify, compare_auc_matrix, roc
from services.survival_analytics.hypothesis import (
    analysis_of_variance,
    kruskal_wallis,
    levene,
    mann_whitney,
    t_test,
)
from services.survival_analytics.inputs import (
    FloatArray,
    IntArray,
    Notice,
    read_classes,
    read_columns,
    read_groups,
    read_vector,
    require_column,
)
from services.survival_analytics.logistic import fit_logistic, select_stepwise
from services.survival_analytics.multiplicity import adjust_p_values
from services.survival_analytics.net_benefit import clinical_impact, decision_curves
from services.survival_analytics.reclassification import reclassify


def _column(frame: pd.DataFrame, name: str, step: str) -> NDArray[np.object_]:
    return np.asarray(require_column(frame, name, step=step))


def answer_roc(frame: pd.DataFrame, request: RocRequest) -> AnalysisResult:
    """Trace ROC curves, compare them, and classify at a threshold."""
    step = "roc"
    y = read_classes(_column(frame, request.outcome, step), field=request.outcome, step=step)
    scores = {n: read_vector(_column(frame, n, step), field=n, step=step) for n in request.scores}
    areas = {n: auc(y, v, direction=request.direction, level=request.level) for n, v in scores.items()}
    curves = {n: roc(y, v, direction=request.direction) for n, v in scores.items()}
    rows = []
    for name, v in scores.items():
        if request.threshold is None:
            best = best_threshold(
                y, v, criterion=request.criterion, direction=curves[name].direction, level=request.level
            )
            rows.append(best.to_frame().assign(score=name))
        else:
            one = classify(y, v, threshold=request.threshold, direction=curves[name].direction, level=request.level)
            rows.append(one.to_frame().assign(score=name))
    tables = {
        "auc": pd.concat([a.to_frame().assign(score=n) for n, a in areas.items()]),
        "curve": pd.concat([c.to_frame().assign(score=n) for n, c in curves.items()]),
        "classification": pd.concat(rows),
    }
    if len(scores) > 1:
        matrix = compare_auc_matrix(y, scores, direction=request.direction)
        tables["p_values"] = matrix.to_frame().rename_axis("first").reset_index()
    notices = [Notice(n.name, f"{name}: {n.detail}") for name, a in areas.items() for n in a.notices]
    svg = plots.render_svg(plots.plot_roc(curves, areas=areas)) if request.picture else None
    return build_result(tables=tables, notices=notices, svg=svg)


def answer_calibration(frame: pd.DataFrame, request: CalibrationRequest) -> AnalysisResult:
    """Measure calibration."""
    step = "calibrate"
    y, p = _column(frame, request.outcome, step), _column(frame, request.risk, step)
    summary, groups = calibrate(y, p), calibration_groups(y, p, groups=request.groups)
    curve = calibration_curve(y, p)
    figures: dict[str, object] = {k: v for k, v in vars(summary).items() if k != "notices"}
    notices = list(summary.notices)
    try:
        test = hosmer_lemeshow(y, p, groups=request.groups)
        figures |= {"hosmer_lemeshow": test.chi_square, "hosmer_lemeshow_p": test.p_value}
    except GliaflowError as error:
        notices.append(Notice("hosmer_lemeshow_not_defined", error.detail))
    svg = None
    if request.picture:
        svg = plots.render_svg(plots.plot_calibration(groups, curve=curve, summary=summary))
    return build_result(
        figures=figures, tables={"groups": groups.to_frame(), "curve": curve.to_frame()}, notices=notices, svg=svg
    )


def answer_reclassification(frame: pd.DataFrame, request: ReclassificationRequest) -> AnalysisResult:
    """Compute NRI and IDI."""
    step = "reclassify"
    result = reclassify(
        _column(frame, request.outcome, step),
        _column(frame, request.old, step),
        new=_column(frame, request.new, step),
        cuts=request.cuts,
        level=request.level,
    )
    tables = {"improvement": result.to_frame()}
    if result.table_cases.size:
        tables["cases"], tables["controls"] = pd.DataFrame(result.table_cases), pd.DataFrame(result.table_controls)
    figures = {
        "up_cases": result.up_cases,
        "down_cases": result.down_cases,
        "up_controls": result.up_controls,
        "down_controls": result.down_controls,
    }
    return build_result(figures=figures, tables=tables, notices=result.notices)


def answer_decision(frame: pd.DataFrame, request: DecisionRequest) -> AnalysisResult:
    """Compute decision curves and clinical impact."""
    step = "decision_curves"
    y = _column(frame, request.outcome, step)
    risks = {name: _column(frame, name, step) for name in request.risks}
    curves = decision_curves(y, risks, thresholds=request.thresholds)
    impact = {
        name: clinical_impact(y, v, thresholds=request.thresholds, population=request.population)
        for name, v in risks.items()
    }
    tables = {
        "net_benefit": curves.to_frame(),
        "clinical_impact": pd.concat([i.to_frame().assign(risk=name) for name, i in impact.items()]),
    }
    svg = plots.render_svg(plots.plot_decision_curves(curves)) if request.picture else None
    return build_result(figures={"event_rate": curves.event_rate}, tables=tables, svg=svg)


def answer_logistic(frame: pd.DataFrame, request: FitLogisticRequest) -> AnalysisResult:
    """Fit a logistic model."""
    covariates = request.covariates
    tables: dict[str, pd.DataFrame] = {}
    if request.selection is not None:
        search = select_stepwise(
            frame,
            request.outcome,
            covariates=covariates,
            direction=request.selection,
            penalty=2.0 if request.criterion == "aic" else float(np.log(len(frame))),
        )
        tables["steps"] = search.to_frame()
        if not search.selected:
            notice = Notice("nothing_selected", "No covariate improves the criterion: the model is empty.")
            return build_result(tables=tables, notices=[notice])
        covariates = search.selected
    model = fit_logistic(frame, request.outcome, covariates=covariates, level=request.level, profile=request.profile)
    figures = {
        "n": model.n,
        "events": model.n_events,
        "aic": model.aic,
        "bic": model.bic,
        "deviance": model.deviance,
        "null_deviance": model.null_deviance,
    }
    svg = plots.render_svg(plots.plot_forest(model)) if request.picture else None
    return build_result(
        figures=figures, tables={"coefficients": model.to_frame(), **tables}, notices=model.notices, svg=svg
    )


def answer_agreement(frame: pd.DataFrame, request: AgreementRequest) -> AnalysisResult:
    """Compute intraclass correlations."""
    ratings = read_columns(frame, request.raters, step="intraclass_correlation")
    table = intraclass_correlation(ratings, level=request.level, average_limits=request.average_limits)
    return build_result(
        figures={"subjects": table.n_subjects, "raters": table.n_raters}, tables={"icc": table.to_frame()}
    )


def answer_overlap(frame: pd.DataFrame, request: OverlapRequest) -> AnalysisResult:
    """Summarise overlap by region."""
    return build_result(
        tables={"overlap": summarise_overlap(frame, request.region, measures=request.measures).to_frame()}
    )


def answer_group_comparison(frame: pd.DataFrame, request: CompareGroupsRequest) -> AnalysisResult:
    """Test columns between groups."""
    step = "compare_groups"
    codes, labels = read_groups(pd.Series(_column(frame, request.group, step)), field=request.group, step=step)
    pairwise = request.test in ("welch", "student", "mann-whitney")
    if pairwise and len(labels) != 2:
        raise InvalidValue(
            "This test compares two groups.",
            step=step,
            field=request.group,
            expected="two groups",
            got=f"{len(labels)}: {', '.join(labels[:10])}",
            remedy="Use analysis-of-variance or kruskal-wallis.",
        )
    rows, notices = [], []
    for name in request.columns:
        values = read_vector(_column(frame, name, step), field=name, step=step)
        try:
            statistic, p_value = _test(values, codes, request.test)
        except GliaflowError as error:
            notices.append(Notice("not_tested", f"{name}: {error.detail}"))
            statistic, p_value = float("nan"), float("nan")
        rows.append({"column": name, "statistic": statistic, "p_value": p_value})
    table = pd.DataFrame(rows)
    known = table["p_value"].notna().to_numpy()
    table["adjusted"] = np.nan
    table.loc[known, "adjusted"] = adjust_p_values(table["p_value"][known].to_numpy(), method=request.adjustment)
    return build_result(tables={"tests": table}, notices=notices)


def _test(values: FloatArray, codes: IntArray, test: str) -> tuple[float, float]:
    if test in ("welch", "student"):
        t = t_test(values[codes == 0], values[codes == 1], equal_variances=test == "student")
        return t.statistic, t.p_value
    if test == "mann-whitney":
        result = mann_whitney(values[codes == 0], values[codes == 1])
    elif test == "kruskal-wallis":
        result = kruskal_wallis(values, codes)
    elif test == "analysis-of-variance":
        result = analysis_of_variance(values, codes)
    else:
        result = levene(values, codes, centre="median" if test == "levene-median" else "mean")
    return result.statistic, result.p_value


def answer_cohort(frame: pd.DataFrame, request: DescribeCohortRequest) -> AnalysisResult:
    """Describe a cohort by group."""
    table = describe_cohort(
        frame,
        request.group,
        columns=request.columns,
        categorical=request.categorical,
        non_normal=request.non_normal,
    )
    return build_result(tables={"characteristics": table.to_frame()}, notices=table.notices)


def answer_scores(frame: pd.DataFrame, request: PlotScoresRequest) -> AnalysisResult:
    """Draw the distribution of a score by group."""
    step = "plot_scores"
    codes, labels = read_groups(pd.Series(_column(frame, request.group, step)), field=request.group, step=step)
    score = read_vector(_column(frame, request.score, step), field=request.score, step=step)
    groups = {label: score[codes == k] for k, label in enumerate(labels)}
    table = pd.DataFrame(
        [{"group": label, "n": v.size, "mean": v.mean(), "median": float(np.median(v))} for label, v in groups.items()]
    )
    figure = plots.plot_scores(groups, cut=request.cut, label=request.score)
    return build_result(tables={"groups": table}, svg=plots.render_svg(figure))
