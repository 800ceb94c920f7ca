"""What a classification study is told, what it finds, and how further models join it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from pipelines.modelling.held_out import HeldOutShare
from pipelines.modelling.study_data import StudyData
from pipelines.modelling.validation import Fit, FoldResult, Recipe, Split
from services.model_serving.package import FittedModel, ModelCard
from services.shared.contracts import Contract

Outcome = npt.NDArray[np.int64]


class StudyParameters(Contract):
    """Parameters of every study."""

    folds: int = Field(5, ge=2, le=20, description="Outer folds")
    repeats: int = Field(1, ge=1, le=100, description="Times that the outer cross-validation is repeated")
    inner_folds: int = Field(5, ge=2, le=20, description="Folds that tune, calibrate and set the threshold")
    permutations: int = Field(5, ge=0, le=1000, description="Runs of the whole study with shuffled outcomes")
    bootstraps: int = Field(1000, ge=0, le=100_000, description="Resamples of patients behind limits beside DeLong's")
    max_missing: float = Field(0.5, ge=0, lt=1, description="Largest share of missing values of a usable feature")
    held_out_share: float = HeldOutShare


@dataclass(frozen=True)
class StudyPlan:
    """What a study is, apart from its data.

    Parameters
    ----------
    classes
        Negative and positive class.
    """

    name: str
    version: str
    classes: tuple[str, str]
    intended_use: str
    recipe: Recipe
    parameters: StudyParameters


@dataclass(frozen=True)
class StudyResult:
    """Everything that a study found.

    Parameters
    ----------
    metrics
        Flat figures; ``<name>_low`` and ``<name>_high`` are 95 % limits.
    predictions
        One row a patient: outcome, out-of-fold probability, predicted class.
    folds
        One row an outer fold: sizes, AUC, threshold, setting, chosen features, columns after each step.
    roc, calibration
        Points of the curves of the out-of-fold probabilities.
    permuted
        One row a run with shuffled outcomes.
    comparison
        One row a classifier: AUC in the inner folds of the final fit, selection repeated inside them.
    features
        One row a feature of the final model: tests, importance or coefficient, share of folds that chose it.
    flow
        Patients and features in and out, with reasons.
    model, card
        The model fitted to all patients, and its description.
    fold_models
        The model of each outer fold.
    more_tables, documents
        What an extension adds: tables by name, and texts by file name.
    packages
        Further models, each with its description, by folder.
    """

    study: str
    metrics: dict[str, float]
    predictions: pd.DataFrame
    folds: pd.DataFrame
    roc: pd.DataFrame
    calibration: pd.DataFrame
    permuted: pd.DataFrame
    comparison: pd.DataFrame
    features: pd.DataFrame
    flow: dict[str, object]
    parameters: dict[str, object]
    model: FittedModel
    card: ModelCard
    fold_models: tuple[FittedModel, ...]
    more_tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    packages: dict[str, tuple[FittedModel, ModelCard]] = field(default_factory=dict)


@dataclass(frozen=True)
class ShuffledRun:
    """One run of the study with shuffled outcomes."""

    outcome: Outcome
    splits: list[Split]
    results: list[FoldResult]
    seed: int


@dataclass(frozen=True)
class StudyRun:
    """What a study has found when an extension begins.

    Parameters
    ----------
    results
        Its outer folds, in the order of ``splits``.
    final
        The model of all patients, with its rivals, made with ``final_seed``.
    """

    plan: StudyPlan
    data: StudyData
    seed: int
    splits: list[Split]
    results: list[FoldResult]
    final: Fit
    final_seed: int
    shuffled: list[ShuffledRun]


@dataclass(frozen=True)
class Addition:
    """What an extension adds to a study's result; see :class:`StudyResult`."""

    metrics: dict[str, float]
    tables: dict[str, pd.DataFrame]
    documents: dict[str, str]
    flow: dict[str, object]
    packages: dict[str, tuple[FittedModel, ModelCard]]


class Extension(Protocol):
    """Further models of a study, made of the same patients in the same folds."""

    def count_steps(self, columns: tuple[str, ...], *, folds: int, runs: int) -> int:
        """Return how often :meth:`extend` will call ``done`` for a table of these columns.

        Parameters
        ----------
        folds, runs
            Outer folds of all repeats, and runs of the whole cross-validation, shuffled ones included.
        """

    def extend(self, found: StudyRun, *, done: Callable[[], None]) -> Addition:
        """Fit and evaluate the further models."""
