"""Bring a new cohort's expression to the scale that a signature was trained on, without its follow-up.

Three ways, none of which moves the training data or sees an outcome:

- ``none``: values as they are, where both cohorts' values are of one kind;
- ``reference``: each gene is shifted and scaled to the training mean and standard deviation, by the new cohort's own
  mean and standard deviation (location and scale of ComBat with a reference batch, without shrinkage). It needs a
  cohort, and says nothing of how that cohort as a whole compares with the training patients;
- ``rank``: a gene's value is its rank among the genes of the same sample. It needs one sample only, but the training
  data must have been ranked among the same genes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipelines.genomics.expression import FloatArray, check_expression
from services.shared.errors import IdMismatch, InvalidTable, InvalidValue, TooFewCases

Method = Literal["none", "reference", "rank"]
MissingGenes = Literal["error", "training_mean"]
Kind = Literal["z-score", "log2", "linear", "counts"]

RANKS_OF = "within-sample rank of "
LEAST_SAMPLES = 10
LEAST_RANKED_GENES = 10
_WORDS: tuple[tuple[Kind, str], ...] = (
    ("z-score", r"\bz[- _]?scores?\b|\bstandardi[sz]ed\b"),
    ("log2", r"\blog_?2?\b|\blog2"),
    ("linear", r"fpkm|tpm|rpkm|rsem|\blinear\b"),
    ("counts", r"\bcounts?\b"),
)


@dataclass(frozen=True)
class TrainingScale:
    """What a signature's genes looked like in training.

    Parameters
    ----------
    genes
        Names, in the order of the arrays.
    means, deviations
        Shape (genes,): mean and population standard deviation over training samples.
    scale
        What a value was, in words.
    """

    genes: tuple[str, ...]
    means: FloatArray
    deviations: FloatArray
    scale: str


@dataclass(frozen=True)
class Harmonised:
    """A new cohort on the training scale.

    Parameters
    ----------
    values
        Samples x genes, in the order of the training genes.
    statement
        What was done: method, samples, genes that were missing or did not vary.
    """

    values: pd.DataFrame
    statement: dict[str, object]


def scale_kind(scale: str) -> Kind:
    """Return of which kind values are, from the words that a release uses for its scale.

    >>> scale_kind("z-score of RNA-seq (cBioPortal)"), scale_kind("log2 intensity"), scale_kind("FPKM")
    ('z-score', 'log2', 'linear')

    Raises
    ------
    InvalidValue
        Where the words name none of the kinds.
    """
    for kind, words in _WORDS:
        if re.search(words, scale, flags=re.IGNORECASE):
            return kind
    raise InvalidValue(
        "It is not known what the expression values are.",
        step="harmonise",
        field="scale",
        expected="words with z-score, log2, FPKM, TPM or counts",
        got=scale or "nothing",
        remedy="state the scale in the cohort's import.json",
    )


def training_scale(frame: pd.DataFrame, scale: str) -> TrainingScale:
    """Return mean and standard deviation of each gene over training samples."""
    values = check_expression(frame, step="training_scale")
    return TrainingScale(tuple(frame.columns.astype(str)), values.mean(axis=0), values.std(axis=0), scale)


def rank_within_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each gene's rank among the genes of its sample, (rank − ½)/genes; ties share their mean rank.

    Raises
    ------
    TooFewCases
        Where there are too few genes for a rank to mean something.
    """
    values = check_expression(frame, step="rank_within_samples")
    genes = values.shape[1]
    if genes < LEAST_RANKED_GENES:
        raise TooFewCases(
            "There are too few genes to rank within a sample.",
            step="harmonise",
            expected=f"at least {LEAST_RANKED_GENES}",
            got=genes,
            remedy='harmonise by "reference"',
        )
    ranks = (rankdata(values, axis=1) - 0.5) / genes
    return pd.DataFrame(ranks, index=frame.index, columns=frame.columns)


def harmonise(
    frame: pd.DataFrame,
    *,
    scale: str,
    onto: TrainingScale,
    method: Method,
    missing_genes: MissingGenes = "error",
    cohort: str = "the cohort",
) -> Harmonised:
    """Return a new cohort's values of the training genes, on the training scale.

    Parameters
    ----------
    frame
        Samples x genes of the new cohort; genes beyond those of training are left out.
    scale
        What a value of ``frame`` is.
    onto
        The training scale; for ``rank`` that of ranks, whose genes are those to rank among.
    missing_genes
        ``error``, or ``training_mean``: a missing gene counts as average and adds nothing to a score.

    Raises
    ------
    InvalidTable
        Where values are of another kind than in training and ``method`` leaves them so.
    IdMismatch
        Where training genes are missing; names them.
    TooFewCases
        Where ``reference`` meets too few samples to take a mean and a standard deviation from.
    """
    check_method(scale, onto.scale, method=method, cohort=cohort)
    known = set(frame.columns.astype(str))
    missing = [gene for gene in onto.genes if gene not in known]
    if len(missing) == len(onto.genes) or (missing and missing_genes == "error"):
        raise missing_error(missing, onto.genes, cohort=cohort)
    present = [gene for gene in onto.genes if gene in known]
    renamed = frame.set_axis(frame.columns.astype(str), axis="columns")[present]
    position = {gene: i for i, gene in enumerate(onto.genes)}
    own = [position[gene] for gene in present]
    constant: list[str] = []
    if method == "rank":
        values = rank_within_samples(renamed).to_numpy()
    else:
        values = check_expression(renamed, step="harmonise")
    if method == "reference":
        values, constant = _shift_and_scale(values, onto.means[own], onto.deviations[own], present, cohort)
    full = np.repeat(onto.means[None, :], len(frame), axis=0)
    full[:, own] = values
    statement: dict[str, object] = {
        "method": method,
        "scale": scale,
        "training_scale": onto.scale,
        "samples": len(frame),
        "genes": len(onto.genes),
        "genes_missing_set_to_training_mean": missing,
        "genes_without_spread_set_to_training_mean": constant,
    }
    return Harmonised(pd.DataFrame(full, index=frame.index, columns=list(onto.genes)), statement)


def check_method(scale: str, training: str, *, method: Method, cohort: str = "the cohort") -> None:
    """Raise InvalidTable where a method cannot bring one scale to the other."""
    own, wanted = scale_kind(scale), scale_kind(training.removeprefix(RANKS_OF))
    ranked = training.startswith(RANKS_OF)
    if (method == "rank") != ranked:
        raise InvalidTable(
            "Ranks and values do not mix.",
            step="harmonise",
            field="harmonise",
            expected=f'"rank" for a signature of ranks, as its training values were: {training}',
            got=f'"{method}" for {cohort}',
        )
    if own != wanted and method != "reference":
        raise InvalidTable(
            "The new cohort's values are of another kind than those of training.",
            step="harmonise",
            field="scale",
            expected=training,
            got=f"{scale} in {cohort}",
            remedy='harmonise by "reference": shift and scale each gene to the training mean and standard deviation',
        )


def missing_error(missing: Sequence[str], needed: Sequence[str], *, cohort: str) -> IdMismatch:
    """Return the error that names the training genes which a platform lacks."""
    shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
    return IdMismatch(
        f"{len(missing)} of {len(needed)} genes of the signature are not on the platform of {cohort}.",
        step="harmonise",
        field=shown,
        expected="every gene of the signature",
        got=f"{len(needed) - len(missing)} of them",
        remedy='name the cohort in platform_genes and train again, or set missing_genes to "training_mean"',
    )


def _shift_and_scale(
    values: FloatArray, means: FloatArray, deviations: FloatArray, genes: Sequence[str], cohort: str
) -> tuple[FloatArray, list[str]]:
    if len(values) < LEAST_SAMPLES:
        raise TooFewCases(
            "Too few samples to learn a cohort's location and scale from.",
            step="harmonise",
            field="samples",
            expected=f"at least {LEAST_SAMPLES}",
            got=f"{len(values)} in {cohort}",
            remedy='train with harmonise "rank", which needs one sample only',
        )
    centre, spread = values.mean(axis=0), values.std(axis=0)
    flat = spread <= 1e-10 * np.maximum(np.abs(centre), 1e-290)
    z = np.where(flat, 0.0, (values - centre) / np.where(flat, 1.0, spread))
    return means + z * deviations, [gene for gene, is_flat in zip(genes, flat, strict=True) if is_flat]
