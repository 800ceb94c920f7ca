"""Evaluate imaging models, imaging score, clinical model and fusion beside a study, in the study's own folds.

Parts: ``train`` (apparent: of the patients that a model was fitted to), ``cv`` (out of fold), and
``validation_<cohort>`` for each cohort that the finished models are applied to unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.modelling.clinical_variables import ClinicalVariables, clinical_numbers, clinical_variables
from pipelines.modelling.fusion import (
    CLINICAL,
    FUSION,
    IMAGING,
    Fitted,
    Inputs,
    LinearRecipe,
    columns_of,
    cross_validate_fusion,
    fit_fusion,
    imaging_models,
)
from pipelines.modelling.fusion_tables import (
    Predictions,
    calibration_table,
    classifier_table,
    coefficient_table,
    correlation_table,
    decision_table,
    delong_table,
    impact_table,
    model_table,
    nomogram_of,
    performance_rows,
    prediction_table,
)
from pipelines.modelling.performance import permuted_metrics
from pipelines.modelling.study import model_card
from pipelines.modelling.study_contents import Addition, StudyRun
from pipelines.modelling.study_data import StudyData, study_data
from pipelines.modelling.validation import FoldResult, derive_seed, pool
from services.model_serving.package import FittedModel, ModelCard
from services.model_serving.predictor import probabilities
from services.shared.errors import InvalidTable
from services.survival_analytics.discrimination import auc

Array = npt.NDArray[np.float64]

HEADLINES = (IMAGING, CLINICAL, FUSION)


@dataclass(frozen=True)
class ValidationCohort:
    """Other patients that finished models are judged on.

    Parameters
    ----------
    features, labels, clinical
        As the study takes them, indexed by ``case_id``; without ``clinical`` only imaging models are judged.
    excluded
        Reason by ``case_id`` of patients knowingly left out.
    """

    features: pd.DataFrame
    labels: pd.Series
    clinical: pd.DataFrame | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FusionExtension:
    """Imaging models, imaging score, clinical model and fusion of a study of images.

    Parameters
    ----------
    clinical
        Clinical table indexed by ``case_id``; None where there is none.
    c
        Inverse ridge penalty of clinical model and fusion.
    intended_use
        Of the fusion's package.
    validation
        Other cohorts by name.
    """

    clinical: pd.DataFrame | None
    c: float
    intended_use: str
    validation: Mapping[str, ValidationCohort] = field(default_factory=dict)

    def count_steps(self, columns: tuple[str, ...], *, folds: int, runs: int) -> int:
        """Return how many folds and final models are fitted besides the study's own."""
        further = [m for m in imaging_models(columns) if not m.absent and len(m.columns) < len(columns)]
        return len(further) * (folds * runs + 1)

    def extend(self, found: StudyRun, *, done: Callable[[], None]) -> Addition:
        """Fit and evaluate all models; see :func:`pipelines.modelling.study.run_study`."""
        data, parameters = found.data, found.plan.parameters
        models = imaging_models(data.columns)
        present = [model for model in models if not model.absent]
        same = next((model.name for model in present if len(model.columns) == len(data.columns)), "")
        linear = LinearRecipe(self.c, parameters.max_missing)
        variables = self._variables(data, parameters.max_missing)
        inputs = Inputs(data.columns, data.values, variables.columns, variables.values)

        def validate(
            outcome: npt.NDArray[np.int64], results: list[FoldResult], seed: int
        ) -> tuple[dict[str, list[FoldResult]], list[Fitted]]:
            return cross_validate_fusion(
                found.plan.recipe,
                present,
                inputs,
                outcome,
                splits=[result.split for result in results],
                linear=linear,
                inner_folds=parameters.inner_folds,
                seed=seed,
                known={same: results},
                done=done,
            )

        results, folds = validate(data.outcome, found.results, found.seed)
        final = fit_fusion(
            found.plan.recipe,
            present,
            inputs,
            data.outcome,
            linear=linear,
            inner_folds=parameters.inner_folds,
            seed=found.final_seed,
            known={same: found.final},
            done=done,
        )
        held_out = {name: Predictions(data.outcome, *pool(folds, len(data.ids))) for name, folds in results.items()}
        parts = {"train": _apparent(final, inputs, data), "cv": held_out}
        flow: dict[str, object] = {}
        for name, cohort in self.validation.items():
            parts[f"validation_{name}"], flow[name] = self._apply(cohort, final, data)
        performance = performance_rows(parts, resamples=parameters.bootstraps, seed=derive_seed(found.seed, 5))
        metrics = _metrics(performance)
        metrics |= {f"{name}_cutoff": final.fits[name].model.threshold for name in HEADLINES if name in final.fits}
        shuffled = pd.DataFrame(
            [
                row
                for number, run in enumerate(found.shuffled, start=1)
                for row in _shuffled_rows(number, run.outcome, validate(run.outcome, run.results, run.seed)[0])
            ],
            columns=["run", "model", "auc", "low", "high"],
        )
        for name in (IMAGING, FUSION):
            if name in held_out and len(shuffled):
                runs = shuffled[shuffled["model"] == name]
                metrics |= {f"{name}_{k}": v for k, v in permuted_metrics(runs, metrics[f"{name}_auc"]).items()}
        shares = {model.name: float(np.mean([fold.chosen == model.name for fold in folds])) for model in present}
        tables = {
            "models": model_table(models, final, shares, clinical=variables.columns, missing=self._why_no_clinic()),
            "performance": performance,
            "classifiers": classifier_table(data.outcome, final),
            "delong": delong_table(data.outcome, held_out),
            "model_predictions": prediction_table(data, held_out),
            "model_calibration": calibration_table({name: held_out[name] for name in HEADLINES if name in held_out}),
            "decision_curves": decision_table(data.outcome, held_out),
            "clinical_impact": impact_table(held_out[FUSION if FUSION in held_out else IMAGING]),
            "coefficients": coefficient_table(final),
            "correlation": correlation_table(final, inputs),
            "permuted_models": shuffled,
        }
        documents: dict[str, str] = {}
        packages: dict[str, tuple[FittedModel, ModelCard]] = {}
        if final.fusion_parts is not None:
            score = final.fits[IMAGING].inner_scores[""]
            tables["nomogram_points"], documents["nomogram.json"] = nomogram_of(
                final.fusion_parts, score, inputs, data.outcome
            )
            packages["fusion"] = self._package(found, final, inputs, metrics)
        return Addition(
            metrics,
            tables,
            documents,
            {
                "imaging_models_absent": {model.name: model.absent for model in models if model.absent},
                "imaging_model_chosen": final.chosen,
                "clinical_variables": list(variables.columns),
                "clinical_variables_left_out": variables.left_out,
                "clinical_values_missing": {
                    name: int(np.isnan(variables.values[:, i]).sum()) for i, name in enumerate(variables.columns)
                },
                **({"validation": flow} if flow else {}),
            },
            packages,
        )

    def _why_no_clinic(self) -> str:
        return "no clinical table" if self.clinical is None else "no clinical variable tells the patients apart"

    def _variables(self, data: StudyData, max_missing: float) -> ClinicalVariables:
        if self.clinical is None:
            return ClinicalVariables((), np.empty((len(data.ids), 0)), {"all": "no clinical table"})
        return clinical_variables(self.clinical, data.ids, max_missing=max_missing)

    def _apply(
        self, cohort: ValidationCohort, final: Fitted, trained: StudyData
    ) -> tuple[dict[str, Predictions], dict[str, object]]:
        """Return what the finished models say of other patients, and the flow of these."""
        used = {name for fit in final.fits.values() for name in fit.model.columns} & set(trained.columns)
        lacking = sorted(used - set(map(str, cohort.features.columns)))
        if lacking:
            raise InvalidTable(
                "the features that the models need are not all there",
                step="validation",
                field="features",
                expected=f"{len(used)} columns",
                got=f"without {len(lacking)} of them: {', '.join(lacking[:5])}",
            )
        data = study_data(
            cohort.features[sorted(used)], cohort.labels, classes=trained.classes, folds=None, excluded=cohort.excluded
        )
        clinic = pd.DataFrame(index=pd.Index(data.ids))
        if cohort.clinical is not None:
            clinic = clinical_numbers(cohort.clinical, data.ids)
        names = (*data.columns, *clinic.columns)
        values = np.hstack([data.values, clinic.to_numpy(dtype=np.float64)])
        found, absent = {}, {}
        for name, fit in final.fits.items():
            missing = [column for column in fit.model.columns if column not in names]
            if missing:
                absent[name] = f"without {', '.join(missing[:5])}"
                continue
            chance = probabilities(fit.model, columns_of(fit.model, names, values))
            found[name] = Predictions(data.outcome, chance, chance - fit.model.threshold)
        return found, {**data.flow, "models_absent": absent}

    def _package(
        self, found: StudyRun, final: Fitted, inputs: Inputs, metrics: Mapping[str, float]
    ) -> tuple[FittedModel, ModelCard]:
        start = f"{FUSION}_"
        own = {name.removeprefix(start): round(v, 10) for name, v in metrics.items() if name.startswith(start)}
        joined = replace(
            found.data,
            columns=(*inputs.columns, *inputs.clinical_columns),
            values=np.hstack([inputs.values, inputs.clinical]),
        )
        plan = replace(found.plan, intended_use=self.intended_use)
        return final.fits[FUSION].model, model_card(plan, joined, own)


def _apparent(final: Fitted, inputs: Inputs, data: StudyData) -> dict[str, Predictions]:
    found = {}
    for name, fit in final.fits.items():
        chance = probabilities(fit.model, inputs.of(fit.model))
        found[name] = Predictions(data.outcome, chance, chance - fit.model.threshold)
    return found


def _metrics(performance: pd.DataFrame) -> dict[str, float]:
    """Return the figures of the score, the clinical model and the fusion, and every other model's AUC, flat."""
    metrics: dict[str, float] = {}
    for row in performance.to_dict(orient="records"):
        part, model = str(row["part"]), str(row["model"])
        start = model if part == "cv" else f"{part}_{model}"
        for name in map(str, row):
            wanted = name.startswith("auc") or (model in HEADLINES and name not in ("part", "model"))
            if wanted and np.isfinite(float(row[name])):
                metrics[f"{start}_{name}"] = float(row[name])
    return metrics


def _shuffled_rows(
    number: int, outcome: npt.NDArray[np.int64], results: Mapping[str, list[FoldResult]]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, folds in results.items():
        area = auc(outcome, pool(folds, len(outcome))[0])
        rows.append({"run": number, "model": name, "auc": area.estimate, "low": area.lower, "high": area.upper})
    return rows
