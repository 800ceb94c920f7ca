"""Draws every figure from seeded simulated patients: ``python -m services.survival_analytics.gallery docs/…``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from services.survival_analytics import plots
from services.survival_analytics.calibration import calibrate, calibration_curve, calibration_groups
from services.survival_analytics.cox import fit_cox
from services.survival_analytics.cutpoint import maximally_selected_rank
from services.survival_analytics.kaplan_meier import compare_survival, estimate_survival
from services.survival_analytics.logistic import fit_logistic
from services.survival_analytics.net_benefit import clinical_impact, decision_curves
from services.survival_analytics.nomogram import build_nomogram
from services.survival_analytics.roc import auc, compare_auc_matrix, roc
from services.survival_analytics.simulated_patients import simulate_patients
from services.survival_analytics.survival_calibration import calibrate_survival, survival_calibration_curve
from services.survival_analytics.time_dependent_roc import time_dependent_auc, weighted_roc

CLINICAL = ["age", "grade", "idh_mutant", "total_resection"]
INTRO = """# Figures of survival analysis and model evaluation

Drawn from 400 seeded simulated patients (not data of people) by

```
python -m services.survival_analytics.gallery docs/survival-gallery
```

Each figure is written as SVG and PNG; the same command gives the same bytes.
"""


def draw_figures(n: int = 400, *, seed: int = 7) -> dict[str, tuple[str, Figure]]:
    """Return figures by file name, each with its caption."""
    frame = simulate_patients(n, seed=seed)
    time, event = frame["months"], frame["died"]
    full = fit_cox(frame, "months", event="died", covariates=[*CLINICAL, "signature"])
    clinical = fit_cox(frame, "months", event="died", covariates=CLINICAL)
    score = full.predict_risk(frame)
    cut = maximally_selected_rank(time, event, score=score)
    high = score > cut.cut
    label = np.where(high, "high risk", "low risk")
    curves = {name: estimate_survival(time[label == name], event[label == name]) for name in ("low risk", "high risk")}
    years = {f"{t // 12} year{'s' if t > 12 else ''}": float(t) for t in (12, 36, 60)}
    risk = {
        name: 1 - model.predict_survival(frame, [36.0]).survival[0]
        for name, model in (("clinical", clinical), ("clinical + signature", full))
    }
    known = (time > 36) | (event == 1)
    dead = (event[known] == 1) & (time[known] <= 36)
    binary = frame[known].assign(dead=dead.astype(int))
    logistic = {
        "clinical": fit_logistic(binary, "dead", covariates=CLINICAL),
        "signature": fit_logistic(binary, "dead", covariates=["signature"]),
        "both": fit_logistic(binary, "dead", covariates=[*CLINICAL, "signature"]),
    }
    p = {name: model.predict_risk(binary) for name, model in logistic.items()}
    y = binary["dead"]
    return {
        "survival": (
            "Survival by risk group with 95 % bands, censoring marks and patients at risk.",
            plots.plot_survival(curves, comparison=compare_survival(time, event, group=label), title="Risk groups"),
        ),
        "time-dependent-roc": (
            "ROC curves of the risk score at one, three and five years.",
            plots.plot_time_dependent_roc(
                {k: weighted_roc(time, event, score=score, at=t) for k, t in years.items()},
                areas={k: time_dependent_auc(time, event, score=score, times=t) for k, t in years.items()},
                title="Time-dependent ROC",
            ),
        ),
        "roc": (
            "ROC curves of three models of death by three years, with DeLong limits.",
            plots.plot_roc(
                {k: roc(y, v) for k, v in p.items()}, areas={k: auc(y, v) for k, v in p.items()}, title="ROC"
            ),
        ),
        "auc-matrix": (
            "DeLong tests between all models.",
            plots.plot_auc_matrix(compare_auc_matrix(y, {**p, "age": binary["age"]})),
        ),
        "calibration": (
            "Calibration of a logistic model: groups of ten and a smooth curve.",
            plots.plot_calibration(
                calibration_groups(y, p["both"], groups=10),
                curve=calibration_curve(y, p["both"]),
                summary=calibrate(y, p["both"]),
                title="Calibration, death by 3 years",
            ),
        ),
        "survival-calibration": (
            "Calibration of Cox models at three years: groups with Kaplan–Meier limits and smooth curves.",
            plots.plot_survival_calibration(
                {k: calibrate_survival(time, event, risk=v, at=36.0) for k, v in risk.items()},
                curves={k: survival_calibration_curve(time, event, risk=v, at=36.0) for k, v in risk.items()},
                title="Calibration at 3 years",
            ),
        ),
        "decision-curves": (
            "Net benefit of acting on each model.",
            plots.plot_decision_curves(decision_curves(y, p), title="Decision curves"),
        ),
        "clinical-impact": (
            "Patients called high risk per 1,000, and those of them who die.",
            plots.plot_clinical_impact(clinical_impact(y, p["both"]), title="Clinical impact"),
        ),
        "forest": (
            "Hazard ratios of the full Cox model.",
            plots.plot_forest(full, title="Cox model"),
        ),
        "nomogram": (
            "Nomogram of the full Cox model.",
            plots.plot_nomogram(build_nomogram(full, [12, 36, 60], frame=frame, time_unit="months"), title="Nomogram"),
        ),
        "nomogram-logistic": (
            "Nomogram of the logistic model.",
            plots.plot_nomogram(build_nomogram(logistic["both"], frame=binary), title="Death by 3 years"),
        ),
        "scores": (
            "Distribution of the risk score by outcome, with the cut of the maximally selected rank statistic.",
            plots.plot_scores(
                {"alive or censored": score[event == 0], "died": score[event == 1]},
                cut=cut.cut,
                label="linear predictor",
                title="Risk score",
            ),
        ),
    }


def write_gallery(folder: Path) -> list[Path]:
    """Write every figure and the page that shows them."""
    written: list[Path] = []
    page = [INTRO]
    for name, (caption, figure) in draw_figures().items():
        written += plots.save_figure(figure, folder / name)
        page.append(f"## {caption}\n\n![{caption}]({name}.svg) [PNG]({name}.png)\n")
    readme = folder / "README.md"
    readme.write_text("\n".join(page), encoding="utf-8")
    return [*written, readme]


if __name__ == "__main__":
    write_gallery(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/survival-gallery"))
