"""Training, tuning and internal validation patients of one cohort, and risk scores of whatever predictor learns there.

A predictor learns from training patients, may choose among its own variants (or stop) by tuning patients, and never
sees an internal one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from pipelines.modelling.signature import (
    Array,
    CutoffRule,
    Signature,
    SignatureRecipe,
    find_cutoff,
    fit_signature,
    risk_scores,
)
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_performance import SurvivalFigures, evaluate_survival
from pipelines.modelling.validation import derive_seed
from services.model_serving.package import FittedModel
from services.shared.errors import InvalidTable, TooFewCases
from services.survival_analytics.concordance import concordance
from services.survival_analytics.kaplan_meier import compare_survival

STEP = "split"
PARTS = ("train", "tuning", "internal")
LEAST_AT_HORIZON = 5
COLUMN = "split"
"""Clinical column that states each patient's part, where a cohort comes with a split of its own."""


@dataclass(frozen=True)
class Parts:
    """Disjoint patients of one cohort; ``tuning`` and ``internal`` may be nobody."""

    train: SurvivalData
    tuning: SurvivalData
    internal: SurvivalData

    @property
    def named(self) -> dict[str, SurvivalData]:
        """Patients by name, of each part that has any."""
        return {name: part for name in PARTS if (part := getattr(self, name)).ids}


def split_parts(data: SurvivalData, *, tuning: float, internal: float, seed: int) -> Parts:
    """Split patients, balanced by event and tercile of follow-up; or as the clinical column ``split`` says.

    Parameters
    ----------
    tuning
        Share of the patients that are not internal.
    internal
        Share of all patients.

    Raises
    ------
    InvalidTable
        Where the column ``split`` names another part, or misses a patient.
    TooFewCases
        Where a part that was asked for has no death, or training has fewer than ten.
    """
    if COLUMN in data.clinical:
        part = _stated(data)
    else:
        rng = np.random.default_rng(derive_seed(seed, 20))
        tercile = np.searchsorted(np.quantile(data.months, [1 / 3, 2 / 3]), data.months)
        order = np.lexsort((rng.permutation(len(data.ids)), tercile, data.event))
        part = np.full(len(order), "train", dtype=object)
        held = _systematic(len(order), internal, rng)
        part[order[held]] = "internal"
        rest = order[~held]
        part[rest[_systematic(len(rest), tuning, rng)]] = "tuning"
    parts = Parts(*(_take_part(data, part, name) for name in PARTS))
    for name, chosen in parts.named.items():
        least = 10 if name == "train" else 1
        if chosen.event.sum() < least:
            raise TooFewCases(
                f"too few deaths among the {name} patients",
                step=STEP,
                field="event",
                expected=f"at least {least}",
                got=f"{int(chosen.event.sum())} among {len(chosen.ids)} patients",
                remedy="take a smaller share, or add patients or follow-up",
            )
    if not parts.train.ids:
        raise TooFewCases("there is no training patient", step=STEP, field=COLUMN, expected="patients in 'train'")
    return parts


def _take_part(data: SurvivalData, part: npt.NDArray[np.object_], name: str) -> SurvivalData:
    """Return the patients of one part, those of the others in its flow as left out."""
    chosen = data.take(np.flatnonzero(part == name))
    before = data.flow.get("patients_excluded", {})
    others = {i: f"in the {other} part" for i, other in zip(data.ids, part, strict=True) if other != name}
    excluded = dict(sorted({**(before if isinstance(before, dict) else {}), **others}.items()))
    counts = {"patients_studied": len(chosen.ids), "deaths": int(chosen.event.sum())}
    return replace(chosen, flow=data.flow | {"patients_excluded": excluded} | counts)


def _systematic(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return which of an ordered row are drawn, evenly along it from a random start."""
    steps = np.floor(np.arange(count + 1) * share + rng.random())
    return np.asarray(np.diff(steps) > 0)


def _stated(data: SurvivalData) -> np.ndarray:
    part = data.clinical[COLUMN].astype("string").str.strip().str.lower().fillna("").to_numpy(dtype=object)
    strange = sorted({str(value) for value in part} - set(PARTS))
    if strange:
        raise InvalidTable(
            "the split of the cohort names a part that is not known",
            step=STEP,
            field=COLUMN,
            expected=", ".join(PARTS),
            got=", ".join(value or "a missing value" for value in strange[:5]),
            remedy="state a part for every patient, or remove the column",
        )
    return np.asarray(part)


class RiskModel(Protocol):
    """What a predictor learnt."""

    def scores(self, data: SurvivalData) -> Array:
        """Return a risk score for each patient, higher = higher risk, shape (patients,)."""


class RiskPredictor(Protocol):
    """What learns a risk score, such as a radiomic signature."""

    @property
    def name(self) -> str:
        """What it is called."""

    def fit(self, train: SurvivalData, tuning: SurvivalData, *, seed: int) -> RiskModel:
        """Learn from training patients; tuning patients may choose among variants or stop the training."""


@dataclass(frozen=True)
class SignatureModel:
    """A fitted signature as a risk model."""

    model: FittedModel

    def scores(self, data: SurvivalData) -> Array:
        """Return risk scores."""
        return risk_scores(self.model, data)


@dataclass(frozen=True)
class SignaturePredictor:
    """A signature whose recipe the tuning patients choose.

    Parameters
    ----------
    recipes
        Candidates by name, in the order that wins a tie.
    horizons
        Months; see :func:`pipelines.modelling.signature.fit_signature`.
    """

    recipes: Mapping[str, SignatureRecipe]
    cutoff: CutoffRule
    horizons: Sequence[float]
    name: str = "signature"

    def choose(self, train: SurvivalData, tuning: SurvivalData, *, seed: int) -> tuple[str, Signature, pd.DataFrame]:
        """Fit every candidate to the training patients and keep the one with the best C in the tuning patients.

        Returns
        -------
        tuple of str, Signature, DataFrame
            Name and fit of the chosen one; and one row a candidate: candidate, features, train_c_index, tuning_c_index,
            chosen. Without tuning patients the first candidate is chosen and its C is empty.
        """
        fits, rows = {}, []
        # With the seed of run_survival_study, so that the fit that is chosen here is the study's model.
        for name, recipe in self.recipes.items():
            fits[name] = fit_signature(
                recipe, train, cutoff=self.cutoff, horizons_months=self.horizons, seed=derive_seed(seed, 2)
            )
            rows.append(
                {
                    "candidate": name,
                    "features": len(fits[name].model.columns),
                    "train_c_index": _concordance(fits[name].model, train),
                    "tuning_c_index": _concordance(fits[name].model, tuning) if tuning.ids else np.nan,
                }
            )
        table = pd.DataFrame(rows)
        best = table.loc[int(np.argmax(table["tuning_c_index"].fillna(-1.0).round(12))), "candidate"]
        table["chosen"] = table["candidate"] == best
        return str(best), fits[str(best)], table

    def fit(self, train: SurvivalData, tuning: SurvivalData, *, seed: int) -> SignatureModel:
        """Return the chosen candidate."""
        return SignatureModel(self.choose(train, tuning, seed=seed)[1].model)


def _concordance(model: FittedModel, data: SurvivalData) -> float:
    return float(concordance(data.months, data.event, score=risk_scores(model, data)).estimate)


@dataclass(frozen=True)
class PredictorFigures:
    """What a predictor's scores say in each part.

    Parameters
    ----------
    cutoff
        Learnt on the training scores; a patient is at high risk from it on.
    figures
        By part, see :func:`pipelines.modelling.survival_performance.evaluate_survival`.
    """

    cutoff: float
    figures: dict[str, SurvivalFigures]


def evaluate_predictor(
    predictor: RiskPredictor,
    parts: Parts,
    *,
    cutoff: CutoffRule,
    horizons: Sequence[float],
    bootstraps: int,
    seed: int,
    others: Mapping[str, SurvivalData] | None = None,
) -> PredictorFigures:
    """Fit a predictor, find its cut-off on training scores, and describe every part with both unchanged.

    Parameters
    ----------
    others
        Further cohorts by name.
    """
    model = predictor.fit(parts.train, parts.tuning, seed=seed)
    scores = model.scores(parts.train)
    threshold, _, _ = find_cutoff(scores, parts.train.months, parts.train.event, rule=cutoff)
    figures = {}
    for number, (name, data) in enumerate((parts.named | dict(others or {})).items()):
        found = model.scores(data)
        figures[name] = evaluate_survival(
            found,
            found >= threshold,
            None,
            data,
            horizons=horizons,
            bootstraps=bootstraps,
            seed=derive_seed(seed, 22, number),
        )
    return PredictorFigures(threshold, figures)


def weighted_log_rank(months: ArrayLike, event: ArrayLike, high: npt.NDArray[np.bool_]) -> float | None:
    """Return the P of Harrington and Fleming's G-rho test with rho = 1, which weighs early deaths more.

    None where all patients are in one group.
    """
    if high.all() or not high.any():
        return None
    return compare_survival(months, event, group=high.astype(np.int64), rho=1.0).p_value


def take_columns(data: SurvivalData, columns: Sequence[str]) -> SurvivalData:
    """Return the patients with some of their features, in column order."""
    wanted = set(columns)
    kept = [i for i, name in enumerate(data.columns) if name in wanted]
    return replace(data, columns=tuple(data.columns[i] for i in kept), values=data.values[:, kept])


def usable_horizons(data: SurvivalData, horizons: Sequence[float]) -> tuple[tuple[float, ...], dict[str, str]]:
    """Return the horizons that these patients say something of, and the reason by name of the others.

    By a usable one five patients have died, and five are followed beyond it: a figure of one death has no limits.

    Raises
    ------
    TooFewCases
        Where none is usable.
    """
    kept, reasons = [], {}
    for horizon in horizons:
        dead = int(((data.months <= horizon) & (data.event == 1)).sum())
        beyond = int((data.months > horizon).sum())
        if min(dead, beyond) >= LEAST_AT_HORIZON:
            kept.append(horizon)
        else:
            reasons[f"{horizon:g}"] = (
                f"{dead} deaths before and {beyond} patients beyond, fewer than {LEAST_AT_HORIZON}"
            )
    if not kept:
        raise TooFewCases(
            "no horizon has deaths before and patients beyond it",
            step=STEP,
            field="horizons_months",
            expected=f"at least {LEAST_AT_HORIZON} of both",
            got="; ".join(f"{horizon} months: {reason}" for horizon, reason in reasons.items()),
            remedy="name other horizons, or add patients or follow-up",
        )
    return tuple(kept), reasons
