"""An imaging network as an ``ImagingClassifier`` of :mod:`pipelines.studies.ferroptosis_imaging`.

It finds a patient's volumes by the patient's id in one cohort; splits are the study's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.training.imaging import ImagingTrainParameters, train_imaging
from pipelines.training.imaging_data import STEP, ImagingOutcome, InputStore
from pipelines.training.imaging_fit import predict_cases
from services.model_serving.imaging import THRESHOLD
from services.model_serving.networks.specification import ImagingSpec, build_network
from services.shared.contracts import CaseRef
from services.shared.device import choose_device, torch_threads
from services.shared.errors import InvalidValue
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

    def train(self, ids: Sequence[str], outcome: ImagingOutcome, *, seed: int) -> str:
        """Return the key of a network trained on patients; a share of them chooses the epoch."""
        model = f"{self.folder}/{fingerprint(list(ids), outcome.describe(), seed)[:16]}"
        train_imaging(
            self.storage,
            self.cases(ids),
            outcome,
            spec=self.spec,
            parameters=self.parameters,
            seed=seed,
            model=model,
            threads=self.threads,
        )
        return model

    def predict(self, model: str, ids: Sequence[str]) -> Array | None:
        """Return probabilities of patients, None of a network that says none."""
        card, network = load_network(self.storage, model, ImagingSpec, build_network)
        store = InputStore(self.storage, self.spec)
        cases = self.cases(ids)
        store.fill(cases)
        with torch_threads(self.threads):
            return predict_cases(network.to(choose_device()), store, cases, batch=int(card.training.get("batch", 2)))[0]


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
        chance = None if self._model is None else self.source.predict(self._model, ids)
        if chance is None:
            raise InvalidValue(
                "the classifier has nothing to say", step=STEP, field=self.name, expected="a fitted network of classes"
            )
        return chance
