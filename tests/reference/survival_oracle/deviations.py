"""Fields that do not agree with R to the full tolerance, and why. Nothing else may differ."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Deviation:
    """A field (``/``-separated path, with wildcards) of a method; no tolerance means that it is not compared."""

    method: str
    field: str
    reason: str
    tolerance: float | None = None

    def matches(self, path: str) -> bool:
        return fnmatchcase(path, self.field)


DEVIATIONS = [
    Deviation("cutpoint", "*/rule", "prose"),
    Deviation("cox", "/predicted_survival_full_efron/rows", "prose"),
    Deviation("nri_survival", "/survIDINRI/rows", "prose"),
    Deviation("nri_survival", "/survIDINRI/resampled_ci_npert200_guide_only", "random perturbation of R's generator"),
    Deviation("tdroc", "/timeROC_compare_full_vs_base/p_adjusted_monte_carlo", "random integration of R's mvtnorm"),
    Deviation(
        "tdroc",
        "/timeROC/*/CI95_percent",
        "R rounds to two decimals of a percent; a value halfway between two may fall on either side",
        1e-2,
    ),
    Deviation(
        "cindex",
        "/single/*/survC1_uno_tau/C",
        "survC1 divides by a sum that its Fortran code rounds to single precision",
        2e-7,
    ),
    Deviation(
        "nomogram_logistic", "/stats/Max Deriv", "largest score at R's last iteration: rounding noise around 1e-12"
    ),
    Deviation("nomogram_logistic", "/stats/P", "R computes 1 - pchisq(...), which loses all digits below 1e-15", 1e-6),
    Deviation("nomogram_logistic", "/ranges", "always null"),
    Deviation("nomogram_cox", "/ranges", "always null"),
    Deviation(
        "classical",
        "/chisq/fisher/or_cmle",
        "R's uniroot stops at an interval of 1.2e-4; here the likelihood equation is solved to machine precision",
        1e-3,
    ),
    Deviation("classical", "/chisq/fisher/ci", "as or_cmle", 1e-3),
    Deviation(
        "dca_calibration_binary",
        "/val_prob/*/D:p",
        "R gives NA because val.prob fixes the coefficients",
    ),
    Deviation(
        "dca_calibration_binary",
        "/val_prob/*/Intercept",
        "lrm stops its recalibration when the deviance moves by less than 0.025: it is not converged to 1e-9",
        1e-6,
    ),
    Deviation("dca_calibration_binary", "/val_prob/*/Slope", "as Intercept", 1e-6),
    Deviation("dca_calibration_binary", "/val_prob/*/U*", "as Intercept", 1e-6),
    Deviation("dca_calibration_binary", "/val_prob/*/Q", "as Intercept", 1e-6),
    Deviation("dca_calibration_binary", "/recalibration/*", "glm stops at its default 1e-8 of the deviance", 1e-5),
    Deviation("dca_calibration_binary", "/hosmer_lemeshow/*/p", "R computes 1 - pchisq(...), which loses digits", 1e-6),
    Deviation(
        "glmnet_cox",
        "*/tight/df",
        "the first penalty equals the largest useful one up to rounding: R keeps a coefficient of 1e-16 there",
    ),
    Deviation("glmnet_cox", "*/cv_deviance_grouped_tight/nzero", "as tight/df"),
    Deviation("glmnet_binomial", "*/dev_ratio", "R's first value is rounding noise of 1e-15", 1e-6),
]


def deviations_of(method: str) -> list[Deviation]:
    """The deviations of one method."""
    return [d for d in DEVIATIONS if d.method == method]
