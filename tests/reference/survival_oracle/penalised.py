"""glmnet cases."""

from __future__ import annotations

import numpy as np
import pandas as pd

from services.survival_analytics.penalised_cox import cross_validate, fit_path
from services.survival_analytics.penalised_logistic import cross_validate_logistic, fit_logistic_path
from services.survival_analytics.penalised_path import CrossValidation, PenalisedPath
from survival_oracle.case import Case

MANY_PASSES = 10**7


def _path(path: PenalisedPath, lambdas: object) -> dict:
    beta = path.coefficients_at(lambdas)
    names, rows = list(path.names), list(beta.T)
    if path.family == "logistic":
        names, rows = ["(Intercept)", *names], [path.intercepts_at(lambdas), *rows]
    kept = [k for k, row in enumerate(rows) if np.any(row != 0)]
    return {"lambda": lambdas, "vars": [names[k] for k in kept], "coef": np.array([rows[k] for k in kept])}


def _curve(cv: CrossValidation) -> dict:
    def chosen(index: int) -> dict:
        beta = cv.path.coefficients[index]
        kept = np.flatnonzero(beta)
        names, values = [cv.path.names[k] for k in kept], list(beta[kept])
        if cv.path.family == "logistic":
            names, values = ["(Intercept)", *names], [cv.path.intercepts[index], *values]
        return {"names": names, "values": values}

    return {
        "lambda": cv.lambdas,
        "cvm": cv.mean,
        "cvsd": cv.standard_error,
        "cvup": cv.mean + cv.standard_error,
        "cvlo": cv.mean - cv.standard_error,
        "nzero": cv.nonzero,
        "lambda_min": cv.lambda_min,
        "lambda_1se": cv.lambda_1se,
        "index_min": cv.index_min + 1,
        "index_1se": cv.index_1se + 1,
        "coef_min": chosen(cv.index_min),
        "coef_1se": chosen(cv.index_1se),
    }


def glmnet_cox(case: Case) -> dict:
    x, y = case.table(0), case.table(1)
    made: dict = {"n": len(x), "p": x.shape[1], "nevent": int(y["status"].sum())}
    outcome = {"time": y["time"], "event": y["status"]}
    for key, want in case.result.items():
        if key in ("alpha1", "alpha0.5"):
            made[key] = _cox_alpha(x, y, float(key.removeprefix("alpha")), want)
        elif key == "alpha1_unstandardized":
            path = fit_path(
                x,
                **outcome,
                standardised=False,
                threshold=1e-14,
                max_passes=MANY_PASSES,
                smallest_ratio=0.2 if x.shape[1] > 200 else 1e-3,
            )
            made[key] = {"lambda": path.lambdas, "path_tight": _path(path, want["path_tight"]["lambda"])}
        elif key == "alpha0_ridge" and want:
            path = fit_path(x, **outcome, l1_ratio=0.0, threshold=1e-14, max_passes=MANY_PASSES)
            made[key] = _path(path, path.lambdas[[29, 59, 89]])
        elif key == "alpha0_ridge":
            made[key] = want
    return made


def _cox_alpha(x: pd.DataFrame, y: pd.DataFrame, l1_ratio: float, want: dict) -> dict:
    time, event, folds = y["time"], y["status"], y["foldid"]
    path = fit_path(x, time, event=event, l1_ratio=l1_ratio)
    lambdas = want["tight"]["lambda"]
    tight = fit_path(x, time, event=event, l1_ratio=l1_ratio, lambdas=lambdas, threshold=1e-14, max_passes=MANY_PASSES)

    def cv(**options: object) -> CrossValidation:
        return cross_validate(x, time, event=event, folds=folds, l1_ratio=l1_ratio, **options)

    tight_cv = cv(lambdas=lambdas, threshold=1e-12, max_passes=MANY_PASSES)
    return {
        "lambda": path.lambdas,
        "df": path.nonzero,
        "dev_ratio": path.deviance_ratio,
        "nulldev": path.null_deviance,
        "tight": {"lambda": tight.lambdas, "df": tight.nonzero, "dev_ratio": tight.deviance_ratio},
        "path_default": _path(path, want["path_default"]["lambda"]),
        "path_tight": _path(tight, want["path_tight"]["lambda"]),
        "cv_deviance_grouped": _curve(cv()),
        "cv_deviance_ungrouped": _curve(cv(grouped=False)),
        "cv_C": _curve(cv(measure="concordance")),
        "cv_deviance_grouped_tight": _curve(tight_cv),
        "link_at_min_first10": tight_cv.path.predict(x.head(10), penalty=tight_cv.lambda_min),
    }


def glmnet_binomial(case: Case) -> dict:
    x, y = case.table(0), case.table(1)
    made: dict = {"n": len(x), "p": x.shape[1], "npos": int(y["y"].sum())}
    small_folds = len(x) / y["foldid"].max() < 10
    for key, want in case.result.items():
        if not key.startswith("alpha"):
            continue
        l1_ratio = float(key.removeprefix("alpha"))
        path = fit_logistic_path(x, y["y"], l1_ratio=l1_ratio)
        lambdas = path.lambdas if x.shape[1] <= 200 else path.lambdas[path.lambdas > 0.15 * path.lambdas[0]]
        tight = fit_logistic_path(
            x, y["y"], l1_ratio=l1_ratio, lambdas=lambdas, threshold=1e-12, max_passes=MANY_PASSES
        )
        made[key] = {
            "lambda": path.lambdas,
            "df": path.nonzero,
            "dev_ratio": path.deviance_ratio,
            "nulldev": path.null_deviance,
            "path_default": _path(path, want["path_default"]["lambda"]),
            "path_tight": _path(tight, want["path_tight"]["lambda"]),
        }
        for name, measure in (("deviance", "deviance"), ("auc", "auc"), ("class", "misclassification")):
            # R turns to the deviance where folds are too small for an AUC.
            used = "deviance" if measure == "auc" and small_folds else measure
            made[key][f"cv_{name}"] = _curve(
                cross_validate_logistic(x, y["y"], folds=y["foldid"], l1_ratio=l1_ratio, measure=used)
            )
    return made
