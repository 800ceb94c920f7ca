"""Have the features of new patients moved away from those that the champion learnt from?

Two things must agree before a feature counts as drifted: the two-sample Kolmogorov–Smirnov test, adjusted for the
number of features by Holm's method, and a population stability index that is large. The index alone cries wolf: without
any drift it is about (bins - 1)(1/n + 1/m), which few patients make large. The test alone finds shifts of no weight
where patients are many.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from scipy.stats import fisher_exact, ks_2samp

from services.model_serving.package import case_hash
from services.shared.contracts import Contract
from services.survival_analytics.multiplicity import adjust_p_values

Array = npt.NDArray[np.float64]
BINS = 10


class DriftThresholds(Contract):
    """When features count as drifted."""

    min_new_cases: int = Field(10, ge=2, description="New patients from which drift is looked for")
    alpha: float = Field(0.01, gt=0, lt=1, description="Level of the tests, after Holm's adjustment")
    min_psi: float = Field(0.2, ge=0, description="Population stability index from which a shift has weight")


class FeatureDrift(Contract):
    """How one feature moved."""

    feature: str
    psi: float
    p_value: float
    p_adjusted: float
    drifted: bool


class Drift(Contract):
    """How the champion's features moved; ``features`` is empty where there are too few new patients to tell."""

    reference_patients: int
    new_patients: int
    features: tuple[FeatureDrift, ...] = ()

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the features that moved, furthest first."""
        moved = sorted((one for one in self.features if one.drifted), key=lambda one: (-one.psi, one.feature))
        return tuple(one.feature for one in moved)


def split_cases(case_ids: Iterable[str], training: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the patients that a model learnt from and those it did not, by the hashes beside its package."""
    known: list[str] = []
    new: list[str] = []
    for case_id in sorted(case_ids):
        (known if case_hash(case_id) in training else new).append(case_id)
    return known, new


def measure_drift(reference: pd.DataFrame, new: pd.DataFrame, *, thresholds: DriftThresholds) -> Drift:
    """Compare the features of new patients with those of the training patients.

    Parameters
    ----------
    reference, new
        One row a patient, the same columns; NaN where a feature does not exist, which is compared too.
    """
    if min(len(reference), len(new)) < thresholds.min_new_cases:
        return Drift(reference_patients=len(reference), new_patients=len(new))
    columns = [str(name) for name in reference.columns]
    before = [reference[name].to_numpy(dtype=np.float64) for name in columns]
    now = [new[name].to_numpy(dtype=np.float64) for name in columns]
    p = np.array([_p_value(a, b) for a, b in zip(before, now, strict=True)])
    adjusted = adjust_p_values(p, method="holm")
    found = []
    for name, a, b, raw, corrected in zip(columns, before, now, p, adjusted, strict=True):
        psi = population_stability_index(a, b)
        drifted = bool(corrected <= thresholds.alpha and psi >= thresholds.min_psi)
        found.append(
            FeatureDrift(feature=name, psi=psi, p_value=float(raw), p_adjusted=float(corrected), drifted=drifted)
        )
    return Drift(reference_patients=len(reference), new_patients=len(new), features=tuple(found))


def population_stability_index(reference: Array, new: Array, *, bins: int = BINS) -> float:
    """Return Σ (q - p) ln(q / p) over the reference's quantile bins and one bin of missing values.

    Half a patient is added to each bin, so that an empty one leaves the index finite.

    >>> x = np.arange(100.0)
    >>> population_stability_index(x, x)
    0.0
    """
    present = reference[~np.isnan(reference)]
    inner = np.unique(np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1])) if present.size else np.empty(0)

    def shares(values: Array) -> Array:
        known = values[~np.isnan(values)]
        counts = np.bincount(np.searchsorted(inner, known, side="right"), minlength=inner.size + 1).astype(np.float64)
        counts = np.append(counts, values.size - known.size) + 0.5
        return np.asarray(counts / counts.sum())

    p, q = shares(reference), shares(new)
    return float(np.sum((q - p) * np.log(q / p)))


def _p_value(reference: Array, new: Array) -> float:
    """Return the smaller P of values and of missingness, times two: both are looked at."""
    missing = [int(np.isnan(values).sum()) for values in (reference, new)]
    a, b = reference[~np.isnan(reference)], new[~np.isnan(new)]
    found = [float(ks_2samp(a, b).pvalue)] if a.size and b.size else []
    if any(missing):
        table = [[missing[0], reference.size - missing[0]], [missing[1], new.size - missing[1]]]
        found.append(float(fisher_exact(table)[1]))
    return min(1.0, len(found) * min(found)) if found else 1.0
