"""ROC curves from conditional survival."""

from __future__ import annotations

import pandas as pd
import pytest

from services.survival_analytics.conditional_roc import conditional_roc
from services.survival_analytics.time_dependent_roc import time_dependent_auc


def test_conditional_estimates_are_close(patients: pd.DataFrame) -> None:
    time, event, score = patients["months"], patients["died"], patients["signature"]
    area = time_dependent_auc(time, event, score=score, times=24.0).estimate[0]
    for method in ("km", "nearest-neighbour"):
        assert conditional_roc(time, event, score=score, at=24.0, method=method).area == pytest.approx(area, abs=0.08)
