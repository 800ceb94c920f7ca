"""Survival signature of glioma from diffusion tensor maps, after EBioMedicine 2021, 103583.

The signature is what a network says of the maps, as published, where the features hold such a risk: each patient's
from networks that never saw him, so that nobody has to be set aside for its tuning. Otherwise it is learnt from
radiomics of the axial, radial and mean diffusivity and the fractional anisotropy: patients are split into training,
tuning and internal validation (381/96/99 in the paper), columns that repeat others go, univariable Cox screen, LASSO or
elastic-net Cox, whichever the tuning part prefers. X-tile cut-off on training, applied unchanged; Kaplan–Meier,
log-rank and weighted log-rank test; independence of clinical factors; a clinical nomogram against one with the
signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from pydantic import Field

from pipelines.modelling.clinical_factors import choose_factors, with_factor_tables
from pipelines.modelling.nomograms import with_nomograms
from pipelines.modelling.signature import CutoffRule, ElasticNetCox, SignatureRecipe
from pipelines.modelling.study import Progress
from pipelines.modelling.survival_data import SurvivalData, survival_data
from pipelines.modelling.survival_parts import (
    Parts,
    SignaturePredictor,
    evaluate_predictor,
    split_parts,
    take_columns,
    usable_horizons,
    weighted_log_rank,
)
from pipelines.modelling.survival_recipes import KnownRisk, UncorrelatedCox
from pipelines.modelling.survival_study import (
    StudyCohort,
    SurvivalPlan,
    SurvivalStudyParameters,
    SurvivalStudyResult,
    run_survival_study,
)
from services.shared.errors import InvalidTable

NAME = "diffusion"
VERSION = "1"
KIND = "survival"
MATRIX = "features"
INTENDED_USE = (
    "Research: risk score of overall survival of untreated adult-type diffuse glioma from radiomic features of "
    "diffusion tensor maps, extracted with the settings of the training data. Not for clinical decisions."
)
INTENDED_USE_OF_NETWORK = (
    "Research: risk score of overall survival of untreated adult-type diffuse glioma that a network reads from "
    "sections of diffusion tensor maps; it takes the risk of the network that it names. Not for clinical decisions."
)
NETWORK_RISK = "_deep_risk"
"""How the name of a network's risk ends."""
MAPS: dict[str, frozenset[str]] = {
    "FA": frozenset({"fa"}),
    "MD": frozenset({"md", "tr", "adc"}),
    "AD": frozenset({"ad"}),
    "RD": frozenset({"rd"}),
}
"""How feature tables name a map; TR is the trace, three times the mean diffusivity."""
PATH_END = 0.05
CATEGORICAL = ("grade",)


class Parameters(SurvivalStudyParameters):
    """Parameters of the diffusion study."""

    cutoff: CutoffRule = Field("x_tile", description="Rule of the cut-off between low and high risk")
    horizons_months: tuple[float, ...] = Field((6, 12, 18, 24, 36), min_length=1, description="Months of calibration")
    permutations: int = Field(20, ge=0, le=1000, description="Runs of the cross-validation with shuffled follow-up")
    max_missing: float = Field(0.2, ge=0, lt=1, description="Largest share of missing values of a usable feature")
    internal_share: float = Field(99 / 576, ge=0, lt=1, description="Patients kept aside for internal validation")
    tuning_share: float = Field(96 / 477, ge=0, lt=1, description="Of the others, patients that choose the variant")
    correlation: float = Field(0.9, gt=0, le=1, description="Of two features with a larger correlation one goes")
    screen_p: float = Field(0.05, gt=0, le=1, description="P of the univariable Cox model")
    l1_ratios: tuple[float, ...] = Field((1.0, 0.5), min_length=1, description="Variants: 1 LASSO, below elastic net")
    inner_folds: int = Field(5, ge=3, le=20, description="Folds that choose the penalty")
    idh_mutant: bool = Field(default=True, description="Whether patients with an IDH mutation stay in the study")
    compare_structural: bool = Field(
        default=True, description="Compare with features of structural sequences, where given"
    )
    clinical: tuple[str, ...] = Field(
        ("age_years", "sex", "grade", "kps", "gtr_over_90_percent", "mgmt", "idh"),
        description="Clinical factors, as far as the cohort knows them",
    )
    max_missing_clinical: float = Field(0.1, ge=0, lt=1, description="Largest share that lacks a nomogram's factor")


def map_of(feature: str) -> str | None:
    """Return the diffusion map that a feature's name begins with, None for a feature of another image.

    >>> map_of("DTI_TR_ET_Intensity_Mean"), map_of("T1GD_ET_Intensity_Mean")
    ('MD', None)
    """
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", feature)][:2]
    for name, known in MAPS.items():
        if known.intersection(words):
            return name
    return None


def signature_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that the signature is made of: a network's risk, or else the features of diffusion maps.

    >>> signature_columns(["FA_WT_original_firstorder_Mean", "diffusionsurvival_WT_deep_risk"])
    ['diffusionsurvival_WT_deep_risk']
    """
    names = list(columns)
    return [name for name in names if is_network_risk(name)] or [name for name in names if map_of(name)]


def is_network_risk(feature: str) -> bool:
    """Return whether a feature is the risk that a network says."""
    return feature.endswith(NETWORK_RISK)


def run(
    training: StudyCohort,
    validation: Mapping[str, StudyCohort],
    *,
    parameters: SurvivalStudyParameters | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SurvivalStudyResult:
    """Run the diffusion study.

    Parameters
    ----------
    training
        A network's risk; or features of diffusion maps, of structural sequences too where they are to be compared.
        Clinical table, whose column ``split`` (train, tuning, internal) overrules the shares.
    validation
        Further cohorts by name.

    Raises
    ------
    InvalidTable
        Where there is no feature of a diffusion map, no follow-up, or no clinical factor that is known; or the risks
        of two networks.
    TooFewCases
        Where a part has too few deaths.
    """
    p = Parameters.model_validate((parameters or Parameters()).model_dump())
    whole = read_diffusion(training, p)
    own_columns = signature_columns(whole.columns)
    of_network = is_network_risk(own_columns[0])
    tuning = 0.0 if of_network else p.tuning_share  # a network has chosen its epoch among its own tuning patients
    parts = split_parts(whole, tuning=tuning, internal=p.internal_share, seed=seed)
    horizons, unused = usable_horizons(parts.train, p.horizons_months)
    p = p.model_copy(update={"horizons_months": horizons})
    own = _with_columns(parts, own_columns)
    others = {name: read_diffusion(cohort, p) for name, cohort in validation.items()}
    factors = choose_factors(own.train.clinical, p.clinical, max_missing=p.max_missing_clinical)
    recipes: Mapping[str, SignatureRecipe] = {"network": KnownRisk(p.max_missing)} if of_network else _candidates(p)
    chosen, _, candidates = _predictor(p, recipes).choose(own.train, own.tuning, seed=seed)
    intended_use = INTENDED_USE_OF_NETWORK if of_network else INTENDED_USE
    plan = SurvivalPlan(NAME, VERSION, intended_use, recipes[chosen], p, training.scale)
    held = {name: part for name, part in own.named.items() if name != "train"}
    result = run_survival_study(plan, own.train, held | others, seed=seed, progress=progress)
    tables = {"candidates": candidates, "parts": _part_table(parts)}
    structural = [name for name in whole.columns if not map_of(name)]
    if p.compare_structural and structural and not of_network:
        sets = {"diffusion": own_columns, "structural": structural, "both": list(whole.columns)}
        tables["feature_sets"] = _compare_sets(parts, sets, p, seed=seed)
    result = with_nomograms(
        result, own.train, held | others, clinical_columns=factors.known, categorical=CATEGORICAL, seed=seed
    )
    named = {f"validation_{name}": part for name, part in (held | others).items()}
    result = with_factor_tables(
        result, {"train": own.train, "cv": own.train, **named}, factors=factors, categorical=CATEGORICAL
    )
    return replace(
        result,
        metrics=dict(sorted((result.metrics | weighted_tests(result.tables["predictions"])).items())),
        tables=result.tables | tables,
        flow=result.flow
        | {"parts": {name: len(part.ids) for name, part in parts.named.items()}, "horizons_left_out": unused},
    )


def read_diffusion(cohort: StudyCohort, p: Parameters) -> SurvivalData:
    """Return the patients of a cohort that have a network's risk, or features of diffusion maps.

    Raises
    ------
    InvalidTable
        Where no column is either.
    """
    columns = signature_columns(map(str, cohort.features.columns))
    if not columns:
        raise InvalidTable(
            "the cohort has no features of diffusion maps",
            step=NAME,
            field=f"features of {cohort.name}",
            expected="columns such as DTI_FA_ET_Intensity_Mean, for FA, MD (or the trace TR), AD and RD; "
            "or a network's risk, such as diffusionsurvival_WT_deep_risk",
            got=", ".join(map(str, cohort.features.columns[:3])) or "no column",
            remedy="import a release with diffusion features, or take a network's risk of the maps with --deep",
        )
    without = cohort.features.index[cohort.features[columns].isna().all(axis=1)]
    reason = "no risk of a network" if is_network_risk(columns[0]) else "no features of diffusion maps"
    excluded = dict.fromkeys(map(str, without), reason)
    if not p.idh_mutant:
        if "idh" not in cohort.clinical:
            raise InvalidTable(
                "IDH mutants cannot be left out", step=NAME, field="idh", expected="a clinical column with WT or Mutant"
            )
        mutant = cohort.clinical.index[cohort.clinical["idh"] == "Mutant"]
        excluded |= dict.fromkeys(map(str, mutant), "IDH-mutant")
    return survival_data(cohort.features, cohort.clinical, excluded=excluded | cohort.excluded, step=cohort.name)


def _with_columns(parts: Parts, columns: Sequence[str]) -> Parts:
    return Parts(*(take_columns(part, columns) for part in (parts.train, parts.tuning, parts.internal)))


def _part_table(parts: Parts) -> pd.DataFrame:
    return pd.concat(
        [pd.DataFrame({"case_id": part.ids, "split": name}) for name, part in parts.named.items()], ignore_index=True
    ).sort_values("case_id", ignore_index=True)


def _compare_sets(parts: Parts, sets: Mapping[str, Sequence[str]], p: Parameters, *, seed: int) -> pd.DataFrame:
    """Return C of signatures of each set of features, learnt and chosen alike: features, part, c_index, low, high."""
    rows = []
    for name, columns in sets.items():
        found = evaluate_predictor(
            _predictor(p, _candidates(p)),
            _with_columns(parts, columns),
            cutoff=p.cutoff,
            horizons=p.horizons_months,
            bootstraps=p.bootstraps,
            seed=seed,
        )
        for part, figures in found.figures.items():
            limits = {end: figures.metrics[f"c_index_{end}"] for end in ("low", "high")}
            rows.append({"features": name, "part": part, "c_index": figures.metrics["c_index"], **limits})
    return pd.DataFrame(rows)


def weighted_tests(predictions: pd.DataFrame) -> dict[str, float]:
    """Return P of the G-rho test (rho = 1) of high against low risk, by part of a study's predictions."""
    found: dict[str, float] = {}
    for part, rows in predictions.groupby("part", sort=True):
        high = (rows["group"] == "high").to_numpy()
        p_value = weighted_log_rank(rows["months"], rows["event"], high)
        found |= {} if p_value is None else {f"{part}_weighted_logrank_p": round(p_value, 10)}
    return found


def _candidates(p: Parameters) -> dict[str, UncorrelatedCox]:
    return {
        f"l1_ratio_{ratio:g}": UncorrelatedCox(
            ElasticNetCox(
                l1_ratio=ratio,
                screen_p=p.screen_p,
                folds=p.inner_folds,
                max_missing=p.max_missing,
                smallest_ratio=PATH_END,
            ),
            correlation=p.correlation,
            max_missing=p.max_missing,
        )
        for ratio in p.l1_ratios
    }


def _predictor(p: Parameters, recipes: Mapping[str, SignatureRecipe]) -> SignaturePredictor:
    return SignaturePredictor(recipes, p.cutoff, p.horizons_months)
