"""Simulated cohorts whose hazards are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from pipelines.modelling.survival_data import SurvivalData, survival_data


def simulate(
    patients: int,
    features: int,
    *,
    seed: int,
    planted: int = 4,
    effect: float = 0.8,
    months_apart: float | None = None,
    prefix: str = "P",
) -> SurvivalData:
    """Return patients of whom the first ``planted`` features have log hazard ratios of ± ``effect`` per SD."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(patients, features))
    signs = np.array([1.0, -1.0] * features)[: min(planted, features)]
    risk = effect * x[:, : len(signs)] @ signs
    months = rng.weibull(1.2, patients) * 30 * np.exp(-risk / 1.2)
    censored = rng.uniform(12, 96, patients)
    follow_up = np.minimum(months, censored).clip(0.1)
    if months_apart is not None:
        follow_up = np.ceil(follow_up / months_apart) * months_apart
    ids = [f"{prefix}{i:04d}" for i in range(patients)]
    clinical = pd.DataFrame({"os_months": follow_up, "event": (months <= censored).astype(int)}, index=ids)
    columns = [f"GENE{i:03d}" for i in range(features)]
    return survival_data(pd.DataFrame(2 * x + 5, index=ids, columns=columns), clinical)


@pytest.fixture(scope="session")
def simulated() -> Callable[..., SurvivalData]:
    return simulate
