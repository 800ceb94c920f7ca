"""Imaging models of regions and kinds of features, the imaging score of the best one, and its fusion with the clinic.

After Quant Imaging Med Surg 2024, 23-807. Every choice is made from training patients: in each outer fold, each imaging
model is fitted with its own selection, the one with the best mean AUC over the inner folds gives the imaging score, and
a logistic regression joins that score with clinical variables. The fusion learns from scores of inner folds, that is of
patients whom the scoring model had not seen (stacking), so that an overfitted imaging model gets no more weight than it
deserves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines.modelling.classifiers import fit_logistic
from pipelines.modelling.feature_names import FeatureRegion, kind_of, region_of
from pipelines.modelling.selection import Scaling, fit_scaling
from pipelines.modelling.validation import (
    Classifier,
    Fit,
    FoldResult,
    Recipe,
    Rival,
    Selection,
    Split,
    cross_validate,
    derive_seed,
    fit_recipe,
    rank_auc,
)
from services.model_serving.package import FittedModel, LogisticClassifier
from services.model_serving.predictor import classifier_scores, probabilities, standardise
from services.shared.errors import InvalidTable

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Outcome = npt.NDArray[np.int64]

SCORE = "imaging_score"
IMAGING, CLINICAL, FUSION = "imaging", "clinical", "fusion"
REGIONS: tuple[FeatureRegion, ...] = ("edema", "tumour", "overall")
KINDS = ("radiomics", "deep", "hybrid")


@dataclass(frozen=True)
class ImagingModel:
    """One of the nine imaging models.

    Parameters
    ----------
    columns
        Positions of its features in the table.
    absent
        Why it is not fitted; empty where it is.
    """

    name: str
    region: str
    kind: str
    columns: Index
    absent: str


def imaging_models(columns: Sequence[str]) -> list[ImagingModel]:
    """Return {edema, tumour, overall} × {radiomics, deep, hybrid}, with the reason of those that a table cannot give.

    ``overall`` takes both regions and what belongs to neither alone.
    """
    regions = np.array([region_of(name) for name in columns])
    kinds = np.array([kind_of(name) for name in columns])
    models: list[ImagingModel] = []
    for region in REGIONS:
        for kind in KINDS:
            of_region = (regions == region) | (region == "overall")
            of_kind = (kinds == kind) | (kind == "hybrid")
            chosen = np.flatnonzero(of_region & of_kind)
            models.append(ImagingModel(f"{region}_{kind}", region, kind, chosen, ""))
            if not len(chosen):
                absent = f"no {'' if kind == 'hybrid' else kind + ' '}feature of this region"
            elif kind == "hybrid" and len(set(kinds[chosen])) == 1:
                absent = f"only {kinds[chosen][0]} features of this region"
            else:
                same = [m for m in models[:-1] if not m.absent and np.array_equal(m.columns, chosen)]
                absent = f"the same features as {same[0].name}" if same else ""
            models[-1] = replace(models[-1], absent=absent)
    return models


@dataclass(frozen=True)
class LinearRecipe:
    """Logistic regression on all columns, imputed and scaled by the training patients; no selection."""

    c: float
    max_missing: float

    @property
    def settings(self) -> list[dict[str, float]]:
        """One setting: the penalty is not tuned."""
        return [{"c": self.c}]

    @property
    def rivals(self) -> dict[str, Rival]:
        """None."""
        return {}

    def select(self, values: Array, outcome: Outcome, *, seed: int) -> Selection:
        """Keep every column that varies among these patients; none where none does."""
        del outcome, seed
        try:
            scaling = fit_scaling(values, max_missing=self.max_missing)
        except InvalidTable:
            nothing = np.empty(0)
            scaling = Scaling(np.empty(0, dtype=np.intp), nothing, nothing, nothing, 0, values.shape[1])
        return Selection(scaling, {"scaling": len(scaling.columns)}, ())

    def fit(self, z: Array, outcome: Outcome, setting: Mapping[str, float]) -> Classifier:
        """Fit the logistic regression; without a column, the log-odds of the class."""
        if not z.shape[1]:
            share = float(outcome.mean())
            return LogisticClassifier(np.empty(0), float(np.log(share / (1 - share))))
        return fit_logistic(z, outcome, c=setting["c"])


@dataclass(frozen=True)
class Inputs:
    """What models learn from.

    Parameters
    ----------
    columns, values
        Imaging features, shape (patients, features), NaN where missing.
    clinical_columns, clinical
        Clinical variables likewise; no column where there is no clinical model.
    """

    columns: tuple[str, ...]
    values: Array
    clinical_columns: tuple[str, ...]
    clinical: Array

    def of(self, model: FittedModel) -> Array:
        """Return a model's columns, in its order."""
        return columns_of(model, (*self.columns, *self.clinical_columns), np.hstack([self.values, self.clinical]))


@dataclass(frozen=True)
class Fitted:
    """All models of one set of training patients.

    Parameters
    ----------
    fits
        By name: imaging models, ``imaging`` (the best of them), and where there are clinical variables ``clinical``
        and ``fusion``.
    chosen
        Name of the best imaging model.
    inner_means
        Mean AUC over the inner folds, by imaging model.
    fusion_parts
        The fusion as a regression on the imaging score and the clinical variables, before it is folded into one.
    """

    fits: dict[str, Fit]
    chosen: str
    inner_means: dict[str, float]
    fusion_parts: FittedModel | None


def columns_of(model: FittedModel, names: Sequence[str], values: Array) -> Array:
    """Return a model's columns of a table, in its order."""
    position = {name: i for i, name in enumerate(names)}
    return np.asarray(values[:, [position[name] for name in model.columns]])


def linear_predictor(model: FittedModel, values: Array) -> Array:
    """Return the imaging score: a logistic model's log-odds, shape (patients,), from its own raw columns."""
    return classifier_scores(model.classifier, standardise(model, values))


def choose_imaging(fits: Mapping[str, Fit], outcome: Outcome) -> tuple[str, dict[str, float]]:
    """Return the model with the best mean AUC over the inner folds (the first of equals), and all means."""
    means = {}
    for name, fit in fits.items():
        scores, fold = fit.inner_scores[""], fit.inner_fold
        areas = [rank_auc(outcome[fold == k], scores[fold == k]) for k in range(int(fold.max()) + 1)]
        means[name] = float(np.mean(areas))
    return max(means, key=lambda name: round(means[name], 12)), means


def fold_in(fusion: FittedModel, imaging: FittedModel) -> FittedModel:
    """Return one logistic model over imaging and clinical columns that equals the fusion of score and clinic.

    With imaging score s = a + Σ bₖ·zₖ and fusion log-odds = α + β·(s − m)/d + Σ γⱼ·zⱼ, the coefficient of zₖ is
    β·bₖ/d and the intercept α + β·(a − m)/d.

    Parameters
    ----------
    fusion
        Fitted to ``imaging_score`` and clinical variables.
    imaging
        The logistic model that gives the score.
    """
    if not isinstance(fusion.classifier, LogisticClassifier) or not isinstance(imaging.classifier, LogisticClassifier):
        raise InvalidTable("only logistic models can be folded into one", step="fusion", field="classifier")
    score = [i for i, name in enumerate(fusion.columns) if name == SCORE]
    rest = [i for i, name in enumerate(fusion.columns) if name != SCORE]
    beta = fusion.classifier.coefficients[score].sum() / (fusion.scales[score].prod() if score else 1.0)
    mean = fusion.means[score].sum()
    return FittedModel(
        columns=(*imaging.columns, *(fusion.columns[i] for i in rest)),
        medians=np.concatenate([imaging.medians, fusion.medians[rest]]),
        means=np.concatenate([imaging.means, fusion.means[rest]]),
        scales=np.concatenate([imaging.scales, fusion.scales[rest]]),
        classifier=LogisticClassifier(
            np.concatenate([beta * imaging.classifier.coefficients, fusion.classifier.coefficients[rest]]),
            fusion.classifier.intercept + float(beta * (imaging.classifier.intercept - mean)),
        ),
        threshold=fusion.threshold,
    )


def combine(
    fits: Mapping[str, Fit],
    clinical: Fit | None,
    inputs: Inputs,
    outcome: Outcome,
    *,
    recipe: LinearRecipe,
    inner_folds: int,
    seed: int,
) -> Fitted:
    """Choose the imaging model and fuse its score with the clinical variables of the same training patients.

    Parameters
    ----------
    fits
        Imaging models fitted to these patients with ``seed``, by name.
    clinical
        The clinical model likewise; None where there is none.
    inputs
        Of these patients.
    """
    chosen, means = choose_imaging(fits, outcome)
    found = {**fits, IMAGING: fits[chosen]}
    if clinical is None:
        return Fitted(found, chosen, means, None)
    joined = fit_recipe(
        recipe,
        np.column_stack([fits[chosen].inner_scores[""], inputs.clinical]),
        outcome,
        names=(SCORE, *inputs.clinical_columns),
        inner_folds=inner_folds,
        seed=seed,
    )
    found[CLINICAL] = clinical
    found[FUSION] = replace(joined, model=fold_in(joined.model, fits[chosen].model))
    return Fitted(found, chosen, means, joined.model)


def cross_validate_fusion(
    recipe: Recipe,
    models: Sequence[ImagingModel],
    inputs: Inputs,
    outcome: Outcome,
    *,
    splits: Sequence[Split],
    linear: LinearRecipe,
    inner_folds: int,
    seed: int,
    known: Mapping[str, list[FoldResult]],
    done: Callable[[], None] = lambda: None,
) -> tuple[dict[str, list[FoldResult]], list[Fitted]]:
    """Return what every model says of the validation patients of each split, and the models of each split.

    Parameters
    ----------
    recipe
        Of the imaging models.
    linear
        Of the clinical model and the fusion.
    known
        Imaging models that are cross-validated already, with the same recipe, splits and seed.
    done
        Called after each fold of an imaging model that is not.
    """
    results: dict[str, list[FoldResult]] = {}
    for model in models:
        results[model.name] = known.get(model.name) or cross_validate(
            recipe,
            inputs.values[:, model.columns],
            outcome,
            names=tuple(inputs.columns[i] for i in model.columns),
            splits=splits,
            inner_folds=inner_folds,
            seed=seed,
            done=done,
        )
    clinical: list[FoldResult] | None = None
    if inputs.clinical_columns:
        names = inputs.clinical_columns
        clinical = cross_validate(
            linear, inputs.clinical, outcome, names=names, splits=splits, inner_folds=inner_folds, seed=seed
        )
    fitted = []
    for i, split in enumerate(splits):
        part = replace(inputs, values=inputs.values[split.train], clinical=inputs.clinical[split.train])
        fitted.append(
            combine(
                {model.name: results[model.name][i].fit for model in models},
                clinical[i].fit if clinical else None,
                part,
                outcome[split.train],
                recipe=linear,
                inner_folds=inner_folds,
                seed=derive_seed(seed, 1, split.repeat, split.fold),
            )
        )
    imaging = [results[found.chosen][i] for i, found in enumerate(fitted)]
    found_results = {**results, IMAGING: imaging}
    if clinical is not None:
        found_results[CLINICAL] = clinical
        found_results[FUSION] = [
            _predict(found.fits[FUSION], inputs, split) for found, split in zip(fitted, splits, strict=True)
        ]
    return found_results, fitted


def fit_fusion(
    recipe: Recipe,
    models: Sequence[ImagingModel],
    inputs: Inputs,
    outcome: Outcome,
    *,
    linear: LinearRecipe,
    inner_folds: int,
    seed: int,
    known: Mapping[str, Fit],
    done: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit all models to all patients; the parameters are those of :func:`cross_validate_fusion`."""
    fits = {}
    for model in models:
        if model.name in known:
            fits[model.name] = known[model.name]
            continue
        names = tuple(inputs.columns[i] for i in model.columns)
        fits[model.name] = fit_recipe(
            recipe,
            inputs.values[:, model.columns],
            outcome,
            names=names,
            inner_folds=inner_folds,
            seed=seed,
            compare=True,
        )
        done()
    clinical = None
    if inputs.clinical_columns:
        names = inputs.clinical_columns
        clinical = fit_recipe(linear, inputs.clinical, outcome, names=names, inner_folds=inner_folds, seed=seed)
    return combine(fits, clinical, inputs, outcome, recipe=linear, inner_folds=inner_folds, seed=seed)


def _predict(fit: Fit, inputs: Inputs, split: Split) -> FoldResult:
    test = replace(inputs, values=inputs.values[split.test], clinical=inputs.clinical[split.test])
    return FoldResult(split, fit, probabilities(fit.model, test.of(fit.model)))
