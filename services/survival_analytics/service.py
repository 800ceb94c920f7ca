"""Survival analytics as a service. See README.md for its endpoints and limits."""

from __future__ import annotations

import pandas as pd

from services.shared.serving import endpoint, service
from services.shared.storage import open_storage
from services.survival_analytics import evaluation_answers, survival_answers
from services.survival_analytics.answers import load_frame
from services.survival_analytics.contracts import (
    AgreementRequest,
    AnalysisResult,
    CalibrationRequest,
    CompareGroupsRequest,
    ConcordanceRequest,
    DecisionRequest,
    DescribeCohortRequest,
    EstimateSurvivalRequest,
    FindCutpointRequest,
    FitCoxRequest,
    FitLogisticRequest,
    NomogramRequest,
    OverlapRequest,
    PlotScoresRequest,
    ReclassificationRequest,
    Request,
    RocRequest,
    ScreenCovariatesRequest,
    SelectPenaltyRequest,
    SurvivalCalibrationRequest,
    SurvivalDecisionRequest,
    SurvivalReclassificationRequest,
    TimeDependentAucRequest,
)


def _frame(request: Request) -> pd.DataFrame:
    return load_frame(open_storage(), request.data)


@service("survival_analytics")
class SurvivalAnalytics:
    """Survival analysis and model evaluation."""

    @endpoint
    def estimate_survival(self, request: EstimateSurvivalRequest, /) -> AnalysisResult:
        """Estimate survival curves and compare groups."""
        return survival_answers.answer_survival(_frame(request), request)

    @endpoint
    def fit_cox(self, request: FitCoxRequest, /) -> AnalysisResult:
        """Fit a Cox model."""
        return survival_answers.answer_cox(_frame(request), request)

    @endpoint
    def screen_covariates(self, request: ScreenCovariatesRequest, /) -> AnalysisResult:
        """Fit a univariable Cox model per covariate."""
        return survival_answers.answer_screen(_frame(request), request)

    @endpoint
    def select_penalty(self, request: SelectPenaltyRequest, /) -> AnalysisResult:
        """Choose the penalty of a LASSO, elastic-net or ridge Cox model."""
        return survival_answers.answer_penalty(_frame(request), request)

    @endpoint
    def find_cutpoint(self, request: FindCutpointRequest, /) -> AnalysisResult:
        """Find a cut-point of a score."""
        return survival_answers.answer_cutpoint(_frame(request), request)

    @endpoint
    def measure_concordance(self, request: ConcordanceRequest, /) -> AnalysisResult:
        """Measure and compare concordance."""
        return survival_answers.answer_concordance(_frame(request), request)

    @endpoint
    def time_dependent_auc(self, request: TimeDependentAucRequest, /) -> AnalysisResult:
        """Measure and compare time-dependent AUC."""
        return survival_answers.answer_time_dependent_auc(_frame(request), request)

    @endpoint
    def calibrate_survival(self, request: SurvivalCalibrationRequest, /) -> AnalysisResult:
        """Compare predicted with observed risk by a time."""
        return survival_answers.answer_survival_calibration(_frame(request), request)

    @endpoint
    def reclassify_survival(self, request: SurvivalReclassificationRequest, /) -> AnalysisResult:
        """Compute net reclassification for the event by a time."""
        return survival_answers.answer_survival_reclassification(_frame(request), request)

    @endpoint
    def survival_decision_curves(self, request: SurvivalDecisionRequest, /) -> AnalysisResult:
        """Compute decision curves for the event by a time."""
        return survival_answers.answer_survival_decision(_frame(request), request)

    @endpoint
    def build_nomogram(self, request: NomogramRequest, /) -> AnalysisResult:
        """Fit a Cox or logistic model and build its nomogram."""
        return survival_answers.answer_nomogram(_frame(request), request)

    @endpoint
    def compare_roc(self, request: RocRequest, /) -> AnalysisResult:
        """Trace ROC curves, compare their areas, and classify at a threshold."""
        return evaluation_answers.answer_roc(_frame(request), request)

    @endpoint
    def calibrate(self, request: CalibrationRequest, /) -> AnalysisResult:
        """Measure the calibration of predicted probabilities."""
        return evaluation_answers.answer_calibration(_frame(request), request)

    @endpoint
    def reclassify(self, request: ReclassificationRequest, /) -> AnalysisResult:
        """Compute net reclassification and integrated discrimination improvement."""
        return evaluation_answers.answer_reclassification(_frame(request), request)

    @endpoint
    def decision_curves(self, request: DecisionRequest, /) -> AnalysisResult:
        """Compute decision curves and clinical impact."""
        return evaluation_answers.answer_decision(_frame(request), request)

    @endpoint
    def fit_logistic(self, request: FitLogisticRequest, /) -> AnalysisResult:
        """Fit a logistic model, with stepwise selection where asked for."""
        return evaluation_answers.answer_logistic(_frame(request), request)

    @endpoint
    def measure_agreement(self, request: AgreementRequest, /) -> AnalysisResult:
        """Compute intraclass correlations."""
        return evaluation_answers.answer_agreement(_frame(request), request)

    @endpoint
    def summarise_overlap(self, request: OverlapRequest, /) -> AnalysisResult:
        """Summarise Dice and surface distances by region."""
        return evaluation_answers.answer_overlap(_frame(request), request)

    @endpoint
    def compare_groups(self, request: CompareGroupsRequest, /) -> AnalysisResult:
        """Test columns between groups."""
        return evaluation_answers.answer_group_comparison(_frame(request), request)

    @endpoint
    def describe_cohort(self, request: DescribeCohortRequest, /) -> AnalysisResult:
        """Describe a cohort by group: Table 1."""
        return evaluation_answers.answer_cohort(_frame(request), request)

    @endpoint
    def plot_scores(self, request: PlotScoresRequest, /) -> AnalysisResult:
        """Draw the distribution of a score by group."""
        return evaluation_answers.answer_scores(_frame(request), request)
