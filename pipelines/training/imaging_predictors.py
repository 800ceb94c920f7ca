"""Imaging networks in the places that studies keep for what predicts from images.

:class:`NetworkClassifier` is an ``ImagingClassifier`` of :mod:`pipelines.studies.ferroptosis_imaging`,
:class:`NetworkRiskPredictor` a ``RiskPredictor`` of :mod:`pipelines.modelling.survival_parts`. Both find a patient's
volumes by the patient's id in one cohort; splits are the study's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.modelling.survival_data import SurvivalData
from pipelines.training.imaging import ImagingTrainParameters, train_imaging
from pipelines.training.imaging_data import STEP, ImagingOutcome, InputStore
from pipelines.training.imaging_fit import predict_cases
from pipelines.training.losses import MISSING
from services.model_serving.imaging import THRESHOLD
from services.model_serving.networks.specification import ImagingSpec, build_network
from services.shared.contracts import CaseRef
from services.shared.device import choose_device, torch_threads
from services.shared.errors import InvalidTable, InvalidValue
from services.shared.manifest import fingerprint
from services.shared.storage import Storage
from services.shared.trained_network import load_network

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImagingSource:
    """Where patients' volumes are and how networks are trained on them.

    Parameters
    ----------
    cohort
        Name of the cohort whose cases the patients' ids are.
    folder
        Key below which each training keeps its network, by the hash of its patients, outcomes and seed.
    """

    storage: Storage
    cohort: str
    spec: ImagingSpec
    parameters: ImagingTrainParameters
    folder: str
    threads: int = 1

    def cases(self, ids: Sequence[str]) -> list[CaseRef]:
        """Return the cases of patients."""
        return [CaseRef(cohort=self.cohort, id=i) for i in ids]

    def train(self, ids: Sequence[str], outcome: ImagingOutcome, *, seed: int, tuning: Sequence[str] = ()) -> str:
        """Return the key of a network trained on patients; those of ``tuning`` among them choose the epoch.

        Without such, the training sets a share of its patients aside.
        """
        name = fingerprint(list(ids), outcome.describe(), seed, list(tuning))[:16]
        chosen = set(tuning)
        model = f"{self.folder}/{name}"
        train_imaging(
            self.storage,
            self.cases(ids),
            outcome,
            spec=self.spec,
            parameters=self.parameters,
            seed=seed,
            model=model,
            tuning=np.array([row for row, i in enumerate(ids) if i in chosen], dtype=np.int64) if chosen else None,
            threads=self.threads,
        )
        return model

    def predict(self, model: str, ids: Sequence[str]) -> tuple[Array | None, Array | None]:
        """Return probabilities and risks of patients, less the mean risk of the training patients."""
        card, network = load_network(self.storage, model, ImagingSpec, build_network)
        store = InputStore(self.storage, self.spec)
        cases = self.cases(ids)
        store.fill(cases)
        with torch_threads(self.threads):
            chance, risk = predict_cases(
                network.to(choose_device()), store, cases, batch=int(card.training.get("batch", 2))
            )
        return chance, None if risk is None else risk - float(card.training.get("risk_mean", 0.0))


@dataclass
class NetworkClassifier:
    """A network as the classifier of a study.

    Attributes
    ----------
    threshold
        0.5: the class with the larger logit, as in the papers.
    """

    source: ImagingSource
    name: str = ""
    threshold: float = THRESHOLD
    _model: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.name = self.name or f"network {self.source.spec.architecture}"

    def fit(self, ids: Sequence[str], labels: npt.NDArray[np.int64], *, seed: int) -> None:
        """Learn from the images of these patients."""
        self._model = self.source.train(ids, ImagingOutcome(classes=np.asarray(labels, dtype=np.int64)), seed=seed)

    def predict(self, ids: Sequence[str]) -> Array:
        """Return the probability of the positive class, shape (patients,).

        Raises
        ------
        InvalidValue
            Where nothing was fitted, or the network says no class.
        """
        chance = None if self._model is None else self.source.predict(self._model, ids)[0]
        if chance is None:
            raise InvalidValue(
                "the classifier has nothing to say", step=STEP, field=self.name, expected="a fitted network of classes"
            )
        return chance


@dataclass(frozen=True)
class NetworkRisk:
    """A trained network as a risk model."""

    source: ImagingSource
    model: str

    def scores(self, data: SurvivalData) -> Array:
        """Return risk scores, shape (patients,)."""
        risk = self.source.predict(self.model, data.ids)[1]
        if risk is None:
            raise InvalidValue("the network says no risk", step=STEP, field=self.model, expected="a survival network")
        return risk


@dataclass(frozen=True)
class NetworkRiskPredictor:
    """A network as the risk predictor of a study.

    A network that says the grade beside learns it from the clinical column ``grade``: 2 or 3, others are not known.
    """

    source: ImagingSource

    @property
    def name(self) -> str:
        """What it is called."""
        return f"network {self.source.spec.architecture}"

    def fit(self, train: SurvivalData, tuning: SurvivalData, *, seed: int) -> NetworkRisk:
        """Learn from training patients; tuning patients choose the epoch.

        Raises
        ------
        InvalidValue
            Where the network says no risk.
        """
        if self.source.spec.task == "classes":
            raise InvalidValue(
                "the network says no risk",
                step=STEP,
                field="architecture",
                expected="a survival network",
                got=self.source.spec.architecture,
            )
        outcome = ImagingOutcome(
            classes=_grades([train, tuning]) if self.source.spec.task == "both" else None,
            months=np.concatenate([train.months, tuning.months]),
            event=np.concatenate([train.event, tuning.event]),
        )
        model = self.source.train([*train.ids, *tuning.ids], outcome, seed=seed, tuning=tuning.ids)
        return NetworkRisk(self.source, model)


def _grades(parts: Sequence[SurvivalData]) -> npt.NDArray[np.int64]:
    known = {"2": 0, "3": 1, "II": 0, "III": 1}
    found: list[int] = []
    for part in (part for part in parts if part.ids):
        if "grade" not in part.clinical:
            raise InvalidTable(
                "the network learns the grade beside survival", step=STEP, field="grade", expected="a clinical column"
            )
        texts = part.clinical["grade"].astype("string").str.removesuffix(".0")
        found += [known.get(str(text), MISSING) for text in texts]
    return np.array(found, dtype=np.int64)
