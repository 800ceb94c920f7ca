"""A fitted ferroptosis signature in use: with the genes that ranks need, as labels for imaging, in a new cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from pipelines.genomics.harmonise import RANKS_OF, Harmonised, Method, MissingGenes, TrainingScale
from pipelines.modelling.selection import Array
from pipelines.modelling.signature import cox_signature, high_risk, risk_scores
from pipelines.modelling.survival_data import SurvivalData
from pipelines.modelling.survival_study import StudyCohort, SurvivalStudyResult
from pipelines.modelling.survival_validation import AppliedSignature, judge_package
from pipelines.studies.ferroptosis_cohorts import SIGNED_LOG, harmonise_cohort, on_log_scale, with_follow_up
from services.model_serving.package import FittedModel, Package

HarmoniseBy = Literal["auto", "none", "reference"]


def ranked_model(model: FittedModel, scale: TrainingScale) -> FittedModel:
    """Return a signature of ranks with every gene that was ranked: those without a weight are needed for the ranks."""
    signature = cox_signature(model)
    position = {gene: i for i, gene in enumerate(model.columns)}

    def spread(own: Array, rest: Array) -> Array:
        return np.array([own[position[g]] if g in position else rest[i] for i, g in enumerate(scale.genes)])

    zero, one = np.zeros(len(scale.genes)), np.ones(len(scale.genes))
    return replace(
        model,
        columns=scale.genes,
        medians=spread(model.medians, scale.means),
        means=spread(model.means, scale.means),
        scales=spread(model.scales, one),
        classifier=replace(signature, coefficients=spread(signature.coefficients, zero)),
    )


def risk_groups(result: SurvivalStudyResult) -> pd.Series:
    """Return each training patient's out-of-fold risk group, ``low`` or ``high``, by ``case_id``.

    The label of the imaging half: a group is given by a signature that had not seen the patient.
    """
    table = result.tables["predictions"]
    own = table[table["part"] == "cv"].set_index("case_id")["group"]
    return own.sort_index().rename("risk_group")


def score_patients(
    package: Package,
    cohort: StudyCohort,
    *,
    harmonise_by: HarmoniseBy = "auto",
    missing_genes: MissingGenes = "error",
) -> pd.DataFrame:
    """Return ``case_id``, ``risk_score`` and ``group`` of patients, whose follow-up need not be known.

    A signature of ranks scores a single patient; ``reference`` needs a cohort.

    Raises
    ------
    IdMismatch, InvalidTable, InvalidValue, TooFewCases
        Where the patients cannot be brought to the signature's scale, or lack its genes.
    """
    done = _on_package_scale(package, cohort, harmonise_by, missing_genes)
    scores = risk_scores(package.model, done.values, platform=package.description.platform, cohort=cohort.name)
    groups = np.where(high_risk(package.model, scores), "high", "low")
    return pd.DataFrame({"case_id": done.values.index, "risk_score": scores, "group": groups})


def apply_to_cohort(
    package: Package,
    cohort: StudyCohort,
    *,
    harmonise_by: HarmoniseBy = "auto",
    missing_genes: MissingGenes = "error",
    horizons_months: Sequence[float] = (12, 24, 36),
    bootstraps: int = 1000,
    seed: int = 0,
) -> AppliedSignature:
    """Judge a finished signature in a new cohort; coefficients, cut-off and baseline survival stay as they are.

    Parameters
    ----------
    package
        Of this study; its ``platform`` says what a value was.
    harmonise_by
        ``auto``: ranks for a signature of ranks, otherwise ``reference``, by the package's means and deviations.

    Raises
    ------
    IdMismatch, InvalidTable, InvalidValue, TooFewCases
        Where the cohort cannot be brought to the signature's scale, lacks its genes, or nobody died.
    """
    return judge_package(
        package,
        on_signature_scale(package, cohort, harmonise_by=harmonise_by, missing_genes=missing_genes),
        cohort=cohort.name,
        horizons=horizons_months,
        bootstraps=bootstraps,
        seed=seed,
    )


def on_signature_scale(
    package: Package,
    cohort: StudyCohort,
    *,
    harmonise_by: HarmoniseBy = "auto",
    missing_genes: MissingGenes = "error",
) -> SurvivalData:
    """Return a new cohort's patients with follow-up, brought to a signature's scale; see :func:`apply_to_cohort`."""
    return with_follow_up(cohort, _on_package_scale(package, cohort, harmonise_by, missing_genes))


def _on_package_scale(
    package: Package, cohort: StudyCohort, harmonise_by: HarmoniseBy, missing_genes: MissingGenes
) -> Harmonised:
    model, platform = package.model, package.description.platform or ""
    onto = TrainingScale(model.columns, model.means, model.scales, platform)
    ranked = platform.startswith(RANKS_OF)
    method: Method = harmonise_by if harmonise_by != "auto" else "rank" if ranked else "reference"
    own = on_log_scale(cohort, z_scores="signed_log2" if SIGNED_LOG in platform else "as_they_are")
    return harmonise_cohort(own, onto, method=method, missing_genes=missing_genes)
