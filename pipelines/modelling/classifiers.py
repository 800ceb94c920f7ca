"""Fit classifiers with scikit-learn and keep them as plain numbers that model serving evaluates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.model_serving.package import LogisticClassifier, SvmClassifier

Array = npt.NDArray[np.float64]
Outcome = npt.NDArray[np.int64]

MIN_PLATT_SLOPE = 1e-2


def fit_logistic(z: Array, outcome: Outcome, *, c: float) -> LogisticClassifier:
    """Fit a logistic regression with ridge penalty 1/(2c)·‖coefficients‖² on z-scores."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8, max_iter=200).fit(z, outcome)
    return LogisticClassifier(fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0]))


def fit_svm(z: Array, outcome: Outcome, *, c: float, gamma: float) -> SvmClassifier:
    """Fit a support vector machine with radial kernel on z-scores; its probability is not calibrated yet."""
    from sklearn.svm import SVC

    fitted = SVC(C=c, gamma=gamma, kernel="rbf", cache_size=50).fit(z, outcome)
    return SvmClassifier(
        support_vectors=np.asarray(fitted.support_vectors_, dtype=np.float64),
        dual_coefficients=np.asarray(fitted.dual_coef_[0], dtype=np.float64),
        intercept=float(fitted.intercept_[0]),
        gamma=gamma,
        platt_slope=1.0,
        platt_intercept=0.0,
    )


def fit_platt(scores: Array, outcome: Outcome) -> tuple[float, float]:
    """Return slope and intercept of Platt's sigmoid, log-odds = slope · score + intercept.

    Fitted to held-out decision values with Platt's smoothed targets, by Newton's method with backtracking
    (Lin, Lin and Weng 2007). A calibration may not reverse the classifier: where the held-out scores carry no
    evidence, the slope is ``MIN_PLATT_SLOPE`` and the intercept gives the prevalence.
    """
    positives = int(outcome.sum())
    negatives = len(outcome) - positives
    target = np.where(outcome == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = 0.0, float(np.log((positives + 1) / (negatives + 1)))

    def loss(a: float, b: float) -> float:
        eta = a * scores + b
        return float((np.logaddexp(0, eta) - target * eta).sum())

    now = loss(slope, intercept)
    for _ in range(100):
        chance = 0.5 * (1 + np.tanh(0.5 * (slope * scores + intercept)))
        residual, weight = chance - target, chance * (1 - chance)
        g1, g2 = float(residual @ scores), float(residual.sum())
        if abs(g1) < 1e-9 and abs(g2) < 1e-9:
            break
        h11, h22 = float(weight @ scores**2) + 1e-12, float(weight.sum()) + 1e-12
        h21 = float(weight @ scores)
        determinant = h11 * h22 - h21 * h21
        da, db = -(h22 * g1 - h21 * g2) / determinant, -(h11 * g2 - h21 * g1) / determinant
        size = 1.0
        while size > 1e-10 and loss(slope + size * da, intercept + size * db) > now:
            size /= 2
        if size <= 1e-10:
            break
        slope, intercept = slope + size * da, intercept + size * db
        now = loss(slope, intercept)
    if slope < MIN_PLATT_SLOPE:
        slope, intercept = MIN_PLATT_SLOPE, float(np.log(target.mean() / (1 - target.mean())))
    return slope, intercept


def youden_threshold(outcome: Outcome, probabilities: Array) -> float:
    """Return the probability with the largest sensitivity + specificity − 1.

    Midway between neighbouring probabilities; of several best ones that nearest to one half.
    """
    from services.survival_analytics.discrimination import roc

    curve = roc(outcome, probabilities)
    merit = np.round(curve.sensitivity + curve.specificity, 12)
    best = np.clip(curve.threshold[merit == merit.max()], 0.0, 1.0)
    return float(best[np.argmin(np.abs(best - 0.5))])
