"""Requests and results of the survival analytics service."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict, JsonValue

from services.shared.contracts import Contract, Key
from services.shared.errors import NotFound

MAX_ROWS = 1_000_000
MAX_PERMUTATIONS = 10_000

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
CohortName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
Level = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0)]
Cell = float | str | None

_TIMES = [6.0, 14.0, 21.0, 30.0, 44.0, 62.0, 9.0, 17.0, 35.0, 51.0, 11.0, 70.0]
_EVENTS = [1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0]
_AGES = [71, 64, 58, 49, 52, 41, 66, 60, 47, 38, 69, 35]
_SCORES = [1.9, 1.2, 0.4, 0.8, 0.1, -0.9, 1.5, 0.9, -0.2, -0.7, 1.1, -1.4]
_RISKS = [0.93, 0.85, 0.6, 0.7, 0.5, 0.2, 0.9, 0.75, 0.4, 0.25, 0.8, 0.1]
_OLD = [0.8, 0.7, 0.65, 0.5, 0.55, 0.35, 0.7, 0.6, 0.5, 0.4, 0.75, 0.3]
_GROUPS = ["high", "high", "low", "high", "low", "low", "high", "high", "low", "low", "high", "low"]
_CASES = [1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0]


def _example(inline: dict[str, list[float] | list[int] | list[str]], /, **fields: JsonValue) -> ConfigDict:
    columns: JsonDict = {name: [*values] for name, values in inline.items()}
    example: JsonDict = {"data": {"columns": columns}, **fields}
    # BentoML's OpenAPI schema knows the keyword example, not the newer examples.
    return ConfigDict(json_schema_extra={"example": example})


_FOLLOW: dict[str, list[float] | list[int] | list[str]] = {"months": _TIMES, "died": _EVENTS}


class Notice(Contract):
    """A named warning about a result."""

    name: str
    detail: str


class Figure(Contract):
    """A key figure; null where it does not exist."""

    name: str
    value: Cell


class Column(Contract):
    """A column of a table; null marks a value that does not exist."""

    name: str
    values: tuple[Cell, ...]


class Table(Contract):
    """A named table of equally long columns."""

    name: str
    columns: tuple[Column, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the table; null becomes NaN."""
        return pd.DataFrame({column.name: pd.Series(column.values) for column in self.columns})


class AnalysisResult(Contract):
    """What every analysis returns: key figures, tables, named warnings and, where asked for, a picture."""

    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notices: tuple[Notice, ...] = ()
    svg: str | None = Field(None, description="The picture as SVG, where the request sets picture")
    document: str | None = Field(None, description="JSON text that a web page can compute with (nomograms)")

    def figure(self, name: str) -> Cell:
        """Return one key figure."""
        for item in self.figures:
            if item.name == name:
                return item.value
        raise NotFound("The result has no such figure.", field=name, expected=", ".join(f.name for f in self.figures))

    def table(self, name: str) -> pd.DataFrame:
        """Return one table."""
        for item in self.tables:
            if item.name == name:
                return item.to_frame()
        raise NotFound("The result has no such table.", field=name, expected=", ".join(t.name for t in self.tables))


class Data(Contract):
    """Where the patients come from: columns in the request, a cohort's participants, or a stored table.

    At most a million rows. Exactly one of the three is given.
    """

    columns: dict[ColumnName, tuple[Cell, ...]] | None = Field(None, description="Columns of equal length, by name")
    cohort: CohortName | None = Field(None, description="A cohort whose participants.tsv holds the columns")
    table: Key | None = Field(None, description="Storage key of a .parquet, .csv or .tsv table")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if sum(source is not None for source in (self.columns, self.cohort, self.table)) != 1:
            raise ValueError("give exactly one of columns, cohort and table")
        return self


class Request(Contract):
    """What every request has: data, and whether to draw."""

    data: Data
    picture: bool = Field(default=False, description="Return the figure as SVG")


class SurvivalRequest(Request):
    """Follow-up: columns of times and of events (1 = event, 0 = censored)."""

    time: ColumnName
    event: ColumnName


class EstimateSurvivalRequest(SurvivalRequest):
    """Kaplan–Meier curves, medians, restricted means, and log-rank tests between groups."""

    model_config = _example({**_FOLLOW, "risk": _GROUPS}, time="months", event="died", group="risk", times=[12, 36])

    group: ColumnName | None = None
    strata: ColumnName | None = Field(None, description="Compare groups within strata")
    confidence: Literal["log-log", "log", "plain"] = "log-log"
    level: Level = 0.95
    rho: float = Field(0.0, ge=-4, le=4, description="Weight S(t-)^rho of the test: 0 log-rank, 1 Peto and Peto")
    times: tuple[Annotated[float, Field(ge=0)], ...] = Field((), max_length=1000)
    horizon: Positive | None = Field(None, description="Horizon of the restricted mean")
    adjustment: Literal["BH", "BY", "holm", "hochberg", "bonferroni", "none"] = "BH"
    time_unit: str = Field("months", max_length=30)


class FitCoxRequest(SurvivalRequest):
    """A Cox model, its test of proportional hazards, and predicted survival."""

    model_config = _example(
        {**_FOLLOW, "age": _AGES, "score": _SCORES}, time="months", event="died", covariates=["age"], times=[12, 36]
    )

    covariates: tuple[ColumnName, ...] = Field(min_length=1, max_length=200)
    ties: Literal["efron", "breslow"] = "efron"
    strata: ColumnName | None = None
    level: Level = 0.95
    transform: Literal["km", "identity", "log", "rank"] | None = Field(
        None, description="Also test proportional hazards along this transform of time"
    )
    times: tuple[Annotated[float, Field(ge=0)], ...] = Field((), max_length=100, description="Predict survival here")
    bootstrap: int = Field(0, ge=0, le=MAX_PERMUTATIONS, description="Refits in resampled patients")
    seed: int = 0


class ScreenCovariatesRequest(SurvivalRequest):
    """Univariable Cox models."""

    model_config = _example(
        {**_FOLLOW, "age": _AGES, "score": _SCORES}, time="months", event="died", covariates=["age", "score"]
    )

    covariates: tuple[ColumnName, ...] = Field(min_length=1, max_length=20_000)
    ties: Literal["efron", "breslow"] = "efron"
    level: Level = 0.95


class SelectPenaltyRequest(SurvivalRequest):
    """LASSO, elastic-net or ridge Cox regression with its penalty chosen by cross-validation."""

    model_config = _example(
        {**_FOLLOW, "age": _AGES, "score": _SCORES},
        time="months",
        event="died",
        covariates=["age", "score"],
        folds=3,
    )

    covariates: tuple[ColumnName, ...] = Field(min_length=2, max_length=50_000)
    l1_ratio: float = Field(1.0, ge=0, le=1)
    folds: int = Field(10, ge=3, le=100)
    fold_column: ColumnName | None = Field(None, description="Column that names each patient's fold")
    measure: Literal["deviance", "concordance"] = "deviance"
    seed: int = 0


class FindCutpointRequest(SurvivalRequest):
    """A cut-point of a score for survival, with a p-value corrected for the search."""

    model_config = _example({**_FOLLOW, "score": _SCORES}, time="months", event="died", score="score")

    score: ColumnName
    method: Literal["maximally-selected-rank", "minimum-p", "two-cuts", "median"] = "maximally-selected-rank"
    min_proportion: Share = 0.1
    permutations: int = Field(0, ge=0, le=MAX_PERMUTATIONS)
    seed: int = 0


class ConcordanceRequest(SurvivalRequest):
    """Concordance of scores with survival, and comparisons of all others with the first."""

    model_config = _example(
        {**_FOLLOW, "score": _SCORES, "age": _AGES}, time="months", event="died", scores=["score", "age"]
    )

    scores: tuple[ColumnName, ...] = Field(min_length=1, max_length=50)
    weighting: Literal["harrell", "uno"] = "harrell"
    horizon: Positive | None = None
    level: Level = 0.95


class TimeDependentAucRequest(SurvivalRequest):
    """Time-dependent AUC of scores, and comparisons of all others with the first."""

    model_config = _example(
        {**_FOLLOW, "score": _SCORES, "age": _AGES}, time="months", event="died", scores=["score"], times=[12, 36]
    )

    scores: tuple[ColumnName, ...] = Field(min_length=1, max_length=50)
    times: tuple[Positive, ...] = Field(min_length=1, max_length=100)
    case_rule: Literal["before", "at-or-before"] = "before"
    level: Level = 0.95


class SurvivalCalibrationRequest(SurvivalRequest):
    """Calibration and Brier score of predicted risks by a time."""

    model_config = _example({**_FOLLOW, "risk": _RISKS}, time="months", event="died", risks=["risk"], at=36, groups=3)

    risks: tuple[ColumnName, ...] = Field(min_length=1, max_length=20)
    at: Positive
    groups: int = Field(5, ge=2, le=100)


class SurvivalReclassificationRequest(SurvivalRequest):
    """Net reclassification for the event by a time."""

    model_config = _example(
        {**_FOLLOW, "old": _OLD, "new": _RISKS}, time="months", event="died", old="old", new="new", at=36
    )

    old: ColumnName
    new: ColumnName
    at: Positive
    cuts: tuple[float, ...] | None = Field(None, description="Ascending cuts of risk categories")
    method: Literal["km", "ipw"] = "km"
    replicates: int = Field(0, ge=0, le=MAX_PERMUTATIONS)
    seed: int = 0


class SurvivalDecisionRequest(SurvivalRequest):
    """Decision curves and clinical impact for the event by a time."""

    model_config = _example({**_FOLLOW, "risk": _RISKS}, time="months", event="died", risks=["risk"], at=36)

    risks: tuple[ColumnName, ...] = Field(min_length=1, max_length=20)
    at: Positive
    thresholds: tuple[float, ...] | None = None
    population: int = Field(1000, ge=1, le=10_000_000)


class NomogramRequest(Request):
    """A nomogram of a Cox model (time, event and times given) or of a logistic one (outcome given)."""

    model_config = _example(
        {**_FOLLOW, "age": _AGES, "score": _SCORES}, time="months", event="died", covariates=["age"], times=[36]
    )

    covariates: tuple[ColumnName, ...] = Field(min_length=1, max_length=50)
    time: ColumnName | None = None
    event: ColumnName | None = None
    outcome: ColumnName | None = None
    times: tuple[Positive, ...] = Field((), max_length=10)
    time_unit: str = Field("", max_length=30)

    @model_validator(mode="after")
    def _check_outcome(self) -> Self:
        follow_up = self.time is not None and self.event is not None
        if follow_up == (self.outcome is not None) or (self.time is None) != (self.event is None):
            raise ValueError("give either time and event, or outcome")
        return self


class BinaryRequest(Request):
    """A column of 1 = case and 0 = control."""

    outcome: ColumnName


class RocRequest(BinaryRequest):
    """ROC curves, AUCs with DeLong limits, all pairwise tests, and the best threshold of each score."""

    model_config = _example({"case": _CASES, "score": _SCORES, "age": _AGES}, outcome="case", scores=["score", "age"])

    scores: tuple[ColumnName, ...] = Field(min_length=1, max_length=50)
    direction: Literal["higher", "lower", "auto"] = "higher"
    criterion: Literal["youden", "closest-topleft"] = "youden"
    threshold: float | None = Field(None, description="Classify at this threshold instead of the best one")
    level: Level = 0.95


class CalibrationRequest(BinaryRequest):
    """Calibration of predicted probabilities."""

    model_config = _example({"case": _CASES, "risk": _RISKS}, outcome="case", risk="risk", groups=3)

    risk: ColumnName
    groups: int = Field(10, ge=3, le=100)


class ReclassificationRequest(BinaryRequest):
    """Net reclassification and integrated discrimination improvement."""

    model_config = _example({"case": _CASES, "old": _OLD, "new": _RISKS}, outcome="case", old="old", new="new")

    old: ColumnName
    new: ColumnName
    cuts: tuple[float, ...] | None = None
    level: Level = 0.95


class DecisionRequest(BinaryRequest):
    """Decision curves and clinical impact."""

    model_config = _example({"case": _CASES, "risk": _RISKS}, outcome="case", risks=["risk"])

    risks: tuple[ColumnName, ...] = Field(min_length=1, max_length=20)
    thresholds: tuple[float, ...] | None = None
    population: int = Field(1000, ge=1, le=10_000_000)


class FitLogisticRequest(BinaryRequest):
    """A logistic model, after stepwise selection where it is asked for."""

    model_config = _example({"case": _CASES, "age": _AGES}, outcome="case", covariates=["age"])

    covariates: tuple[ColumnName, ...] = Field(min_length=1, max_length=200)
    profile: bool = Field(default=False, description="Profile-likelihood limits as well")
    selection: Literal["backward", "forward", "both"] | None = None
    criterion: Literal["aic", "bic"] = "aic"
    level: Level = 0.95


class AgreementRequest(Request):
    """Intraclass correlation: one row per subject, one column per rater."""

    model_config = _example({"a": [9.0, 6.0, 8.0, 7.0], "b": [8.0, 5.0, 9.0, 6.0]}, raters=["a", "b"])

    raters: tuple[ColumnName, ...] = Field(min_length=2, max_length=100)
    level: Level = 0.95
    average_limits: Literal["satterthwaite", "spearman-brown"] = "satterthwaite"


class OverlapRequest(Request):
    """Dice and surface distances by region: one row per case and region."""

    model_config = _example(
        {"region": ["WT", "WT", "TC", "TC"], "dice": [0.9, 0.86, 0.8, 0.7], "hd95_mm": [3.0, 4.2, 5.0, 9.1]},
        region="region",
    )

    region: ColumnName = "region"
    measures: tuple[ColumnName, ...] = ("dice", "hd95_mm")


class CompareGroupsRequest(Request):
    """Tests of numeric columns between groups, with p-values adjusted for their number."""

    model_config = _example({"risk": _GROUPS, "age": _AGES}, group="risk", columns=["age"])

    group: ColumnName
    columns: tuple[ColumnName, ...] = Field(min_length=1, max_length=20_000)
    test: Literal[
        "welch", "student", "mann-whitney", "levene-median", "levene-mean", "analysis-of-variance", "kruskal-wallis"
    ] = "welch"
    adjustment: Literal["BH", "BY", "holm", "hochberg", "bonferroni", "none"] = "BH"


class DescribeCohortRequest(Request):
    """ "Table 1": characteristics of a cohort by group."""

    model_config = _example({"risk": _GROUPS, "age": _AGES}, group="risk", columns=["age"])

    group: ColumnName
    columns: tuple[ColumnName, ...] = Field(min_length=1, max_length=500)
    categorical: tuple[ColumnName, ...] = ()
    non_normal: tuple[ColumnName, ...] = ()


class PlotScoresRequest(Request):
    """Distribution of a score by group; the picture is always drawn."""

    model_config = _example({"risk": _GROUPS, "score": _SCORES}, group="risk", score="score", cut=0.5)

    group: ColumnName
    score: ColumnName
    cut: float | None = None
