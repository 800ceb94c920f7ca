"""How good predictions are: AUC, rates at the threshold, Brier score, curves, and the check by shuffled outcomes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from services.survival_analytics.discrimination import auc, classify, roc

Array = npt.NDArray[np.float64]
Outcome = npt.NDArray[np.int64]

_Z95 = 1.959963984540054


def describe_predictions(outcome: Outcome, chance: Array, margin: Array) -> dict[str, float]:
    """Return the figures of probabilities for patients that the model had not seen.

    AUC with DeLong's limits; sensitivity, specificity and accuracy with exact (Clopper–Pearson) limits; balanced
    accuracy; Brier score.

    Parameters
    ----------
    margin
        Probability less threshold; positive from 0 on.
    """
    table = classify(outcome, margin, threshold=0.0)
    figures: dict[str, float] = {"patients": len(outcome), "positives": int(outcome.sum())}
    figures |= auc_with_limits("auc", outcome, chance)
    for name in ("sensitivity", "specificity", "accuracy"):
        figures[name] = getattr(table, name)
        figures[f"{name}_low"] = getattr(table, f"{name}_lower")
        figures[f"{name}_high"] = getattr(table, f"{name}_upper")
    figures["balanced_accuracy"] = (table.sensitivity + table.specificity) / 2
    figures["brier"] = float(np.mean((chance - outcome) ** 2))
    return figures


def bootstrap_auc(outcome: Outcome, scores: Array, *, resamples: int, seed: int) -> Array:
    """Return the AUCs of resamples of patients, shape (kept resamples, models).

    Patients are drawn with replacement, the same ones for every model; resamples of one class only are left out.

    Parameters
    ----------
    scores
        Shape (models, patients).
    """
    drawn = np.random.default_rng(seed).multinomial(len(outcome), np.full(len(outcome), 1 / len(outcome)), resamples)
    cases, controls = drawn[:, outcome == 1].astype(np.float64), drawn[:, outcome == 0].astype(np.float64)
    both = (cases.sum(axis=1) > 0) & (controls.sum(axis=1) > 0)
    cases, controls = cases[both], controls[both]
    pairs = cases.sum(axis=1) * controls.sum(axis=1)
    areas = []
    for row in scores:
        above = np.sign(row[outcome == 1][:, None] - row[outcome == 0][None, :]) / 2 + 0.5
        areas.append(((cases @ above) * controls).sum(axis=1) / pairs)
    return np.column_stack(areas)


def bootstrap_limits(outcome: Outcome, scores: Array, *, resamples: int, seed: int) -> Array:
    """Return percentile 95 % limits of each model's AUC by resampling patients, shape (models, 2); NaN without any.

    Parameters
    ----------
    scores
        Shape (models, patients).
    """
    areas = bootstrap_auc(outcome, scores, resamples=resamples, seed=seed) if resamples else np.empty((0, len(scores)))
    if not len(areas):
        return np.full((len(scores), 2), np.nan)
    return np.asarray(np.quantile(areas, (0.025, 0.975), axis=0).T)


def calibration_points(outcome: Outcome, chance: Array) -> pd.DataFrame:
    """Return mean predicted and observed frequency (with Wilson's 95 % limits) in groups of similar probability."""
    groups = 10 if len(outcome) >= 100 else min(5, len(outcome))
    rows = []
    for number, members in enumerate(np.array_split(np.argsort(chance, kind="stable"), groups), start=1):
        n, observed = len(members), float(outcome[members].mean())
        centre = (observed + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * np.sqrt(observed * (1 - observed) / n + _Z95**2 / (4 * n * n))
        rows.append(
            {
                "group": number,
                "patients": n,
                "predicted": float(chance[members].mean()),
                "observed": observed,
                "observed_low": max(0.0, float(centre - half)),
                "observed_high": min(1.0, float(centre + half)),
            }
        )
    return pd.DataFrame(rows)


def roc_points(outcome: Outcome, chance: Array) -> pd.DataFrame:
    """Return the corners of the ROC curve, from the strictest threshold to the most lenient."""
    curve = roc(outcome, chance)
    points = pd.DataFrame(
        {
            "false_positive_rate": 1 - curve.specificity,
            "sensitivity": curve.sensitivity,
            "threshold": np.where(np.isfinite(curve.threshold), curve.threshold, np.nan),
        }
    )
    return points.iloc[::-1].reset_index(drop=True)


def permuted_metrics(permuted: pd.DataFrame, observed: float, *, figure: str = "auc") -> dict[str, float]:
    """Return the mean figure under shuffled outcomes with the limits that a single run of this size would have.

    The mean is steadier than one run; the limits are as wide as one run's, half-widths averaged.

    Parameters
    ----------
    permuted
        One row a run, with ``figure``, ``low`` and ``high``.
    observed
        The figure of the true outcomes.
    figure
        ``auc`` or ``c_index``.
    """
    runs = len(permuted)
    if runs == 0:
        return {"permuted_runs": 0}
    values = permuted[figure]
    mean = float(values.mean())
    half = float(np.mean(np.maximum(permuted["high"] - values, values - permuted["low"])))
    return {
        "permuted_runs": runs,
        f"permuted_{figure}": mean,
        f"permuted_{figure}_low": max(0.0, mean - half),
        f"permuted_{figure}_high": min(1.0, mean + half),
        "permuted_p": (1 + int((values >= observed).sum())) / (runs + 1),
    }


def auc_with_limits(name: str, outcome: Outcome, scores: Array) -> dict[str, float]:
    """Return the AUC with DeLong's 95 % limits as ``name``, ``name_low`` and ``name_high``."""
    area = auc(outcome, scores)
    return {name: area.estimate, f"{name}_low": area.lower, f"{name}_high": area.upper}
