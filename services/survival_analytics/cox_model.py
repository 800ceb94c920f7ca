"""The result of a Cox regression: estimates, tests and predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from services.shared.errors import InvalidValue
from services.survival_analytics.concordance import Concordance
from services.survival_analytics.cox_baseline import (
    Baseline,
    BaselineHazard,
    PredictedSurvival,
    predict_curves,
)
from services.survival_analytics.cox_likelihood import (
    Ties,
)
from services.survival_analytics.inputs import (
    FloatArray,
    Notice,
    format_level,
    read_columns,
    read_time_points,
    require_column,
)


@dataclass(frozen=True)
class GlobalTest:
    """A test of all coefficients at once."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True, eq=False)
class CoxModel:
    """A fitted Cox model.

    Attributes
    ----------
    covariates
        Names, in the order of all (p,) arrays.
    coefficients, standard_errors, hazard_ratios, lower, upper, z, p_values
        Shape (p,): limits are those of the hazard ratio at ``level``.
    covariance
        Shape (p, p).
    likelihood_ratio, wald, score
        Global tests.
    concordance
        Harrell's C of the linear predictor in the data that were fitted (apparent).
    means
        Shape (p,): what the centred linear predictor is centred at; zero for columns of -1, 0 and 1 only.
    baselines
        One per stratum.
    """

    covariates: tuple[str, ...]
    ties: Ties
    strata: str | None
    n: int
    n_events: int
    level: float
    coefficients: FloatArray
    standard_errors: FloatArray
    hazard_ratios: FloatArray
    lower: FloatArray
    upper: FloatArray
    z: FloatArray
    p_values: FloatArray
    covariance: FloatArray
    log_likelihood_null: float
    log_likelihood: float
    aic: float
    bic: float
    likelihood_ratio: GlobalTest
    wald: GlobalTest
    score: GlobalTest
    concordance: Concordance
    means: FloatArray
    centre: FloatArray
    baselines: tuple[Baseline, ...]
    iterations: int
    notices: tuple[Notice, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per covariate."""
        return pd.DataFrame(
            {
                "covariate": self.covariates,
                "coefficient": self.coefficients,
                "standard_error": self.standard_errors,
                "hazard_ratio": self.hazard_ratios,
                "lower": self.lower,
                "upper": self.upper,
                "z": self.z,
                "p_value": self.p_values,
            }
        )

    def predict_risk(self, frame: pd.DataFrame, *, centred: bool = True) -> FloatArray:
        """Return linear predictors, shape (n,); higher = higher risk.

        Parameters
        ----------
        frame
            Holds the covariates.
        centred
            Subtract the linear predictor of ``means`` (R: ``predict(type = "lp")``).
        """
        matrix = read_columns(frame, self.covariates, step="predict_risk")
        return (matrix - (self.means if centred else 0.0)) @ self.coefficients

    def predict_survival(self, frame: pd.DataFrame, times: ArrayLike) -> PredictedSurvival:
        """Predict survival of patients at times, with limits on the log scale.

        Parameters
        ----------
        frame
            Holds the covariates and, for a stratified model, the stratum.
        times
            Shape (t,), in the unit of the fitted times.

        Raises
        ------
        InvalidValue
            A stratum that the model has not seen.
        """
        points = read_time_points(times, step="predict_survival")
        centred = read_columns(frame, self.covariates, step="predict_survival") - self.centre
        if self.strata is None:
            return predict_curves(self.baselines[0], centred, self.coefficients, self.covariance, points)
        labels = [format_level(v) for v in require_column(frame, self.strata, step="predict_survival").tolist()]
        known = {baseline.stratum: baseline for baseline in self.baselines}
        unseen = sorted(set(labels) - set(known))
        if unseen:
            raise InvalidValue(
                "A patient belongs to a stratum that the model has not seen.",
                step="predict_survival",
                field=self.strata,
                expected=", ".join(known),
                got=", ".join(unseen),
            )
        shape = (points.size, len(labels))
        survival, error, lower, upper = (np.empty(shape) for _ in range(4))
        for label, baseline in known.items():
            rows = np.flatnonzero(np.array(labels, dtype=object) == label)
            if rows.size:
                part = predict_curves(baseline, centred[rows], self.coefficients, self.covariance, points)
                survival[:, rows], error[:, rows] = part.survival, part.standard_error
                lower[:, rows], upper[:, rows] = part.lower, part.upper
        return PredictedSurvival(points, survival, error, lower, upper)

    def baseline_hazard(self) -> BaselineHazard:
        """Return the cumulative baseline hazard with all covariates at zero (R: ``basehaz(centered = FALSE)``)."""
        factor = float(np.exp(-self.centre @ self.coefficients))
        labels = tuple(b.stratum for b in self.baselines for _ in range(b.time.size))
        return BaselineHazard(
            labels,
            np.concatenate([b.time for b in self.baselines]),
            np.concatenate([np.cumsum(b.hazard) for b in self.baselines]) * factor,
        )
