"""Seeded patients with a known survival model, for the gallery, examples and benchmarks. Not data of people."""

from __future__ import annotations

import numpy as np
import pandas as pd


def simulate_patients(n: int, *, seed: int = 0) -> pd.DataFrame:
    """Return patients with age, grade, IDH status, resection, an imaging signature, and follow-up in months.

    Hazards are proportional: log hazard ratios are 0.03 per year of age, 0.7 per grade, -0.9 for an IDH mutation, -0.5
    for gross total resection and 0.8 per unit of ``signature``. Censoring is uniform over 12 to 96 months.
    """
    rng = np.random.default_rng(seed)
    age = np.round(rng.normal(50, 13, n).clip(18, 85))
    grade = rng.choice([2, 3, 4], n, p=[0.3, 0.3, 0.4])
    idh = (rng.random(n) < np.where(grade == 4, 0.15, 0.75)).astype(int)
    resection = (rng.random(n) < 0.55).astype(int)
    signature = np.round(rng.normal(0.25 * (grade - 3), 1.0, n), 3)
    lp = 0.03 * (age - 50) + 0.7 * (grade - 3) - 0.9 * idh - 0.5 * resection + 0.8 * signature
    months = rng.weibull(1.2, n) * 30 * np.exp(-lp / 1.2)
    censored = rng.uniform(12, 96, n)
    return pd.DataFrame(
        {
            "months": np.round(np.minimum(months, censored), 1).clip(0.1),
            "died": (months <= censored).astype(int),
            "age": age,
            "grade": grade,
            "idh_mutant": idh,
            "total_resection": resection,
            "signature": signature,
        }
    )
